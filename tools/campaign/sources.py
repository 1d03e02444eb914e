"""Small data of every kind that modiff reads, made from one seed."""

from __future__ import annotations

import gzip
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "tests" / "helpers"))

import lidc_folder
import series_files
import store_helpers

SIDE = 64


def make_sources(root: Path) -> None:
    """Data of every kind that modiff reads, made from one seed."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2

    def mask(size: float) -> np.ndarray:
        return (np.hypot(x, y) < size).astype(np.uint8)

    def volume(size: float) -> np.ndarray:
        return np.stack([mask(size)] * 3, -1)

    image = (90 + 80 * mask(9) + rng.integers(0, 30, (SIDE, SIDE))).astype(np.uint8)
    scan = np.stack([image] * 3, -1).astype(np.int16)
    for case in "abcdef":
        for kind, save in _SAVERS.items():
            folder = root / kind / case
            folder.mkdir(parents=True)
            flat = kind not in ("nii", "nii.gz", "dcm")
            save(folder / f"image.{kind}", image if flat else scan)
            for rater, size in (("A", 7.0), ("B", 10.0)):
                if kind == "dcm":
                    np.save(folder / f"rater-{rater}.npy", np.stack([mask(size)] * 3))
                else:
                    save(folder / f"rater-{rater}.{kind}", (mask if flat else volume)(size))
    _cimd(root / "cimd", image, mask)
    _isbi(root / "isbi", scan, volume)
    files = store_helpers.lidc_files({f"LIDC-IDRI-{number:04d}": 2 for number in range(4)})
    store_helpers.write_zip(root / "slices.zip", files)
    store_helpers.write_folder(root / "slices", files)
    for patient in (1, 2):
        nodule = [lidc_folder.box(60, 60, 8, (2, 3))]
        message = lidc_folder.xml(patient, [nodule, nodule, [], nodule])
        lidc_folder.write_patient(root / "lidc", patient, [message], slices=range(1, 5))
    entries = {
        f"{place:04d}_slice": {
            "image": rng.integers(0, 256, (16, 16)) / 255,
            "masks": [rng.integers(0, 2, (16, 16)).astype(np.uint8) for _ in range(4)],
            "series_uid": f"1.3.6.{place}",
        }
        for place in range(6)
    }
    (root / "lidc.pickle").write_bytes(pickle.dumps(entries, 4))
    with h5py.File(root / "lidc.hdf5", "w") as file:
        for place, split in enumerate(("train", "val", "test")):
            file[f"{split}/images"] = rng.integers(0, 256, (2, 16, 16)) / 255 - 0.5
            file[f"{split}/labels"] = rng.integers(0, 2, (2, 4, 16, 16)).astype(np.uint8)
            file[f"{split}/uids"] = [10 * place, 10 * place + 1]
    maps = {case: np.stack([mask(8), mask(9), mask(12)]) for case in "abcdef"}
    np.savez_compressed(root / "maps.npz", **maps)
    with h5py.File(root / "maps.h5", "w") as file:
        for case, array in maps.items():
            file.create_dataset(case, data=array, compression="gzip")
    for case, array in maps.items():
        for number, one in enumerate(array):
            (root / "maps" / case).mkdir(parents=True, exist_ok=True)
            Image.fromarray(one * 255).save(root / "maps" / case / f"{number}.png")
            (root / "truth" / case).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask(7 + 2 * number) * 255).save(root / "truth" / case / f"{number}.png")
    splits = {"train": ["a", "b", "c", "d"], "val": ["e"], "test": ["f"]}
    (root / "cohort.csv").write_text("scan,name\npng/a/image.png,a\npng/b/image.png,b\n")
    (root / "splits.json").write_text(json.dumps(splits))
    rows = [f"{case},{case},{split},A;B" for split, cases in splits.items() for case in cases]
    (root / "table.csv").write_text("\n".join(["case,patient,split,readers", *rows]) + "\n")


def _nifti(path: Path, array: np.ndarray) -> None:
    data = nib.Nifti1Image(array, np.diag([0.7, 0.7, 2.0, 1.0])).to_bytes()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _dicom(path: Path, array: np.ndarray) -> None:
    series_files.write_series(path.with_suffix(""), np.moveaxis(array, -1, 0).astype(np.int16))


_SAVERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "png": lambda path, array: Image.fromarray(array).save(path),
    "tif": lambda path, array: Image.fromarray(array).save(path),
    "npy": np.save,
    "nii": _nifti,
    "nii.gz": _nifti,
    "dcm": _dicom,
}


def _cimd(root: Path, image: np.ndarray, mask: Callable[[float], np.ndarray]) -> None:
    for number in range(5):
        folder = root / ("training" if number < 4 else "testing") / str(number)
        folder.mkdir(parents=True)
        Image.fromarray(image + np.uint8(number)).save(folder / f"image_{number}.jpg")
        for rater in range(2):
            Image.fromarray(mask(8 + rater) * 255).save(folder / f"label{rater}_.jpg")


def _isbi(root: Path, scan: np.ndarray, volume: Callable[[float], np.ndarray]) -> None:
    for patient in range(1, 4):
        stem = root / f"training{patient:02d}_01"
        stem.parent.mkdir(exist_ok=True)
        for name in ("flair", "mprage", "pd", "t2"):
            _nifti(stem.with_name(f"{stem.name}_{name}_pp.nii"), scan)
        for rater in (1, 2):
            _nifti(stem.with_name(f"{stem.name}_mask{rater}.nii"), volume(7 + rater))
