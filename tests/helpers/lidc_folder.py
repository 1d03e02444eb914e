"""A small LIDC-IDRI made for tests: CT slices as DICOM and the radiologists' XML, in the layout of TCIA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SIDE = 160
STEP, SPACING = 2.0, 0.8
NAME = "SECRET^PATIENT"
NAMESPACE = "http://www.nih.gov"

Points = Sequence[tuple[int, int]]
# One roi: slice, points, inclusion. A nodule is a list of them, a session a list of nodules.
Roi = tuple[int, Points, bool]


def uid(patient: int, *parts: int) -> str:
    return ".".join(map(str, (1, 2, 826, 0, patient, *parts)))


def square(left: int, top: int, side: int) -> Points:
    """The outer border of a square: side×side pixels lie strictly inside."""
    right, bottom = left + side + 1, top + side + 1
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def box(left: int, top: int, side: int, slices: Sequence[int]) -> list[Roi]:
    """A nodule that is the same square on several slices."""
    return [(place, square(left, top, side), True) for place in slices]


def small_mark(place: int, x: int, y: int) -> list[Roi]:
    """A nodule below 3 mm: one point."""
    return [(place, [(x, y)], True)]


def xml(patient: int, sessions: Sequence[Sequence[list[Roi]]], *, series: int = 1, namespace: str = NAMESPACE) -> str:
    """An LIDC message; a date and a radiologist's number are in it as in the real ones."""
    parts = [f'<?xml version="1.0" encoding="UTF-8"?><LidcReadMessage uid="1" xmlns="{namespace}"><ResponseHeader>']
    parts.append(f"<DateService>2008-08-18</DateService><SeriesInstanceUid>{uid(patient, series)}</SeriesInstanceUid>")
    parts.append("</ResponseHeader>")
    for session in sessions:
        parts.append("<readingSession><servicingRadiologistID>540461523</servicingRadiologistID>")
        for number, nodule in enumerate(session):
            parts.append(f"<unblindedReadNodule><noduleID>{number}</noduleID>")
            parts += [_roi(patient, series, *roi) for roi in nodule]
            parts.append("</unblindedReadNodule>")
        parts.append("<nonNodule><nonNoduleID>n</nonNoduleID><imageSOP_UID>1.2</imageSOP_UID>")
        parts.append("<locus><xCoord>3</xCoord><yCoord>3</yCoord></locus></nonNodule></readingSession>")
    return "".join(parts) + "</LidcReadMessage>"


def _roi(patient: int, series: int, place: int, points: Points, inclusion: bool) -> str:
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    where = (
        f"<imageZposition>{place * STEP} </imageZposition><imageSOP_UID>{uid(patient, series, place)}</imageSOP_UID>"
    )
    return f"<roi>{where}<inclusion>{str(inclusion).upper()}</inclusion>{edges}</roi>"


def hounsfield(place: int) -> np.ndarray:
    """(SIDE,SIDE) int16 HU: row + 2·column − 900 + slice, so that every pixel tells where it is."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (rows + 2 * columns - 900 + place).astype(np.int16)


def ct_slice(patient: int, place: int, *, series: int = 1, modality: str = CTImageStorage) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = modality, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = uid(patient, series, place)
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = modality, uid(patient, series, place)
    made.SeriesInstanceUID, made.StudyInstanceUID = uid(patient, series), uid(patient)
    made.PatientName, made.PatientID, made.StudyDate, made.Modality = NAME, "SECRET-ID", "20190102", "CT"
    made.ImagePositionPatient, made.ImageOrientationPatient = [-64.0, -70.0, place * STEP], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing, made.SliceThickness = [SPACING, SPACING], STEP
    made.Rows, made.Columns = SIDE, SIDE
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    made.PixelData = (hounsfield(place) + 1024).astype("<i2").tobytes()
    return made


def write_patient(
    root: Path, patient: int, messages: Sequence[str], *, slices: Sequence[int] = range(6), series: int = 1
) -> Path:
    """LIDC-IDRI-000N/<study>/<series> with its slices and XML; returns the series' folder."""
    folder = root / f"LIDC-IDRI-{patient:04d}" / uid(patient) / uid(patient, series)
    folder.mkdir(parents=True, exist_ok=True)
    for place in slices:
        ct_slice(patient, place, series=series).save_as(folder / f"1-{99 - place:03d}.dcm", enforce_file_format=True)
    for number, message in enumerate(messages):
        (folder / f"{number:03d}.xml").write_text(message)
    return folder
