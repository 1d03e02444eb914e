"""NIfTI files (.nii, .nii.gz) into volumes: what the header claims is judged before memory is taken for it."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from modiff.errors import DataError
from modiff.io.limits import Limits
from modiff.io.volume import Volume

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

SUFFIXES = (".nii", ".nii.gz")

_BLOCK = 1 << 20
_HEADER_BYTES = (348, 540)  # sizeof_hdr of NIfTI-1 and NIfTI-2
# Code -> NumPy type without byte order; the NIfTI standard's table, without what has no one number a voxel.
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_OTHER_TYPES = {1: "one bit a voxel", 32: "complex", 128: "RGB", 1536: "128-bit floats", 1792: "complex"}
_OTHER_TYPES |= {2048: "complex", 2304: "RGBA"}
_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, metre, millimetre, micron
_SPACING_MM = (1e-4, 1e3)  # from microscopy to scouts: beyond it the header is damaged or in other units
_OFFSET_MAX = 1 << 24  # where voxels may begin: extensions of 16 MiB before them are beyond reason
_TRAILING_MAX = 1 << 16  # bytes after the last voxel that are let pass: some writers pad


@dataclass(frozen=True)
class _Claim:
    """What a header says of the voxels. shape: (i,j,k,channels), i fastest."""

    shape: tuple[int, int, int, int]
    dtype: np.dtype
    offset: int
    slope: float
    inter: float
    scale_mm: float

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def scaled(self) -> bool:
        return (self.slope, self.inter) != (1.0, 0.0)

    @property
    def result(self) -> np.dtype:
        """The type of the values once scaled: single precision holds what came from up to 16 bits."""
        if not self.scaled:
            return self.dtype.newbyteorder("=")
        return np.dtype(np.float32 if self.dtype.itemsize <= 2 or self.dtype.str[1:] == "f4" else np.float64)


def is_nifti(path: str | Path) -> bool:
    """Whether a file's name says NIfTI."""
    return str(path).lower().endswith(SUFFIXES)


def read_nifti(path: str | Path, *, limits: Limits | None = None) -> Volume:
    """Reads a 2-D image, a volume, or a volume with several channels (a fourth or fifth dimension) within `limits`.

    Voxels keep the file's axes: (C,Z,H,W) is its array transposed. Integers stay integers unless the header scales
    them. Spacing in metres or microns becomes mm. `source` is nibabel's header. Raises DataError for what is missing,
    damaged, no single-file NIfTI, has a type without one number a voxel, values that are not finite, a geometry that
    cannot be, or claims more memory than allowed (before any is taken).
    """
    path = Path(path)
    limits = limits or Limits()
    try:
        file_bytes = limits.check_file(path)
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            head = _inflate(path, file, 540, whole=False) if packed else file.read(540)
            claim, block = _parse(path, head)
            itemsize = max(claim.dtype.itemsize, claim.result.itemsize)
            limits.check_declared(path, claim.shape, itemsize, file_bytes)
            header = _header(path, block)
            affine = _affine(path, header, claim.scale_mm)
            file.seek(0)
            end = claim.offset + claim.bytes
            raw = _inflate(path, file, end, whole=True) if packed else _read(path, file, file_bytes, end)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=path) from error
    return Volume(_array(path, raw, claim), affine, path, "NIfTI", {path.name: digest}, header)


def _parse(path: Path, head: bytes) -> tuple[_Claim, bytes]:
    """The claims of a header, read field by field: a library that repairs odd headers would hide them."""
    if len(head) < 348:
        raise DataError("is too short for NIfTI", path=path, found=f"{len(head)} bytes", expected="348 or more")
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    order = next((order for order in orders if struct.unpack(order + "i", head[:4])[0] in _HEADER_BYTES), None)
    if order is None:
        raise DataError("is not NIfTI", path=path, field="sizeof_hdr", found=head[:4].hex(), expected="348 or 540")
    size = struct.unpack(order + "i", head[:4])[0]
    first = size == 348
    magic = head[344:348] if first else head[4:8]
    if magic != (b"n+1\0" if first else b"n+2\0") or len(head) < size:
        pair = magic in (b"ni1\0", b"ni2\0")
        what = "is half of a two-file NIfTI" if pair else "is not NIfTI"
        hint = "Convert it to .nii.gz." if pair else None
        raise DataError(what, path=path, field="magic", found=repr(magic), expected="n+1 or n+2", hint=hint)

    def read(kind: str, place: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + kind, head, place)

    dim = read("8h", 40) if first else read("8q", 16)
    code, bits = read("2h", 70) if first else read("2h", 12)
    (offset,) = read("f", 108) if first else read("q", 168)
    slope, inter = read("2f", 112) if first else read("2d", 176)
    units = head[123] if first else read("i", 500)[0]
    dtype = _dtype(path, code, bits).newbyteorder(order)
    if not math.isfinite(offset) or offset != int(offset) or not size <= offset <= _OFFSET_MAX:
        raise DataError("voxels begin where they cannot", path=path, field="vox_offset", found=offset)
    if units & 7 not in _UNITS_MM:
        raise DataError("no such unit of length", path=path, field="xyzt_units", found=units & 7)
    scaled = math.isfinite(slope) and slope != 0  # 0 is the standard's "not scaled"
    if scaled and not math.isfinite(inter):
        raise DataError("cannot be", path=path, field="scl_inter", found=inter)
    if not scaled:
        slope, inter = 1.0, 0.0
    return _Claim(_shape(path, dim), dtype, int(offset), slope, inter, _UNITS_MM[units & 7]), head[:size]


