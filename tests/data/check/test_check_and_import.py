"""`modiff check` with the options of an import ends as that import does, whatever the folder holds."""

from __future__ import annotations

import random
import shutil
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from modiff.cli import main
from modiff.data.store import Store
from modiff.io.files import sha256_of
from modiff.io.image import read_image
from modiff.io.volume import Volume

OPTIONS = (
    [],
    [],
    ["--intensity", "minmax-slice"],
    ["--intensity", "window:0:300"],
    ["--size", "20x20"],
    ["--size", "20x20", "--allow-cut"],
    ["--resize", "16x16"],
    ["--crop", "marks"],
    ["--crop", "marks:8x8"],
    ["--missing", "empty"],
    ["--label", "2=b", "--label", "1=a"],
    ["--plane", "axial"],
    ["--all-slices", "--resample", "nearest"],
    ["--folds", "4"],
    ["--test", "0", "--exchangeable"],
)


def _image(chance: random.Random, side: int) -> np.ndarray:
    grey = np.random.default_rng(chance.randrange(99)).integers(0, 200, (side, side)).astype(np.uint8)
    odd = chance.choice(["int16", "uint16", "float", "over", "colour", "flat", "size", "nan"])
    if chance.random() < 0.85:
        return grey
    return {
        "int16": grey.astype(np.int16) - 50,
        "uint16": grey.astype(np.uint16) * 257,
        "float": (grey / 255).astype(np.float32),
        "over": (grey / 199.9).astype(np.float32),
        "colour": np.stack([grey] * 3),
        "flat": np.full_like(grey, 9),
        "size": grey[:, 2:],
        "nan": np.where(grey > 190, np.nan, grey / 255).astype(np.float32),
    }[odd]


def _mask(chance: random.Random, side: int) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    top, left = chance.randrange(side - 6), chance.randrange(side - 6)
    mask[top : top + chance.randrange(7), left : left + 5] = chance.choice([1, 1, 1, 255, 2])
    odd = chance.choice(["two", "inverted", "size", "grey"])
    if chance.random() < 0.9:
        return mask
    return {
        "two": mask + np.triu(mask),
        "inverted": (mask == 0).astype(np.uint8),
        "size": mask[2:],
        "grey": (mask * 9 + np.arange(side, dtype=np.uint8)).astype(np.uint8),
    }[odd]


def _save(path: Path, array: np.ndarray, kind: str) -> None:
    if kind == "npy":
        np.save(path.with_suffix(".npy"), array)
    elif kind == "nii" and array.ndim == 2:
        whole = array[None].repeat(2, 0).T
        nib.save(nib.Nifti1Image(whole, np.diag([1, 1, 2, 1])), path.with_suffix(".nii.gz"))
    elif kind == "png" and array.ndim == 2 and array.dtype in (np.uint8, np.uint16):
        Image.fromarray(array).save(path.with_suffix(".png"))
    else:
        np.save(path.with_suffix(".npy"), array)


def _folder(root: Path, chance: random.Random) -> Path:
    side, kind = 32, chance.choice(["png", "npy", "nii"])
    for place in range(chance.randrange(1, 5)):
        folder = root / f"p{place}" / "v"
        folder.mkdir(parents=True)
        if chance.random() < 0.97:
            _save(folder / "image", _image(chance, side), kind if chance.random() < 0.95 else "png")
        for name in "ab":
            if chance.random() < 0.95:
                _save(folder / f"rater-{name}", _mask(chance, side), kind)
            if chance.random() < 0.02:
                (folder / f"rater-{name}.png").write_bytes(b"not a picture")
            if chance.random() < 0.03:
                Image.fromarray(_mask(chance, side) * 255).save(folder / f"rater-{name}x.jpg")
    return root


