"""The numbers that `modiff info` prints, against counting pixel by pixel, and the picture that it draws."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from store_helpers import make_info

from modiff.cli import main
from modiff.data.describe import describe
from modiff.data.store import Store, StoreWriter
from modiff.report.data import contact_sheet

CLASSES = (1, 2)


@st.composite
def readings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """masks (n,3,H,W) class index, often empty, and read (n,3)."""
    count = draw(st.integers(1, 4))
    masks = draw(hnp.arrays(np.uint8, (count, 3, 3, 3), elements=st.integers(0, 2)))
    masks *= draw(hnp.arrays(np.uint8, (count, 3, 1, 1), elements=st.integers(0, 1)))
    read = draw(hnp.arrays(np.bool_, (count, 3)))
    read[:, 0] = True
    return masks * read[:, :, None, None].astype(np.uint8), read


def _store(path: Path, masks: np.ndarray, read: np.ndarray, **info: object) -> Path:
    with StoreWriter(path, make_info(channels=("CT",), **info), overwrite=True) as writer:
        for row in range(len(masks)):
            image = np.full((1, *masks.shape[2:]), row, np.uint8)
            writer.add(image, masks[row], read[row], case=f"{row}", patient=f"{row}", split="train")
    return path


def _all(path: Path) -> dict[str, object]:
    with Store.open(path) as store:
        return describe(store)["splits"][-1]


def _pixels(mask: np.ndarray, index: int) -> set[tuple[int, ...]]:
    return set(map(tuple, np.argwhere(mask == index).tolist()))


def _dice(masks: np.ndarray, read: np.ndarray, index: int) -> float | None:
    """Mean over images of the mean over pairs who both mark, set by set."""
    means = []
    for image, who in zip(masks, read, strict=True):
        sets = [_pixels(mask, index) for mask, yes in zip(image, who, strict=True) if yes]
        pairs = [2 * len(a & b) / (len(a) + len(b)) for a, b in combinations(sets, 2) if a and b]
        if pairs:
            means.append(sum(pairs) / len(pairs))
    return sum(means) / len(means) if means else None


def _iou(masks: np.ndarray, read: np.ndarray, index: int) -> float | None:
    """Mean over images of the mean over pairs of readers, two empty masks counting 1, set by set."""
    means = []
    for image, who in zip(masks, read, strict=True):
        sets = [_pixels(mask, index) for mask, yes in zip(image, who, strict=True) if yes]
        pairs = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in combinations(sets, 2)]
        if pairs:
            means.append(sum(pairs) / len(pairs))
    return sum(means) / len(means) if means else None


@settings(max_examples=60, deadline=None)
@given(readings())
def test_agreement_equals_counting_pixels_in_sets(
    tmp_path_factory: pytest.TempPathFactory, data: tuple[np.ndarray, np.ndarray]
) -> None:
    found = _all(_store(tmp_path_factory.getbasetemp() / "agreement.h5", *data))["classes"]
    assert [one["dice_markers"] for one in found] == pytest.approx([_dice(*data, index) for index in CLASSES])
    assert [one["iou_readers"] for one in found] == pytest.approx([_iou(*data, index) for index in CLASSES])


@settings(max_examples=40, deadline=None)
@given(readings())
def test_shares_of_markers_equal_counting(
    tmp_path_factory: pytest.TempPathFactory, data: tuple[np.ndarray, np.ndarray]
) -> None:
    masks, read = data
    found = _all(_store(tmp_path_factory.getbasetemp() / "markers.h5", *data))
    marks = [[bool(mask.any()) for mask, yes in zip(*one, strict=True) if yes] for one in zip(masks, read, strict=True)]
    assert found["markers"] == {str(k): pytest.approx(np.mean([sum(m) == k for m in marks])) for k in range(4)}
    assert found["none_marked"] == pytest.approx(np.mean([not any(m) for m in marks]))
    assert found["some_empty"] == pytest.approx(np.mean([any(m) and not all(m) for m in marks]))
    assert found["empty_masks"] == pytest.approx(1 - np.mean([one for m in marks for one in m]))


def test_areas_are_of_masks_that_are_not_empty(tmp_path: Path) -> None:
    masks = np.zeros((1, 3, 4, 4), np.uint8)
    masks[0, 0].flat[:3] = 1
    masks[0, 1].flat[:7] = 1
    one, two = _all(_store(tmp_path / "a.h5", masks, np.ones((1, 3), bool)))["classes"]
    assert (one["area_pixels"]["min"], one["area_pixels"]["median"], one["area_pixels"]["max"]) == (3, 5, 7)
    assert two["area_pixels"] is None


def test_exchangeable_raters_are_not_told_apart(tmp_path: Path) -> None:
    masks, read = np.ones((1, 3, 4, 4), np.uint8), np.ones((1, 3), bool)
    assert "raters" not in _all(_store(tmp_path / "a.h5", masks, read, exchangeable_raters=True))


def test_raters_who_are_persons_are_described_one_by_one(tmp_path: Path) -> None:
    masks, read = np.zeros((4, 3, 4, 4), np.uint8), np.ones((4, 3), bool)
    masks[:3, 1, 0, :2] = 2
    read[3, 1] = False
    rater = _all(_store(tmp_path / "a.h5", masks, read))["raters"][1]
    assert (rater["rater"], rater["read"], rater["marks"], rater["area_pixels"]["median"]) == ("B", 3, 1.0, 2)


def test_each_split_is_described_and_then_all(small_store: Path) -> None:
    with Store.open(small_store) as store:
        splits = describe(store)["splits"]
    assert [(one["split"], one["images"], one["patients"]) for one in splits] == [
        ("train", 3, 2),
        ("val", 1, 1),
        ("test", 2, 1),
        ("all", 6, 4),
    ]


def test_the_command_prints_json_that_can_be_read(small_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(small_store), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    with Store.open(small_store) as store:
        assert about["fingerprint"] == store.fingerprint()
    assert about["folds"] == {"0": 2, "1": 2}


@pytest.mark.parametrize(
    "words", ["made for a test", "CC0", "percentiles:1:99", "a.nii", "FLAIR, T1", "core, rim", "4 patients"]
)
def test_the_command_prints_what_a_user_asks_about(
    small_store: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert main(["info", str(small_store)]) == 0
    assert words in capsys.readouterr().out


def test_the_command_does_not_take_names_for_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks, read = np.zeros((1, 3, 4, 4), np.uint8), np.ones((1, 3), bool)
    _store(tmp_path / "a.h5", masks, read, raters=("[red]A", "B", "[/]"), classes=("[bold]x", "y"))
    assert main(["info", str(tmp_path / "a.h5")]) == 0
    out = capsys.readouterr().out
    assert "[red]A" in out
    assert "[/]" in out
    assert "[bold]x" in out


def test_the_list_has_every_image_with_the_pixels_of_who_read_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, read = np.zeros((2, 2, 4, 4), np.uint8), np.array([[True, True], [True, False]])
    masks[0, 0, :2], masks[1, 0, 0, 0] = 1, 2  # of classes 1 and 2
    with StoreWriter(
        tmp_path / "s.h5", make_info(channels=("CT",), raters=("A, B", "C")), folds={"p": 1, "q": 0}
    ) as writer:
        for row, (case, split) in enumerate((("=x", "train"), ("y", "test"))):
            image = np.full((1, 4, 4), row, np.uint8)
            writer.add(image, masks[row], read[row], case=case, patient="pq"[row], split=split)
    assert main(["info", str(tmp_path / "s.h5"), "--list"]) == 0
    (tmp_path / "list.csv").write_text(capsys.readouterr().out)
    rows = pd.read_csv(tmp_path / "list.csv", dtype=str, keep_default_na=False)
    assert rows.columns.tolist() == ["case", "patient", "split", "fold", "pixels: A, B", "pixels: C"]
    assert rows.to_numpy().tolist() == [["'=x", "p", "train", "1", "8", "0"], ["y", "q", "test", "0", "1", ""]]


def test_marks_are_counted_of_all_raters_where_all_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks, read = np.ones((1, 3, 4, 4), np.uint8), np.array([[True, True, False]])
    masks[0, 2] = 0
    for who, said in ((np.ones((1, 3), bool), "marked by 2 of 3"), (read, "marked by 2 who read it")):
        _store(tmp_path / "s.h5", masks, who)
        assert main(["info", str(tmp_path / "s.h5")]) == 0
        assert said in capsys.readouterr().out


def test_verifying_finds_changed_content(small_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(small_store), "--verify"]) == 0
    assert "agrees with the fingerprint" in capsys.readouterr().out


def test_the_contact_sheet_is_the_same_for_the_same_seed(small_store: Path, tmp_path: Path) -> None:
    with Store.open(small_store) as store:
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            contact_sheet(store, tmp_path / f"{name}.png", count=2, seed=seed)
    one, same, other = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_contact_sheet_outlines_only_what_is_marked(tmp_path: Path) -> None:
    """Colours appear where a rater marked, and for raters who marked nothing only in the legend."""
    coloured = []
    for marked in (0, 1):
        masks = np.zeros((1, 3, 40, 40), np.uint8)
        masks[0, 0, 10:30, 10:30] = marked
        path = _store(tmp_path / f"{marked}.h5", masks, np.ones((1, 3), bool))
        with Store.open(path) as store:
            contact_sheet(store, tmp_path / "sheet.png")
        picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
        coloured.append(int((np.abs(picture - (0xE6, 0x9F, 0x00)).sum(-1) < 10).sum()))
    assert coloured[1] > coloured[0] + 200


def test_a_contact_sheet_that_cannot_be_written(small_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(small_store), "--contact-sheet", str(small_store / "x.png")]) == 2
    assert capsys.readouterr().err.startswith("modiff: ")


@pytest.mark.parametrize(
    "words", [["--cases", "0"], ["--contact-sheet", "x.png", "--split", "dev"], ["--list", "--json"]]
)
def test_options_that_make_no_sense(small_store: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["info", str(small_store), *words]) == 2
    assert capsys.readouterr().err.startswith("modiff: ")
