"""`modiff check` with the options of an import ends as that import does, whatever the folder holds."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from modiff.cli import main

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


def test_an_archive_of_own_data_is_to_be_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("images/a.png", b"")
    assert main(["check", str(tmp_path / "d.zip")]) == 2
    assert "is a file; expected a folder. Unpack an archive first." in capsys.readouterr().out


def test_options_of_check_may_stand_on_either_side_of_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "d" / "p0"
    folder.mkdir(parents=True)
    for name in ("image", "rater-a"):
        Image.fromarray(np.tri(16, dtype=np.uint8)).save(folder / f"{name}.png")
    root, page, rest = str(tmp_path / "d"), str(tmp_path / "page.html"), ["--", "--intensity", "minmax-slice"]
    assert main(["check", root, "--html", page, "--quiet", *rest]) == 0
    assert main(["check", "--quiet", root, *rest]) == 0
    assert main(["check", root, "--quiet", "--"]) == 0
