"""DICOMweb, by dicomweb-client: which series a server has (QIDO-RS), a series as a volume (WADO-RS), results stored
there (STOW-RS).

A URL may be given in place of a path: `url_of` tells them apart. What a server sends is checked as any file from
outside is; nothing of it but the volume outlives the call.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from importlib.util import find_spec
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydicom import dcmread
from pydicom.dataset import Dataset

from modiff.errors import ConfigError, DataError, counted
from modiff.io.dicom import header as dicom
from modiff.io.dicom.pick import MAX_BELOW, Series, chosen, grouped, one_of_many
from modiff.io.dicom.series import MAX_FILES, read_dicom_series
from modiff.io.files import LIMITS, MIB, Limits, located, told
from modiff.io.output import scratch
from modiff.io.volume import Volume

if TYPE_CHECKING:
    from dicomweb_client.api import DICOMwebClient
    from requests.auth import AuthBase

    from modiff.io.progress import Progress

T = TypeVar("T")
WAITS = (1.0, 4.0, 10.0)  # seconds before a request is tried again
_MOST_OF_ONE = 48 * MIB  # bytes of a slice, unless --max-bytes allows more
_AT_ONCE = 3  # slices that are fetched at a time
_UID, _LONGEST = re.compile(r"[0-9]+(?:\.[0-9]+)*"), 64
_SHAPE = re.compile(
    rf"(?P<root>https?://[^/]+.*?)/studies(/(?P<study>{_UID.pattern})(/series/(?P<series>{_UID.pattern}))?)?"
)
_EXPECTED = "https://HOST/…/studies/UID or https://HOST/…/studies/UID/series/UID"
_ENVIRONMENT = "MODIFF_DICOMWEB_"
# What is listed of an instance, as DICOM's JSON calls it (PS3.18 F).
_TAGS = {
    "SOPInstanceUID": "00080018",
    "SOPClassUID": "00080016",
    "SeriesInstanceUID": "0020000E",
    "SeriesNumber": "00200011",
    "Modality": "00080060",
    "Rows": "00280010",
    "Columns": "00280011",
}


def url_of(path: Path) -> str | None:
    """The URL that a path stands for; None for a path."""
    found = re.fullmatch(r"(https?):/+([^/].*)", path.as_posix(), re.IGNORECASE | re.DOTALL)
    return f"{found[1].lower()}://{found[2]}" if found else None


def given(path: Path) -> str:
    """A path, or the URL that it stands for, as the user gave it."""
    return url_of(path) or str(path)


@dataclass(frozen=True)
class Address:
    """A place on a server. root: of its DICOMweb service. study, series: UIDs."""

    root: str
    study: str | None = None
    series: str | None = None

    @classmethod
    def of(cls, url: str, *, service: bool = False) -> Address:
        """The parts of a URL. service: it is that of the service alone. Raises ConfigError, which never repeats what
        may be a password."""
        expected = "its root, https://HOST/…, without studies/UID" if service else _EXPECTED
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:  # its words repeat the address
            what = "is not an address: its host or port is not valid"
            raise ConfigError(what, field="URL", expected=expected) from None
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            hint = f"Credentials belong into {_ENVIRONMENT}TOKEN or a netrc file: others can read a command line"
            raise ConfigError("must be plain, without user, password and ?…", path=host, field="URL", hint=hint)
        match = _SHAPE.fullmatch(url.rstrip("/"))
        within = match is not None and match["study"] is not None
        long = match is not None and any(len(match[name] or "") > _LONGEST for name in ("study", "series"))
        if long or not host or not re.match("https?://", url) or within == service:
            what = "is not the address of a DICOMweb service" if service else "is not the address of a study or series"
            raise ConfigError(what, path=url if host else None, field="URL", expected=expected)
        return cls(match["root"], match["study"], match["series"]) if match else cls(url.rstrip("/"))

    def __str__(self) -> str:
        named = (("studies", self.study), ("series", self.series))
        return "/".join([self.root, *(part for name, uid in named if uid for part in (name, uid))])


def _say(text: str) -> None:
    print(f"modiff: {text}", file=sys.stderr, flush=True)


@cache
def _warn_once(tell: Callable[[str], None], text: str) -> None:
    tell(text)


class Server:
    """A DICOMweb service. tell: is told of what is tried again. Raises ConfigError without dicomweb-client, and for
    credentials that would not be safe."""

    def __init__(self, address: Address, limits: Limits = LIMITS, *, tell: Callable[[str], None] = _say) -> None:
        if missing := [name for name in ("dicomweb_client", "requests") if find_spec(name) is None]:
            hint = "pip install 'modiff[dicomweb]'"
            raise ConfigError("not installed", path=str(address), field=", ".join(missing), hint=hint)
        import requests
        from dicomweb_client.api import DICOMwebClient

        from modiff.io.dicom import http

        most = _MOST_OF_ONE if limits.max_bytes == LIMITS.max_bytes else limits.max_bytes
        session = requests.Session()
        session.max_redirects, session.verify = 3, os.environ.get("SSL_CERT_FILE") or True
        for scheme in ("https://", "http://"):
            session.mount(scheme, http.Adapter(most))
        session.auth = _credentials(address.root)
        client: DICOMwebClient = DICOMwebClient(address.root, session, chunk_size=1 << 30, timeout=http.TIMEOUT)
        client.set_http_retry_params(retry=False)  # it would try again whatever was wrong, without a word
        self.client, self.address, self.limits, self._tell, self._http = client, address, limits, tell, http
        self._over = Event()  # nobody waits for slices any more
        if address.root.startswith("http:") and not _is_loopback(address.root):
            _warn_once(tell, f"warning: {urlsplit(address.root).hostname}: http is not encrypted: others can read all")

    def found(self) -> list[Series]:
        """The series of images of the study, or the one that is addressed, `files` being instances' UIDs.

        Raises DataError.
        """
        study, series = self.address.study, self.address.series
        listed: dict[str, Dataset] = {}
        while True:
            how: dict[str, Any] = {"limit": self._http.PAGE, "offset": len(listed), "fields": list(_TAGS.values())}
            page = self._tried(partial(self.client.search_for_instances, study, series, **how))
            with located(str(self.address)):
                if not isinstance(page, list):
                    raise DataError("a list that is not DICOMweb's", found=type(page).__name__)
                new = {uid: item for uid, item in (_listed(item, series) for item in page) if uid not in listed}
            listed |= new
            if len(listed) > MAX_BELOW:
                raise DataError("lists too many instances", path=str(self.address), expected=f"at most {MAX_BELOW}")
            if not new:
                break
        if not listed:
            raise DataError("is not there, or has no instances", path=str(self.address))
        images = [(Path(uid), it) for uid, it in listed.items() if not dicom.other_kind(dicom.text(it, "SOPClassUID"))]
        if not (found := [one for one in grouped(images) if series in (None, one.uid)]):
            raise DataError("has no images", path=str(self.address), found=counted(len(listed), "other object"))
        return found

    def fetch(self, series: Series, folder: Path, progress: Progress = lambda done, total: None) -> list[Path]:
        """The files of a series, put into a folder. Raises DataError."""
        if len(series.files) > MAX_FILES:
            raise DataError("too many files for one series", path=str(self.address), expected=f"at most {MAX_FILES}")
        made, self._held = list[Path](), 0
        with ThreadPool(_AT_ONCE) as pool:  # whose threads nobody waits for where one fails or all is interrupted
            try:
                for path in pool.imap(partial(self._fetched, series.uid, folder), map(str, series.files)):
                    made.append(path)
                    progress(len(made), len(series.files))
            finally:
                self._over.set()
        return made

    def _fetched(self, series: str, folder: Path, uid: str) -> Path:
        where = f"{Address(self.address.root, self.address.study, series)}/instances/{uid}"
        parts = self._tried(lambda: list(self.client.iter_bulkdata(where)), where)
        self._held += sum(map(len, parts))
        if self._held > self.limits.max_bytes:
            expected, hint = f"≤ {self.limits.max_bytes} bytes", self.limits.hint(2 * self._held)
            raise DataError("the series is too large", path=str(self.address), expected=expected, hint=hint)
        path = folder / f"{uid}.dcm"
        if len(parts) != 1:
            raise DataError("is not one DICOM object", path=where, found=counted(len(parts), "part"))
        with told(where, "cannot be kept"):
            path.write_bytes(parts[0])
        try:
            with one_of_many(2):
                header = dicom.read_header(path, self.limits)
        except DataError:
            if self.limits.skip_broken:
                return path
            raise
        wanted = {"SOPInstanceUID": uid, "SeriesInstanceUID": series, "StudyInstanceUID": self.address.study}
        for name, value in wanted.items():
            if dicom.text(header, name) != value:
                raise DataError("is another object than was asked for", path=where, field=name)
        return path

    def store(self, files: Sequence[Path]) -> None:
        """Stores files; raises DataError unless the server says that it has each of them."""
        objects = [dcmread(file) for file in files]
        with dicom.quiet():
            answer = self._tried(partial(self.client.store_instances, objects))
            try:
                stored = {str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or ()}
                codes = {f"0x{int(item.FailureReason):04X}" for item in answer.get("FailedSOPSequence") or ()}
            except Exception:  # an answer of any other form says nothing of what is stored
                stored, codes = set(), set[str]()
        missing = [file.name for file, one in zip(files, objects, strict=True) if one.SOPInstanceUID not in stored]
        if missing:
            found = f"{', '.join(missing)} not stored{''.join(f', reason {code}' for code in sorted(codes))}"
            raise DataError("does not store all results", path=self.address.root, found=found)

    def _tried(self, action: Callable[[], T], where: str | None = None) -> T:
        """What a request gives, which is sent again where what went wrong may pass. Raises DataError."""
        where = where or str(self.address)
        for wait in (*WAITS, None):
            try:
                return action()
            except DataError as error:
                raise _about(error, where) from None
            except Exception as error:  # of the network, the server or its answer
                fault, passing = self._http.fault_of(error)
                if wait is None or not passing or self._over.is_set():
                    raise _about(fault, where) from None
                host = urlsplit(where).hostname
                self._tell(f"{host}: {fault.reason}; tries again in {wait:g} s")
            self._over.wait(wait)
        raise AssertionError


def _about(error: DataError, where: str) -> DataError:
    return error if error.path is not None else error.at(where)


def _listed(item: object, series: str | None) -> tuple[str, Dataset]:
    """An instance's UID and what a list says of it; DataError for what says no UIDs. series: that was asked for, which
    need not be said again."""
    made, values = Dataset(), {name: _value(item, tag) for name, tag in _TAGS.items()}
    values["SeriesInstanceUID"] = values["SeriesInstanceUID"] or series
    for name, value in values.items():
        if name.endswith("UID") and not (isinstance(value, str) and _is_uid(value)):
            raise DataError("a list that is not DICOMweb's", field=name, expected="a UID")
        number = name in ("SeriesNumber", "Rows", "Columns")
        with dicom.quiet():
            if number and re.fullmatch(r"-?\d{1,9}" if name == "SeriesNumber" else r"\d{1,5}", str(value)):
                setattr(made, name, int(value))  # JSON has it as a number or a text
            elif isinstance(value, str) and not number:
                setattr(made, name, value[:_LONGEST])
    return str(values["SOPInstanceUID"]), made


def _is_uid(text: str) -> bool:
    return len(text) <= _LONGEST and _UID.fullmatch(text) is not None


def _value(item: object, tag: str) -> Any:
    try:
        return item[tag]["Value"][0]  # type: ignore[index]
    except (IndexError, KeyError, TypeError):
        return None


def read_dicomweb(
    url: str, *, limits: Limits = LIMITS, series: str | None = None, progress: Progress = lambda done, total: None
) -> Volume:
    """A series on a server as `read_dicom_series` reads it from a folder. url: of a study or a series. series: which
    one of a study's, by its UID or its place in the list that an error shows. Raises DataError, ConfigError."""
    address = Address.of(url)
    server = Server(address, limits)
    wanted = chosen(server.found(), series, url)
    own = Address(address.root, address.study, wanted.uid)
    with scratch() as folder:
        try:
            volume = read_dicom_series(server.fetch(wanted, folder, progress), limits=limits)
        except DataError as error:  # files are called as the server does
            if error.path is None or not (file := Path(error.path)).is_relative_to(folder):
                raise
            raise error.at(str(own) if file == folder else f"{own}/instances/{file.stem}") from None
    return replace(volume, path=Path(url))