@pytest.mark.parametrize("seed", range(60))
def test_check_ends_as_the_import_does(tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    chance = random.Random(seed)
    root, words = _folder(tmp_path / "d", chance), chance.choice(OPTIONS)
    imported = main(["import", "folder", str(root), "-o", str(tmp_path / "s.h5"), *words])
    said = capsys.readouterr().err
    assert main(["check", str(root), "--", *words]) == imported, said


def test_a_type_that_differs_is_named_in_every_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in range(3):
        folder = tmp_path / "d" / f"p{place}"
        folder.mkdir(parents=True)
        image = np.random.default_rng(place).integers(0, 200, (16, 16)).astype(np.uint16 if place else np.uint8)
        Image.fromarray(image).save(folder / "image.png")
        Image.fromarray(np.tri(16, dtype=np.uint8)).save(folder / "rater-a.png")
    assert main(["check", str(tmp_path / "d")]) == 2
    said = capsys.readouterr().out
    assert "error: values of different types (2)" in said
    assert "p1: uint16; expected uint8, as the first case. --intensity" in said
    assert main(["check", str(tmp_path / "d"), "--", "--intensity", "minmax-slice"]) == 0


def test_what_follows_two_dashes_belongs_to_the_source_wherever_options_stand(tmp_path: Path) -> None:
    root = _cells(tmp_path / "d", value=255)
    words = ["--", "--image", "raw/{case}", "--mask", "seg/{rater}/seg_{case}"]
    for order in ([str(root), "--quiet", *words], ["--quiet", str(root), *words], [str(root), *words]):
        assert main(["check", *order]) == 0


def test_each_file_of_a_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counting(path: Path, **how: Any) -> Volume:
        read.append(path)
        return read_image(path, **how)

    monkeypatch.setattr("modiff.data.importers.folder.read_image", counting)
    root = _cells(tmp_path / "d", value=255)
    words = ["--image", "raw/{case}", "--mask", "seg/{rater}/seg_{case}"]
    assert main(["check", str(root), "--", *words]) == 0
    assert sorted(read) == sorted(root.rglob("*.png"))
    read.clear()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "raw" / "c1.png")
    assert main(["check", str(root), "--", *words]) == 2
    assert {*read} == {*root.rglob("*.png")}  # those after the fault too


def _cells(root: Path, value: int) -> Path:
    """Six images, in whose masks of two raters 0 is the cell, below one folder."""
    for place in range(6):
        image = np.random.default_rng(place).integers(0, 255, (24, 30)).astype(np.uint8)
        marked = np.full((24, 30), value, np.uint8)
        marked[5:15, 5 : 10 + place] = 0
        for name, array in (("raw/", image), ("seg/ann/seg_", marked), ("seg/ben/seg_", marked.T.copy().T[:, ::-1])):
            path = root / f"{name}c{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(array)).save(path)
    return root


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_archive_gives_what_its_folder_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, wrapped: bool
) -> None:
    root = _cells(tmp_path / "cells", value=255)
    archive = shutil.make_archive(
        str(tmp_path / "d"), "zip", tmp_path if wrapped else root, "cells" if wrapped else None
    )
    words = ["--image", "raw/{case}", "--mask", "seg/{rater}/seg_{case}", "--label", "0=cell", "--folds", "3"]
    said = []
    for source, name in ((str(root), "a.h5"), (archive, "b.h5")):
        assert main(["check", source, "--", *words]) == 0
        said.append(capsys.readouterr().out.partition("\n")[2])
        assert main(["import", "folder", source, "-o", str(tmp_path / name), *words]) == 0
        capsys.readouterr()
    with Store.open(tmp_path / "a.h5") as one, Store.open(tmp_path / "b.h5") as other:
        assert one.fingerprint() == other.fingerprint()
        assert (one.info.raters, one.info.exchangeable_raters, one.info.classes) == (("ann", "ben"), False, ("cell",))
        assert other.info.provenance["d.zip"] == sha256_of(archive)
        names = ("names begin below its one folder, cells (d.zip)",)
        assert other.info.notes == (names if wrapped else ()) + one.info.notes
        assert other.fold_numbers() == [0, 1, 2]
        held_out = [other.cases[other.rows(f"fold{fold}-test")].tolist() for fold in range(3)]
        assert sorted(case for fold in held_out for case in fold) == sorted(other.cases.tolist())
    assert said[0] == said[1] or wrapped
    assert not [*Path(tempfile.gettempdir()).glob("modiff-unpacked-*/d/cells")]


