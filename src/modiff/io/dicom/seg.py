"""Hypotheses and probabilities as DICOM Segmentation objects that refer to the series they were made from.

By highdicom (Bridge et al. 2022). The objects belong to the patient and study of the series, as the standard requires,
so they carry its identity: they are as confidential as the series itself.
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
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.coding import Code

from modiff.errors import DataError
from modiff.io.dicom.header import quiet
from modiff.io.dicom.series import DicomSource
from modiff.io.files import write_bytes
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
_REFERRED = ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = (  # of type 2 in PS3.3 C.7.1.1 and C.7.2.1
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_KINDS = {  # -> description and series number: high ones stand behind the scanner's own in a viewer's list
    "FRACTIONAL": ("Probability that a reader marks a voxel", 9001),
    "BINARY": ("Plausible segmentations of one scan", 9002),
}


@dataclass(frozen=True)
class Segment:
    """One segment: its mask (z,H,W) bool or map (z,H,W) of probabilities, its label, the class it shows, a description
    and the colour that a viewer should use."""

    values: np.ndarray
    label: str
    kind: str
    description: str = ""
    colour: RGB | None = None


@dataclass(frozen=True)
class Maker:
    """What made the segments: the algorithm's name and version, its settings, and what stands for a serial number."""

    name: str
    version: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    serial: str = "1"


def write_seg(path: str | Path, segments: Sequence[Segment], volume: Volume, *, first: int, maker: Maker) -> Path:
    """Writes segments of the slices from `first` on as one object; they may overlap.

    Masks make a BINARY object; probabilities make a FRACTIONAL one, in steps of 1/255. Raises DataError for a volume
    that is not a DICOM series or whose headers lack what a segmentation must carry.
    """
    import highdicom as hd

    pixels = np.stack([segment.values for segment in segments], axis=-1)
    headers = _headers(volume, first, pixels.shape[:3])
    kind = "BINARY" if pixels.dtype == bool else "FRACTIONAL"
    description, series_number = _KINDS[kind]
    with quiet():
        try:
            made = hd.seg.Segmentation(
                source_images=headers,
                pixel_array=pixels.astype(np.uint8) if kind == "BINARY" else np.clip(pixels, 0, 1).astype(np.float32),
                segmentation_type=kind,
                segment_descriptions=[_described(i, segment, maker) for i, segment in enumerate(segments)],
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
                content_description=description,
                content_label=f"MODIFF_{kind}"[:16],
                series_description=f"modiff: {description}",
                omit_empty_frames=True,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # The library may quote values of the headers, a patient's among them: only a keyword is told.
            field = next((word for word in re.split(r"[\s'\"]+", str(error)) if tag_for_keyword(word)), None)
            expected = "headers that a segmentation can refer to"
            raise DataError("cannot be referred to", path=volume.path, field=field, expected=expected) from None
        buffer = io.BytesIO()
        made.save_as(buffer, enforce_file_format=True)
    return write_bytes(path, buffer.getvalue())


def _headers(volume: Volume, first: int, shape: tuple[int, ...]) -> Sequence[Dataset]:
    """The source's headers of the slices first … first+z-1, with what a segmentation must carry and may carry empty."""
    if not isinstance(volume.source, DicomSource) or volume.spacing is None:
        raise DataError("is no DICOM series", path=volume.path, found=volume.format, expected="DICOM")
    headers = volume.source.headers[first : first + shape[0]]
    if (len(headers), *shape[1:]) != (shape[0], *volume.shape[1:]):
        expected = f"slices within {volume.shape}"
        raise DataError("is on another grid", path=volume.path, field="values", found=shape, expected=expected)
    if name := missing_reference(volume):
        raise DataError("is missing: a segmentation must refer to it", path=volume.path, field=name)
    completed = []
    for header in headers:
        made = FileDataset("", {}, file_meta=header.file_meta)  # not a copy: that would share its elements
        made.update(header)
        for name in _MAY_BE_EMPTY:  # files without identity often lack it
            if name not in made:
                setattr(made, name, None)
        if made.get("SliceThickness") is None:
            made.SliceThickness = f"{volume.spacing[0]:.6g}"
        completed.append(made)
    return completed


def missing_reference(volume: Volume) -> str | None:
    """What a DICOM series lacks so that no segmentation can refer to it: a field's name, or None."""
    headers = volume.source.headers
    return next((name for name in _REFERRED if not all(getattr(header, name, None) for header in headers)), None)


def _described(place: int, segment: Segment, maker: Maker) -> SegmentDescription:
    """How the standard describes the segment at a place, counted from 0."""
    import highdicom as hd

    code = next((code for word, code in _TYPES.items() if word in segment.kind.lower()), _TYPES["lesion"])
    made = hd.seg.SegmentDescription(
        segment_number=place + 1,
        segment_label=segment.label[:64],
        segmented_property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
        segmented_property_type=Code(code[0], "SCT", code[1]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=maker.name,
            family=Code("123110", "DCM", "Artificial Intelligence"),
            version=maker.version,
            parameters=dict(maker.parameters) or None,
        ),
        display_color=None if segment.colour is None else hd.color.CIELabColor.from_rgb(*segment.colour),
    )
    if segment.description:
        made.SegmentDescription = segment.description[:1024]
    return made
