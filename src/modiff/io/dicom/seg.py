"""Hypotheses and probabilities as DICOM Segmentation objects that refer to the series they were made from.

By highdicom (Bridge et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from modiff.io.dicom.derived import (
    ARTIFICIAL,
    CATEGORY,
    LONG,
    Maker,
    Segment,
    write_object,
)
from modiff.io.volume import Volume

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

LEVELS = 255  # a probability is stored in steps of 1/255
_KINDS = {  # -> description, label and series number
    "FRACTIONAL": ("Probability that a rater marks a voxel", "PROBABILITY", 9001),
    "BINARY": ("Plausible segmentations of one scan", "HYPOTHESES", 9002),
}


def write_seg(
    path: str | Path, segments: Sequence[Segment], volume: Volume, *, first: int, maker: Maker, full: bool = False
) -> Dataset:
    """Writes segments of the slices from `first` on as one object, which it returns; they may overlap.

    Of patient and study it has what the standard asks for (types 1 and 2); full: all that the series has, and the
    scanner with its institution. Masks make a BINARY object; probabilities make a FRACTIONAL one, in steps of
    1/255, packed by RLE. Raises DataError for a volume that is not a DICOM series or whose headers lack what a
    segmentation must carry.
    """
    make = partial(segmentation, segments, maker)
    return write_object(path, make, segments, volume, first=first, maker=maker, full=full)


def segmentation(segments: Sequence[Segment], maker: Maker, headers: Sequence[Dataset]) -> Dataset:
    """The object of segments on the slices of `headers`; raises whatever these make the libraries raise."""
    import highdicom as hd

    pixels = np.stack([segment.values for segment in segments], axis=-1)
    kind = "BINARY" if pixels.dtype == bool else "FRACTIONAL"
    if kind == "FRACTIONAL":  # as they are stored, or a map that rounds to nothing would have no frame at all
        pixels = (np.rint(np.clip(pixels, 0, 1).astype(np.float32) * LEVELS) / LEVELS).astype(np.float32)
    description, label, number = _KINDS[kind]
    uids = {name: hd.UID() for name in dict.fromkeys(one.tracked for one in segments) if name}
    made = hd.seg.Segmentation(
        source_images=headers,
        pixel_array=pixels.astype(np.uint8) if kind == "BINARY" else pixels,
        segmentation_type=kind,
        segment_descriptions=[_described(i, one, maker, uids) for i, one in enumerate(segments)],
        fractional_type="PROBABILITY",
        max_fractional_value=LEVELS,
        content_description=(maker.content or description)[:LONG],
        content_label=label,
        omit_empty_frames=True,
        # A tenth of the size; single bits have no such form.
        transfer_syntax_uid=ExplicitVRLittleEndian if kind == "BINARY" else RLELossless,
        **maker.common(number, description),
    )
    made.SeriesDate, made.SeriesTime = made.ContentDate, made.ContentTime  # tells two runs apart
    return made


def _described(place: int, segment: Segment, maker: Maker, uids: Mapping[str, str]) -> SegmentDescription:
    """How the standard describes the segment at a place, counted from 0. uids: of what is tracked."""
    import highdicom as hd

    made = hd.seg.SegmentDescription(
        segment_number=place + 1,
        segment_label=segment.label[:LONG],
        segmented_property_category=CATEGORY,
        segmented_property_type=segment.code,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=maker.name,
            family=ARTIFICIAL,
            version=maker.version,
            parameters=dict(maker.parameters) or None,
        ),
        tracking_uid=uids.get(segment.tracked),
        tracking_id=segment.tracked or None,
        anatomic_regions=maker.anatomy or None,
        display_color=None if segment.colour is None else hd.color.CIELabColor.from_rgb(*segment.colour),
    )
    if segment.description:
        made.SegmentDescription = segment.description[:1024]
    return made