HOSTILE = {
    "escapes the archive": ("../out.png", b"x"),
    "damaged in the archive": ("raw/c0.png", None),
    "the file is empty": ("raw/c0.png", b""),
}


@pytest.mark.parametrize("words", HOSTILE)
def test_a_bad_archive_is_refused_in_its_own_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    root, (name, data) = _cells(tmp_path / "cells", value=255), HOSTILE[words]
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            own = file.relative_to(root).as_posix()
            archive.writestr(own, data if own == name and data is not None else file.read_bytes())
        if name.startswith(".."):
            archive.writestr(name, b"x")
    if data is None:
        whole = path.read_bytes()
        at = whole.index((root / name).read_bytes())
        path.write_bytes(whole[: at + 40] + b"?!" + whole[at + 42 :])
    options = ["--image", "raw/{case}", "--mask", "seg/{rater}/seg_{case}"]
    assert main(["import", "folder", str(path), "-o", str(tmp_path / "s.h5"), *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert name.startswith("..") or f"{path}!{name}" in line
    assert main(["check", str(path), "--", *options]) == 2
    said = capsys.readouterr().out
    assert words in said
    assert "modiff-unpacked" not in said
    assert not (tmp_path / "s.h5").exists()
    assert not (tmp_path.parent / "out.png").exists()


def test_an_archive_that_does_not_fit_on_the_disk_is_refused_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = shutil.make_archive(str(tmp_path / "d"), "zip", _cells(tmp_path / "cells", value=255))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert main(["import", "folder", archive, "-o", str(tmp_path / "s.h5")]) == 2
    assert "more than fits on the disk" in capsys.readouterr().err


def test_bu_bil_goes_from_its_zip_to_a_store_and_what_is_wrong_with_it_is_found(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(shared / "data" / "bu-bil" / "dataset1.zip")
    words = ["--image", "RawImages/{case}", "--mask", "ExpertsAnnotations/{rater}/seg_{case}"]
    assert main(["check", path, "--quiet", "--", *words]) == 2
    said = capsys.readouterr().out
    for found in (
        "error: images of different sizes",
        "Person5_Amira: 3 values about 0 and 255",
        "warning: inverted mask (346)",
        "Person2_Amira and Person2_ImageJ draw the same outline, to the pixel, 35 of 35 times",
        "error: missing masks (4)",
        "(4 files, such as ExpertsAnnotations/Person3_Amira/Seg_B18.png)",
    ):
        assert found in said
    words[-1] = "ExpertsAnnotations/{rater}_Amira/*eg_{case}"
    words += ["--label", "0=cell", "--label", "24=", "--label", "255=", "--resize", "64x80", "--folds", "5"]
    assert main(["import", "folder", path, "-o", str(tmp_path / "s.h5"), "--quiet", *words]) == 0
    with Store.open(tmp_path / "s.h5") as store:
        assert (len(store), store.fold_numbers()) == (35, [0, 1, 2, 3, 4])
        assert store.info.raters == tuple(f"Person{number}" for number in range(1, 6))
        assert not store.info.exchangeable_raters
        assert store.read.all()
        areas = [(store.masks(row) > 0).mean((1, 2)) for row in range(35)]
    with zipfile.ZipFile(path) as archive:
        for area, case in zip(areas[:3], ("B01", "B02", "B03"), strict=True):
            for fraction, number in zip(area, range(1, 6), strict=True):
                name = f"BU-BIL_Dataset1/ExpertsAnnotations/Person{number}_Amira/seg_{case}.png"
                with archive.open(name) as file, Image.open(file) as mask:
                    assert fraction == pytest.approx((np.asarray(mask) == 0).mean(), rel=0.05)
