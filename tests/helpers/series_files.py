"""A CT series written slice by slice, in any order and orientation, with a person's name in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

PERSON = {"PatientName": "Doe^Jane", "PatientID": "HIDDEN-4711", "PatientBirthDate": "19700102"}
DATES = {"StudyDate": "20190304", "ContentDate": "20190305", "StudyTime": "112233", "ContentTime": "112244"}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def slice_of(
    values: np.ndarray, position: Sequence[float], axes: Sequence[float], uids: tuple[str, str, str]
) -> Dataset:
    """A CT slice of HU `values` (H,W) from `position` on (LPS, mm), rows 1.1 mm apart and columns 0.7."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = uids
    for name, value in {**PERSON, **DATES}.items():
        setattr(made, name, value)
    made.PatientSex, made.AccessionNumber, made.ReferringPhysicianName, made.StudyID = "F", "A-815", "Roe^Rick", "S-1"
    made.Modality, made.Manufacturer, made.ImageType = "CT", "Maker", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.PositionReferenceIndicator, made.PatientPosition = "", "HFS"
    made.SeriesNumber, made.InstanceNumber = 3, 1
    made.ImagePositionPatient, made.ImageOrientationPatient = [f"{value:.6f}" for value in position], list(axes)
    made.PixelSpacing, made.SliceThickness = [1.1, 0.7], 2.5
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.RescaleSlope, made.RescaleIntercept, made.RescaleType = 1, -1024, "HU"
    made.PixelData = (values.astype(np.int32) + 1024).astype("<i2").tobytes()
    return made


def write_series(
    folder: Path,
    values: np.ndarray,
    *,
    axes: Sequence[float] = AXIAL,
    step: float = 2.5,
    order: Sequence[int] | None = None,
    without: Sequence[int] = (),
    drift: Sequence[float] = (0.0, 0.0, 0.0),
) -> Path:
    """HU `values` (Z,H,W) as a series in `folder`, slices `step` mm apart along the normal of `axes`.

    order: which slice has the first file name, the second … without: slices that are left out. drift:
    mm that each slice moves further within its plane, as under a tilted gantry.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uids = (generate_uid(), generate_uid(), generate_uid())
    normal = np.cross(axes[:3], axes[3:])
    start = np.array([-101.5, -87.25, 12.0])
    for number, z in enumerate(order if order is not None else range(len(values))):
        if z not in without:
            made = slice_of(values[z], start + z * (step * normal + np.asarray(drift)), axes, uids)
            made.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)
    return folder
