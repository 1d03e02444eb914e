"""NIfTI files (.nii, .nii.gz) into volumes and back: a header is judged before memory is taken for what it claims."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image

from modiff.errors import DataError
from modiff.io.files import LIMITS, Limits, located, plain, sha256_of
from modiff.io.output import write_bytes
from modiff.io.volume import Note, Volume, check_finite, corners_apart

SUFFIXES = (".nii", ".nii.gz")

_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, metre, millimetre, micron
_SPACING_MM = (1e-4, 1e3)  # from microscopy to scouts: beyond it the header is damaged or in other units
_OFFSET_MAX = 1 << 24  # where voxels may begin: extensions of 16 MiB before them are not plausible
_TRAILING_MAX = 1 << 16  # bytes after the last voxel that are let pass: some writers pad
_GZIP, _FEED = 31, 1 << 14  # zlib's number for the format; compressed bytes at a time
# Members of a gzip file, and one more per so many bytes: BGZF has 64 KiB in each.
_MEMBERS, _MEMBER_BYTES = 1000, 1 << 14
_GZIP_LEVEL = 4  # masks and maps are mostly zeros
_CLEARED = (  # what of a header speaks of its voxels' values or of the person, not of where they lie
    *("db_name", "aux_file", "descrip", "data_type", "intent_name", "intent_code", "intent_p1", "intent_p2"),
    *("intent_p3", "cal_min", "cal_max", "extents", "session_error"),
)


def read_nifti(path: str | Path, *, limits: Limits = LIMITS) -> Volume:
    """Reads a 2-D image, a volume, or a volume with several channels (a fourth or fifth dimension) within `limits`.

    Voxels keep the file's axes: (C,Z,H,W) is its array transposed. Integers stay integers unless the header scales
    them. Spacing in metres or microns becomes mm; one slice without thickness gets 1 mm, and a note. Its place is the
    sform, else the qform; where neither is set there is none. `source` is nibabel's header. Raises DataError for what
    is missing, is damaged, is not a single-file NIfTI, has a type without one number per voxel, values that are not
    finite or an impossible geometry, or claims more memory than allowed (before any is taken).
    """
    path = Path(path)
    try:
        file_bytes = limits.check_file(path)
        with located(path), path.open("rb") as file:
            header = _header(_content(file, 540))
            shape, dtype, scaling = _shape(header), _dtype(header), _scaling(header)
            result = dtype.newbyteorder("=")
            if scaling is not None:  # single precision holds what came from up to 16 bits
                result = np.dtype(np.float32 if dtype.itemsize <= 2 or result == np.float32 else np.float64)
            limits.check_declared(path, shape, max(dtype.itemsize, result.itemsize), file_bytes)
            notes = _thickened(header) if shape[2] == 1 else ()
            affine = _affine(header)
            forms = _forms(header, affine)
            if "qform" in forms and corners_apart(affine, forms["qform"] @ affine, shape[2::-1]):
                notes = (*notes, Note("sform and qform differ: the sform is used"))
            values = _values(file, header, shape, (dtype, result), scaling)
        volume = Volume(values, affine, path, "NIfTI", {path.name: sha256_of(path)}, header, forms=forms, notes=notes)
        if forms:
            return volume
        note = Note("no geometry: neither sform nor qform is set")
        return replace(volume, affine=None, stated=volume.spacing, notes=(note,))
    except (EOFError, zlib.error) as error:
        raise DataError("is a damaged gzip file", path=path, found=plain(error)) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=path) from error


def _content(file: BinaryIO, count: int) -> bytes | bytearray:
    """The first `count` bytes of a file, or of what a gzip file inflates to; fewer where it holds fewer.

    Python's own reader takes seconds for a file of many small members, for a long name in a header, and for zeros
    behind the last member. Raises DataError for the first, zlib.error and EOFError for a damaged file.
    """
    file.seek(0)
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if not packed:
        return file.read(count)
    made, data, filled, members, stream = bytearray(count), b"", 0, 1, zlib.decompressobj(_GZIP)
    while filled < count:
        if stream.eof and (data := data.lstrip(b"\0")):  # some writers pad
            members, stream = members + 1, zlib.decompressobj(_GZIP)
            if members > _MEMBERS + count // _MEMBER_BYTES:
                raise DataError("has too many gzip members", found=f"more than {members - 1}", expected="one")
        if not data:
            if data := file.read(_FEED):
                continue
            if not stream.eof:
                raise EOFError("the file ends before the end of the stream")
            break
        part = stream.decompress(data, count - filled)
        made[filled : filled + len(part)] = part
        filled, data = filled + len(part), stream.unused_data if stream.eof else stream.unconsumed_tail
    del made[filled:]
    return made


def _header(head: bytes | bytearray) -> Nifti1Header:
    """nibabel's header, unchecked: it would repair odd ones and so hide what is wrong with them."""
    sizes = {kind.sizeof_hdr: kind for kind in (Nifti1Header, Nifti2Header)}
    kinds = {struct.pack(f"{order}i", size): (kind, order) for size, kind in sizes.items() for order in "<>"}
    kind, order = kinds.get(bytes(head[:4]), (None, ""))
    if kind is None:
        raise DataError("is not NIfTI", field="sizeof_hdr", found=head[:4].hex(), expected="348 or 540")
    if len(head) < kind.sizeof_hdr:
        raise DataError("is too short for NIfTI", found=f"{len(head)} bytes", expected=kind.sizeof_hdr)
    header = kind(bytes(head[: kind.sizeof_hdr]), order, check=False)
    magic = header["magic"].item()
    if magic != kind.single_magic:
        what = "is half of a two-file NIfTI" if magic == kind.pair_magic else "is not NIfTI"
        hint = "Convert it to .nii.gz" if magic == kind.pair_magic else None
        raise DataError(what, field="magic", found=magic, expected="n+1 or n+2", hint=hint)
    return header


