"""What was measured of hypotheses, as a DICOM structured report that refers to their segmentation.

A measurement report (PS3.16 TID 1500) by highdicom, in a Comprehensive 3D SR object: a group of numbers per segment,
and one for the probability that a rater marks anything, which no segment shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from modiff.io.dicom.derived import CATEGORY, LONG, Maker, Segment, write_object
from modiff.io.outlines import long_axis
from modiff.io.volume import Volume

if TYPE_CHECKING:
    from highdicom.sr import Measurement, VolumetricROIMeasurementsAndQualitativeEvaluations

_NUMBER, _CALLED = 9003, "measurements"
_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
_SCHEME = "99MODIFF"
PRESENCE = Code("presence", _SCHEME, "Probability that a rater marks anything")


def write_report(
    path: str | Path,
    segments: Sequence[Segment],
    seg: Dataset,
    volume: Volume,
    *,
    first: int,
    maker: Maker,
    presence: float | None = None,
    full: bool = False,
) -> Dataset:
    """Writes a report on the BINARY segmentation `seg` of `segments`, as `write_seg` returned it; returns the report.

    Of each segment that marks something it has the volume (mm³, voxels times a voxel's volume), the long axis (mm,
    `long_axis`) and the probability (%); tracking UIDs are the segmentation's. presence: the probability that a rater
    marks anything. Of patient and study it has what the segmentation has; full: as there. Raises DataError.
    """
    make = partial(report, segments, seg, volume, maker, presence)
    return write_object(path, make, segments, volume, first=first, maker=maker, full=full)


def report(
    segments: Sequence[Segment],
    seg: Dataset,
    volume: Volume,
    maker: Maker,
    presence: float | None,
    headers: Sequence[Dataset],
) -> Dataset:
    """The object on segments of the slices of `headers`; raises whatever these make the libraries raise."""
    import highdicom as hd
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    who = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(prefix=None, entropy_srcs=[maker.name, maker.serial]),  # one model is one device
        name=maker.name,
        manufacturer_name="modiff",
        model_name=maker.name,
        serial_number=maker.serial[:LONG],
    )
    observer = hd.sr.ObserverContext(codes.DCM.Device, who)
    groups: list[Any] = [] if presence is None else [_any_marks(presence, segments[0], maker)]
    groups += [
        _measured(place, segment, seg, volume, maker, headers)
        for place, segment in enumerate(segments)
        if segment.values.any()
    ]
    content = hd.sr.MeasurementReport(
        hd.sr.ObservationContext(observer),
        procedure_reported=_PROCEDURE,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    made = hd.sr.Comprehensive3DSR(
        [*headers, seg],
        content,
        is_complete=True,
        coding_schemes=[CodingSchemeIdentificationItem(_SCHEME, name="Codes of modiff")],
        **maker.common(_NUMBER, _CALLED),
    )
    made.SeriesDate, made.SeriesTime = made.ContentDate, made.ContentTime
    return made


def _any_marks(presence: float, segment: Segment, maker: Maker) -> Any:
    """The group without a region: whether there is anything to mark."""
    import highdicom as hd

    return hd.sr.MeasurementsAndQualitativeEvaluations(
        hd.sr.TrackingIdentifier(hd.UID(), "any marks"),
        measurements=[_number(PRESENCE, 100 * presence, codes.UCUM.Percent)],
        **_what(segment, maker),
    )


def _measured(
    place: int, segment: Segment, seg: Dataset, volume: Volume, maker: Maker, headers: Sequence[Dataset]
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    """The group of the segment at a place, counted from 0."""
    import highdicom as hd

    assert volume.spacing is not None
    assert volume.voxel_mm3 is not None

    values = [
        _number(codes.SCT.Volume, int(segment.values.sum()) * volume.voxel_mm3, codes.UCUM.CubicMillimeter),
        _number(codes.SCT.LongAxis, long_axis(segment.values, volume.spacing[1:]), codes.UCUM.Millimeter),
    ]
    if segment.probability is not None:
        values.append(_number(codes.DCM.Probability, 100 * segment.probability, codes.UCUM.Percent))
    described = seg.SegmentSequence[place]
    shown = [header for header, mask in zip(headers, segment.values, strict=True) if mask.any()]
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        hd.sr.TrackingIdentifier(described.get("TrackingUID") or hd.UID(), segment.tracked or segment.label),
        referenced_segment=hd.sr.ReferencedSegment(
            seg.SOPClassUID,
            seg.SOPInstanceUID,
            place + 1,
            source_images=[hd.sr.SourceImageForSegmentation(one.SOPClassUID, one.SOPInstanceUID) for one in shown],
        ),
        measurements=values,
        **_what(segment, maker),
    )


def _number(name: Code, value: float, unit: Code) -> Measurement:
    import highdicom as hd

    return hd.sr.Measurement(name, float(f"{value:.10g}"), unit)  # its text has room for 16 characters


def _what(segment: Segment, maker: Maker) -> dict[str, Any]:
    """What all groups say: what kind of thing was found, by what."""
    import highdicom as hd

    return {
        "finding_type": segment.code,
        "finding_category": CATEGORY,
        "finding_sites": [hd.sr.FindingSite(code) for code in maker.anatomy] or None,
        "algorithm_id": hd.sr.AlgorithmIdentification(
            maker.name, maker.version, [f"{name}={value}" for name, value in maker.parameters.items()]
        ),
    }
