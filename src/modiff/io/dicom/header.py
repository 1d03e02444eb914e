"""One DICOM file from anyone: its header, then its pixels, each within bounds that hold before memory is taken.

pydicom parses the elements, of a file that ends where it ends and of which only a header's worth is read; it never
inflates one. Values of a header may name a patient. No message here repeats one: errors name the field, and what
pydicom said is dropped.
"""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.charset import convert_encodings, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.filereader import data_element_generator, read_dataset
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.pixels.utils import pixel_dtype
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from modiff.errors import DataError
from modiff.io.dicom.frame import codestream_of, unpack_rle
from modiff.io.files import LIMITS, Limits, located

# Largest real headers (private tags of MR scanners) are below 1 MiB; one of empty items alone takes 100 times its size.
MAX_HEADER_BYTES = 2 << 20
# Each element or item takes a read or two, and up to 50 µs; longer sequences are left out unread.
MAX_READS = 60_000
MAX_SEQUENCE_BYTES = 256 << 10
_UNDEFINED = 0xFFFFFFFF  # a length that is not known beforehand
_PIXELS = 0x7FE00010
STANDALONE = {name for name in python_encoding if name not in ("", "ISO_IR 6") and "2022" not in name}
_GUESSED = ("", "ISO_IR 6", "ISO 2022 IR 6", "ISO_IR 192")  # of texts that may be in another set than declared
_FIRST_TYPES = (b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"SH", b"LO")  # of the first elements of groups 2 and 8
# Of PhotometricInterpretation (PS3.3 C.7.6.3.1.2): what else is there may be anything, and is not repeated.
_COLOURS = (
    "MONOCHROME1",
    "PALETTE COLOR",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
    "YBR_PARTIAL_420",
    "XYB",
)
_SEVEN_BIT = ("ISO 2022 IR 87", "ISO 2022 IR 159")  # nothing but escape sequences tells their texts from ASCII
TEXTS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")  # types that a character set is for
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, _PIXELS)  # floats, doubles, whole numbers


class _Bounded(io.BufferedReader):
    """A file that ends where it ends, whatever lengths it declares, and of which only `limit` bytes are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.size, self.limit, self._reads = os.fstat(self.fileno()).st_size, MAX_HEADER_BYTES, 0
        self.refusal = ""  # pydicom turns some errors into others

    def read(self, count: int | None = -1) -> bytes:
        """As of any file, up to the header's limit."""
        at = self.tell()
        left = max(self.size - at, 0)
        count = left if count is None or count < 0 else min(count, left)
        self._reads += 1
        if at + count > self.limit:
            self.refusal = f"the header is too large: beyond {self.limit} bytes"
        elif self._reads > MAX_READS:
            self.refusal = f"the header has too many elements: beyond {MAX_READS} reads"
        if self.refusal:
            raise OSError(self.refusal)
        return super().read(count)


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom neither warns nor logs inside: its words quote values, which may be a patient's."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = before


@contextmanager
def _opened(path: Path) -> Iterator[_Bounded]:
    """The file, and a DataError for whatever damaged bytes provoke in pydicom, which would quote them."""
    file = None
    try:
        with located(path), quiet(), _Bounded(path) as file:
            yield file
    except DataError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None)  # the system's; pydicom's own errors have none
        refusal = (file and file.refusal) or (reason and f"cannot be read ({reason})")
        if refusal:
            raise DataError(refusal, path=path) from None
        raise DataError("is damaged, or not DICOM", path=path, found=type(error).__name__) from None


def is_dicom(path: Path) -> bool:
    """Whether the file has DICOM's mark behind its preamble, or begins with DICOM's first elements."""
    with path.open("rb") as file:
        return starts_dicom(file.read(132))


def starts_dicom(start: bytes) -> bool:
    """Whether a file that begins with these 132 bytes is DICOM; the preamble may be missing, and group 2 with it."""
    return start[128:132] == b"DICM" or _bare_syntax(start) is not None


