"""Patients are split whole, repeatably, and each by its own name alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modiff.data.splits import SplitRule, assign, fold_of, fold_split, fold_splits, make_folds, read_splits, split_of
from modiff.errors import ConfigError, DataError

PATIENTS = [f"LIDC-IDRI-{number:04}" for number in range(5000)]


def test_fractions_are_met_on_average() -> None:
    rule = SplitRule(val=0.1, test=0.25, seed=3)
    places = [split_of(rule, patient) for patient in PATIENTS]
    assert places.count("val") == pytest.approx(500, abs=90)  # four standard deviations of a binomial
    assert places.count("test") == pytest.approx(1250, abs=125)


@given(st.sets(st.sampled_from(PATIENTS[:50]), min_size=1), st.integers(0, 9))
def test_a_patients_place_is_the_hashs_unless_that_leaves_a_split_empty(some: set[str], seed: int) -> None:
    rule = SplitRule(seed=seed)
    hashed = {patient: split_of(rule, patient) for patient in some}
    dealt = assign(some, rule, None)
    assert set(dealt) == some
    if len(set(hashed.values())) == 3 or len(some) == 1:
        assert dealt == hashed
    else:
        assert set(dealt.values()) == ({"train", "val", "test"} if len(some) > 2 else {"train", "val"})
        assert sum(dealt[patient] != hashed[patient] for patient in some) <= 2


def test_no_one_moves_into_a_split_of_which_nothing_is_wanted() -> None:
    assert set(assign(PATIENTS[:5], SplitRule(val=0.2, test=0.0), None).values()) == {"train", "val"}
    assert set(assign(PATIENTS[:5], SplitRule(val=0.0, test=0.0), None).values()) == {"train"}


def test_places_stay_what_they_are_from_version_to_version() -> None:
    places = [split_of(SplitRule(0.3, 0.3), patient) for patient in PATIENTS[:8]]
    assert places == ["test", "train", "val", "val", "test", "val", "train", "test"]


def test_another_seed_splits_otherwise() -> None:
    one, other = (assign(PATIENTS[:200], SplitRule(seed=seed), None) for seed in (0, 1))
    assert one != other


@pytest.mark.parametrize("fractions", [(-0.1, 0.2), (0.5, 0.5), (float("nan"), 0.1)])
def test_fractions_that_leave_nothing_to_train_on(fractions: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="fractions of val and test are out of range"):
        SplitRule(*fractions)


@given(st.integers(2, 9), st.integers(0, 5), st.randoms())
def test_folds_are_equal_and_do_not_depend_on_order(count: int, seed: int, random: object) -> None:
    folds = make_folds(PATIENTS[:40], count, seed)
    sizes = [list(folds.values()).count(fold) for fold in range(count)]
    shuffled = PATIENTS[:40]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert max(sizes) - min(sizes) <= 1
    assert make_folds(shuffled, count, seed) == folds


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_number_of_folds_that_cannot_be(count: int) -> None:
    with pytest.raises(ConfigError, match="number of folds is out of range"):
        make_folds(["a", "b", "c"], count)


def test_a_file_of_splits(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"train": ["a", "b"], "dev": ["c"]}')
    assert read_splits(tmp_path / "s.json") == {"a": "train", "b": "train", "c": "dev"}


def test_a_file_of_splits_spells_names_as_folders_do(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(b"\xef\xbb\xbf" + '{"train": ["O\u0308lund "]}'.encode())
    assert assign(["\u00d6lund"], read_splits(tmp_path / "s.json"), "s.json") == {"\u00d6lund": "train"}


@pytest.mark.parametrize("text", ["", "{", '{"train": [1]}', "[1]", "{}", "[" * 100_000, '{"a": ["x"], "a": ["y"]}'])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DataError, match=r"s\.json"):
        read_splits(tmp_path / "s.json")


def test_patients_in_no_split_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found b, c, d and 1 more"):
        assign("abcde", {"a": "train"}, "s.json")


def test_every_patient_is_held_out_by_one_fold_and_val_is_a_tenth_of_the_others() -> None:
    folds = make_folds(PATIENTS[:100], 5)
    made = [fold_splits(folds, fold) for fold in range(5)]
    assert all([places[patient] for places in made].count("test") == 1 for patient in folds)
    assert [list(places.values()).count("val") for places in made] == [8] * 5
    assert [list(places.values()).count("train") for places in made] == [72] * 5


def test_val_of_a_fold_stays_what_it_is_from_version_to_version() -> None:
    folds = {patient: place % 2 for place, patient in enumerate(PATIENTS[:10])}
    assert [patient for patient, place in fold_splits(folds, 0, 0.4).items() if place == "val"] == [
        "LIDC-IDRI-0001",
        "LIDC-IDRI-0003",
    ]


def test_of_few_patients_one_is_val() -> None:
    assert sorted(fold_splits({"a": 0, "b": 1, "c": 2}, 1).values()) == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [({"a": 0, "b": 1}, 2, "no such fold"), ({"a": 0, "b": 1}, 0, "too few patients outside the fold")],
)
def test_folds_that_cannot_be_trained_on(folds: dict[str, int], fold: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fold_splits(folds, fold)


@pytest.mark.parametrize(("fold", "split"), [(0, "test"), (12, "val"), (None, "test"), (None, "fold0-dev")])
def test_the_name_of_a_folds_split_says_both(fold: int | None, split: str) -> None:
    assert fold_of(fold_split(fold, split)) == (fold, split)
