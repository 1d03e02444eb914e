"""--size, --resize and --crop: where pixels go, and that no rater's marks are lost in silence."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from modiff.cli import main
from modiff.data.store import Store
from modiff.prediction.windows import Window

SHAPE = (40, 60)  # rows, columns


def _folder(root: Path, *boxes: tuple[int, int, int, int], image: np.ndarray | None = None) -> Path:
    """A patient for each box (top, left, height, width), which ann marks, and ben but for its last column."""
    for place, (top, left, height, width) in enumerate(boxes):
        folder = root / f"p{place}" / "v"
        folder.mkdir(parents=True)
        noise = np.random.default_rng(place).integers(0, 256, SHAPE, dtype=np.uint8)
        Image.fromarray(noise if image is None else image).save(folder / "image.png")
        for name, cut in (("ann", 0), ("ben", 1)):
            mask = np.zeros(SHAPE, np.uint8)
            mask[top : top + height, left : left + width - cut] = 255
            Image.fromarray(mask).save(folder / f"rater-{name}.png")
    return root


def _import(root: Path, *words: str, status: int = 0) -> Store | None:
    out = root.parent / "out.h5"
    assert main(["import", "folder", str(root), "-o", str(out), "--overwrite", *words]) == status
    assert main(["check", str(root), "--", *words]) == status
    assert out.exists() is (status == 0)
    return None if status else Store.open(out)


def test_a_size_that_cuts_marks_off_is_refused_with_the_pixels_of_each_rater(tmp_path: Path, capsys) -> None:
    # The window shows columns 22 to 37: of the first box 4 of 8 columns, of the last box nothing.
    root = _folder(tmp_path / "d", (16, 18, 4, 8), (16, 26, 4, 4), (0, 0, 2, 5))
    _import(root, "--size", "16x16", status=2)
    said = capsys.readouterr().err
    assert "ann loses 26 of 58 marked pixels (44.8 %); in 1 of 3 images nothing of ann's marks is left" in said
    assert "ben loses 24 of 48 marked pixels (50 %); in 1 of 3 images" in said
    assert "--allow-cut" in said


def test_an_allowed_cut_is_told_of_all_the_same(tmp_path: Path, capsys) -> None:
    root = _folder(tmp_path / "d", (16, 18, 4, 8), (16, 26, 4, 4), (0, 0, 2, 5))
    store = _import(root, "--size", "16x16", "--allow-cut")
    assert "note: cut off: ann loses 26 of 58 marked pixels" in capsys.readouterr().out
    assert [note.partition(" of ")[0] for note in store.info.notes] == [
        f"cut off: {name} loses {lost}" for name, lost in (("ann", 26), ("ben", 24))
    ]
    assert [int(store.masks(row)[0].sum()) for row in range(3)] == [16, 16, 0]


def test_a_little_may_be_cut_off_and_is_told(tmp_path: Path, capsys) -> None:
    root = _folder(tmp_path / "d", (5, 5, 30, 50), (0, 0, 40, 60))
    _import(root, "--size", "40x60").close()
    assert "note: cut off" not in capsys.readouterr().out
    _import(_folder(tmp_path / "e", (0, 5, 30, 50), (20, 20, 19, 20)), "--size", "40x48", "--allow-cut").close()
    _import(_folder(tmp_path / "f", *[(1, 1, 38, 58)] * 3, (0, 30, 40, 10)), "--size", "39x60").close()
    assert "note: cut off: ann loses 10 of 7012 marked pixels (0.143 %)\n" in capsys.readouterr().out


def test_slices_of_a_volume_that_lose_all_marks_are_left_out_and_told(tmp_path: Path, capsys) -> None:
    mask = np.zeros((3, *SHAPE), np.uint8)
    mask[0, 15:25, 25:35] = mask[1, :3, :3] = 1
    folder = tmp_path / "d" / "p"
    folder.mkdir(parents=True)
    for name, array in (("image", mask + 7), ("rater-ann", mask)):
        nib.save(nib.Nifti1Image(array.T, np.eye(4)), folder / f"{name}.nii.gz")
    _import(tmp_path / "d", "--size", "16x16", status=2)
    with _import(tmp_path / "d", "--size", "16x16", "--allow-cut") as store:
        assert store.cases.tolist() == ["p/slice-000"]
    assert "ann loses 9 of 109 marked pixels (8.26 %); in 1 of 2 images nothing" in capsys.readouterr().err


def test_resizing_keeps_values_marks_and_place(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(60, dtype=np.uint8)[None] * 4, 40, 0)
    with _import(_folder(tmp_path / "d", (10, 20, 20, 30), image=ramp), "--resize", "20x30") as store:
        assert store.image(0).dtype == np.uint8
        np.testing.assert_allclose(store.image(0)[0, 10, 3:-3], ramp[0].reshape(30, 2).mean(1)[3:-3], atol=1)
        assert np.argwhere(store.masks(0)[0]).min(0).tolist() == [5, 10]
        assert int(store.masks(0)[0].sum()) == 10 * 15


def test_a_resized_volume_keeps_its_millimetres(tmp_path: Path) -> None:
    mask = np.zeros((2, *SHAPE), np.uint8)
    mask[:, 8:32, 20:40] = 1
    folder = tmp_path / "d" / "p"
    folder.mkdir(parents=True)
    affine = np.diag([0.5, 0.7, 3, 1])
    for name, array in (("image", mask + 7), ("rater-ann", mask)):
        nib.save(nib.Nifti1Image(array.T, affine), folder / f"{name}.nii.gz")
    with _import(tmp_path / "d", "--resize", "10x30") as store:
        place = store.geometry(0)
        assert place.spacing == pytest.approx((2.8, 1.0))
        # Where the marks' middle lies in mm, before and after.
        middle = np.argwhere(store.masks(0)[0]).mean(0)
        np.testing.assert_allclose((place.affine @ (middle[1], middle[0], 0, 1))[:2], (0.5 * 29.5, 0.7 * 19.5))


def test_a_mark_that_falls_between_new_pixels_is_lost_and_told(tmp_path: Path, capsys) -> None:
    root = _folder(tmp_path / "d", (0, 0, 1, 2), (10, 10, 20, 20))
    with _import(root, "--resize", "4x6", "--allow-cut") as store:
        (note,) = (note for note in store.info.notes if note.startswith("cut off: ben"))
    assert "in 1 of 2 images nothing of ben's marks is left" in note
    assert f"note: {note}\n" in capsys.readouterr().out


def test_small_marks_beside_a_large_one_are_not_lost_in_silence(tmp_path: Path, capsys) -> None:
    root = _folder(tmp_path / "d", (10, 10, 20, 20))
    path = root / "p0" / "v" / "rater-ann.png"
    mask = np.array(Image.open(path))
    mask[1, [1, 9, 17]] = 255  # between the pixels 0, 4, 8 … + 2 that nearest neighbour takes
    Image.fromarray(mask).save(path)
    with _import(root, "--resize", "10x15") as store:
        assert store.info.notes == ("cut off: ann loses 3 of 403 marked pixels (0.744 %)",)
    assert "note: cut off: ann loses 3 of 403 marked pixels (0.744 %)\n" in capsys.readouterr().out


def test_a_crop_about_the_marks_is_as_large_as_needed(tmp_path: Path) -> None:
    with _import(_folder(tmp_path / "d", (2, 3, 6, 20), (30, 50, 10, 4)), "--crop", "marks") as store:
        assert store.shape[1:] == (16, 24)
        assert store.info.prompt == "centre"
        for row, pixels in enumerate((120, 40)):
            mask = store.masks(row)[0] != 0
            assert int(mask.sum()) == pixels
            middle = np.argwhere(mask).mean(0)
            assert np.abs(middle - (7.5, 11.5)).max() <= 0.5
        assert store.geometry(1).valid == (0, 0, 13, 20)  # the image ends below and to the right


def test_files_that_are_measured_first_count_once_in_the_notes(tmp_path: Path) -> None:
    root, shifted = tmp_path / "d", np.diag([1.0, 1, 3, 1])
    shifted[0, 3] = 1
    mask = np.zeros((2, *SHAPE), np.uint8)
    mask[:, 10:20, 30:40] = 7
    for case in ("p0", "p1"):
        (root / case).mkdir(parents=True)
        for name, array, affine in (("image", mask, np.diag([1, 1, 3, 1])), ("rater-ann", mask, shifted)):
            nib.save(nib.Nifti1Image(array.T, affine), root / case / f"{name}.nii.gz")
    with _import(root, "--crop", "marks", "--resample", "nearest") as store:
        assert store.info.notes == (
            "masks of 0 and 7 in 2 files, such as p0/rater-ann.nii.gz: 7 is read as foreground",
            "resampling made 400 marked voxels of 2 masks into 400 of their images",
        )


def test_a_crop_of_a_given_size_that_is_too_small_is_refused(tmp_path: Path, capsys) -> None:
    root = _folder(tmp_path / "d", (2, 3, 6, 20))
    _import(root, "--crop", "marks:8x16", status=2)
    assert "ann loses 24 of 120 marked pixels (20 %)" in capsys.readouterr().err
    _import(root, "--crop", "marks", "--size", "8x24").close()


def test_cases_that_nobody_marked_have_no_place_to_crop(tmp_path: Path, capsys) -> None:
    with _import(_folder(tmp_path / "d", (2, 3, 6, 20), (0, 0, 0, 0)), "--crop", "marks") as store:
        assert store.cases.tolist() == ["p0/v"]
        assert store.info.notes == ("is marked by nobody, has no place to crop and is left out (p1/v)",)


def _points(tmp_path: Path, *rows: str, columns: str = "case,x,y") -> str:
    path = tmp_path / "points.csv"
    path.write_text("\n".join((columns, *rows)) + "\n")
    return str(path)


def test_a_table_gives_a_window_per_lesion(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d", (10, 20, 4, 6))
    whole = np.asarray(Image.open(root / "p0" / "v" / "image.png"))
    points = _points(tmp_path, "p0/v,22,12", "p0/v,50,30")
    with _import(root, "--crop", points, "--size", "9x9") as store:
        assert store.cases.tolist() == ["p0/v/lesion-1", "p0/v/lesion-2"]
        assert store.info.prompt == "centre"
        np.testing.assert_array_equal(store.image(0)[0], whole[8:17, 18:27])
        np.testing.assert_array_equal(store.image(1)[0], whole[26:35, 46:55])
        assert [int(store.masks(row)[0].sum()) for row in range(2)] == [24, 0]


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 11)])
def test_a_window_about_a_point_is_that_of_a_click(tmp_path: Path, size: tuple[int, int]) -> None:
    root = _folder(tmp_path / "d", (10, 20, 4, 6))
    whole = np.asarray(Image.open(root / "p0" / "v" / "image.png"))
    clicked = Window.centred(whole.shape, size, (22, 12)).covered
    with _import(root, "--crop", _points(tmp_path, "p0/v,22,12"), "--size", f"{size[0]}x{size[1]}") as store:
        np.testing.assert_array_equal(store.image(0)[0], whole[clicked])


def test_a_point_follows_its_volume_into_another_plane(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(1, 255, (8, *SHAPE), dtype=np.uint8)
    mask = np.zeros_like(array)
    mask[5, 20:23, 30:33] = 1
    folder = tmp_path / "d" / "p"
    folder.mkdir(parents=True)
    for name, values in (("image", array), ("rater-ann", mask)):  # slices run to the left: sagittal
        affine = np.array([[0, 0, -2, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
        nib.save(nib.Nifti1Image(values.T, affine), folder / f"{name}.nii.gz")
    points = _points(tmp_path, "p,31,21,5", columns="case,x,y,z")
    with _import(tmp_path / "d", "--crop", points, "--size", "5x5", "--plane", "axial", "--allow-cut") as store:
        assert len(store) == 1
        assert int(store.image(0)[0, 2, 2]) == int(array[5, 21, 31])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["p0/v,70,12"], "a point outside its image"),
        (["p0/v,x,12"], "not a point"),
        (["p0/v,nan,12"], "not a point"),
        (["p9/v,2,2", "p0/v,2,2"], "cases that the folder does not have"),
        ([], "the table holds no points"),
    ],
)
def test_points_that_cannot_be_are_refused(tmp_path: Path, capsys, rows: list[str], words: str) -> None:
    root = _folder(tmp_path / "d", (10, 20, 4, 6))
    _import(root, "--crop", _points(tmp_path, *rows), "--size", "8x8", status=2)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--size", "8x8", "--resize", "8x8"],
        ["--crop", "marks", "--resize", "8x8"],
        ["--crop", "marks:8x8", "--size", "8x8"],
        ["--crop", "marks:8"],
        ["--crop", "table", "--size", "8x8"],
        ["--resize", "0x8"],
        ["--resize", "99999x99999"],
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, words: list[str]) -> None:
    _import(_folder(tmp_path / "d", (10, 20, 4, 6)), *words, status=2)
