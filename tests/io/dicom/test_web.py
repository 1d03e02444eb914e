"""A series on a DICOMweb server: read as from a folder, stored there, and what a server may do wrong."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicomweb import Fake, certificate, serving
from series_files import PERSON, write_series

from modiff.errors import ConfigError, DataError, ModiffError
from modiff.io.dicom import web
from modiff.io.dicom.series import read_dicom_series
from modiff.io.dicom.web import Address, Server, digest, read_dicomweb, url_of
from modiff.io.files import Limits
from modiff.prediction.inputs import read_scan

pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed (extra dicomweb)")
from modiff.io.dicom import http

JSON, PARTS = "application/dicom+json", "multipart/related; boundary=X"
VALUES = np.arange(5 * 12 * 16).reshape(5, 12, 16) % 700


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody waits, and this machine's own credentials and proxies are no part of it."""
    monkeypatch.setattr(web, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in list(os.environ):
        if name.startswith("MODIFF_DICOMWEB") or name.lower().endswith("_proxy") or name.endswith("CA_BUNDLE"):
            monkeypatch.delenv(name)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Fake]:
    write_series(tmp_path / "files/one", VALUES)
    with serving(tmp_path / "files") as made:
        yield made


def test_it_is_a_scan_by_itself(server, tmp_path):
    files = [(None, Path(server.address())), (None, tmp_path / "a.nii")]
    with pytest.raises(DataError, match="a series on a server is a scan by itself; found 2 files"):
        read_scan(files)


@pytest.mark.parametrize(("page", "part"), [(1000, "series"), (2, "series"), (2, "study")])
def test_a_series_is_read_as_from_its_folder(server, page, part):
    server.page = page  # servers list no more at a time than they like
    own = read_dicom_series(server.folder / "one")
    found = read_dicomweb(server.address(series=part == "series"))
    assert (found.array == own.array).all()
    assert found.array.dtype == own.array.dtype
    assert (found.affine == own.affine).all()
    assert sorted(found.sha256.values()) == sorted(own.sha256.values())
    assert (found.format, found.modality) == ("DICOM", "CT")


def test_a_list_need_not_say_everything(server, capsys):
    """What was asked for is known, and what is shown alone may be missing or odd; its words are not repeated."""

    def odd(request):
        if "/instances/" in request.path:
            return False
        listed = [server.listed(path) for path in server.files()]
        for item in listed:
            del item["0020000E"], item["00280010"]
            item["00080060"]["Value"] = [7]
            item["00200011"]["Value"] = ["CANARY"]
        return request.answer(json.dumps(listed).encode(), JSON, Warning='299 - "CANARY"')

    server.odd = odd
    assert read_dicomweb(server.address()).shape[0] == 5
    assert capsys.readouterr().err == ""
    with pytest.raises(DataError, match=r"1: unknown modality, 5 slices, series number 0\Z"):
        read_dicomweb(server.address(), series="9")


def test_an_object_by_itself_is_one_too(server):
    """As some servers answer: not in a message of several parts."""

    def odd(request):
        if "/instances/" not in request.path:
            return False
        uid = request.path.rpartition("/")[2]
        file = next(path for path in server.files() if server.fits(path, {"instances": uid}))
        return request.answer(file.read_bytes(), "application/dicom")

    server.odd = odd
    assert (read_dicomweb(server.address()).array[0] == VALUES).all()


def test_of_several_series_one_is_chosen_by_uid_or_number(server, tmp_path):
    for number, (name, depth) in enumerate([("two", 3), ("report", 1)], 4):
        for file in write_series(server.folder / name, VALUES[:depth]).iterdir():
            header = pydicom.dcmread(file)
            header.StudyInstanceUID = pydicom.dcmread(server.files()[0]).StudyInstanceUID
            header.SeriesNumber = number
            if name == "report":
                header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"
            header.save_as(file)
    study = server.address(series=False)
    with pytest.raises(
        DataError, match=r"several series; found 2 series of 5, 3 slices.*1: CT, 5 slices of 16×12"
    ) as it:
        read_dicomweb(study)
    assert "3: CT" not in str(it.value)
    uid = server.address(server.folder / "two").rpartition("/")[2]
    for wanted in ("2", uid):
        assert read_dicomweb(study, series=wanted).shape[0] == 3
    assert digest(study, "2") == digest(server.address(server.folder / "two"))
    assert digest(study, "1") != digest(study, "2")
    with pytest.raises(DataError, match="--series: no such series; found 3"):
        read_dicomweb(study, series="3")


