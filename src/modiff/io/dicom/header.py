"""One DICOM file from anyone: its header, then its pixels, each within bounds that hold before memory is taken.

Values of a header may name a patient. No message here repeats one: errors name the field, and what pydicom said is
dropped.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from modiff.errors import DataError
from modiff.io.dicom.meta import quiet, read_meta
from modiff.io.limits import Limits

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset
    from pydicom.pixels.decoders.base import Decoder

# Largest real headers (private tags of MR scanners) are below 1 MiB; one of empty items alone takes 100 times its size.
MAX_HEADER_BYTES = 2 << 20
# Each element or item takes a read or two, and up to 50 µs; longer sequences are left out unread.
MAX_READS = 60_000
MAX_SEQUENCE_BYTES = 256 << 10
_PIXEL_TAG = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
_PYLIBJPEG = "pip install pylibjpeg pylibjpeg-libjpeg"
_OPENJPEG = "pip install pylibjpeg pylibjpeg-openjpeg"
_PACKAGES = {  # transfer syntax -> what decodes it
    "1.2.840.10008.1.2.4.50": _PYLIBJPEG,
    "1.2.840.10008.1.2.4.51": _PYLIBJPEG,
    "1.2.840.10008.1.2.4.57": _PYLIBJPEG,
    "1.2.840.10008.1.2.4.70": _PYLIBJPEG,
    "1.2.840.10008.1.2.4.80": "pip install pyjpegls",
    "1.2.840.10008.1.2.4.81": "pip install pyjpegls",
    "1.2.840.10008.1.2.4.90": _OPENJPEG,
    "1.2.840.10008.1.2.4.91": _OPENJPEG,
    "1.2.840.10008.1.2.4.201": _OPENJPEG,
    "1.2.840.10008.1.2.4.202": _OPENJPEG,
    "1.2.840.10008.1.2.4.203": _OPENJPEG,
}


class _Bounded(io.RawIOBase):
    """A file that ends where it ends, whatever lengths it declares, and of which only a header's worth is read."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file, self._size, self._path, self._reads = file, size, path, 0
        self.refusal: DataError | None = None  # pydicom turns some errors into others: the first one is kept

    def read(self, count: int | None = -1) -> bytes:
        at = self._file.tell()
        left = max(self._size - at, 0)
        count = left if count is None or count < 0 else min(count, left)
        self._reads += 1
        if at + count > MAX_HEADER_BYTES:
            expected = f"at most {MAX_HEADER_BYTES} bytes"
            self.refusal = DataError("the header is too large", path=self._path, expected=expected)
        elif self._reads > MAX_READS:
            self.refusal = DataError("the header has too many elements", path=self._path)
        if self.refusal:
            raise self.refusal
        return self._file.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def read_header(path: Path, limits: Limits | None = None) -> FileDataset:
    """All of a file's elements before its pixels; raises DataError for what is no DICOM, damaged or out of bounds."""
    return _read(path, limits or Limits(), pixels=False)


def read_with_pixels(path: Path, limits: Limits | None = None) -> tuple[FileDataset, np.ndarray]:
    """Header and stored values (H,W) of a grey single-frame image, in an integer type as wide as the file's.

    Raises DataError as `read_header`; for what has no pixels, colours, several frames or floats; for declared sizes
    that the data does not have; and for a transfer syntax that cannot be decoded, naming the package to install.
    """
    header = _read(path, limits or Limits(), pixels=True)
    stored = _decode(path, header)
    del header.PixelData
    return header, stored


def _read(path: Path, limits: Limits, *, pixels: bool) -> FileDataset:
    size = limits.check_file(path)
    try:
        read_meta(path)
        with path.open("rb") as file, quiet():
            header = _parse(_Bounded(file, size, path))
            header.buffer = None
            _drop_long_sequences(header)
            if pixels:
                check_image(path, header, limits, size)
                _decoder(path, header)
                _attach_pixels(path, header, file)
            return header
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or type(error).__name__})", path=path) from None
    except Exception as error:  # pydicom raises whatever damaged bytes provoke, and quotes them
        raise DataError("is damaged, or not DICOM", path=path, found=type(error).__name__) from None


