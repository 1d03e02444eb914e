"""Hypotheses as the contours of a DICOM RT structure set, for planning systems that do not read segmentations.

No kept library writes one from masks of a series that is not on disk, and through the edges of pixels. Contours lie
halfway between marked pixels and others, so drawing them brings back the mask. Holes are joined to the contour around
them by a keyhole, as PS3.3 C.8.8.6.3 recommends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from modiff.io.dicom.derived import LONG, Maker, Segment, write_object
from modiff.io.dicom.series import plane_of
from modiff.io.outlines import rings
from modiff.io.volume import Volume

_NUMBER, _CALLED, _LABEL = 9004, "contours", "HYPOTHESES"
_STUDY = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired and still what refers to a study


def write_structures(
    path: str | Path, segments: Sequence[Segment], volume: Volume, *, first: int, maker: Maker, full: bool = False
) -> Dataset:
    """Writes masks of the slices from `first` on as one region of interest each; returns the object.

    Of patient and study it has what a segmentation has (`write_seg`); full: as there. Raises DataError.
    """
    make = partial(structures, segments, volume.path, maker)
    return write_object(path, make, segments, volume, first=first, maker=maker, full=full)


def structures(segments: Sequence[Segment], where: Path, maker: Maker, headers: Sequence[Dataset]) -> Dataset:
    """The object of segments on the slices of `headers`; raises whatever these make the libraries raise."""
    import highdicom as hd

    head, frame = headers[0], headers[0].FrameOfReferenceUID
    made = hd.base.SOPClass(
        study_instance_uid=head.StudyInstanceUID,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        # Numbers of a contour may take more than the 64 KiB that explicit encodings have room for.
        transfer_syntax_uid=ImplicitVRLittleEndian,
        **maker.common(_NUMBER, _CALLED),
    )
    made.copy_patient_and_study_information(head)
    date, time = made.InstanceCreationDate, made.InstanceCreationTime
    made.SeriesDate = made.StructureSetDate = date
    made.SeriesTime = made.StructureSetTime = time
    made.OperatorsName = None
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = frame, None
    made.StructureSetLabel = _LABEL
    if maker.content:
        made.StructureSetDescription = maker.content[:1024]
    series = _item(SeriesInstanceUID=head.SeriesInstanceUID, ContourImageSequence=[_reference(one) for one in headers])
    study = _item(
        ReferencedSOPClassUID=_STUDY,
        ReferencedSOPInstanceUID=head.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    made.ReferencedFrameOfReferenceSequence = [_item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
    numbered = list(enumerate(segments, 1))
    made.StructureSetROISequence = [
        _item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=frame,
            ROIName=segment.label[:LONG],
            ROIDescription=segment.description[:1024],
            ROIGenerationAlgorithm="AUTOMATIC",
            ROIGenerationDescription=f"{maker.name} {maker.version}"[:LONG],
        )
        for number, segment in numbered
    ]
    made.ROIContourSequence = [_drawn(number, segment, where, headers) for number, segment in numbered]
    made.RTROIObservationsSequence = [
        _item(
            ObservationNumber=number,
            ReferencedROINumber=number,
            RTROIIdentificationCodeSequence=[hd.sr.CodedConcept.from_code(segment.code)],
            RTROIInterpretedType="",
            ROIInterpreter=None,
        )
        for number, segment in numbered
    ]
    return made


def _drawn(number: int, segment: Segment, where: Path, headers: Sequence[Dataset]) -> Dataset:
    """A region's contours, none of one that marks nothing."""
    made = _item(ReferencedROINumber=number)
    if segment.colour is not None:
        made.ROIDisplayColor = list(segment.colour)
    contours = [one for header, mask in zip(headers, segment.values, strict=True) for one in _on(header, mask, where)]
    if contours:
        made.ContourSequence = contours
    return made


def _on(header: Dataset, mask: Any, where: Path) -> Iterator[Dataset]:
    """The contours of a mask (H,W) on the slice of a header, in mm of the patient (LPS+)."""
    plane = plane_of(where, header)
    for ring in rings(mask) if mask.any() else ():
        down, right = ring[:, :1] * plane.spacing[0], ring[:, 1:] * plane.spacing[1]
        points = plane.position + right * plane.right + down * plane.down
        yield _item(
            ContourImageSequence=[_reference(header)],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(ring),
            ContourData=[f"{value:.4f}" for value in points.ravel()],
        )


def _reference(header: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)


def _item(**elements: Any) -> Dataset:
    """A dataset of these elements."""
    made = Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made
