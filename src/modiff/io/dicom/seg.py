"""Hypotheses and probabilities as DICOM Segmentation objects that refer to the series they were made from.

By highdicom (Bridge et al. 2022). The objects belong to the patient and study of the series, as the standard requires,
so they carry its identity: they are as confidential as the series itself. What the standard does not ask for, such as
comments, history, occupation, reading physicians and the institution, is left out unless it is wanted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from modiff.errors import DataError
from modiff.io.dicom.header import quiet
from modiff.io.dicom.mend import REFERRED, mended, put
from modiff.io.dicom.series import DicomSource
from modiff.io.output import write_bytes
from modiff.io.volume import Volume

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

LEVELS = 255  # a probability is stored in steps of 1/255
_MANUFACTURER = "modiff"
# Words of a class's name -> SNOMED CT code and meaning (DICOM PS3.16 CID 7159 and 6103); the rest is a lesion of no
# stated kind.
_TYPES = {
    "nodule": ("27925004", "Nodule"),
    "tumor": ("108369006", "Neoplasm"),
    "tumour": ("108369006", "Neoplasm"),
    "lesion": ("52988006", "Lesion"),
}
RGB = tuple[int, int, int]  # 0 to 255
_KINDS = {  # -> description, label and series number: high ones stand behind the scanner's own in a viewer's list
    "FRACTIONAL": ("Probability that a rater marks a voxel", "PROBABILITY", 9001),
    "BINARY": ("Plausible segmentations of one scan", "HYPOTHESES", 9002),
}
_LONG, _SHORT = 64, 16  # characters of a description, of a label


@dataclass(frozen=True)
class Segment:
    """One segment: its mask (z,H,W) bool or map (z,H,W) of probabilities, its label, the class it shows, a description
    and the colour that a viewer should use. tracked: what it is called where it is followed up (of segments that are
    parts of one reading the same); they then have one UID."""

    values: np.ndarray
    label: str
    kind: str
    description: str = ""
    colour: RGB | None = None
    tracked: str = ""


@dataclass(frozen=True)
class Maker:
    """What made the segments: the algorithm's name and version, its settings, and what stands for a serial number.

    series: what the series is called in an archive's list. content: what all segments say together.
    """

    name: str
    version: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    serial: str = "1"
    series: str = ""
    content: str = ""


def write_seg(
    path: str | Path, segments: Sequence[Segment], volume: Volume, *, first: int, maker: Maker, full: bool = False
) -> Path:
    """Writes segments of the slices from `first` on as one object; they may overlap.

    Of patient and study it has what the standard asks for (types 1 and 2); full: all that the series has, and the
    scanner with its institution. Masks make a BINARY object; probabilities make a FRACTIONAL one, in steps of
    1/255, packed by RLE. Raises DataError for a volume that is not a DICOM series or whose headers lack what a
    segmentation must carry.
    """
    headers = _headers(volume, first, (len(segments[0].values), *segments[0].values.shape[1:]), full)[0]
    return write_bytes(path, _encoded(segments, headers, volume.path, maker))


def check_seg(volume: Volume, *, full: bool = False) -> list[str]:
    """What of the series' headers is changed in its segmentations, in words; made from a trial of one slice.

    Raises DataError, which names the element, where no segmentation can be written.
    """
    headers, said = _headers(volume, 0, volume.shape, full)
    trial = Segment(np.ones((1, *volume.shape[1:]), bool), "trial", "lesion")
    _encoded([trial], headers[:1], volume.path, Maker("trial", "0"))
    return said


def _encoded(segments: Sequence[Segment], headers: Sequence[Dataset], where: Path, maker: Maker) -> bytes:
    """The object's file."""
    import highdicom as hd

    pixels = np.stack([segment.values for segment in segments], axis=-1)
    kind = "BINARY" if pixels.dtype == bool else "FRACTIONAL"
    description, label, series_number = _KINDS[kind]
    uids: dict[str, str] = {name: hd.UID() for name in dict.fromkeys(one.tracked for one in segments) if name}
    buffer = io.BytesIO()
    with quiet():
        try:
            made = hd.seg.Segmentation(
                source_images=headers,
                pixel_array=pixels.astype(np.uint8) if kind == "BINARY" else np.clip(pixels, 0, 1).astype(np.float32),
                segmentation_type=kind,
                segment_descriptions=[_described(i, one, maker, uids) for i, one in enumerate(segments)],
                series_instance_uid=hd.UID(),
                series_number=series_number,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer=_MANUFACTURER,
                manufacturer_model_name=maker.name,
                software_versions=maker.version,
                device_serial_number=maker.serial[:64],
                fractional_type="PROBABILITY",
                max_fractional_value=LEVELS,
                content_description=(maker.content or description)[:_LONG],
                content_label=label[:_SHORT],
                series_description=(maker.series or f"modiff: {description}")[:_LONG],
                omit_empty_frames=True,
                # A tenth of the size; single bits have no such form.
                transfer_syntax_uid=ExplicitVRLittleEndian if kind == "BINARY" else RLELossless,
            )
            made.SeriesDate, made.SeriesTime = made.ContentDate, made.ContentTime  # tells two runs apart
            made.save_as(buffer, enforce_file_format=True)
        except Exception as error:  # whatever a header makes the libraries raise: the other results are still wanted
            field, expected = _blamed(error, headers[0]), "headers that a segmentation can refer to"
            found = None if field else type(error).__name__
            raise DataError("cannot be referred to", path=where, field=field, found=found, expected=expected) from None
    return buffer.getvalue()


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


def _headers(volume: Volume, first: int, shape: tuple[int, ...], full: bool) -> tuple[list[Dataset], list[str]]:
    """The source's headers of the slices first … first+z-1, fit for a segmentation, and what was changed in them."""
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
        made, changes = mended(header, full=full)
        if made.get("SliceThickness") is None:
            put(made, "SliceThickness", f"{volume.spacing[0]:.6g}")
        completed.append(made)
        said |= dict.fromkeys(changes)
    return completed, list(said)


def _described(place: int, segment: Segment, maker: Maker, uids: Mapping[str, str]) -> SegmentDescription:
    """How the standard describes the segment at a place, counted from 0. uids: of what is tracked."""
    import highdicom as hd

    code = next((code for word, code in _TYPES.items() if word in segment.kind.lower()), _TYPES["lesion"])
    made = hd.seg.SegmentDescription(
        segment_number=place + 1,
        segment_label=segment.label[:_LONG],
        segmented_property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
        segmented_property_type=Code(code[0], "SCT", code[1]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=maker.name,
            family=Code("123110", "DCM", "Artificial Intelligence"),
            version=maker.version,
            parameters=dict(maker.parameters) or None,
        ),
        tracking_uid=uids.get(segment.tracked),
        tracking_id=segment.tracked or None,
        display_color=None if segment.colour is None else hd.color.CIELabColor.from_rgb(*segment.colour),
    )
    if segment.description:
        made.SegmentDescription = segment.description[:1024]
    return made
