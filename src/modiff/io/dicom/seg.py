"""Hypotheses and probabilities as DICOM Segmentation objects that refer to the series they were made from.

By highdicom (Bridge et al. 2022). The objects belong to the patient and study of the series, as the standard requires,
so they carry its identity: they are as confidential as the series itself.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiff.errors import DataError
from modiff.io.dicom.header import quiet
from modiff.io.dicom.series import DicomSource
from modiff.io.files import write_bytes
from modiff.io.volume import Volume

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom.dataset import Dataset

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
# Okabe and Ito's colours, as in the pictures: colour-blind readers tell them apart.
_COLOURS = ((230, 159, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167), (0, 158, 115), (213, 94, 0), (0, 114, 178))
_REFERRED = ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = (  # of type 2 in PS3.3 C.7.1.1 and C.7.2.1
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_CATEGORY = ("49755003", "Morphologically Abnormal Structure")


@dataclass(frozen=True)
class Segment:
    """One segment of a BINARY object: mask (z,H,W) bool, its label, the class it shows and a description."""

    mask: np.ndarray
    label: str
    kind: str
    description: str = ""


@dataclass(frozen=True)
class Maker:
    """What made the segments: the algorithm's name and version, its settings, and what stands for a serial number."""

    name: str
    version: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    serial: str = "1"


def write_fractional_seg(
    path: str | Path, maps: np.ndarray, volume: Volume, *, first: int, classes: Sequence[str], maker: Maker
) -> Path:
    """Writes probability maps (K,z,H,W) in [0,1] of the slices from `first` on as one FRACTIONAL object.

    One segment a class, in steps of 1/255. Raises DataError for a volume that is no DICOM series or whose headers lack
    what a segmentation must carry.
    """
    segments = [_describe(i + 1, name, name, maker, "probability") for i, name in enumerate(classes)]
    pixels = np.moveaxis(np.clip(maps, 0, 1), 0, -1).astype(np.float32)
    return _write(path, pixels, segments, volume, first, maker, "FRACTIONAL", "Probability that a reader marks a voxel")


def write_binary_seg(
    path: str | Path, segments: Sequence[Segment], volume: Volume, *, first: int, maker: Maker
) -> Path:
    """Writes masks of the slices from `first` on as one BINARY object, a segment each; they may overlap.

    Raises DataError as `write_fractional_seg`.
    """
    described = [
        _describe(i + 1, segment.label, segment.kind, maker, segment.description) for i, segment in enumerate(segments)
    ]
    pixels = np.stack([segment.mask for segment in segments], axis=-1).astype(np.uint8)
    return _write(path, pixels, described, volume, first, maker, "BINARY", "Plausible segmentations of one scan")


def _write(
    path: str | Path,
    pixels: np.ndarray,
    segments: Sequence[SegmentDescription],
    volume: Volume,
    first: int,
    maker: Maker,
    kind: str,
    description: str,
) -> Path:
    import highdicom as hd

    headers = _headers(volume, first, pixels.shape[:3])
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd but legal values in the source, quoting them
        try:
            made = hd.seg.Segmentation(
                source_images=headers,
                pixel_array=pixels,
                segmentation_type=kind,
                segment_descriptions=segments,
                series_instance_uid=hd.UID(),
                series_number=_series_number(kind),
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer=_MANUFACTURER,
                manufacturer_model_name=maker.name,
                software_versions=maker.version,
                device_serial_number=maker.serial[:64],
                fractional_type="PROBABILITY",
                max_fractional_value=LEVELS,
                content_description=description[:64],
                content_label=f"MODIFF_{kind}"[:16],
                series_description=f"modiff: {description}"[:64],
                omit_empty_frames=True,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # The words of the library may quote values of the headers, a patient's among them.
            expected = "headers that a segmentation can refer to"
            raise DataError(
                "cannot be referred to", path=volume.path, field=_missing(error), expected=expected
            ) from None
        buffer = io.BytesIO()
        made.save_as(buffer, enforce_file_format=True)
    return write_bytes(path, buffer.getvalue())


def _headers(volume: Volume, first: int, shape: tuple[int, ...]) -> list[Dataset]:
    """The source's headers of the slices first … first+z−1."""
    source = volume.source
    if not isinstance(source, DicomSource):
        raise DataError("is no DICOM series", path=volume.path, found=volume.format, expected="DICOM")
    headers: list[Dataset] = list(source.headers[first : first + shape[0]])
    if len(headers) != shape[0] or shape[1:] != volume.shape[1:]:
        expected = f"slices within {volume.shape}"
        raise DataError("is on another grid", path=volume.path, field="values", found=shape, expected=expected)
    name = missing_reference(volume)
    if name is not None:
        raise DataError("is missing: a segmentation must refer to it", path=volume.path, field=name)
    return [_completed(header, volume.spacing[0]) for header in headers]


def missing_reference(volume: Volume) -> str | None:
    """What a DICOM series lacks so that no segmentation can refer to it: a field's name, or None."""
    headers = volume.source.headers
    return next((name for name in _REFERRED if not all(getattr(header, name, None) for header in headers)), None)


def _completed(header: Dataset, thickness: float) -> Dataset:
    """A header with what a segmentation must carry and may carry empty: files without identity often lack it."""
    from pydicom.dataset import FileDataset

    made = FileDataset("", {}, file_meta=header.file_meta)  # not a copy: that would share its elements
    made.update(header)
    for name in _MAY_BE_EMPTY:
        if name not in made:
            setattr(made, name, None)
    if made.get("SliceThickness") is None:
        made.SliceThickness = f"{thickness:.6g}"
    return made


def _describe(number: int, label: str, kind: str, maker: Maker, description: str) -> SegmentDescription:
    import highdicom as hd
    from pydicom.sr.coding import Code

    word = next((word for word in _TYPES if word in kind.lower()), "lesion")
    made = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label[:64],
        segmented_property_category=Code(_CATEGORY[0], "SCT", _CATEGORY[1]),
        segmented_property_type=Code(_TYPES[word][0], "SCT", _TYPES[word][1]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=maker.name,
            family=Code("123110", "DCM", "Artificial Intelligence"),
            version=maker.version,
            parameters=dict(maker.parameters) or None,
        ),
        display_color=hd.color.CIELabColor.from_rgb(*_COLOURS[(number - 1) % len(_COLOURS)]),
    )
    if description:
        made.SegmentDescription = description[:1024]
    return made


def _series_number(kind: str) -> int:
    """High numbers stand behind the scanner's own in a viewer's list."""
    return {"FRACTIONAL": 9001, "BINARY": 9002}[kind]


def _missing(error: Exception) -> str | None:
    """The header's keyword that an error speaks of, if it does: a name of the standard, never a value."""
    from pydicom.datadict import tag_for_keyword

    words: list[Any] = str(error).replace("'", " ").replace('"', " ").split()
    return next((word for word in words if tag_for_keyword(word) is not None), None)
