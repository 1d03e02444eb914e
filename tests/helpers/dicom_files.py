"""Small DICOM series made for tests: every voxel's value says which voxel it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (4, 5, 6)  # Z, H, W
SPACING = (2.5, 0.7, 0.5)  # mm along Z, H, W
NAME = "SECRET^PATIENT"
SERIES, STUDY = generate_uid(entropy_srcs=["series"]), generate_uid(entropy_srcs=["study"])


def numbered(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """(Z,H,W) int16 with a value of its own for every voxel."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape) * 3 - 40


def one_slice(stored: np.ndarray, position: Any, *, right: Any = (1, 0, 0), down: Any = (0, 1, 0)) -> FileDataset:
    """A CT slice of stored int16 values (H,W) at a position (LPS mm), with a name that nobody may see."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    made.SeriesInstanceUID, made.StudyInstanceUID = SERIES, STUDY
    made.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    made.PatientName, made.PatientID, made.PatientBirthDate = NAME, "SECRET-ID", "19631122"
    made.StudyDate, made.Modality = "20190102", "CT"
    made.ImagePositionPatient = [float(value) for value in np.round(position, 6)]
    made.ImageOrientationPatient = [float(value) for value in np.round([*right, *down], 8)]
    made.PixelSpacing, made.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
    made.Rows, made.Columns = stored.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    made.PixelData = stored.astype("<i2").tobytes()
    return made


def series(
    stored: np.ndarray | None = None, *, right: Any = (1, 0, 0), down: Any = (0, 1, 0), step: Any = None
) -> list[FileDataset]:
    """Slices of (Z,H,W) stored values; step: (3,) mm from slice to slice, along the normal unless given."""
    stored = numbered() if stored is None else stored
    step = np.cross(right, down) * SPACING[0] if step is None else np.array(step)
    start = np.array([-30.0, 20.0, 100.0])
    return [one_slice(part, start + place * step, right=right, down=down) for place, part in enumerate(stored)]


def save(slices: list[FileDataset], folder: Path, name: Callable[[int], str] = "{:03d}.dcm".format) -> Path:
    """Writes slices into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, made in enumerate(slices):
        made.save_as(folder / name(place), enforce_file_format=True)
    return folder


def rotation(seed: int) -> np.ndarray:
    """(3,3) any rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)
