"""Images and volumes in memory, and 2-D files: PNG, TIFF and NPY in, PNG out, recognised by their first bytes."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from modiff.errors import DataError
from modiff.io.files import LIMITS, Limits, guarding, located, sha256_of, told, write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

# Bytes a pixel takes in those of Pillow's modes that are grey or colour pictures; a palette is resolved to colour.
_BYTES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "P": 4, "I;16": 2, "I;16B": 2, "I;16L": 2, "I": 4, "F": 4}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
Header = tuple[tuple[int, ...], bool, np.dtype]  # of an NPY file: shape, whether columns come first, number type
_OTHERS = {  # how files begin that are often taken for images
    b"\xff\xd8\xff": "JPEG, whose compression changes values",
    b"\x1f\x8b": "a gzip file",
    b"PK": "a zip file",
    b"\x89HDF": "HDF5",
    b"BM": "BMP",
    b"GIF8": "GIF",
}


@dataclass(frozen=True)
class ImageFile:
    """An image and where it came from.

    array: (C,H,W) in the file's own number type. format: "PNG", "TIFF" or "NPY". sha256: of the file's bytes.
    spacing: (row, column) mm a pixel where the format states it reliably, else None.
    """

    array: np.ndarray
    path: Path
    format: str
    sha256: str
    spacing: tuple[float, float] | None = None


@dataclass(frozen=True)
class Volume:
    """Voxels and where they lie. A 2-D image with geometry is a volume of one slice (Z = 1).

    array: (C,Z,H,W) in the values' own number type, rescaled to the source's units (HU for CT); C = 1 unless the file
    holds several channels on one grid. affine: (4,4) float64, voxel (column, row, slice) = (index along W, H, Z) to
    RAS+ mm: nibabel's convention for the array transposed to (W,H,Z), and the store's for `affine`. format: "NIfTI" or
    "DICOM". sha256: file's name -> SHA-256 of what was read. source: what the format needs to write results back into
    the same geometry (a NIfTI header, the headers of a DICOM series in the order of the slices): opaque to others.
    Raises DataError where array and affine do not fit together.
    """

    array: np.ndarray
    affine: np.ndarray
    path: Path
    format: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    source: Any = field(default=None, repr=False)  # a header may name a patient, and a repr ends up in logs

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.size == 0:
            raise DataError("is no volume", path=self.path, field="array", found=self.array.shape, expected="(C,Z,H,W)")
        affine = np.asarray(self.affine, dtype=np.float64)
        usable = affine.shape == (4, 4) and bool(np.isfinite(affine).all()) and affine[3].tolist() == [0, 0, 0, 1]
        if not usable or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            found, expected = affine.tolist(), "an invertible (4,4)"
            raise DataError("no usable geometry", path=self.path, field="affine", found=found, expected=expected)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z,H,W)."""
        return self.array.shape[1], self.array.shape[2], self.array.shape[3]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between neighbouring voxels along (Z,H,W): slice, row, column."""
        column, row, part = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return part, row, column

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))


def read_image(path: str | Path, *, limits: Limits = LIMITS, mask: bool = False) -> ImageFile:
    """Reads a grey (8, 16 or 32 bits, float) or RGB image, or an array (H,W) or (C,H,W), within `limits`.

    mask: it may also have one bit per pixel, or a palette, whose indices are its values. Raises DataError for what is
    missing, is not an image, is damaged, has several pages, is a one-bit mask where an image is meant, has transparency
    or values that are not finite, or claims more memory than allowed (before any is taken).
    """
    path = Path(path)
    with told(path, "cannot be read"), located(path):
        file_bytes = limits.check_file(path)
        with path.open("rb") as file:
            start = file.read(352)
        if start.startswith(b"\x93NUMPY"):
            kind, array = "NPY", _read_npy(path, limits, file_bytes)
        elif start.startswith((b"\x89PNG\r\n\x1a\n", *_TIFF_STARTS)):
            kind = "PNG" if start[:1] == b"\x89" else "TIFF"
            if kind == "PNG" and start[24:25] == b"\x10" and start[25:26] != b"\0":
                # Pillow reads such colour as 8 bits without a word.
                raise DataError("has 16 bits per colour", expected="8-bit RGB, or 16-bit grey")
            array = _read_pillow(path, kind, limits, file_bytes, mask)
        else:
            other = next((name for begin, name in _OTHERS.items() if start.startswith(begin)), "an unknown format")
            found = "DICOM" if start[128:132] == b"DICM" else "NIfTI" if start[344:347] in (b"n+1", b"ni1") else other
            raise DataError("is not an image that can be read", found=found, expected="PNG, TIFF or NPY")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError("has values that are not finite", found="NaN or infinity")
        return ImageFile(np.ascontiguousarray(array), path, kind, sha256_of(path))


def png_bytes(array: np.ndarray) -> bytes:
    """An (H,W) array as an 8-bit grey PNG (bool: 0 and 255; uint8) or a 16-bit one (uint16)."""
    from PIL import Image

    if array.ndim != 2:
        raise DataError("a picture has two dimensions", found=f"shape {array.shape}", expected="(H,W)")
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype not in (np.uint8, np.uint16):
        raise DataError("a PNG holds whole numbers", found=array.dtype, expected="bool, uint8 or uint16")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG")
    return buffer.getvalue()


def write_png(path: str | Path, array: np.ndarray) -> Path:
    """Writes `array` as `png_bytes` does; the file exists whole or not at all."""
    return write_bytes(path, png_bytes(array))


def read_npy(path: Path, file: IO[bytes], header: Header | None = None, *, field: str | None = None) -> np.ndarray:
    """The numbers of an NPY file, or of a member of an NPZ (`field`); nothing is unpickled.

    header: what `npy_header` found, where it was read already. Raises DataError for what is damaged or is not an array
    of numbers.
    """
    shape, columns_first, dtype = header or npy_header(path, file, field=field)
    data, needed = file.read(), math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        what, expected = "is cut short or has bytes to spare", f"{needed} bytes"
        raise DataError(what, path=path, field=field, found=len(data), expected=expected)
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape, order="F" if columns_first else "C").astype(dtype.newbyteorder("="))


def npy_header(path: Path, file: IO[bytes], *, field: str | None = None) -> Header:
    """Shape, whether columns come first, and number type of an NPY file or of a member of an NPZ (`field`)."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with guarding(path, "is not a readable NPY file", field=field):
        shape, columns_first, dtype = headers[np.lib.format.read_magic(file)](file)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise DataError("is not an array of numbers", path=path, field=field, found=dtype, expected="integer or float")
    return shape, columns_first, dtype


