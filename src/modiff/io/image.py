"""Whatever a user points at as a volume; pictures themselves: PNG, TIFF, BMP, GIF, NPY in, JPEG if need be, PNG out."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from modiff.errors import DataError
from modiff.io.files import LIMITS, Limits, guarding, located, sha256_of, told
from modiff.io.output import write_bytes
from modiff.io.pictures import check_container
from modiff.io.volume import Note, Volume, check_finite, difference, joined, remark

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".nii.gz", ".nii", ".png", ".tif", ".tiff", ".bmp", ".gif", ".npy", ".dcm")
JPEG = (".jpg", ".jpeg")  # which changes values: only for sources that have nothing else
# Bytes a pixel takes in those of Pillow's modes that are grey or colour pictures; a palette is resolved to colour.
_BYTES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "P": 4, "I;16": 2, "I;16B": 2, "I;16L": 2, "I": 4, "F": 4}
_COLOUR = 24  # grey levels by which JPEG's colour planes of a grey image may differ
_JPEG_LIMITS = Limits(max_side=8192)
_STARTS = {  # of the pictures that Pillow reads
    b"\x89PNG\r\n\x1a\n": "PNG",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    **dict.fromkeys((b"GIF87a", b"GIF89a"), "GIF"),
    b"BM": "BMP",
}
_BARE_DICOM = (b"\x02\0", b"\x08\0", b"\0\x08")  # groups 2 and 8, where the preamble is missing
_NIFTI_MARKS = (b"n+1\0", b"n+2\0", b"ni1\0", b"ni2\0")
_PART, _NPY_HEADER = 16 << 20, 1 << 16  # bytes read at a time; that tell an array's shape and type
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO, _TIFF_SIGN, _UNSIGNED, _SIGNED = 258, 262, 0, 339, 1, 2
Header = tuple[tuple[int, ...], bool, np.dtype]  # of an NPY file: shape, whether columns come first, number type
_OTHER_URL = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_OTHERS = {  # how files begin that are often taken for images
    b"\xff\xd8\xff": "JPEG, whose compression changes values",
    b"PK": "a zip file",
    b"\x89HDF": "HDF5",
}


def without_suffix(name: str) -> str:
    """A file's name without what image files end in (`SUFFIXES`)."""
    return next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end)), name)


def read_image(
    path: str | Path, *, limits: Limits = LIMITS, mask: bool = False, jpeg: bool = False, series: str | None = None
) -> Volume:
    """Reads what a user may point at within `limits`, recognised by its first bytes; a gzip file is NIfTI.

    A picture: PNG, TIFF, BMP or GIF, grey (8, 16 or 32 bits, float), RGB, or with a palette, which is read as it is
    seen: grey where all its colours are; NPY, an array (H,W) or (C,H,W). A scan: a NIfTI file, a DICOM file, a folder
    with a DICOM series. mask: a picture may also have one bit per pixel, an array booleans; indices of a palette of
    colours are its values (`Volume.palette`); and the first of an array's three axes are its slices. jpeg: it may also
    be a grey JPEG, by its name. series: which of a folder's DICOM series is meant (`read_dicom_series`).
    Raises DataError for what is missing, is not an image, is damaged, has several pages, is a one-bit mask where an
    image is meant, has transparency or values that are not finite, or claims more memory than allowed (before any is
    taken).
    """
    path, start, file_bytes = Path(path), b"", 0
    if jpeg and path.suffix.lower() in JPEG:
        return Volume(read_jpeg(path, limits)[None, None], None, path, "JPEG")
    with told(path, "cannot be read"), located(path):
        if not path.is_dir():
            file_bytes = limits.check_file(path)
            with path.open("rb") as file:
                start = file.read(352)
        dicom = path.is_dir() or start[128:132] == b"DICM"
        if not dicom and start[:2] in _BARE_DICOM:
            from modiff.io.dicom.header import starts_dicom

            dicom = starts_dicom(start[:132])
        if dicom:
            from modiff.io.dicom.series import read_dicom_series

            return read_dicom_series(path, limits=limits, series=series)
        if series is not None:
            raise DataError("is not of a DICOM series", field="--series", found=series)
        colours, said = dict[int, str](), tuple[str, ...]()
        marked = start[344:348] in _NIFTI_MARKS or start[4:8] in _NIFTI_MARKS
        if marked or start.startswith(b"\x1f\x8b") or path.name.lower().endswith((".nii", ".nii.gz")):
            from modiff.io.nifti import read_nifti

            return read_nifti(path, limits=limits)
        if start.startswith(b"\x93NUMPY"):
            kind, array = "NPY", _read_npy(path, limits, file_bytes, mask)
        elif kind := next((kind for begin, kind in _STARTS.items() if start.startswith(begin)), ""):
            if kind == "PNG" and start[24:25] == b"\x10" and start[25:26] != b"\0":
                # Pillow reads such colour as 8 bits without a word.
                raise DataError("has 16 bits per colour", expected="8-bit RGB, or 16-bit grey")
            array, colours, said = _read_pillow(path, kind, limits, file_bytes, mask)
        else:
            found = next((name for begin, name in _OTHERS.items() if start.startswith(begin)), "an unknown format")
            expected = "PNG, TIFF, BMP, GIF, NPY, NIfTI or DICOM"
            raise DataError("is not an image that can be read", found=found, expected=expected)
        check_finite(array)
        array = array[None] if mask and kind == "NPY" else array[:, None]
        array = np.ascontiguousarray(array)
        return Volume(
            array, None, path, kind, {path.name: sha256_of(path)}, notes=tuple(map(Note, said)), palette=colours
        )


