"""One entry for what a user may point at: a picture, a NIfTI file, a DICOM file, or a folder with a DICOM series."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from modiff.errors import DataError
from modiff.io.files import LIMITS, Limits, located
from modiff.io.image import JPEG, read_image, read_jpeg
from modiff.io.volume import Volume, difference

SUFFIXES = (".nii.gz", ".nii", ".png", ".tif", ".tiff", ".npy", ".dcm")
_NIFTI_MARKS = (b"n+1\0", b"n+2\0")


def read_any(path: str | Path, *, limits: Limits = LIMITS, mask: bool = False, jpeg: bool = False) -> Volume:
    """A PNG, TIFF or NPY file without a place, or NIfTI and DICOM, which say where their voxels lie.

    A folder is a DICOM series. A file is recognised by its first bytes; a gzip file is NIfTI. mask: as for
    `read_image`. jpeg: it may also be a grey JPEG, by its name. Raises DataError as the readers do.
    """
    path, start = Path(path), b""
    if jpeg and path.suffix.lower() in JPEG:
        return Volume(read_jpeg(path, limits)[None, None], None, path, "JPEG")
    with suppress(OSError), path.open("rb") as file:  # where there is nothing to read, the readers say so
        start = file.read(352)
    if path.is_dir() or start[128:132] == b"DICM":
        from modiff.io.dicom.series import read_dicom_series

        return read_dicom_series(path, limits=limits)
    marked = start[344:348] in _NIFTI_MARKS or start[4:8] in _NIFTI_MARKS
    if marked or start.startswith(b"\x1f\x8b") or path.name.lower().endswith((".nii", ".nii.gz")):
        from modiff.io.nifti import read_nifti

        return read_nifti(path, limits=limits)
    return read_image(path, limits=limits, mask=mask)


def read_channels(paths: Sequence[str | Path], *, limits: Limits = LIMITS) -> Volume:
    """One scan, or several NIfTI files on one grid as the channels of one volume, in the order given.

    The first file's header is what results are written by. Raises DataError where grids differ, as `read_any`
    otherwise.
    """
    if len(paths) == 1:
        return read_any(paths[0], limits=limits)
    volumes: list[Volume] = []
    for path in paths:
        scan = read_any(path, limits=limits)
        with located(path):
            if scan.format != "NIfTI":
                raise DataError("several files are the channels of one scan", found=scan.format, expected="NIfTI")
            volumes.append(scan)
            if what := difference(volumes[0], scan):
                raise DataError("is on another grid than the first", found=what)
    digests = {f"{i} {name}": digest for i, volume in enumerate(volumes) for name, digest in volume.sha256.items()}
    return replace(volumes[0], array=np.concatenate([volume.array for volume in volumes]), sha256=digests)