def _bare_syntax(start: bytes) -> UID | None:
    """How a file without preamble is encoded, by its first element, of group 2 or 8; None for another file."""
    groups = {b"\x02\0": ExplicitVRLittleEndian, b"\x08\0": ExplicitVRLittleEndian, b"\0\x08": ExplicitVRBigEndian}
    syntax = groups.get(start[:2])
    if syntax is None or len(start) < 12:
        return None
    order: Literal["little", "big"] = "big" if syntax == ExplicitVRBigEndian else "little"
    element = int.from_bytes(start[2:4], order)
    if element <= 0x18 and start[4:6] in _FIRST_TYPES:
        return syntax
    implicit = order == "little" and start[:1] == b"\x08" and int.from_bytes(start[4:8], order) <= 128
    return ImplicitVRLittleEndian if implicit and element <= 0x18 else None


def read_meta(path: Path) -> FileMetaDataset:
    """A file's group 2, which says how it is encoded and what kind of object it is (PS3.10 7.1).

    Raises DataError for a file that is not DICOM, does not say how it is encoded, or is deflated.
    """
    with _opened(path) as file:
        return _meta(file)


def read_header(path: Path, limits: Limits = LIMITS) -> Dataset:
    """All elements before a file's pixels; raises DataError for what is not DICOM, is damaged or is out of bounds."""
    limits.check_file(path)
    with _opened(path) as file:
        return _header(file)


def read_with_pixels(path: Path, limits: Limits = LIMITS) -> tuple[Dataset, np.ndarray]:
    """Header and stored values (H,W) of a grey single-frame image, in an integer type as wide as the file's.

    Raises DataError as `read_header`; for what has no pixels, colours, several frames or floats; for declared sizes
    that the data does not have; and for a transfer syntax that cannot be decoded, naming the package to install.
    """
    limits.check_file(path)
    with _opened(path) as file:
        header = _header(file)
        check_image(path, header, limits)
        return header, _pixels(header, file)


