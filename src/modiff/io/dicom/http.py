"""Requests to a DICOMweb server: to that server alone, within bounds, and in words where they fail.

What a server answers is from outside: its size and pace are bounded while it is read, another kind of content than
DICOMweb's is refused before it is parsed, and no message repeats its text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from modiff.errors import DataError
from modiff.io.files import MIB

TIMEOUT = (10.0, 120.0)  # seconds to connect, and between two parts of an answer
MOST_JSON = 8 * MIB  # bytes of a list, of which a slice takes up to 2,000
PAGE = 200  # instances that are listed at a time: some services allow no more
_SLOWEST, _GRACE = 10_000, 60.0  # bytes per second on average that an answer must reach, after so many seconds
_PART = 1 << 16  # bytes read at a time
_ENDS = 2  # of one part: before it and behind it
_LISTS, _DICOM = ("application/dicom+json", "application/json"), "application/dicom"
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_REASONS = {  # of what libraries say
    r"[Cc]onnection refused|actively refused": "nothing listens there",
    r"NameResolutionError|getaddrinfo failed": "no such host",
    r"unreachable|No route": "no way to that host",
}


class Token(requests.auth.AuthBase):
    """A bearer token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Adapter(HTTPAdapter):
    """Sends requests to one server. most: bytes of a DICOM object."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        """As of any adapter. Raises DataError for a redirection elsewhere, and for content that is not DICOMweb's."""
        where = str(request.url)
        objects = re.search(r"/instances/[\d.]+$", where) is not None
        request.headers.pop("Host", None)  # dicomweb-client leaves out the port
        # As the files are, in no compression that could be a bomb; dicomweb-client asks for bulk data or for nothing.
        request.headers["Accept-Encoding"] = "identity"
        accepted = f'multipart/related; type="{_DICOM}"; transfer-syntax=*' if objects else _LISTS[0]
        request.headers["Accept"] = accepted
        if isinstance(request.body, bytes):  # all of it is sent within the time that is for connecting
            more["timeout"] = _GRACE + len(request.body) / _SLOWEST, TIMEOUT[1]
        response = super().send(request, *args, **more)
        response.raw = _Bounded(response.raw, self._most if objects else MOST_JSON)
        response.headers.pop("Warning", None)  # dicomweb-client would print it
        if response.is_redirect:
            target = urljoin(where, response.headers["location"])
            if urlsplit(target)[:2] != urlsplit(where)[:2]:
                found = urlsplit(target).hostname
                raise DataError("sends on to another server", found=found, hint="Give that address, if you trust it")
        elif response.ok and response.status_code != HTTPStatus.NO_CONTENT:
            _check_kind(response, objects)
            if objects:
                _check_parts(response)
        return response


def _check_kind(response: requests.Response, objects: bool) -> None:
    """DataError for another kind of content than was asked for, such as a page in HTML."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    packed = response.headers.get("Content-Encoding", "identity")
    if objects and kind == _DICOM:  # by itself, as some servers send it
        response.headers["Content-Type"] = kind = "multipart/related"
    if kind not in (("multipart/related",) if objects else _LISTS) or packed != "identity":
        found = kind if re.fullmatch(r"[\w.+-]{1,40}/[\w.+-]{1,40}", kind) and packed == "identity" else "another kind"
        hint = "Is this the address of its DICOMweb service?"
        raise DataError(
            "does not answer as DICOMweb", found=found, expected=_DICOM if objects else _LISTS[0], hint=hint
        )


def _check_parts(response: requests.Response) -> None:
    """DataError for more than one part: each takes time to be told from the next, and there may be millions."""
    mark = re.search(r'boundary="?([^";]+)', response.headers["Content-Type"], re.IGNORECASE)
    if mark and response.content.count(b"\r\n--" + mark[1].encode("latin-1", "replace")) > _ENDS:
        raise DataError("sends several objects in place of one")


class _Bounded:
    """The body of an answer, whose size and pace are bounded; as urllib3's response otherwise."""

    def __init__(self, raw: Any, most: int) -> None:
        self._raw, self._most = raw, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self, size: int = _PART, decode_content: bool | None = None) -> Iterator[bytes]:
        """The body in parts, each as it comes. Raises DataError beyond the bounds."""
        start, seen = time.monotonic(), 0
        while part := self._raw.read1(_PART, decode_content=False):
            seen += len(part)
            if seen > self._most:
                self._raw.close()
                hint = None if self._most == MOST_JSON else "--max-bytes allows more"
                raise DataError("sends more than allowed", expected=f"≤ {self._most} bytes in one answer", hint=hint)
            if time.monotonic() - start > _GRACE + seen / _SLOWEST:
                self._raw.close()
                raise DataError("sends too slowly", found=f"{seen} bytes", expected=f"{_SLOWEST} bytes per second")
            yield part


def fault_of(error: Exception) -> tuple[DataError, bool]:
    """What a failed request is called, and whether it may pass."""
    errors = requests.exceptions
    text = str(error)
    if isinstance(error, errors.HTTPError) and error.response is not None:
        return _status(error.response.status_code), error.response.status_code in _PASSING
    if isinstance(error, errors.SSLError):
        why = re.search(r"certificate verify failed: ([\w ',.-]+)", text)
        hint = "REQUESTS_CA_BUNDLE names a file with the certificate of its authority, if you trust it"
        if why is None:
            return DataError("does not speak TLS"), False
        return DataError("its certificate is not trusted", found=why[1].strip(), hint=hint), False
    if isinstance(error, errors.Timeout):
        return DataError("does not answer in time"), True
    if isinstance(error, errors.ProxyError):
        return DataError("cannot be reached through the proxy of the environment"), True
    if isinstance(error, (errors.ConnectionError, errors.ChunkedEncodingError)):
        reason = next((words for part, words in _REASONS.items() if re.search(part, text)), None)
        return DataError(f"cannot be reached ({reason})" if reason else "the connection broke"), True
    if isinstance(error, OSError) and "TLS CA" in text:
        return DataError(
            "no such file of certificates", field="REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE"
        ), False
    return DataError("does not answer as DICOMweb", found=type(error).__name__), False


def _status(code: int) -> DataError:
    phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else ""
    found = f"HTTP {code} {phrase}".strip()
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        hint = "Credentials: MODIFF_DICOMWEB_HOST with MODIFF_DICOMWEB_TOKEN, or _USER and _PASSWORD; or a netrc file"
        return DataError("does not let you in", found=found, hint=hint)
    if code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return DataError("is not there", found=found)
    return DataError("refuses", found=found)
