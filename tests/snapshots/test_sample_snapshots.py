"""Pinned: what `modiff sample` and `modiff.Predictor` give of the packaged model, for each kind of image."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pinned import check, lasting, nearly
from series_files import write_series

from modiff import Predictor

DRAWN = ("overlay.png", "slices.png")  # figures: their look may change
IID = ["--select", "iid"]
WINDOW = ["--intensity", "window:-1000:400", *IID]


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    """(3,72,80) int16 HU: a bright round lesion in lung, off the centre, that moves from slice to slice."""
    y, x = np.mgrid[:72, :80]
    noise = np.random.default_rng(0).integers(-40, 41, (3, 72, 80))
    lesion = [np.hypot(x - 40 - 2 * z, y - 34) < 9 - z for z in range(3)]
    return (-850 + 750 * np.stack(lesion) + noise).astype(np.int16)


def content(path: Path) -> Any:
    """A file's pixels, or what else it says."""
    if path.suffix == ".png":
        return nearly(np.asarray(Image.open(path)))
    if path.suffix == ".npz":
        return {name: nearly(array) for name, array in np.load(path).items()}
    if path.name.endswith(".sr.dcm"):
        return measured(path)
    if path.suffix == ".dcm":
        return segmentation(path)
    if path.suffix == ".json":
        summary = lasting(json.loads(path.read_text()))
        summary.pop("warnings")
        summary["image"].pop("sha256")  # of the file; that of its content is `case`
        return summary
    image = nib.load(path)
    return {"affine": image.affine.tolist(), **nearly(np.asarray(image.dataobj))}


def segmentation(path: Path) -> dict[str, Any]:
    """Frames and segments of a DICOM segmentation, without its identifiers and dates."""
    found = pydicom.dcmread(path)
    labels = [str(item.SegmentLabel) for item in found.SegmentSequence]
    return {"type": str(found.SegmentationType), "labels": labels, **nearly(found.pixel_array)}


def measured(path: Path) -> list[dict[str, float]]:
    """The numbers of a report's groups."""
    content = hd.sr.srread(path).content
    groups = [*content.get_image_measurement_groups(), *content.get_volumetric_roi_measurement_groups()]
    return [{one.name.meaning: one.value for one in group.get_measurements()} for group in groups]


def folder(path: Path) -> dict[str, Any]:
    return {file.name: content(file) for file in sorted(path.iterdir()) if file.name not in DRAWN}


def test_the_samples_of_a_picture(modiff, scan: np.ndarray, tmp_path: Path) -> None:
    grey = ((scan[0].astype(np.float64) + 1000) / 1400 * 255).clip(0, 255).round().astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "image.png")
    modiff("sample", "lidc", tmp_path / "image.png", "-n", 4, "--at", "40,34", *IID, "-o", tmp_path / "out")
    check("sample-png", folder(tmp_path / "out"))


def test_the_samples_of_a_volume(modiff, scan: np.ndarray, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(scan.transpose(2, 1, 0), np.diag([-0.7, -1.1, 2.5, 1.0])), tmp_path / "scan.nii.gz")
    modiff("sample", "lidc", tmp_path / "scan.nii.gz", "-n", 2, *WINDOW, "-o", tmp_path / "out")
    check("sample-nifti", folder(tmp_path / "out"))


def test_the_samples_of_a_series(modiff, scan: np.ndarray, tmp_path: Path) -> None:
    write_series(tmp_path / "series", scan)
    place = ["--at", "40,34,1", "--slices", 1]
    modiff("sample", "lidc", tmp_path / "series", "-n", 2, *WINDOW, *place, "-o", tmp_path / "out")
    check("sample-dicom", folder(tmp_path / "out"))


def test_the_samples_of_an_array(scan: np.ndarray) -> None:
    """Each kind of draw: single raters, the panel's consensus, two raters, other steps, another seed, stratified."""
    predictor = Predictor.from_path("lidc")
    draws: dict[str, dict[str, Any]] = {
        "single": {},
        "all": {"raters": "all"},
        "two": {"raters": [0, 2]},
        "steps": {"steps": 3},
        "seed": {"seed": 1},
        "stratified": {"select": "stratified"},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predictor.set_image(scan[1], at=(42, 34), case="a")
    found = {name: nearly(predictor.sample(2, **words).maps.numpy()) for name, words in draws.items()}
    check("predictor", found)