def read_channels(paths: Sequence[str | Path], *, limits: Limits = LIMITS, series: str | None = None) -> Volume:
    """One scan, or several NIfTI files or pictures on one grid as the channels of one, in the order given.

    The first file's header is what results are written by. Raises DataError where grids differ, as `read_image`
    otherwise.
    """
    if len(paths) == 1:
        return read_image(paths[0], limits=limits, series=series)
    volumes: list[Volume] = []
    notes: dict[Note, None] = {}
    for path in paths:
        scan = read_image(path, limits=limits, series=series)
        with located(path):
            volumes.append(scan)
            if scan.format == "DICOM" or scan.is_picture != volumes[0].is_picture:
                expected = "pictures" if volumes[0].is_picture else "NIfTI"
                raise DataError("several files are the channels of one scan", found=scan.format, expected=expected)
            if what := difference(volumes[0], scan):
                raise DataError("is on another grid than the first", found=what)
            notes |= dict.fromkeys(scan.notes)
            if known := remark(volumes[0], scan):
                notes[Note(f"a channel has {known}: read voxel by voxel")] = None
    digests = {f"{i} {name}": digest for i, volume in enumerate(volumes) for name, digest in volume.sha256.items()}
    return replace(volumes[0], array=joined(volumes), sha256=digests, notes=tuple(notes))


def named_file(text: str) -> tuple[str | None, Path]:
    """The channel and the file of NAME=FILE; no channel where there is a file of that name, or nothing to say one.

    Raises as `path_of`.
    """
    name, _, file = text.partition("=")
    if name and file and "://" not in name and not Path(text).exists():  # with ://, text is a URL
        return name, path_of(file)
    return None, path_of(text)


def path_of(text: str) -> Path:
    """The path that a text names, which may stand for the URL of a DICOMweb server.

    Raises DataError for another kind of URL, and does not repeat it: it may hold a password.
    """
    path, scheme = Path(text), _OTHER_URL.match(text)
    if scheme and not path.exists():
        expected = "a path, or a series at http:// or https://"
        raise DataError("a URL of a kind that cannot be read", found=f"{scheme[0]}…", expected=expected)
    return path


