"""One entry for what a user may point at: a picture, a NIfTI file, a DICOM file, or a folder with a DICOM series."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from modiff.errors import DataError
from modiff.io.files import LIMITS, Limits, located
from modiff.io.image import ImageFile, Volume, read_image

_SAME_MM = 1e-3  # a thousandth of a millimetre apart is rounding
_BARE_DICOM = (b"\x02\0", b"\x08\0", b"\0\x08")  # groups 2 and 8, where the preamble is missing
_NIFTI_MARKS = (b"n+1\0", b"n+2\0")


def read_any(path: str | Path, *, limits: Limits = LIMITS, mask: bool = False) -> ImageFile | Volume:
    """An ImageFile for PNG, TIFF and NPY; a Volume for NIfTI and DICOM, which say where their voxels lie.

    A folder is a DICOM series. A file is recognised by its first bytes; a gzip file is NIfTI. mask: as for
    `read_image`. Raises DataError as the readers do.
    """
    path, start = Path(path), b""
    with suppress(OSError), path.open("rb") as file:  # where there is nothing to read, the readers say so
        start = file.read(352)
    dicom = path.is_dir() or start[128:132] == b"DICM"
    if not dicom and start[:2] in _BARE_DICOM:
        from modiff.io.dicom.header import starts_dicom

        dicom = starts_dicom(start[:132])
    if dicom:
        from modiff.io.dicom.series import read_dicom_series

        return read_dicom_series(path, limits=limits)
    marked = start[344:348] in _NIFTI_MARKS or start[4:8] in _NIFTI_MARKS
    if marked or start.startswith(b"\x1f\x8b") or path.name.lower().endswith((".nii", ".nii.gz")):
        from modiff.io.nifti import read_nifti

        return read_nifti(path, limits=limits)
    return read_image(path, limits=limits, mask=mask)


def read_channels(paths: Sequence[str | Path], *, limits: Limits = LIMITS) -> ImageFile | Volume:
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
            if not isinstance(scan, Volume) or scan.format != "NIfTI":
                raise DataError("several files are the channels of one scan", found=scan.format, expected="NIfTI")
            first = volumes[0] if volumes else scan
            if scan.shape != first.shape:
                raise DataError("is on another grid than the first", found=scan.shape, expected=first.shape)
            if np.abs(scan.affine - first.affine).max() > _SAME_MM:
                raise DataError(
                    "is on another grid than the first", field="affine", found=scan.affine.round(4).tolist()
                )
        volumes.append(scan)
    digests = {f"{i} {name}": digest for i, volume in enumerate(volumes) for name, digest in volume.sha256.items()}
    return replace(volumes[0], array=np.concatenate([volume.array for volume in volumes]), sha256=digests)
