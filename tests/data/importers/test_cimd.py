"""`modiff import cimd-folder`: JPEG masks are cut at half of full scale, whatever the compression left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modiff.cli import main
from modiff.data.store import Store


def _jpg(path: Path, array: np.ndarray, quality: int = 60) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, quality=quality)


def _mask(rater: int) -> np.ndarray:
    mask = np.zeros((32, 32), np.uint8)
    mask[8:16, 8 : 16 + 4 * rater] = 255
    return mask


def _folder(root: Path, raters: int = 3) -> Path:
    for split, ids in (("training", range(6)), ("testing", range(6, 8))):
        for number in ids:
            image = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 3 + np.uint8(number)
            _jpg(root / split / str(number) / f"image_{number}.jpg", image)
            for rater in range(raters):
                _jpg(root / split / str(number) / f"label{rater}_.jpg", _mask(rater))
    return root


def _import(root: Path, *words: str) -> Store:
    out = root.parent / "s.h5"
    assert main(["import", "cimd-folder", str(root), "-o", str(out), "--overwrite", *words]) == 0
    return Store.open(out)


def _refused(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["import", "cimd-folder", str(root), "-o", str(root.parent / "s.h5")]) == 2
    assert not (root.parent / "s.h5").exists()
    return capsys.readouterr().err


def test_masks_are_those_before_compression(tmp_path: Path) -> None:
    with _import(_folder(tmp_path / "d")) as store:
        np.testing.assert_array_equal(store.masks(0), np.stack([_mask(rater) // 255 for rater in range(3)]))


def test_the_compression_did_smear_them(tmp_path: Path) -> None:
    _folder(tmp_path / "d")
    found = np.asarray(Image.open(tmp_path / "d" / "training" / "0" / "label1_.jpg"))
    assert len(np.unique(found)) > 2


def test_testing_is_test_and_training_is_dealt(tmp_path: Path) -> None:
    with _import(_folder(tmp_path / "d"), "--val", "0.4") as store:
        assert set(store.splits[store.cases >= "training"].tolist()) <= {"train", "val"}
        assert store.cases[store.rows("test")].tolist() == ["testing/6", "testing/7"]


def test_raters_are_exchangeable_unless_told(tmp_path: Path) -> None:
    with _import(_folder(tmp_path / "d")) as store:
        assert store.info.exchangeable_raters
    with _import(tmp_path / "d", "--identifiable") as store:
        assert not store.info.exchangeable_raters


def test_a_table_says_whose_slices_they_are(tmp_path: Path) -> None:
    root, table = _folder(tmp_path / "d"), tmp_path / "t.csv"
    rows = [f"training/{number},p{number // 3}" for number in range(6)] + ["testing/6,q", "testing/7,q"]
    table.write_text("\n".join(["case,patient", *rows]))
    with _import(root, "--table", str(table)) as store:
        assert len(set(store.patients.tolist())) == 3


def test_a_patient_on_both_sides_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, table = _folder(tmp_path / "d"), tmp_path / "t.csv"
    table.write_text("\n".join(["case,patient", *(f"training/{n},x" for n in range(6)), "testing/6,x", "testing/7,q"]))
    assert main(["import", "cimd-folder", str(root), "-o", str(tmp_path / "s.h5"), "--table", str(table)]) == 2
    assert "two splits" in capsys.readouterr().err


def test_channels_are_the_names_of_the_images(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    for path in list(root.rglob("image_*.jpg")):
        number = path.stem.removeprefix("image_")
        for channel in ("t2", "flair"):
            path.with_name(f"image-{channel}_{number}.jpg").write_bytes(path.read_bytes())
        path.unlink()
    with _import(root) as store:
        assert store.info.channels == ("flair", "t2")


def test_grey_pictures_saved_in_colour_are_grey(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    path = root / "training" / "0" / "image_0.jpg"
    grey = np.asarray(Image.open(path))
    _jpg(path, np.stack([grey] * 3, -1), 95)
    with _import(root) as store:
        assert store.shape == (1, 32, 32)


def test_masks_of_0_and_1_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _folder(tmp_path / "d")
    _jpg(root / "training" / "0" / "label0_.jpg", _mask(0) // 255 * 9, 95)
    assert "without a pixel near white" in _refused(root, capsys)


def test_colours_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _folder(tmp_path / "d")
    _jpg(root / "training" / "0" / "image_0.jpg", np.stack([_mask(0), _mask(1), _mask(2) * 0], -1))
    assert "colour" in _refused(root, capsys)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff" + bytes(500), b"\x89PNG\r\n\x1a\n"])
def test_damaged_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    root = _folder(tmp_path / "d")
    (root / "training" / "1" / "label2_.jpg").write_bytes(content)
    assert "label2_.jpg" in _refused(root, capsys)


@pytest.mark.parametrize("name", ["label1_.jpg", "image_1.jpg"])
def test_missing_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    root = _folder(tmp_path / "d")
    (root / "training" / "1" / name).unlink()
    assert "training/1" in _refused(root, capsys)


def test_other_folders_than_training_and_testing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _folder(tmp_path / "d")
    (root / "testing").rename(root / "rest")
    assert "is in neither training nor testing" in _refused(root, capsys)
