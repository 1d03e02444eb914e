"""What may be said of where an image came from.

A DICOM series names its patient, and so do, often, its folder and files: unless the user asks for it, nothing that is
printed or written says more than "DICOM series". Only segmentations carry the patient's identity, as the standard asks.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modiff.io.image import ImageFile
from modiff.io.volume import Volume

_IDENTITY = ("PatientName", "PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID")


def called(scan: ImageFile | Volume) -> str:
    """What words and figures call a scan."""
    return "DICOM series" if scan.format == "DICOM" else str(scan.path)


def describe_source(scan: ImageFile | Volume, paths: Sequence[Path], *, identify: bool = False) -> dict[str, Any]:
    """Where an image came from, as plain data. paths: as the user gave them, one per channel where several."""
    named = identify or scan.format != "DICOM"
    found: dict[str, Any] = {"path": str(scan.path)} if named else {}
    digests = [scan.sha256] if isinstance(scan.sha256, str) else sorted(scan.sha256.values())
    found |= {
        "format": scan.format,
        "type": str(scan.array.dtype),
        "channels": scan.array.shape[0],
        # One file's own digest; of several that of their digests in alphabetical order.
        "sha256": digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest(),
    }
    if len(paths) > 1:
        found["channel_paths"] = list(map(str, paths))
    if identify and isinstance(scan, Volume) and scan.format == "DICOM":
        header = scan.source.headers[0]
        found["identity"] = {name: str(header.get(name, "")) for name in _IDENTITY}
    return found


def public_command(command: str, scan: ImageFile | Volume, path: Path, *, identify: bool = False) -> str:
    """The command line without the path of a DICOM series."""
    if identify or scan.format != "DICOM":
        return command
    words = ["SERIES" if word == str(path) or Path(word) == path else word for word in shlex.split(command)]
    return shlex.join(words)