def test_a_broken_connection_is_tried_again_and_says_so(server, capsys):
    left = [2, 2]  # of the list, of slices

    def odd(request):
        place = int("/instances/" in request.path)
        left[place] -= 1
        if left[place] < 0:
            return False
        return (
            request.answer(b"", "text/plain", 503)
            if place and left[place]
            else request.broken(PARTS if place else JSON)
        )

    server.odd = odd
    assert read_dicomweb(server.address()).shape[0] == 5
    said, again = capsys.readouterr().err.splitlines(), "; tries again in 0 s"
    broke, busy = (
        "modiff: 127.0.0.1: the connection broke",
        "modiff: 127.0.0.1: refuses: found HTTP 503 Service Unavailable",
    )
    assert said[:2] == [broke + again] * 2
    assert sorted(said[2:]) == [busy + again, broke + again]


def _listed(change):
    """A list with an entry that is otherwise."""

    def odd(request):
        if "/instances/" in request.path:
            return False
        listed = [request.server.listed(path) for path in request.server.files()]
        change(listed)
        return request.answer(json.dumps(listed).encode(), JSON)

    return odd


def _object(answer):
    """Another answer to a request for an object."""
    return lambda request: "/instances/" in request.path and answer(request)


def _other(request):
    """Another slice than was asked for."""
    uid = request.path.rpartition("/")[2]
    return request.part(
        next(it for it in request.server.files() if not request.server.fits(it, {"instances": uid})).read_bytes()
    )


def _away(request):
    request.send_response(302)
    request.send_header("Location", f"http://localhost:{request.server.server_address[1]}/elsewhere")
    request.send_header("Content-Length", "0")
    request.end_headers()
    return True