def _shape(header: Nifti1Header) -> tuple[int, int, int, int]:
    """(i,j,k,channels), i fastest; at most one of the dimensions after the third may be longer than 1."""
    count, *sides = header["dim"].tolist()
    if not 1 <= count <= 7:
        raise DataError("unsupported number of dimensions", field="dim[0]", found=count, expected="2 to 7")
    sides = sides[:count]
    found = "×".join(map(str, sides))
    if min(sides) < 1:
        raise DataError("has no voxels", field="dim", found=found)
    more = [side for side in sides[3:] if side > 1]
    if len(more) > 1:
        raise DataError("too many dimensions", field="dim", found=found, expected="a volume, or channels of one")
    i, j, k = (*sides, 1, 1)[:3]
    return i, j, k, more[0] if more else 1


def _dtype(header: Nifti1Header) -> np.dtype:
    """The type of the stored values: integers and floats of up to 64 bits, one number per voxel."""
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        dtype = np.dtype(np.void)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        found, expected = f"{dtype.name}, code {header['datatype']}", "integers or floats"
        raise DataError("unsupported type of voxel", field="datatype", found=found, expected=expected)
    bits = int(header["bitpix"])
    if bits != 8 * dtype.itemsize:
        raise DataError("contradicts the type", field="bitpix", found=bits, expected=8 * dtype.itemsize)
    return dtype