def numbers(header: Dataset, field: str, count: int, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
    """`count` finite numbers of the header, `default` where it has none; raises DataError for others and none."""
    try:
        with quiet():
            value = header.get(field)
            found = default if value in (None, "", []) else tuple(map(float, [value] if count == 1 else value))
    except Exception:  # what pydicom raises of damaged bytes quotes them
        raise DataError("not numbers", field=field) from None
    if found is None:
        raise DataError("is missing", field=field)
    if len(found) != count or not np.isfinite(found).all():
        raise DataError("are not the expected count of finite numbers", field=field, expected=f"{count} numbers")
    return found


def integer(header: Dataset, field: str, default: int | None = None) -> int:
    """A whole number of the header; raises DataError where it is not one, or missing without a default."""
    (value,) = numbers(header, field, 1, None if default is None else (float(default),))
    if not value.is_integer():
        raise DataError("not a whole number", field=field)
    return int(value)


def text(header: Dataset, field: str) -> str:
    """A short text of the header such as a UID, stripped; empty where it is missing or cannot be decoded."""
    with suppress(Exception), quiet():
        return str(header.get(field) or "").strip("\0 ")
    return ""


def declared_sets(header: Dataset) -> list[str]:
    """The terms of SpecificCharacterSet as the file has them, none where it has no value (PS3.3 C.12.1.1.2)."""
    with suppress(Exception), quiet():
        value = header.get("SpecificCharacterSet")
        return list(map(str, [value] if isinstance(value, str) else value or [])) if value else []
    return []


def _codecs(header: Dataset) -> list[str]:
    """How Python decodes the header's texts: by the terms declared, misspelt or not.

    Without a term that is known, and where UTF-8 is declared: UTF-8 where all of them are, else Latin-1.
    """
    terms = [_spelled(term) for term in declared_sets(header)]
    elements = (element for element in header.elements() if isinstance(element, RawDataElement))
    raw = b"\n".join(element.value or b"" for element in elements if (element.VR or _usual_type(element)) in TEXTS)
    if len(terms) > 1:
        terms = [term if term in python_encoding else "" for term in terms]
        # Some writers leave out the escape sequences by which such texts turn to the second set.
        bare = terms[0] in _GUESSED and terms[1] not in _SEVEN_BIT and not raw.isascii() and b"\x1b" not in raw
        return convert_encodings(terms[1] if bare else terms)
    if terms and terms[0] in python_encoding and terms[0] not in _GUESSED:
        return convert_encodings(terms[0])
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return ["latin-1"]
    return ["utf-8"]


def _spelled(term: str) -> str:
    """A term as the standard spells it, where that can be told."""
    plain = re.sub(r"[^A-Z0-9]", "", term.upper())
    if found := re.fullmatch(r"ISO(2022)?IR(\d+)", plain):
        return f"ISO {found[1]} IR {found[2]}" if found[1] else f"ISO_IR {found[2]}"
    return {"UTF8": "ISO_IR 192", "GB2312": "GBK"}.get(plain, term if term in python_encoding else plain)


def _usual_type(element: RawDataElement) -> str:
    with suppress(KeyError):
        return dictionary_VR(element.tag)
    return "UN"


def kind_of(path: Path) -> str:
    """The SOP class UID of a file, of its group 2 or else of its header; empty where it cannot be told."""
    with suppress(DataError):
        return text(read_meta(path), "MediaStorageSOPClassUID") or text(read_header(path), "SOPClassUID")
    return ""


def other_kind(kind: str) -> str:
    """What a file of this SOP class holds that is known not to be an image, such as a dose or a report; else empty."""
    with quiet():
        uid = UID(kind)
        return "" if uid.name == uid or "Image Storage" in uid.name else uid.name


def check_image(path: Path, header: Dataset, limits: Limits) -> None:
    """Raises DataError unless the header declares one grey frame of whole numbers that fits into the limits."""
    with located(path):
        other = other_kind(text(header.file_meta, "MediaStorageSOPClassUID"))  # the pixels of a dose mean otherwise
        if other or "Rows" not in header or "Columns" not in header:
            raise DataError("holds no image", found=other or None, expected="a slice with pixels")
        frames, samples = (integer(header, field, 1) for field in ("NumberOfFrames", "SamplesPerPixel"))
        if frames != 1:
            hint = "Convert it to NIfTI, or to one file per slice"
            raise DataError("is a multi-frame object", found=f"{frames} frames", expected="one", hint=hint)
        kind = text(header, "PhotometricInterpretation")
        if samples != 1 or kind != "MONOCHROME2":
            found = f"{samples} samples per pixel" if samples != 1 else kind if kind in _COLOURS else "another value"
            dark = "Low values are bright in MONOCHROME1: invert it first" if kind == "MONOCHROME1" else None
            raise DataError("is not a plain grey image", found=found, expected="MONOCHROME2", hint=dark)
        allocated, stored = integer(header, "BitsAllocated"), integer(header, "BitsStored")
        if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
            raise DataError("unsupported number of bits", field="BitsAllocated", found=f"{stored} of {allocated}")
        if integer(header, "HighBit", stored - 1) != stored - 1:
            raise DataError("does not fit BitsStored", field="HighBit", expected=stored - 1)
        if integer(header, "PixelRepresentation") not in (0, 1):
            raise DataError("is neither unsigned nor signed", field="PixelRepresentation", expected="0 or 1")
        shape = integer(header, "Rows"), integer(header, "Columns")
        limits.check_declared(path, shape, allocated // 8, path.stat().st_size)


def _meta(file: _Bounded) -> FileMetaDataset:
    start = file.read(132)
    if start[128:] != b"DICM":
        bare = _bare_syntax(start)
        if bare is None:
            raise DataError("is not DICOM", expected="the mark DICM after 128 bytes")
        file.seek(0)
        if start[:2] != b"\x02\0":  # group 2 is missing too: the kind of object is in the header
            meta = FileMetaDataset()
            meta.TransferSyntaxUID = bare
            return meta
    meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2))
    if not text(meta, "TransferSyntaxUID"):
        raise DataError("does not say how it is encoded", field="TransferSyntaxUID")
    if "Deflate" in meta.TransferSyntaxUID.name:
        hint = "Inflate it first, e.g. by `dcmconv +te` of DCMTK"
        raise DataError("deflated DICOM is refused: its size is not known beforehand", hint=hint)
    return meta


