"""Pinned: what the importers put in a store, and what the check says of a broken folder."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from lidc_folder import box, write_patient, xml
from PIL import Image
from pinned import check, exactly, nearly, sha256

from modiff import Store

AFFINE = np.diag([-0.5, -0.5, 3.0, 1.0])


def picture(path: Path, array: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def volume(path: Path, array: np.ndarray) -> None:
    """array: (Z,H,W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.T, AFFINE), path)


def noise(*seed: int, shape: tuple[int, ...] = (16, 20)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def blob(case: int, rater: int, shape: tuple[int, int] = (16, 20)) -> np.ndarray:
    """An L off the centre, different for each case and rater."""
    mask = np.zeros(shape, np.uint8)
    mask[3 + case % 3 : 10 + rater, 4:8] = 1
    mask[8 : 10 + rater, 4 : 12 + case % 4] = 1
    return mask


def folder_of_pictures(root: Path) -> list[str]:
    for case in range(6):
        picture(root / f"p{case // 2}/c{case}/image.png", noise(case))
        for rater in range(3):
            picture(root / f"p{case // 2}/c{case}/rater-{'abc'[rater]}.png", 255 * blob(case, rater))
    return ["folder", str(root), "--folds", "3"]


def folder_of_volumes(root: Path) -> list[str]:
    for case in range(2):
        mask = np.zeros((5, 16, 20), np.uint8)
        volume(root / f"p{case}/image.nii.gz", noise(case, shape=mask.shape).astype(np.int16) * 4 - 1000)
        for rater in range(2):
            mask[1 : 3 + rater] = blob(case, rater) * (1 + rater)
            volume(root / f"p{case}/rater-{'ab'[rater]}.nii.gz", mask)
    labels = ["--label", "1=core", "--label", "2=rim"]
    return ["folder", str(root), *labels, "--intensity", "window:-1000:400", "--size", "16x16", "--plane", "axial"]


def lidc_slices(root: Path) -> list[str]:
    for patient in range(1, 5):
        for place in range(2):
            folder = root / f"LIDC-IDRI-slices/LIDC-IDRI-{patient:04}/nodule-0"
            picture(folder / f"images/slice-{place}.png", noise(patient, place, shape=(16, 16)))
            for rater in range(4):
                mask = blob(patient, rater % 3, (16, 16)) * np.uint8(255 * (rater < patient))
                picture(folder / f"mask-{rater}/slice-{place}.png", mask)
    return ["lidc-slices", str(root)]


def lidc_hdf5(root: Path) -> list[str]:
    root.mkdir()
    with h5py.File(root / "d.hdf5", "w") as file:
        for place, (split, count) in enumerate({"train": 4, "val": 2, "test": 2}.items()):
            file[f"{split}/images"] = noise(place, shape=(count, 16, 16)) / 255 - 0.5
            labels = [[blob(i, rater % 3, (16, 16)) for rater in range(4)] for i in range(count)]
            file[f"{split}/labels"] = np.array(labels)
            file[f"{split}/uids"] = np.arange(count) + 10 * place
    return ["lidc-hdf5", str(root / "d.hdf5")]


def lidc_pickle(root: Path) -> list[str]:
    root.mkdir()
    entries = {
        f"{i:04d}_slice{i}": {
            "image": noise(i, shape=(16, 16)) / 255,
            "masks": [blob(i, rater % 3, (16, 16)) for rater in range(4)],
            "series_uid": f"1.3.6.{i // 2}",
        }
        for i in range(6)
    }
    (root / "d.pickle").write_bytes(pickle.dumps(entries, 4))
    return ["lidc-pickle", str(root / "d.pickle")]


def lidc_dicom(root: Path) -> list[str]:
    four = [[box(60, 70, 10, [1, 2, 3])], [box(61, 70, 9, [2, 3])], [box(60, 72, 10, [2])], [box(60, 70, 8, [2, 3, 4])]]
    two = [[], [], [box(30, 40, 6, [0, 1])], [box(31, 40, 6, [1])]]
    write_patient(root, 1, [xml(1, four)])
    write_patient(root, 2, [xml(2, two)])
    return ["lidc-dicom", str(root), "--jobs", "1"]


def cimd_folder(root: Path) -> list[str]:
    for split, ids in (("training", range(6)), ("testing", range(6, 8))):
        for number in ids:
            image = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 3 + np.uint8(number)
            picture(root / split / str(number) / f"image_{number}.jpg", image, quality=60)
            for rater in range(3):
                mask = 255 * np.kron(blob(number, rater, (16, 16)), np.ones((2, 2), np.uint8))
                picture(root / split / str(number) / f"label{rater}_.jpg", mask, quality=60)
    return ["cimd-folder", str(root)]


def isbi_ms(root: Path) -> list[str]:
    for patient in (1, 2):
        stem = f"training{patient:02d}"
        for place, name in enumerate(("flair", "mprage", "pd", "t2")):
            values = noise(patient, place, shape=(8, 24, 20)).astype(np.float32) * (place + 1)
            volume(root / f"{stem}/preprocessed/{stem}_01_{name}_pp.nii", values)
        for rater in (1, 2):
            mask = np.zeros((8, 24, 20), np.uint8)
            mask[2 : 4 + rater] = blob(patient, rater, (24, 20))
            volume(root / f"{stem}/masks/{stem}_01_mask{rater}.nii", mask)
    return ["isbi-ms", str(root), "--size", "16x16", "--fit", "crop"]


SOURCES = [
    folder_of_pictures,
    folder_of_volumes,
    lidc_slices,
    lidc_hdf5,
    lidc_pickle,
    lidc_dicom,
    cimd_folder,
    isbi_ms,
]


def about(store: Store) -> dict[str, Any]:
    """Everything in a store but its pixels and its provenance."""
    info = store.info
    return {
        "names": {"channels": info.channels, "classes": info.classes, "raters": info.raters},
        "rules": {"exchangeable": info.exchangeable_raters, "intensity": info.intensity, "prompt": info.prompt},
        "spacing": info.spacing,
        "cases": dict(zip(store.cases.tolist(), store.splits.tolist(), strict=True)),
        "patients": sha256(np.array([name.encode() for name in store.patients.tolist()])),
        "read": store.read.sum(axis=0).tolist(),
    }


def pixels(store: Store) -> tuple[np.ndarray, np.ndarray]:
    rows = range(len(store))
    return np.stack([store.image(row) for row in rows]), np.stack([store.masks(row) for row in rows])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_an_importers_store(modiff, tmp_path: Path, source: Callable[[Path], list[str]]) -> None:
    modiff("import", *source(tmp_path / "data"), "-o", tmp_path / "store.h5")
    with Store.open(tmp_path / "store.h5") as store:
        images, masks = pixels(store)
        content = {"images": exactly(images), "masks": exactly(masks), "fingerprint": store.fingerprint()}
        check(f"import-{source.__name__}", {**about(store), **content})


def test_the_simulated_store(store: Path) -> None:
    with Store.open(store) as opened:
        images, masks = pixels(opened)
        content = {"images": nearly(images), "masks": nearly(masks), "fingerprint": {"bits": opened.fingerprint()}}
        check("import-phantom", {**about(opened), **content})


def test_what_info_counts(modiff, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    modiff("info", store, "--json")
    splits = json.loads(capsys.readouterr().out)["splits"]
    for entry in splits:  # values alone: their names are words
        entry["classes"] = [list(one.values()) for one in entry["classes"]]
    check("info-phantom", splits)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Pictures with a fault of each of several kinds."""
    root = tmp_path / "broken"
    shape = (40, 40)
    for case in range(6):
        picture(root / f"p{case}/image.png", noise(case, shape=shape))
        for rater in range(3):
            mask = np.zeros(shape, np.uint8)
            mask[4 + case % 5 : 18 + rater, 5:10], mask[14:18, 5 : 18 - rater] = 1, 1
            mask = mask[:, ::-1] if rater == 0 else mask  # a flipped rater
            picture(root / f"p{case}/rater-{'abc'[rater]}.png", np.ascontiguousarray(mask))
    picture(root / "p1/image.png", np.full(shape, 7, np.uint8))  # constant
    (root / "p2/rater-b.png").write_bytes(b"no picture")
    picture(root / "p3/rater-c.png", noise(1, shape=shape))  # odd values
    (root / "p4/rater-c.png").unlink()
    picture(root / "p5/image.png", noise(0, shape=shape))  # the image of p0
    return root


def test_what_the_check_finds(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from modiff.cli import main

    capsys.readouterr()
    assert main(["check", str(broken), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    numbers = [re.findall(r"\d+(?:\.\d+)?", one["text"].replace(str(broken), "")) for one in report["findings"]]
    found = [
        [one["level"], one["kind"], one["case"], own] for one, own in zip(report["findings"], numbers, strict=True)
    ]
    check("check-broken", {"usable": report["usable"], "findings": sorted(found, key=str)})
