"""Maps that other programs made, recognised by what lies on disk."""

from __future__ import annotations

from pathlib import Path

from modiff.errors import DataError
from modiff.evaluation.predictions.arrays import Hdf5Maps, NpzMaps
from modiff.evaluation.predictions.base import FORMATS, MapSource
from modiff.evaluation.predictions.folder import FolderMaps


def open_maps(path: str | Path) -> MapSource:
    """The maps at `path`, recognised by what lies there; raises DataError for anything else."""
    path = Path(path)
    if path.is_dir():
        return FolderMaps(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise DataError("cannot be read", path=path, found=error.strerror, expected=FORMATS) from None
    if start.startswith(b"PK"):
        return NpzMaps(path)
    if start == b"\x89HDF\r\n\x1a\n":
        return Hdf5Maps(path)
    raise DataError("not a set of maps", path=path, expected=FORMATS)