FAULTS = {
    "a page": (lambda it: it.answer(b"<html>log in", "text/html"), "does not answer as DICOMweb; found text/html"),
    "no kind": (lambda it: it.answer(b"[]", "x" * 300), "found another kind"),
    "no JSON": (lambda it: it.answer(b"[{", JSON), "does not answer as DICOMweb"),
    "deep JSON": (lambda it: it.answer(b"[" * 100_000, JSON), "does not answer as DICOMweb"),
    "a number": (lambda it: it.answer(b"7", JSON), "a list that is not DICOMweb's; found int"),
    "texts": (lambda it: it.answer(b'["a"]', JSON), "SOPInstanceUID: a list that is not DICOMweb's"),
    "bytes": (lambda it: it.answer(b"\xff\xfe\x00", JSON), "does not answer as DICOMweb"),
    "packed": (lambda it: it.answer(b"[]", JSON, Content_Encoding="gzip"), "found another kind"),
    "an endless list": (lambda it: it.endless(JSON, b" " * 65536), "sends more than allowed"),
    "a slow list": (lambda it: it.endless(JSON, b" ", lambda: time.sleep(0.02)), "sends too slowly"),
    "silence": (lambda it: it.server.over.wait(3), "does not answer in time"),
    "401": (lambda it: it.answer(b"", JSON, 401), "does not let you in; found HTTP 401 Unauthorized"),
    "404": (lambda it: it.answer(b"", JSON, 404), "is not there; found HTTP 404"),
    "500": (lambda it: it.answer(b"CANARY", JSON, 500), "refuses; found HTTP 500"),
    "elsewhere": (_away, "sends on to another server; found localhost"),
    "in a circle": (lambda it: it.answer(b"", JSON, 302, Location=it.path), "does not answer as DICOMweb"),
    "nothing": (_listed(lambda listed: listed.clear()), "is not there, or has no instances"),
    "another UID": (_listed(lambda it: it[0]["00080018"].update(Value=["../../up"])), "SOPInstanceUID: a list"),
    "a UID of numbers": (_listed(lambda it: it[0]["00080018"].update(Value=[12])), "SOPInstanceUID: a list"),
    "a UID that is not there": (_listed(lambda it: it[0]["00080018"].update(Value=["1.2"])), "is not there"),
    "an endless object": (_object(lambda it: it.endless("application/dicom", bytes(65536))), "sends more than allowed"),
    "no DICOM": (_object(lambda it: it.part(b"x" * 500)), "is not DICOM"),
    "cut short": (_object(lambda it: it.part(it.server.files()[0].read_bytes()[:400])), "another object|damaged"),
    "no parts": (_object(lambda it: it.answer(b"", PARTS)), "is not one DICOM object"),
    "a part without an end": (_object(lambda it: it.answer(b"--X", PARTS)), "as DICOMweb"),
    "several parts": (_object(lambda it: it.answer(b"--X\r\n\r\na\r\n" * 9, PARTS)), "sends several objects"),
    "another slice": (_object(_other), "SOPInstanceUID: is another object than was asked for"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_server_does_wrong_is_a_line(server, monkeypatch, fault):
    """And nothing of it stays, and no word of its own is repeated."""
    server.odd, message = FAULTS[fault]
    bounds = {"a slow list": ("_GRACE", 0.05), "silence": ("TIMEOUT", (10.0, 0.3))}
    monkeypatch.setattr(http, *bounds.get(fault, ("MOST_JSON", 1 << 20)))
    monkeypatch.setattr(web, "_MOST_OF_ONE", 1 << 20)
    with pytest.raises(ModiffError, match=message) as error:
        read_dicomweb(server.address())
    said = str(error.value)
    assert "\n" not in said
    assert not any(word in said for word in (*PERSON.values(), "CANARY"))
    assert len(server.requests) < 30


def test_who_stops_it_need_not_wait_for_the_server(server):
    def stop(done, total):
        raise KeyboardInterrupt

    first = min(pydicom.dcmread(file).SOPInstanceUID for file in server.files())
    server.odd = lambda request: (
        "/instances/" in request.path and not request.path.endswith(first) and server.over.wait(9)
    )
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        read_dicomweb(server.address(), progress=stop)
    assert time.perf_counter() - start < 4


def test_too_much_is_refused(server, monkeypatch):
    with pytest.raises(DataError, match=r"series is too large.*--max-bytes \d+ allows it"):
        read_dicomweb(server.address(), limits=Limits.asked(5000))
    monkeypatch.setattr(web, "MAX_FILES", 4)
    with pytest.raises(DataError, match="too many files for one series"):
        read_dicomweb(server.address())
    monkeypatch.setattr(web, "MAX_BELOW", 4)
    with pytest.raises(DataError, match="lists too many instances"):
        read_dicomweb(server.address())


def test_errors_of_slices_name_them_as_the_server_does(server):
    file = server.files()[4]
    header = pydicom.dcmread(file)
    header.PhotometricInterpretation = "RGB"
    header.save_as(file)
    with pytest.raises(DataError, match="is not a plain grey image") as error:
        read_dicomweb(server.address())
    assert str(error.value.path) == f"{server.address()}/instances/{header.SOPInstanceUID}"
    server.odd = lambda request: (
        "/instances/" in request.path and request.path.endswith(first) and request.part(b"no DICOM")
    )
    first = pydicom.dcmread(server.files()[0]).SOPInstanceUID
    found = read_dicomweb(server.address(), limits=Limits(skip_broken=True))
    assert found.shape[0] == 3
    assert len(found.notes) == 2


class TestCredentials:
    def sent(self, server):
        return {headers.get("Authorization") for _, headers in server.requests}

    def test_a_token_goes_to_its_server_alone(self, server, monkeypatch):
        monkeypatch.setenv("MODIFF_DICOMWEB_TOKEN", "SECRET")
        with pytest.raises(ConfigError, match="MODIFF_DICOMWEB_HOST: is not set beside credentials"):
            read_dicomweb(server.address())
        for host, sent in (("pacs.example.org", None), ("127.0.0.1", "Bearer SECRET")):
            monkeypatch.setenv("MODIFF_DICOMWEB_HOST", host)
            server.requests.clear()
            read_dicomweb(server.address())
            assert self.sent(server) == {sent}

    def test_a_redirection_elsewhere_does_not_get_it(self, server, monkeypatch):
        monkeypatch.setenv("MODIFF_DICOMWEB_TOKEN", "SECRET")
        monkeypatch.setenv("MODIFF_DICOMWEB_HOST", "127.0.0.1")
        server.odd = _away
        with pytest.raises(DataError, match="another server"):
            read_dicomweb(server.address())
        assert len(server.requests) == 1

    def test_user_and_password_come_from_the_environment_or_netrc(self, server, monkeypatch, tmp_path):
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password SECRET\n")
        read_dicomweb(server.address())
        assert self.sent(server) == {"Basic bWU6U0VDUkVU"}
        for name, value in (("HOST", "127.0.0.1"), ("USER", "me"), ("PASSWORD", "Ω")):
            monkeypatch.setenv(f"MODIFF_DICOMWEB_{name}", value)
        server.requests.clear()
        read_dicomweb(server.address())
        assert self.sent(server) == {"Basic bWU6zqk="}

    @pytest.mark.parametrize("token", ["SECRET\n", "SEC RET", "SECRETΩ"])
    def test_what_is_no_token_is_not_repeated(self, server, monkeypatch, token):
        monkeypatch.setenv("MODIFF_DICOMWEB_TOKEN", token)
        monkeypatch.setenv("MODIFF_DICOMWEB_HOST", "127.0.0.1")
        with pytest.raises(ConfigError) as error:
            read_dicomweb(server.address())
        assert "SEC" not in str(error.value)

    def test_nothing_secret_goes_over_http_to_another_machine(self, monkeypatch, capsys):
        monkeypatch.setenv("MODIFF_DICOMWEB_TOKEN", "SECRET")
        monkeypatch.setenv("MODIFF_DICOMWEB_HOST", "pacs.example.org")
        with pytest.raises(ConfigError, match="unencrypted"):
            Server(Address("http://pacs.example.org/web"))
        Server(Address("https://pacs.example.org/web"))
        Server(Address("http://other.example.org/web"))
        assert capsys.readouterr().err.count("http is not encrypted") == 1

    def test_tls_is_verified(self, tmp_path, monkeypatch):
        if shutil.which("openssl") is None:
            pytest.skip("needs the command openssl")
        write_series(tmp_path / "files", VALUES)
        own = certificate(tmp_path)
        with serving(tmp_path / "files", own) as server:
            with pytest.raises(DataError, match=r"certificate is not trusted; found self.signed certificate"):
                read_dicomweb(server.address())
            assert not server.requests
            for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
                with monkeypatch.context() as own_environment:
                    own_environment.setenv(name, str(tmp_path / "certificate.pem"))
                    assert read_dicomweb(server.address()).shape == (5, 12, 16)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
            with pytest.raises(DataError, match="no such file of certificates"):
                read_dicomweb(server.address())


NO_ADDRESS = ["http://me:SECRET@h/studies/1", "http://h/studies/1?token=SECRET", "http://h/studies/1#SECRET"]
NO_ADDRESS += [
    "http://h",
    "http:///studies/1",
    "http://h/studies",
    "http://h/studies/1.2/series",
    "http://h/studies/one",
]
NO_ADDRESS += ["http://h/studies/1..2", f"http://h/studies/{'1' * 65}", "http://me:SECRET/studies/1"]
NO_ADDRESS += ["http://h/studies/1/series/1/instances/2"]


@pytest.mark.parametrize("url", NO_ADDRESS)
def test_what_is_no_address_is_refused_and_no_password_repeated(url):
    with pytest.raises(ConfigError) as error:
        Address.of(url_of(Path(url)) or url)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://h/studies/1",
        "ftp://h/web",
        "h/web",
        "http://",
        "http://me:SECRET@h",
        "http://h?SECRET",
        "me:SECRET@h/web",
    ],
)
def test_results_go_to_a_service(url):
    """Its address names no study: the results' command has it."""
    with pytest.raises(ConfigError) as error:
        Address.of(url, service=True)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("port", ["x", "99999"])