def _scaling(header: Nifti1Header) -> tuple[float, float] | None:
    """Slope and intercept, None where values are what they are; a slope of 0 is the standard's "not scaled"."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        return None
    if not math.isfinite(inter):
        raise DataError("is not a finite number", field="scl_inter", found=inter)
    return None if (slope, inter) == (1.0, 0.0) else (slope, inter)


def _forms(header: Nifti1Header, affine: np.ndarray) -> dict[str, np.ndarray]:
    """Which of sform and qform are set, as `Volume.forms`; a broken qform beside an sform counts as none."""
    set_ = [name for name in ("sform", "qform") if header[f"{name}_code"] != 0]
    forms = {name: np.eye(4) for name in set_[:1]}
    if len(set_) == 2:
        with suppress(Exception), np.errstate(all="ignore"):
            other = np.array(header.get_qform(), dtype=np.float64)
            other[:3] *= _UNITS_MM[int(header["xyzt_units"]) & 7]
            if np.isfinite(other).all():
                forms["qform"] = other @ np.linalg.inv(affine)
    return forms


def _thickened(header: Nifti1Header) -> tuple[Note, ...]:
    """Gives a header of one slice that has no thickness, as 2-D images are written, one of 1 mm; a note says so."""
    one, note = 1 / _UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0), Note("the slice has no thickness: 1 mm is taken")
    used = "sform" if header["sform_code"] != 0 else "qform" if header["qform_code"] != 0 else ""
    mended = set()
    if header["pixdim"][3] == 0:
        header["pixdim"][3] = one
        mended.add("qform")
    rows = np.array([header[f"srow_{axis}"][:3] for axis in "xyz"], dtype=np.float64)
    normal = np.cross(rows[:, 0], rows[:, 1])
    if used == "sform" and not rows[:, 2].any() and 0 < (length := np.linalg.norm(normal)) < math.inf:
        for axis, value in zip("xyz", normal / length * one, strict=True):
            header[f"srow_{axis}"][2] = value
        mended.add("sform")
    return (note,) if used in mended else ()


def _affine(header: Nifti1Header) -> np.ndarray:
    """(4,4) voxel (i,j,k) to RAS+ mm: the sform, else the qform, else the spacing alone, as the standard ranks them."""
    unit = int(header["xyzt_units"]) & 7
    if unit not in _UNITS_MM:
        raise DataError("no such unit of length", field="xyzt_units", found=unit)
    try:
        with np.errstate(all="ignore"):
            affine = np.array(header.get_best_affine(), dtype=np.float64)
            affine[:3] *= _UNITS_MM[unit]
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            volume = abs(np.linalg.det(affine[:3, :3])) / np.prod(spacing)
    except Exception as error:  # a qform that is not a rotation raises ValueError, LinAlgError or nibabel's own
        raise DataError("has an impossible geometry", field="affine", found=str(error)[:200]) from error
    low, high = _SPACING_MM
    if not (np.isfinite(affine).all() and spacing.min() >= low and spacing.max() <= high):
        found, expected = " × ".join(f"{value:g}" for value in spacing) + " mm", f"{low:g} to {high:g}"
        raise DataError("spacing is out of range", field="affine", found=found, expected=expected)
    if not volume > 1e-3:  # the axes of a voxel nearly lie in one plane
        raise DataError("the axes lie in one plane", field="affine", found=affine[:3, :3].round(4).tolist())
    return affine


def _values(
    file: BinaryIO,
    header: Nifti1Header,
    shape: tuple[int, ...],
    dtypes: tuple[np.dtype, np.dtype],
    scaling: tuple[float, float] | None,
) -> np.ndarray:
    """(C,Z,H,W) in the second of the types, stored in the first, scaled a slice at a time for memory.

    The file's first axis runs fastest, so its array transposed is contiguous as it lies.
    """
    offset = float(header["vox_offset"])
    if not header.sizeof_hdr <= offset <= _OFFSET_MAX or not offset.is_integer():
        raise DataError("is not a possible start of the voxels", field="vox_offset", found=offset)
    end = int(offset) + math.prod(shape) * dtypes[0].itemsize
    raw = _content(file, end + _TRAILING_MAX + 1)
    if not end <= len(raw) <= end + _TRAILING_MAX:
        found = "more" if len(raw) > end else f"{len(raw)} bytes"
        raise DataError("has another size than its header says", found=found, expected=f"{end} bytes")
    stored = np.frombuffer(raw, dtypes[0], math.prod(shape), int(offset)).reshape(shape[::-1])
    check_finite(stored, turned=True)
    if scaling is None:
        own = stored.flags.aligned and stored.flags.writeable
        return stored.astype(dtypes[1], copy=not own)
    slope, inter = map(np.float64, scaling)
    made = np.empty(stored.shape, dtypes[1])
    with np.errstate(over="ignore"):
        for place in np.ndindex(stored.shape[:2]):
            made[place] = stored[place] * slope + inter
    if not np.isfinite(made).all():
        raise DataError("scaled values are not finite", field="scl_slope", found=scaling[0])
    return made


def write_nifti(path: str | Path, values: np.ndarray, like: Volume, *, description: str = "", intent: str = "") -> Path:
    """Writes `values` (Z,H,W) on the grid of `like` as .nii or .nii.gz; the file exists whole or not at all.

    bool becomes uint8. From a NIfTI volume the file has its header's axes, sform, qform, codes, spacing and units to
    the bit, and as many spatial dimensions; from another, `like.affine`. Free text of the header (which may name a
    person) and its extensions are not copied. description, intent: what the values are. Raises DataError for values
    that are not on the grid.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise DataError("is not the name of a NIfTI file", path=path, expected=".nii or .nii.gz")
    with located(path):
        data = nifti_bytes(values, like, description=description, intent=intent)
    if path.name.endswith(".gz"):
        data = gzip.compress(data, _GZIP_LEVEL, mtime=0)  # the same values are the same bytes, whenever written
    return write_bytes(path, data)


def nifti_bytes(values: np.ndarray, like: Volume, *, description: str = "", intent: str = "") -> bytes:
    """What `write_nifti` writes into a .nii file."""
    if values.shape != like.shape:
        raise DataError("is on another grid", field="values", found=values.shape, expected=like.shape)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    values = np.ascontiguousarray(values).T  # (W,H,Z): NIfTI's first axis runs fastest
    if isinstance(like.source, Nifti1Header):  # Nifti2Header is one
        header = _grid_of(like.source)
        if int(header["dim"][0]) == 2:
            values = values[:, :, 0]
        header.set_data_dtype(values.dtype)
        kind = Nifti2Image if isinstance(header, Nifti2Header) else Nifti1Image
        image = kind(values, header.get_best_affine(), header)
    elif like.affine is None or like.spacing is None:
        raise DataError("has no place in space", path=like.path, found=like.format, expected="NIfTI or DICOM")
    else:
        image = Nifti1Image(values, like.affine)
        axes = like.affine[:3, :3] / like.spacing[::-1]
        orthogonal = np.abs(axes.T @ axes - np.eye(3)).max() < 1e-4  # what a quaternion can say
        image.set_sform(like.affine, code=1)  # to the scanner's coordinates
        image.set_qform(like.affine, code=1 if orthogonal else 0)
        image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.header["intent_name"] = intent.encode("ascii", "replace")[:15]
    made: bytes = image.to_bytes()
    return made


def _grid_of(header: Nifti1Header) -> Nifti1Header:
    """A copy of a header that keeps what says where the voxels lie."""
    header = header.as_byteswapped("<")  # a copy
    for name in _CLEARED:
        if name in header:  # NIfTI-2 lacks some
            header[name] = np.zeros_like(header[name])
    dimensions = 2 if int(header["dim"][0]) == 2 else 3
    header["dim"][0] = dimensions
    header["dim"][dimensions + 1 :] = 1
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header
