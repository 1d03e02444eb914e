"""The first bytes of a DICOM file: its mark, how it is encoded and what kind of object it is (PS3.10 7.1).

Read here and not by pydicom, which inflates a deflated file without a bound before anyone can say no.
"""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modiff.errors import DataError

MAX_META_BYTES = 64 << 10
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_CLASS, _SYNTAX = 0x0002, 0x0010
_DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.8.1")


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom neither warns nor logs inside: its words quote values, which may be a patient's."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


@dataclass(frozen=True)
class Meta:
    """What a file's group 2 says. syntax: transfer syntax UID. sop_class: UID of the kind of object, may be empty."""

    syntax: str
    sop_class: str

    @property
    def kind(self) -> str:
        """The name of the kind of object, empty where it is not the standard's."""
        from pydicom.uid import UID

        with quiet():
            name = UID(self.sop_class).name
        return "" if name == self.sop_class else name

    @property
    def may_be_image(self) -> bool:
        """False for a known kind that is no image: reports, plans and outlines may lie beside the slices."""
        return not self.kind or "Image Storage" in self.kind

    def check_image(self, path: Path) -> None:
        """Raises DataError for an object that is known to be no image, such as a dose, whose pixels mean otherwise."""
        if not self.may_be_image:
            raise DataError("is no image", path=path, found=self.kind, expected="a slice with pixels")


def is_dicom(path: Path) -> bool:
    """Whether the file has DICOM's mark behind its preamble."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_meta(path: Path) -> Meta:
    """Raises DataError for a file that is not DICOM, does not say how it is encoded, or is deflated."""
    with path.open("rb") as file:
        data = file.read(MAX_META_BYTES)
    if data[128:132] != b"DICM":
        raise DataError("is not DICOM", path=path, expected="the mark DICM after 128 bytes")
    found: dict[int, str] = {}
    at = 132
    while at + 8 <= len(data) and data[at : at + 2] == b"\x02\x00":
        _, element, vr, length = struct.unpack_from("<HH2sH", data, at)
        at += 8
        if vr in _LONG:
            (length,) = struct.unpack_from("<L", data.ljust(at + 4, b"\0"), at)
            at += 4
        if not vr.isalpha() or at + length > len(data):
            raise DataError("is damaged, or not DICOM", path=path, field="file meta information")
        found[element] = data[at : at + length].decode("ascii", "replace").strip("\0 ")
        at += length
    if not found.get(_SYNTAX):
        raise DataError("does not say how it is encoded", path=path, field="TransferSyntaxUID")
    if found[_SYNTAX] in _DEFLATED:
        hint = "Inflate it first, e.g. by `dcmconv +te` of DCMTK"
        raise DataError("deflated DICOM is refused: its size is not known beforehand", path=path, hint=hint)
    return Meta(found[_SYNTAX], found.get(_CLASS, ""))