def _header(file: _Bounded) -> Dataset:
    meta = _meta(file)
    syntax = meta.TransferSyntaxUID
    order = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    header = read_dataset(file, *order, stop_when=lambda tag, vr, length: tag in _PIXEL_TAGS)
    header.file_meta = meta
    if "MediaStorageSOPClassUID" not in meta and (kind := text(header, "SOPClassUID")):
        meta.MediaStorageSOPClassUID = UID(kind)
    with suppress(Exception):  # not a character set: texts are decoded as pydicom does
        header.set_original_encoding(order[0], order[1], _codecs(header))
    for element in list(header.elements()):
        # A sequence of known length is kept as bytes until it is asked for: then a long one takes seconds and memory.
        known = getattr(element, "length", 0)  # only elements that are still bytes have it
        if element.VR in ("SQ", "UN", None) and MAX_SEQUENCE_BYTES < known < _UNDEFINED:
            del header[element.tag]
    return header


def _pixels(header: Dataset, file: _Bounded) -> np.ndarray:
    """Stored values (H,W) of the pixel element at which the header ended; nothing behind it is read.

    Raises DataError, with what to install, where they cannot be decoded.
    """
    file.limit = file.size
    implicit, little = header.original_encoding
    element = next(data_element_generator(file, bool(implicit), bool(little)), None)
    if not isinstance(element, RawDataElement) or element.tag != _PIXELS or element.VR not in ("OB", "OW", "UN", None):
        raise DataError("has no whole-number pixels", field="PixelData")
    syntax, shape = header.file_meta.TransferSyntaxUID, (int(header.Rows), int(header.Columns))
    held, length = len(element.value or b""), element.length
    if length != _UNDEFINED:  # plain pixels
        needed = shape[0] * shape[1] * integer(header, "BitsAllocated") // 8
        if length not in (needed, needed + needed % 2):
            raise DataError("pixels do not fit the size", field="PixelData", found=length, expected=needed)
        if held != length:
            raise DataError("is cut short", field="PixelData", found=held, expected=length)
    header[_PIXELS] = element
    packages = ""
    try:
        decoder = get_decoder(syntax)
        packages = "; ".join(decoder.missing_dependencies)
        if not decoder.is_available:
            raise NotImplementedError  # as `get_decoder` does for a syntax that it does not know
        array = _decoded(header, decoder, shape)
    except DataError:
        raise
    except Exception as error:  # decoders raise anything, and their words quote the file
        name = "an unknown transfer syntax" if syntax.name == str(syntax) else syntax.name
        hint = f"Install what one of these needs: {packages}" if packages else None
        raise DataError("pixels cannot be decoded", field=name, found=type(error).__name__, hint=hint) from None
    del header[_PIXELS]
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _decoded(header: Dataset, decoder: Decoder, shape: tuple[int, int]) -> np.ndarray:
    """Pixels of a header that holds them, once what is compressed is known to be of the header's size."""
    found = shape
    if decoder.is_encapsulated:
        stream = get_frame(header.PixelData, 0, number_of_frames=1)
        if RLELossless == decoder.UID:
            return unpack_rle(stream, shape, pixel_dtype(header))
        plain, found = codestream_of(stream)
        if plain is not stream:
            header.PixelData = encapsulate([plain])
    if found == shape:
        array, _ = decoder.as_array(header, raw=True, index=0)
        found = array.shape
    if found != shape:
        raise DataError("pixels do not fit the size", field="PixelData", found=found, expected=shape)
    return array
