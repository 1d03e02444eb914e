"""2-D images: PNG, TIFF and NPY in, PNG out. A file is recognised by its first bytes, not by its name."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from modiff.errors import DataError
from modiff.io.files import sha256_of, write_bytes
from modiff.io.limits import Limits

if TYPE_CHECKING:
    from PIL.Image import Image

# Bytes a pixel takes in those of Pillow's modes that are grey or colour pictures; a palette is resolved to colour.
_BYTES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "P": 4, "I;16": 2, "I;16B": 2, "I;16L": 2, "I": 4, "F": 4}
_MASK_BYTES = _BYTES | {"1": 1, "P": 1}  # of a mask, whose palette is not resolved
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
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

    @property
    def dtype(self) -> np.dtype:
        """The number type of the file's values: it says what full scale is."""
        return self.array.dtype


def read_image(path: str | Path, *, limits: Limits | None = None, mask: bool = False) -> ImageFile:
    """Reads a grey (8, 16 or 32 bits, float) or RGB image, or an array (H,W) or (C,H,W), within `limits`.

    mask: it may also have one bit per pixel, or a palette, whose indices are its values. Raises DataError for what is
    missing, is not an image, is damaged, has several pages, is a one-bit mask where an image is meant, has transparency
    or values that are not finite, or claims more memory than allowed (before any is taken).
    """
    path = Path(path)
    limits = limits or Limits()
    try:
        file_bytes = limits.check_file(path)
        with path.open("rb") as file:
            start = file.read(352)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=path) from error
    if start.startswith(b"\x93NUMPY"):
        kind, array = "NPY", _read_npy(path, limits, file_bytes)
    elif start.startswith(b"\x89PNG\r\n\x1a\n"):
        if start[24:25] == b"\x10" and start[25:26] != b"\0":  # Pillow reads such colour as 8 bits without a word
            raise DataError("has 16 bits per colour", path=path, expected="8-bit RGB, or 16-bit grey")
        kind, array = "PNG", _read_pillow(path, "PNG", limits, file_bytes, mask)
    elif start.startswith(_TIFF_STARTS):
        kind, array = "TIFF", _read_pillow(path, "TIFF", limits, file_bytes, mask)
    else:
        other = next((name for begin, name in _OTHERS.items() if start.startswith(begin)), "an unknown format")
        found = "DICOM" if start[128:132] == b"DICM" else "NIfTI" if start[344:347] in (b"n+1", b"ni1") else other
        raise DataError("is not an image that can be read", path=path, found=found, expected="PNG, TIFF or NPY")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("has values that are not finite", path=path, found="NaN or infinity")
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


def read_npy(
    path: Path,
    file: IO[bytes],
    check: Callable[[tuple[int, ...], np.dtype], None] = lambda shape, dtype: None,
    *,
    field: str | None = None,
) -> np.ndarray:
    """The numbers of an NPY file, or of a member of an NPZ (`field`), from its start; nothing is unpickled.

    check: raises for a shape and type that are not wanted, before memory is taken. Raises DataError for what is damaged
    or is not an array of numbers.
    """
    shape, columns_first, dtype = npy_header(path, file, field=field)
    check(shape, dtype)
    data, needed = file.read(), math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        expected = f"{needed} bytes"
        raise DataError(
            "is cut short or has bytes to spare", path=path, field=field, found=len(data), expected=expected
        )
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape, order="F" if columns_first else "C").astype(dtype.newbyteorder("="))


def npy_header(path: Path, file: IO[bytes], *, field: str | None = None) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and number type of an NPY file or of a member of an NPZ (`field`)."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, columns_first, dtype = headers[np.lib.format.read_magic(file)](file)
    except Exception as error:  # numpy raises what the damaged header provokes
        raise DataError("is not a readable NPY file", path=path, field=field, found=_first_line(error)) from error
    if dtype.hasobject or dtype.kind not in "biuf":
        raise DataError("is not an array of numbers", path=path, field=field, found=dtype, expected="integer or float")
    return shape, columns_first, dtype


def _read_npy(path: Path, limits: Limits, file_bytes: int) -> np.ndarray:
    def check(shape: tuple[int, ...], dtype: np.dtype) -> None:
        if dtype.kind == "b":
            expected = "integer or float"
            raise DataError("is not an array of numbers", path=path, field="dtype", found=dtype, expected=expected)
        if len(shape) not in (2, 3):
            raise DataError("is not a 2-D image", path=path, field="shape", found=shape, expected="(H,W) or (C,H,W)")
        limits.check_declared(path, shape, dtype.itemsize, file_bytes)

    with path.open("rb") as file:
        array = read_npy(path, file, check)
    return array[None] if array.ndim == 2 else array


@contextmanager
def picture(path: str | Path, kind: str, file: IO[bytes] | None = None) -> Iterator[Image]:
    """Pillow's image of a file, or of `file`'s bytes; whatever the block makes the decoder raise is a DataError."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of size and of odd metadata: the caller's limits decide
            with Image.open(file or path, formats=(kind,)) as image:
                yield image
    except DataError:
        raise
    except Exception as error:  # a damaged picture makes the decoder raise nearly anything; none of it is a fault here
        raise DataError(f"is not a readable {kind}", path=path, found=_first_line(error)) from error


def _read_pillow(path: Path, kind: str, limits: Limits, file_bytes: int, mask: bool) -> np.ndarray:
    with picture(path, kind) as image:
        _check_picture(path, image, limits, file_bytes, mask)
        inverted = image.mode.startswith("I;16") and _tag(image, _TIFF_PHOTOMETRIC) == (_WHITE_IS_ZERO,)
        image.load()
        array = np.asarray(image.convert("RGBA") if image.mode == "P" and not mask else image)
    array = array.astype(np.uint8 if array.dtype == bool else array.dtype.newbyteorder("="), copy=False)
    if inverted:  # Pillow inverts 8-bit pictures of this kind and leaves 16-bit ones
        array = np.iinfo(array.dtype).max - array
    if array.ndim == 2:
        return array[None]
    if array.shape[2] in (2, 4):  # an alpha channel that hides nothing is dropped
        if (array[..., -1] != 255).any():
            raise DataError("is partly transparent", path=path, expected="opaque grey or RGB")
        array = array[..., :-1]
    return np.moveaxis(array, 2, 0)


def _check_picture(path: Path, image: Image, limits: Limits, file_bytes: int, mask: bool) -> None:
    if image.mode == "1" and not mask:
        raise DataError("has one bit per pixel: a mask, not an image", path=path, expected="8 or 16 bits, grey")
    pixel_bytes = _MASK_BYTES if mask else _BYTES
    if image.mode not in pixel_bytes:
        raise DataError("has an unsuitable colour mode", path=path, found=image.mode, expected="grey or RGB")
    pages = getattr(image, "n_frames", 1)
    if pages != 1:
        raise DataError("has several pages", path=path, found=f"{pages} pages", expected="one image")
    if image.mode in ("RGB", "RGBA") and max(_tag(image, _TIFF_BITS), default=8) > 8:
        raise DataError("has more than 8 bits per colour", path=path, expected="8-bit RGB, or 16-bit grey")
    limits.check_declared(path, image.size[::-1], pixel_bytes[image.mode], file_bytes)


def _tag(image: Image, tag: int) -> tuple[int, ...]:
    tags = getattr(image, "tag_v2", None)
    value = tags.get(tag, ()) if tags is not None else ()
    return value if isinstance(value, tuple) else (value,)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