def digest(url: str, series: str | None = None) -> str:
    """SHA-256 of which instances a series has: a UID stands for its content (PS3.5 B.1). Raises as `read_dicomweb`."""
    wanted = chosen(Server(Address.of(url)).found(), series, url)
    return sha256("\n".join([wanted.uid, *sorted(map(str, wanted.files))]).encode()).hexdigest()


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _credentials(root: str, environment: Mapping[str, str] = os.environ) -> AuthBase | tuple[str, str] | None:
    """Of this server, from the environment or a netrc file; no other gets them. Raises ConfigError."""
    from requests.auth import HTTPBasicAuth
    from requests.utils import get_netrc_auth

    from modiff.io.dicom.http import Token

    names = ("HOST", "TOKEN", "USER", "PASSWORD")
    host, token, user, password = (environment.get(_ENVIRONMENT + name) for name in names)
    if (token or user or password) and not host:
        expected = "the server that they are for, such as pacs.example.org"
        raise ConfigError("is not set beside credentials", field=f"{_ENVIRONMENT}HOST", expected=expected)
    parts = urlsplit(root)
    made: AuthBase | tuple[str, str] | None = None
    if host and (token or user) and host.lower() in (parts.netloc.lower(), parts.hostname):
        if token and not re.fullmatch(r"[!-~]+", token):
            raise ConfigError("has spaces or other signs that no token has", field=f"{_ENVIRONMENT}TOKEN")
        made = Token(token) if token else HTTPBasicAuth((user or "").encode(), (password or "").encode())
    else:
        made = get_netrc_auth(root)
    if made and parts.scheme != "https" and not _is_loopback(root):
        hint = "Use https, or a tunnel to localhost"
        raise ConfigError("would send a password or token unencrypted", path=parts.hostname, hint=hint)
    return made
