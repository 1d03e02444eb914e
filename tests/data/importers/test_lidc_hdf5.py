"""`modiff import lidc-hdf5`: both forms of data_lidc.hdf5 end in the same store; anything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from modiff.cli import main
from modiff.data.store import Store

SIZES = {"train": 5, "val": 2, "test": 3}


def _arrays() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    groups, start = {}, -3
    for split, count in SIZES.items():
        groups[split] = {
            "images": rng.integers(0, 256, (count, 16, 16)) / 255 - 0.5,
            "labels": rng.integers(0, 2, (count, 4, 16, 16)).astype(np.uint8),
            "uids": np.arange(start, start + count) // 2 * 2,
        }
        start += 10
    return groups


def _write(path: Path, groups: dict[str, dict[str, np.ndarray]], **options: object) -> Path:
    with h5py.File(path, "w") as file:
        for split, tables in groups.items():
            for name, array in tables.items():
                file.create_dataset(f"{split}/{name}", data=array, **options)
    return path


def _import(path: Path) -> Store:
    out = path.parent / "s.h5"
    assert main(["import", "lidc-hdf5", str(path), "-o", str(out), "--overwrite"]) == 0
    return Store.open(out)


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "chunks": True}], ids=["plain", "gzip"])
def test_splits_images_and_masks_are_the_files(tmp_path: Path, options: dict) -> None:
    groups = _arrays()
    with _import(_write(tmp_path / "d.hdf5", groups, **options)) as store:
        assert {split: len(store.rows(split)) for split in store.split_names()} == SIZES
        for split, tables in groups.items():
            for row, image, labels in zip(store.rows(split), tables["images"], tables["labels"], strict=True):
                np.testing.assert_array_equal(store.image(row)[0], np.rint((image + 0.5) * 65535))
                np.testing.assert_array_equal(store.masks(row), labels)


def test_labels_with_raters_last_are_the_same(tmp_path: Path) -> None:
    groups = _arrays()
    with _import(_write(tmp_path / "a.hdf5", groups)) as store:
        expected = store.fingerprint()
    for tables in groups.values():
        tables["labels"] = np.moveaxis(tables["labels"], 1, 3)
    with _import(_write(tmp_path / "b.hdf5", groups)) as store:
        assert store.fingerprint() == expected


def test_a_patient_is_a_series(tmp_path: Path) -> None:
    groups = _arrays()
    with _import(_write(tmp_path / "a.hdf5", groups)) as store:
        assert len(set(store.patients.tolist())) == len({int(uid) for g in groups.values() for uid in g["uids"]})


def _drop_uids(groups: dict) -> None:
    del groups["val"]["uids"]


def _series_twice(groups: dict) -> None:
    groups["test"]["uids"][0] = groups["train"]["uids"][0]


def _unit_images(groups: dict) -> None:
    groups["train"]["images"] += 0.5


def _grey_masks(groups: dict) -> None:
    groups["val"]["labels"][1, 2, 3, 4] = 9


def _fewer_labels(groups: dict) -> None:
    groups["val"]["labels"] = groups["val"]["labels"][:1]


def _other_names(groups: dict) -> None:
    groups["a"] = groups.pop("train")
    del groups["val"], groups["test"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop_uids, "val/uids"),
        (_series_twice, "two splits"),
        (_unit_images, "train 0"),
        (_grey_masks, "val 1"),
        (_fewer_labels, "val/labels"),
        (_other_names, "train, val and test"),
    ],
)
def test_other_content_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable, words: str
) -> None:
    groups = _arrays()
    change(groups)
    path = _write(tmp_path / "d.hdf5", groups)
    assert main(["import", "lidc-hdf5", str(path), "-o", str(tmp_path / "s.h5")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert str(path) in error
    assert sorted(file.name for file in tmp_path.iterdir()) == ["d.hdf5"]


def _external(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["val/images"]
        file["val/images"] = h5py.ExternalLink("/etc/hostname", "x")


def _soft_group(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["elsewhere"] = file["val"]
        del file["val"]
        file["val"] = h5py.SoftLink("/elsewhere")


def _outside(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["val/uids"]
        file.create_dataset("val/uids", (2,), "i8", external=[("/etc/hostname", 0, 16)])


def _bomb(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["val/images"]
        file.create_dataset("val/images", (2, 20_000, 20_000), "f8", chunks=(1, 100, 100), compression="gzip")


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def _lzf(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        array = file["val/images"][...]
        del file["val/images"]
        file.create_dataset("val/images", data=array, chunks=(1, 16, 16), compression="lzf")


@pytest.mark.parametrize("change", [_external, _soft_group, _outside, _bomb, _truncated, _lzf])
def test_files_that_reach_out_or_lie_are_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = _write(tmp_path / "d.hdf5", _arrays())
    change(path)
    assert main(["import", "lidc-hdf5", str(path), "-o", str(tmp_path / "s.h5")]) == 2
    assert not (tmp_path / "s.h5").exists()
