"""Maps and masks of a volume as NIfTI, in the geometry of the file that the volume was read from."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modiff.errors import DataError
from modiff.io.files import write_bytes
from modiff.io.volume import Volume

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

_LEVEL = 4  # of gzip: masks and maps are mostly zeros
_UNITS = 10  # xyzt_units: mm and seconds
_SCANNER = 1  # the code of an affine to the scanner's coordinates
_TEXT = 79  # characters of `descrip`, of `intent_name` 15
# What of a header speaks of its voxels' values or of the person, not of where they lie.
_CLEARED = ("db_name", "aux_file", "descrip", "data_type", "intent_name")
_ZEROED = ("cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3", "extents", "session_error")


def write_nifti(path: str | Path, values: np.ndarray, like: Volume, *, description: str = "", intent: str = "") -> Path:
    """Writes `values` (Z,H,W) on the grid of `like` as .nii or .nii.gz; the file exists whole or not at all.

    bool becomes uint8. From a NIfTI volume the file has its header's axes, sform, qform, codes, spacing and units to
    the bit, and as many spatial dimensions; from another, `like.affine`. Free text of the header (which may name a
    person) and its extensions are not copied. description, intent: what the values are. Raises DataError for values
    that are not on the grid.
    """
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Header, Nifti2Image

    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError("is no name of a NIfTI file", path=path, expected=".nii or .nii.gz")
    if values.shape != like.shape:
        raise DataError("is on another grid", path=path, field="values", found=values.shape, expected=like.shape)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    values = np.ascontiguousarray(values).T  # (W,H,Z): NIfTI's first axis runs fastest
    header = _header_of(like)
    if header is None:
        image = Nifti1Image(values, like.affine)
        image.set_sform(like.affine, code=_SCANNER)
        image.set_qform(like.affine, code=_SCANNER if _orthogonal(like.affine) else 0)
        image.header["xyzt_units"] = _UNITS
    else:
        if int(header["dim"][0]) == 2:
            values = values[:, :, 0]
        header.set_data_dtype(values.dtype)
        kind = Nifti2Image if isinstance(header, Nifti2Header) else Nifti1Image
        image = kind(values, header.get_best_affine(), header)
    image.header["descrip"] = _text(description, _TEXT)
    image.header["intent_name"] = _text(intent, 15)
    data = image.to_bytes()
    if path.name.endswith(".gz"):
        data = gzip.compress(data, _LEVEL, mtime=0)  # the same values are the same bytes, whenever written
    return write_bytes(path, data)


def _header_of(volume: Volume) -> Nifti1Header | None:
    """A copy of a NIfTI volume's header that keeps what says where the voxels lie."""
    from nibabel.nifti1 import Nifti1Header

    if not isinstance(volume.source, Nifti1Header):  # Nifti2Header is one
        return None
    header = volume.source.as_byteswapped("<")  # a copy
    for name in _CLEARED:
        if name in header:
            header[name] = b""
    for name in _ZEROED:
        if name in header:
            header[name] = 0
    dimensions = 2 if int(header["dim"][0]) == 2 else 3
    header["dim"][0] = dimensions
    header["dim"][dimensions + 1 :] = 1
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header


def _orthogonal(affine: np.ndarray) -> bool:
    """Whether a quaternion can say it: axes at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < 1e-4)


def _text(text: str, length: int) -> bytes:
    return text.encode("ascii", "replace")[:length]