def test_a_port_that_cannot_be_is_not_called_another_address(port):
    with pytest.raises(ConfigError, match="is not an address: its host or port is not valid"):
        Address.of(f"http://h:{port}/studies/1.2")


def test_paths_and_urls_are_told_apart():
    assert [url_of(Path(text)) for text in ("a/b.png", "http", "/http:/x", "ftp://x/y")] == [None] * 4
    assert url_of(Path("https://h:8/a/studies/1.2/")) == "https://h:8/a/studies/1.2"
    assert url_of(Path("HTTP://h/a")) == "http://h/a"


class TestStoring:
    def test_files_arrive_as_they_are(self, server):
        files = server.files()
        Server(Address(server.url)).store(files)
        assert server.stored == [file.read_bytes() for file in files]
        assert server.requests[0][0] == "/web/studies"

    def test_a_slow_line_is_waited_for(self, server, monkeypatch, tmp_path):
        """Sending all of a large object takes longer than connecting may."""
        monkeypatch.setattr(http, "TIMEOUT", (0.2, 5.0))
        server.pause = 0.6
        large = write_series(tmp_path / "large", np.zeros((1, 2048, 2048)))
        Server(Address(server.url)).store(list(large.iterdir()))
        assert len(server.stored) == 1

    def test_what_is_not_stored_is_said(self, server):
        server.takes = 4
        with pytest.raises(DataError, match=r"does not store all results; found 004.dcm not stored, reason 0xA700"):
            Server(Address(server.url)).store(server.files())

    def test_what_is_answered_beside_success_is_checked_too(self, server):
        server.odd = lambda request: request.answer(b"<a/>", "application/dicom+xml", 202)
        with pytest.raises(DataError, match=r"does not answer as DICOMweb; found application/dicom\+xml"):
            Server(Address(server.url)).store(server.files())

    @pytest.mark.parametrize("fault", ["a page", "no JSON", "a number", "401", "an endless list", "elsewhere"])
    def test_a_server_that_does_not_say_so_is_a_line(self, server, fault, monkeypatch):
        monkeypatch.setattr(http, "MOST_JSON", 1 << 20)
        server.odd, _ = FAULTS[fault]
        with pytest.raises(DataError):
            Server(Address(server.url)).store(server.files())


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"dicomweb_client, requests: not installed. pip install 'modiff\[dicomweb\]'"
    ):
        read_dicomweb("https://h/studies/1.2")