def _read_npy(path: Path, limits: Limits, file_bytes: int) -> np.ndarray:
    with path.open("rb") as file:
        header = shape, _, dtype = npy_header(path, file)
        if dtype.kind == "b":
            raise DataError("is not an array of numbers", field="dtype", found=dtype, expected="integer or float")
        if len(shape) not in (2, 3):
            raise DataError("is not a 2-D image", field="shape", found=shape, expected="(H,W) or (C,H,W)")
        limits.check_declared(path, shape, dtype.itemsize, file_bytes)
        array = read_npy(path, file, header)
    return array[None] if array.ndim == 2 else array


@contextmanager
def picture(path: str | Path, kind: str, file: IO[bytes] | None = None) -> Iterator[Image]:
    """Pillow's image of a file, or of `file`'s bytes; whatever the block makes the decoder raise is a DataError."""
    from PIL import Image

    # Pillow warns of size and of odd metadata, and `Image.open` has a limit of its own: the caller's limits decide.
    quiet, guard = warnings.catch_warnings(action="ignore"), guarding(path, f"is not a readable {kind}")
    Image.init()
    with guard, quiet, ExitStack() as opened:
        stream = file or opened.enter_context(Path(path).open("rb"))
        yield opened.enter_context(Image.OPEN[kind][0](stream, str(path)))


def _read_pillow(path: Path, kind: str, limits: Limits, file_bytes: int, mask: bool) -> np.ndarray:
    pixel_bytes = _BYTES | ({"1": 1, "P": 1} if mask else {})
    with picture(path, kind) as image:
        tags = getattr(image, "tag_v2", {})
        if image.mode == "1" and not mask:
            raise DataError("has one bit per pixel: a mask, not an image", expected="8 or 16 bits, grey")
        if image.mode not in pixel_bytes:
            raise DataError("has an unsuitable colour mode", found=image.mode, expected="grey or RGB")
        if (pages := getattr(image, "n_frames", 1)) != 1:
            raise DataError("has several pages", found=f"{pages} pages", expected="one image")
        if image.mode in ("RGB", "RGBA") and np.max(tags.get(_TIFF_BITS, 8)) > 8:
            raise DataError("has more than 8 bits per colour", expected="8-bit RGB, or 16-bit grey")
        limits.check_declared(path, image.size[::-1], pixel_bytes[image.mode], file_bytes)
        inverted = image.mode.startswith("I;16") and tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO
        image.load()
        array = np.asarray(image.convert("RGBA") if image.mode == "P" and not mask else image)
    array = array.astype(np.uint8 if array.dtype == bool else array.dtype.newbyteorder("="), copy=False)
    if inverted:  # Pillow inverts 8-bit pictures of this kind and leaves 16-bit ones
        array = np.iinfo(array.dtype).max - array
    if array.ndim == 2:
        return array[None]
    if array.shape[2] in (2, 4):  # an alpha channel that hides nothing is dropped
        if (array[..., -1] != 255).any():
            raise DataError("is partly transparent", expected="opaque grey or RGB")
        array = array[..., :-1]
    return np.moveaxis(array, 2, 0)
