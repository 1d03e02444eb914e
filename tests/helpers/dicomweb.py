"""A small DICOMweb server on this machine: QIDO-RS, WADO-RS and STOW-RS of a folder, and any other answer to a request.

It is written from PS3.18 and shares no code with the package.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom

LISTED = ("SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber")
LISTED += ("PatientName", "PatientID", "Rows", "Columns")
Answer = Callable[["Request"], bool]  # whether it has answered


class Request(BaseHTTPRequestHandler):
    """One request to a `Fake`."""

    protocol_version = "HTTP/1.1"
    server: Fake

    def log_message(self, *args: object) -> None:
        """Says nothing."""

    def answer(self, body: bytes, kind: str, status: int = 200, **headers: str) -> bool:
        """Sends a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        return True

    def endless(self, kind: str, part: bytes, pause: Callable[[], object] = lambda: None) -> bool:
        """Sends a part for ever, until the other side has enough."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.close_connection = True
        try:
            while not self.server.over.is_set():
                self.wfile.write(part)
                self.wfile.flush()
                pause()
        except OSError:
            pass
        return True

    def broken(self, kind: str) -> bool:
        """Says that more comes than does."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"[")
        self.close_connection = True
        return True

    def part(self, data: bytes) -> bool:
        """Sends one object as WADO-RS does."""
        body = b"--XX\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--XX--\r\n"
        return self.answer(body, 'multipart/related; type="application/dicom"; boundary=XX')

    def do_GET(self) -> None:
        """QIDO-RS of instances, WADO-RS of one."""
        self.server.requests.append((self.path, dict(self.headers)))
        if self.server.odd is not None and self.server.odd(self):
            return
        parts, query = urlsplit(self.path).path.strip("/").split("/"), parse_qs(urlsplit(self.path).query)
        asked = dict(zip(parts[1::2], parts[2::2], strict=False))
        found = [path for path in self.server.files() if self.server.fits(path, asked)]
        if "instances" in asked:
            self.part(found[0].read_bytes()) if found else self.answer(b"", "text/plain", 404)
            return
        first, count = int(query["offset"][0]), min(self.server.page, int(query["limit"][0]))
        listed = [self.server.listed(path) for path in found[first : first + count]]
        self.answer(json.dumps(listed).encode(), "application/dicom+json")

    def do_POST(self) -> None:
        """STOW-RS."""
        self.server.requests.append((self.path, dict(self.headers)))
        self.server.over.wait(self.server.pause)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.odd is not None and self.server.odd(self):
            return
        mark = self.headers["Content-Type"].split('boundary="')[1].rstrip('"').encode()
        parts = [part.partition(b"\r\n\r\n")[2][:-2] for part in body.split(b"--" + mark)[1:-1]]
        self.server.stored += parts
        uids = [pydicom.dcmread(BytesIO(part)).SOPInstanceUID for part in parts]
        done = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids]
        answer = {"00081199": {"vr": "SQ", "Value": done[: self.server.takes]}}
        if len(done) > self.server.takes:
            failed = [{**one, "00081197": {"vr": "US", "Value": [0xA700]}} for one in done[self.server.takes :]]
            answer["00081198"] = {"vr": "SQ", "Value": failed}
        self.answer(json.dumps(answer).encode(), "application/dicom+json", 202 if "00081198" in answer else 200)


class Fake(ThreadingHTTPServer):
    """A server of all files below `folder`. page: the most that it lists at a time. takes: the most that it stores.
    pause: seconds before it takes what is sent.

    odd: answers a request in place of it. requests: paths and headers. stored: bytes of what it was sent.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.folder, self.page, self.takes, self.pause, self.odd = folder, 1000, 1000, 0.0, None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.stored: list[bytes] = []
        self.over = threading.Event()
        self.scheme = "http"

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of a client that is gone."""

    def files(self) -> list[Path]:
        """All that it has."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def fits(self, path: Path, asked: dict[str, str]) -> bool:
        """Whether a file is of the study, series and instance of a URL."""
        names = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}
        header = pydicom.dcmread(path, stop_before_pixels=True)
        return all(str(header[names[key]].value) == uid for key, uid in asked.items())

    def listed(self, path: Path) -> dict[str, object]:
        """A file as a list has it."""
        header = pydicom.dcmread(path, stop_before_pixels=True)
        made = {f"{header[name].tag:08X}": header[name] for name in LISTED if name in header}
        return {
            tag: {"vr": it.VR, "Value": [it.value if isinstance(it.value, int) else str(it.value)]}
            for tag, it in made.items()
        }

    @property
    def url(self) -> str:
        """Of the service."""
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/web"

    def address(self, folder: Path | None = None, *, series: bool = True) -> str:
        """Of the series in a folder, or of its study."""
        files = self.files() if folder is None else sorted(folder.iterdir())
        header = pydicom.dcmread(files[0], stop_before_pixels=True)
        study = f"{self.url}/studies/{header.StudyInstanceUID}"
        return f"{study}/series/{header.SeriesInstanceUID}" if series else study


@contextmanager
def serving(folder: Path, certificate: Path | None = None) -> Iterator[Fake]:
    """A server while the block lasts. certificate: with its key in one file, for https."""
    server = Fake(folder)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket, server.scheme = context.wrap_socket(server.socket, server_side=True), "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that nobody has signed, with its key; made by OpenSSL's command."""
    path = folder / "own.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(folder / "certificate.pem")]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (folder / "certificate.pem").read_bytes())
    return path
