"""What objects made from a series share: the headers that they refer to, what made them, and errors that name nobody.

They belong to the patient and study of the series, as the standard requires, so they carry its identity: they are as
confidential as the series itself. What the standard does not ask for, such as comments, history, occupation, reading
physicians and the institution, is left out unless it is wanted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from modiff.errors import DataError
from modiff.io.dicom.header import quiet
from modiff.io.dicom.mend import REFERRED, mended, put
from modiff.io.dicom.region import region_code
from modiff.io.dicom.series import DicomSource
from modiff.io.output import write_bytes
from modiff.io.volume import Volume

RGB = tuple[int, int, int]  # 0 to 255
LONG = 64  # characters of a description
CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
ARTIFICIAL = Code("123110", "DCM", "Artificial Intelligence")  # a family of algorithms
# Words of a class's name -> SNOMED CT code and meaning (DICOM PS3.16 CID 7159 and 6103); the rest is a lesion of no
# stated kind.
_TYPES = {
    "nodule": ("27925004", "Nodule"),
    "tumor": ("108369006", "Neoplasm"),
    "tumour": ("108369006", "Neoplasm"),
    "lesion": ("52988006", "Lesion"),
}


@dataclass(frozen=True)
class Segment:
    """One segment: its mask (z,H,W) bool or map (z,H,W) of probabilities, its label, the class it shows, a description
    and the colour that a viewer should use. tracked: what it is called where it is followed up (of segments that are
    parts of one reading the same); they then have one UID. probability: of that reading."""

    values: np.ndarray
    label: str
    kind: str
    description: str = ""
    colour: RGB | None = None
    tracked: str = ""
    probability: float | None = None

    @property
    def code(self) -> Code:
        """What the standard calls the class."""
        value, meaning = next((code for word, code in _TYPES.items() if word in self.kind.lower()), _TYPES["lesion"])
        return Code(value, "SCT", meaning)


@dataclass(frozen=True)
class Maker:
    """What made an object: the algorithm's name and version, its settings, and what stands for a serial number.

    series: what the series is called in an archive's list. content: what all segments say together. region: DICOM's
    word for the part of the body that is segmented, such as LUNG.
    """

    name: str
    version: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    serial: str = "1"
    series: str = ""
    content: str = ""
    region: str | None = None

    @property
    def anatomy(self) -> list[Code]:
        """The code of the part of the body, where it has one."""
        return [code for code in [region_code(self.region)] if code is not None]

    def common(self, number: int, series: str) -> dict[str, Any]:
        """Arguments of every object that highdicom makes. number: of its series. series: what it is called otherwise.

        High numbers stand behind the scanner's own in a viewer's list.
        """
        import highdicom as hd

        return {
            "series_instance_uid": hd.UID(),
            "series_number": number,
            "sop_instance_uid": hd.UID(),
            "instance_number": 1,
            "manufacturer": "modiff",
            "manufacturer_model_name": self.name,
            "software_versions": self.version,
            "device_serial_number": self.serial[:LONG],
            "series_description": (self.series or f"modiff: {series}")[:LONG],
        }


def referred(
    volume: Volume, first: int, shape: tuple[int, ...], *, full: bool, wide: bool = False
) -> tuple[list[Dataset], list[str]]:
    """The source's headers of the slices first … first+z-1, fit for objects that refer to them; what was changed, in
    words. full, wide: as of `mended`. Raises DataError for a volume that is not a DICOM series or has no slices of that
    shape there."""
    if not isinstance(volume.source, DicomSource) or volume.spacing is None:
        raise DataError("is not a DICOM series", path=volume.path, found=volume.format, expected="DICOM")
    headers = volume.source.headers[first : first + shape[0]]
    if (len(headers), *shape[1:]) != (shape[0], *volume.shape[1:]):
        expected = f"slices within {volume.shape}"
        raise DataError("is on another grid", path=volume.path, field="values", found=shape, expected=expected)
    for name in REFERRED:
        if not all(getattr(header, name, None) for header in volume.source.headers):
            raise DataError(f"the series has no {name} to refer to", path=volume.path)
    completed, said = [], dict[str, None]()
    for header in headers:
        made, changes = mended(header, full=full, wide=wide)
        if made.get("SliceThickness") is None:
            put(made, "SliceThickness", f"{volume.spacing[0]:.6g}")
        completed.append(made)
        said |= dict.fromkeys(changes)
    return completed, list(said)


@contextmanager
def refusing(where: Path, header: Dataset) -> Iterator[None]:
    """A DataError in place of whatever a header makes the libraries raise: the other results are still wanted."""
    with quiet():
        try:
            yield
        except Exception as error:
            field, expected = _blamed(error, header), "headers that an object can refer to"
            found = None if field else type(error).__name__
            raise DataError("cannot be referred to", path=where, field=field, found=found, expected=expected) from None


def _blamed(error: Exception, header: Dataset) -> str | None:
    """The element that an error is about, by its keyword or its value, which is not told: it may be a patient's."""
    text = str(error)
    named = (word for word in re.split(r"[^A-Za-z]+", text) if tag_for_keyword(word) is not None)
    valued = (
        element.keyword
        for element in header
        if element.VR != "SQ"
        and len(str(element.value)) > 1
        and re.search(rf"\b{re.escape(str(element.value))}\b", text)
    )
    return next(named, None) or next(filter(None, valued), None)


def write_object(
    path: str | Path,
    make: Callable[[list[Dataset]], Dataset],
    segments: Sequence[Segment],
    volume: Volume,
    *,
    first: int,
    maker: Maker,
    full: bool,
) -> Dataset:
    """Writes what `make` makes of the headers of the slices from `first` on; returns it. Raises DataError."""
    texts = [maker.series, maker.name, *maker.parameters.values(), *(one.label for one in segments)]
    wide = not all(map(str.isascii, texts))
    headers = referred(volume, first, segments[0].values.shape, full=full, wide=wide)[0]
    with refusing(volume.path, headers[0]):
        made = make(headers)
        if used := headers[0].get("SpecificCharacterSet"):
            made.SpecificCharacterSet = used
        data = encoded(made)
    write_bytes(path, data)
    return made


def encoded(made: Dataset) -> bytes:
    """The object as a file."""
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
