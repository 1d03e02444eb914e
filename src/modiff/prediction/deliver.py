"""DICOM results on their way to a DICOMweb server, and which of them are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modiff.errors import DataError
from modiff.io.checksum import stamped_json
from modiff.io.dicom.web import Address, Server
from modiff.io.files import files_in, sha256_of
from modiff.io.output import MANIFEST, alone, write_text
from modiff.io.text import read_json_text
from modiff.io.volume import Volume
from modiff.prediction.write import describe_source, public_command

SENT = "sent.json"  # in a folder of results: which of its files which server has


def check_server(server: str) -> None:
    """Raises ConfigError for what is not a server's address, and where nothing can be sent: known before drawing."""
    Server(Address.of(server, service=True))


def is_sent(folder: Path, server: str) -> bool:
    """Whether the server has a folder's DICOM results as they are now."""
    if not (folder / SENT).is_file():
        return False
    there = read_json_text(folder / SENT, kind="record of what was sent")
    return isinstance(there, dict) and {**there, "checksum": None} == {**_record(folder, server), "checksum": None}


def _record(folder: Path, server: str) -> dict[str, Any]:
    files = {file.name: sha256_of(file) for file in files_in(folder, ".dcm")}
    return {"server": Address.of(server, service=True).root, "files": files}


def send(folder: Path, server: str) -> None:
    """Stores a folder's DICOM results on a server, all of them or, where it has them already, none.

    server: the URL of a DICOMweb service. Sent again they are the same objects, by their UIDs.
    Raises DataError where there are none or the server does not take all; the results stay where they are.
    """
    with alone(folder):
        if is_sent(folder, server):
            return
        if not (files := files_in(folder, ".dcm")):
            raise DataError("has no DICOM results to send", field="--send", hint="Warnings say why there are none")
        Server(Address.of(server, service=True)).store(files)
        write_text(folder / SENT, stamped_json(_record(folder, server), indent=1))


def drawn_before(
    folder: Path, scan: Volume, paths: Sequence[Path], command: str, *, fingerprint: str, identify: bool
) -> bool:
    """Whether a folder of results has those of the same command on the same scan. fingerprint: the model's."""
    there = read_json_text(folder / MANIFEST, kind="summary of `modiff sample`")
    own = {
        "command": public_command(command, scan, paths[0], identify=identify),
        "image": describe_source(scan, paths, identify=identify),
    }
    if not isinstance(there, dict) or any(there.get(name) != value for name, value in own.items()):
        return False
    model = there.get("model")
    return isinstance(model, dict) and model.get("fingerprint") == fingerprint