def _parse(bounded: _Bounded) -> FileDataset:
    from pydicom import dcmread

    try:
        return dcmread(bounded, stop_before_pixels=True, force=False)
    except Exception as error:
        raise (bounded.refusal or error) from None


def _drop_long_sequences(header: FileDataset) -> None:
    """A sequence of known length is kept as bytes until it is asked for: then a long one takes seconds and memory."""
    for element in list(header.elements()):
        known = getattr(element, "length", 0)  # only elements that are still bytes have it
        if element.VR in ("SQ", "UN", None) and MAX_SEQUENCE_BYTES < known < 0xFFFFFFFF:
            del header[element.tag]


def integer(path: Path, header: FileDataset, field: str, default: int | None = None) -> int:
    """A whole number of the header; raises DataError where it is none, or missing without a default."""
    try:
        with quiet():
            value = header.get(field)
            if value is None or value == "":
                value = default
            return int(value)
    except Exception:
        raise DataError("missing, or no whole number", path=path, field=field) from None


def numbers(path: Path, header: FileDataset, field: str, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers of the header, or None where the field is missing or empty; raises DataError otherwise."""
    try:
        with quiet():
            value = header.get(field)
            if value is None or value == "" or (count > 1 and len(value) == 0):
                return None
            found = tuple(float(part) for part in ([value] if count == 1 else value))
    except Exception:
        raise DataError("not numbers", path=path, field=field) from None
    if len(found) != count or not np.isfinite(found).all():
        raise DataError("not finite, or too few or too many", path=path, field=field, expected=f"{count} numbers")
    return found


def text(header: FileDataset, field: str) -> str:
    """A short text of the header such as a UID, stripped; empty where it is missing or cannot be decoded."""
    try:
        with quiet():
            return str(header.get(field) or "").strip("\0 ")
    except Exception:
        return ""


def check_image(path: Path, header: FileDataset, limits: Limits, size: int) -> None:
    """Raises DataError unless the header declares one grey frame of whole numbers that fits into the limits."""
    if "Rows" not in header or "Columns" not in header:
        raise DataError("holds no image", path=path, expected="a slice with pixels")
    frames = integer(path, header, "NumberOfFrames", 1)
    if frames != 1:
        many = "Convert it to NIfTI, or to one file a slice"
        raise DataError("is a multi-frame object", path=path, found=f"{frames} frames", expected="one", hint=many)
    samples, kind = integer(path, header, "SamplesPerPixel", 1), text(header, "PhotometricInterpretation")
    if samples != 1 or kind != "MONOCHROME2":
        hint = "Low values are bright in MONOCHROME1: invert it first" if kind == "MONOCHROME1" else None
        found = f"{samples} samples a pixel" if samples != 1 else kind[:16] or "nothing"
        raise DataError("is no plain grey image", path=path, found=found, expected="MONOCHROME2", hint=hint)
    allocated, stored = integer(path, header, "BitsAllocated"), integer(path, header, "BitsStored")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise DataError("bits that cannot be read", path=path, field="BitsAllocated", found=f"{stored} of {allocated}")
    if integer(path, header, "HighBit", stored - 1) != stored - 1:
        raise DataError("values do not end at the lowest bit", path=path, field="HighBit", expected=stored - 1)
    if integer(path, header, "PixelRepresentation") not in (0, 1):
        raise DataError("neither unsigned nor signed", path=path, field="PixelRepresentation", expected="0 or 1")
    shape = integer(path, header, "Rows"), integer(path, header, "Columns")
    limits.check_declared(path, shape, allocated // 8, size)


def _attach_pixels(path: Path, header: FileDataset, file: BinaryIO) -> None:
    """Reads the pixel element at which the header ended, and nothing behind it that an uncompressed image needs not."""
    from pydicom.dataelem import DataElement

    syntax = header.file_meta.TransferSyntaxUID
    order = "little" if header.original_encoding[1] else "big"
    tag = file.read(4)
    if tag not in _PIXEL_TAG:
        raise DataError("has no whole-number pixels", path=path, field="PixelData")
    if header.original_encoding[0]:
        vr, length = "OW", int.from_bytes(file.read(4), "little")
    else:
        vr = file.read(4)[:2].decode("ascii")
        length = int.from_bytes(file.read(4), order)  # type: ignore[arg-type]  # mypy wants a literal
    if vr not in ("OB", "OW", "UN"):
        raise DataError("has no whole-number pixels", path=path, field="PixelData", found="another type")
    if syntax.is_encapsulated:
        data = file.read()  # at most the file's size, which the limits have seen
    else:
        rows, columns, bits = (integer(path, header, name) for name in ("Rows", "Columns", "BitsAllocated"))
        needed = rows * columns * bits // 8
        if length not in (needed, needed + needed % 2):
            raise DataError("pixels do not fit the size", path=path, field="PixelData", found=length, expected=needed)
        data = file.read(length)
        if len(data) != length:
            raise DataError("is cut short", path=path, field="PixelData", found=len(data), expected=length)
    element = DataElement(0x7FE00010, "OB" if vr == "UN" else vr, data)
    element.is_undefined_length = syntax.is_encapsulated
    header.add(element)


def _decoder(path: Path, header: FileDataset) -> Decoder:
    """What turns the pixels into values; raises DataError, with the package to install, where there is none."""
    from pydicom.pixels import get_decoder

    syntax = header.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        name = "an unknown one" if syntax.name == str(syntax) else syntax.name
        raise DataError("a transfer syntax that cannot be decoded", path=path, found=name) from None
    if not decoder.is_available:
        hint = _PACKAGES.get(str(syntax))
        raise DataError("a transfer syntax that cannot be decoded here", path=path, found=syntax.name, hint=hint)
    return decoder


def _decode(path: Path, header: FileDataset) -> np.ndarray:
    decoder = _decoder(path, header)
    syntax = header.file_meta.TransferSyntaxUID
    try:
        with quiet():
            if syntax.is_encapsulated:
                _check_codestream(path, header)
            array, _ = decoder.as_array(header, raw=True, index=0)
    except DataError:
        raise
    except Exception as error:
        package = _PACKAGES.get(str(syntax))
        hint = f"If others read it: {package}" if package else None
        found = type(error).__name__
        raise DataError("pixels cannot be decoded", path=path, field=syntax.name, found=found, hint=hint) from None
    shape = integer(path, header, "Rows"), integer(path, header, "Columns")
    if array.shape != shape:
        raise DataError("pixels do not fit the size", path=path, field="PixelData", found=array.shape, expected=shape)
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _check_codestream(path: Path, header: FileDataset) -> None:
    """A compressed picture inside that is larger than the header says would be inflated before anyone notices."""
    from pydicom.encaps import get_frame

    frame = get_frame(header.PixelData, 0, number_of_frames=1)
    declared = integer(path, header, "Rows"), integer(path, header, "Columns")
    found = codestream_size(frame)
    if found is not None and found != declared:
        raise DataError("pixels do not fit the size", path=path, field="PixelData", found=found, expected=declared)


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """(H,W) that a JPEG, JPEG-LS or JPEG 2000 stream declares, None where it is none of them (RLE has no size)."""
    if (at := frame.find(b"\xff\x4f\xff\x51", 0, 4096)) >= 0:
        width, height, left, top = (int.from_bytes(frame[at + 8 + 4 * n : at + 12 + 4 * n], "big") for n in range(4))
        return height - top, width - left
    if not frame.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