def read_jpeg(path: Path, limits: Limits = LIMITS) -> np.ndarray:
    """(H,W) uint8 of a grey JPEG, or of one whose colours are grey; its size is checked before it is decoded."""
    size = limits.check_file(path)
    with picture(path, "JPEG") as image:
        _JPEG_LIMITS.check_declared(path, image.size[::-1], 1, size)
        mode, array = image.mode, np.asarray(image)
    if mode == "RGB" and int((array.max(2) - array.min(2)).max()) <= _COLOUR:
        return np.rint(array.mean(2)).astype(np.uint8)
    if mode != "L":
        raise DataError("a JPEG in colour", path=path, found=mode, expected="grey")
    return array


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
    path: Path, file: IO[bytes], held: int, header: Header | None = None, *, field: str | None = None
) -> np.ndarray:
    """The numbers of an NPY file, or of a member of an NPZ (`field`), of `held` bytes; nothing is unpickled.

    header: what `npy_header` found, where it was read already. Raises DataError for what is damaged or is not an array
    of numbers.
    """
    shape, columns_first, dtype = header or npy_header(path, file, field=field)
    needed, filled = math.prod(shape) * dtype.itemsize, 0
    if 0 <= needed <= held and min(shape, default=0) >= 0:
        flat = np.empty(needed, np.uint8)
        while part := file.read(min(needed - filled, _PART)):
            flat[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled += len(part)
    if filled != needed or file.read(1):
        what, expected = "is cut short or has bytes to spare", f"{needed} bytes"
        found = f"{filled} bytes" if filled < needed <= held else f"{held} bytes with its header"
        raise DataError(what, path=path, field=field, found=found, expected=expected)
    array = flat.view(dtype).reshape(shape, order="F" if columns_first else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def npy_header(path: Path, file: IO[bytes], *, field: str | None = None) -> Header:
    """Shape, whether columns come first, and number type of an NPY file or of a member of an NPZ (`field`)."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with guarding(path, "is not a readable NPY file", field=field):
        version = np.lib.format.read_magic(file)
        length = file.read(2 * version[0])
        text = file.read(min(int.from_bytes(length, "little"), _NPY_HEADER))
        shape, columns_first, dtype = headers[version](io.BytesIO(length + text))
    if dtype.hasobject or dtype.kind not in "biuf":
        raise DataError("is not an array of numbers", path=path, field=field, found=dtype, expected="integer or float")
    return shape, columns_first, dtype


def _read_npy(path: Path, limits: Limits, file_bytes: int, mask: bool) -> np.ndarray:
    with path.open("rb") as file:
        header = shape, _, dtype = npy_header(path, file)
        if dtype.kind == "b" and not mask:
            raise DataError("is not an array of numbers", field="dtype", found=dtype, expected="integer or float")
        if len(shape) not in (2, 3):
            raise DataError("is not a 2-D image", field="shape", found=shape, expected="(H,W) or (C,H,W)")
        limits.check_declared(path, shape, dtype.itemsize, file_bytes)
        array = read_npy(path, file, file_bytes, header)
    array = array.astype(np.uint8) if array.dtype == bool else array
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
        check_container(kind, stream)
        yield opened.enter_context(Image.OPEN[kind][0](stream, str(path)))


def _read_pillow(
    path: Path, kind: str, limits: Limits, file_bytes: int, mask: bool
) -> tuple[np.ndarray, dict[int, str], tuple[str, ...]]:
    """(C,H,W), the colours of a mask's values where these are indices of a palette, and what a user must know of a mask
    that is read otherwise than as plain numbers."""
    pixel_bytes = _BYTES | ({"1": 1} if mask else {})
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
        # Pillow reads both kinds of 8 bits as unsigned, and both of 32 as signed.
        sign = int(np.max(tags.get(_TIFF_SIGN, _UNSIGNED)))
        other = {("L", _SIGNED): np.int8, ("I", _UNSIGNED): np.uint32}.get((image.mode, sign)) if tags else None
        if sign == _SIGNED and (image.mode in ("P", "LA", "RGB", "RGBA") or tags.get(_TIFF_PHOTOMETRIC) == 0):
            raise DataError("has signed colours, or signed grey levels of which 0 is white", expected="unsigned ones")
        limits.check_declared(path, image.size[::-1], pixel_bytes[image.mode], file_bytes)
        deep = image.mode.startswith("I;16")
        inverted = tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO and (deep or image.mode in ("1", "L"))
        image.load()
        indices = np.asarray(image) if image.mode == "P" else None
        array = np.asarray(image if indices is None else image.convert("RGBA"))
    array = array.astype(np.uint8 if array.dtype == bool else array.dtype.newbyteorder("="), copy=False)
    array = array if other is None else array.view(other)
    if inverted and deep:  # Pillow inverts pictures of this kind with up to 8 bits and leaves 16-bit ones
        array = np.iinfo(array.dtype).max - array
    # Of such masks the program that wrote them may have meant the opposite: tifffile's booleans, ImageJ's inverted LUT.
    said = ("0 is white in it: values are read as viewers show them",) if inverted and mask else ()
    if array.ndim == 2:
        return array[None], {}, said
    if array.shape[2] in (2, 4):  # an alpha channel that hides nothing is dropped
        if (array[..., -1] != 255).any():
            raise DataError("is partly transparent", expected="opaque grey or RGB")
        array = array[..., :-1]
    if indices is not None and (array == array[..., :1]).all():
        return array[None, ..., 0], {}, said
    if indices is not None and mask:
        used, first = np.unique(indices, return_index=True)
        colours = array.reshape(-1, 3)[first]
        return (
            indices[None],
            {int(i): "#" + bytes(colour).hex() for i, colour in zip(used, colours, strict=True)},
            ("the indices of its palette are read",),
        )
    return np.moveaxis(array, 2, 0), {}, said
