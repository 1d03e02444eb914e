"""A real archive on this machine: Orthanc with its DICOMweb plugin, on ports of its own."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Archive:
    """Its address, the port on which it takes C-STORE, and a user's name and password, where it lets only one in."""

    url: str
    port: int
    user: tuple[str, str] | None = None

    def ask(self, path: str, data: bytes | None = None) -> bytes:
        """Its own interface."""
        request = urllib.request.Request(self.url + path, data)
        if self.user:
            request.add_header("Authorization", f"Basic {base64.b64encode(':'.join(self.user).encode()).decode()}")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return answer.read()

    def instance(self, uid: str) -> bytes:
        """The file of an instance, as it hands it out."""
        (found,) = json.loads(self.ask("/tools/lookup", uid.encode()))
        return self.ask(f"/instances/{found['ID']}/file")


@contextmanager
def orthanc(folder: Path, *, user: tuple[str, str] | None = None, **settings: Any) -> Iterator[Archive]:
    """Skips without it."""
    if not (PLUGIN.is_file() and (program := shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin"))):
        pytest.skip("needs Orthanc with its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
    with socket.socket() as one, socket.socket() as two:
        for free in (one, two):
            free.bind(("127.0.0.1", 0))
        http, dicom = (free.getsockname()[1] for free in (one, two))
    settings = {"StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), **settings}
    settings |= {"HttpPort": http, "DicomPort": dicom, "Plugins": [str(PLUGIN)], "RemoteAccessAllowed": False}
    if user:
        settings |= {"AuthenticationEnabled": True, "RegisteredUsers": dict([user])}
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        [program, folder / "settings.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for port in (dicom, http):
            for _ in range(200):
                with socket.socket() as trial:
                    if trial.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
        yield Archive(f"http://127.0.0.1:{http}", dicom, user)
    finally:
        process.terminate()
        process.wait()