def _dtype(path: Path, code: int, bits: int) -> np.dtype:
    if code not in _TYPES:
        found = _OTHER_TYPES.get(code, f"code {code}")
        raise DataError(
            "another type of voxel", path=path, field="datatype", found=found, expected="integers or floats"
        )
    dtype = np.dtype(_TYPES[code])
    if bits != 8 * dtype.itemsize:
        raise DataError("contradicts the type", path=path, field="bitpix", found=bits, expected=8 * dtype.itemsize)
    return dtype


def _shape(path: Path, dim: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(i,j,k,channels) from `dim`; at most one of the dimensions after the third may be longer than 1."""
    count = dim[0]
    if not 1 <= count <= 7:
        raise DataError("number of dimensions", path=path, field="dim[0]", found=count, expected="2 to 7")
    sides = [*dim[1 : 1 + count], *[1] * (7 - count)]
    if min(sides) < 1:
        raise DataError("has no voxels", path=path, field="dim", found="×".join(map(str, sides[:count])))
    more = [side for side in sides[3:] if side > 1]
    if len(more) > 1:
        found = "×".join(map(str, sides[:count]))
        raise DataError(
            "too many dimensions", path=path, field="dim", found=found, expected="a volume, or channels of one"
        )
    return sides[0], sides[1], sides[2], more[0] if more else 1


def _header(path: Path, block: bytes) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    kind = Nifti1Header if len(block) == 348 else Nifti2Header
    try:
        return kind(block, check=False)
    except Exception as error:  # nibabel raises what the damaged header provokes
        raise DataError("has a damaged header", path=path, found=str(error)[:200]) from error


def _affine(path: Path, header: Nifti1Header, scale: float) -> np.ndarray:
    """(4,4) voxel (i,j,k) to RAS+ mm: the sform, else the qform, else the spacing alone, as the standard ranks them."""
    try:
        with np.errstate(all="ignore"):
            affine = np.array(header.get_best_affine(), dtype=np.float64)
            affine[:3] *= scale
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            volume = abs(np.linalg.det(affine[:3, :3])) / np.prod(spacing)
    except Exception as error:  # a qform that is no rotation raises ValueError, LinAlgError or nibabel's own
        raise DataError("has a geometry that cannot be", path=path, field="affine", found=str(error)[:200]) from error
    low, high = _SPACING_MM
    if not (np.isfinite(affine).all() and spacing.min() >= low and spacing.max() <= high):
        found = " × ".join(f"{value:g}" for value in spacing)
        raise DataError(
            "spacing beyond reason", path=path, field="affine", found=f"{found} mm", expected=f"{low:g} to {high:g}"
        )
    if not volume > 1e-3:  # the axes of a voxel nearly lie in one plane
        raise DataError("axes that span no space", path=path, field="affine", found=affine[:3, :3].round(4).tolist())
    return affine


def _read(path: Path, file: BinaryIO, file_bytes: int, end: int) -> bytes:
    if not end <= file_bytes <= end + _TRAILING_MAX:
        raise DataError("is cut short or has bytes to spare", path=path, found=file_bytes, expected=f"{end} bytes")
    return file.read(end)


def _inflate(path: Path, file: BinaryIO, size: int, *, whole: bool) -> bytes:
    """The first `size` bytes of a gzip file, perhaps of several members, and never more memory than that.

    whole: there must be that many, hardly more, and an intact checksum at the end.
    """
    made, stream = bytearray(), zlib.decompressobj(31)
    limit = size + (_TRAILING_MAX if whole else 0)
    data = file.read(_BLOCK)
    try:
        while data and len(made) <= limit:
            made += stream.decompress(data, limit + 1 - len(made))
            if stream.eof:
                data = stream.unused_data or file.read(_BLOCK)
                if data.startswith(b"\x1f\x8b"):
                    stream = zlib.decompressobj(31)
                elif not data.strip(b"\0"):
                    data = b""  # padding, or nothing
            else:
                data = stream.unconsumed_tail or file.read(_BLOCK)
    except zlib.error as error:
        raise DataError("is a damaged gzip file", path=path, found=error) from error
    if not whole:
        return bytes(made[:size])
    if not (size <= len(made) <= limit and stream.eof):
        found = f"more than {limit}" if len(made) > limit else len(made)
        raise DataError(
            "inflates to another size than its header says", path=path, found=found, expected=f"{size} bytes"
        )
    return bytes(memoryview(made)[:size])


def _array(path: Path, raw: bytes, claim: _Claim) -> np.ndarray:
    """(C,Z,H,W): NIfTI's first axis runs fastest, so its array transposed is contiguous as it lies."""
    array = np.frombuffer(raw, claim.dtype, math.prod(claim.shape), claim.offset).reshape(claim.shape[::-1])
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("has values that are not finite", path=path, found="NaN or infinity")
    if not claim.scaled:
        return np.array(array, dtype=claim.result)
    made = np.empty(array.shape, claim.result)
    with np.errstate(over="ignore"):
        for part, values in zip(made.reshape(-1, *made.shape[2:]), array.reshape(-1, *made.shape[2:]), strict=True):
            part[...] = values * np.float64(claim.slope) + np.float64(claim.inter)  # a slice at a time, for memory
    if not np.isfinite(made).all():
        raise DataError("scaled values are not finite", path=path, field="scl_slope", found=claim.slope)
    return made
