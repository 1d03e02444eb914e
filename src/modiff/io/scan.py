"""One entry for what a user may point at: a picture, a NIfTI file, a DICOM file, or a folder with a DICOM series."""

from __future__ import annotations

from pathlib import Path

from modiff.io.images import ImageFile, read_image
from modiff.io.limits import Limits
from modiff.io.volume import Volume

_NIFTI_MARKS = (b"n+1\0", b"n+2\0")


def read_scan(path: str | Path, *, limits: Limits | None = None) -> ImageFile | Volume:
    """An ImageFile for PNG, TIFF and NPY; a Volume for NIfTI and DICOM, which say where their voxels lie.

    A folder is a DICOM series. A file is recognised by its first bytes; a gzip file is NIfTI. Raises DataError as the
    readers do.
    """
    path = Path(path)
    if path.is_dir():
        from modiff.io.dicom import read_dicom_series

        return read_dicom_series(path, limits=limits)
    start = _start(path)
    if start[128:132] == b"DICM":
        from modiff.io.dicom import read_dicom_series

        return read_dicom_series(path, limits=limits)
    marked = start[344:348] in _NIFTI_MARKS or start[4:8] in _NIFTI_MARKS
    if marked or start.startswith(b"\x1f\x8b") or path.name.lower().endswith((".nii", ".nii.gz")):
        from modiff.io.nifti import read_nifti

        return read_nifti(path, limits=limits)
    return read_image(path, limits=limits)


def _start(path: Path) -> bytes:
    """The first bytes; none where there is nothing to read, which the readers then say."""
    try:
        with path.open("rb") as file:
            return file.read(352)
    except OSError:
        return b""
