"""Patients are split whole, repeatably, and each by its own name alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modiff.data.splits import SplitRule, assign, make_folds, read_splits
from modiff.errors import ConfigError, DataError

PATIENTS = [f"LIDC-IDRI-{number:04}" for number in range(5000)]


def test_shares_are_met_on_average() -> None:
    rule = SplitRule(val=0.1, test=0.25, seed=3)
    places = [rule.split_of(patient) for patient in PATIENTS]
    assert places.count("val") == pytest.approx(500, abs=90)  # four standard deviations of a binomial
    assert places.count("test") == pytest.approx(1250, abs=125)


@given(st.sets(st.sampled_from(PATIENTS[:50]), min_size=1))
def test_a_patients_place_does_not_depend_on_who_else_is_there(some: set[str]) -> None:
    rule = SplitRule()
    everyone = assign(PATIENTS[:50], rule, None)
    assert assign(some, rule, None) == {patient: everyone[patient] for patient in some}


def test_places_stay_what_they_are_from_version_to_version() -> None:
    places = [SplitRule(0.3, 0.3).split_of(patient) for patient in PATIENTS[:8]]
    assert places == ["test", "train", "val", "val", "test", "val", "train", "test"]


def test_another_seed_splits_otherwise() -> None:
    one, other = (assign(PATIENTS[:200], SplitRule(seed=seed), None) for seed in (0, 1))
    assert one != other


@pytest.mark.parametrize("shares", [(-0.1, 0.2), (0.5, 0.5), (float("nan"), 0.1)])
def test_shares_that_leave_nothing_to_train_on(shares: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="shares of val and test"):
        SplitRule(*shares)


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
    with pytest.raises(ConfigError, match="number of folds"):
        make_folds(["a", "b", "c"], count)


def test_a_file_of_splits(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"train": ["a", "b"], "dev": ["c"]}')
    assert read_splits(tmp_path / "s.json") == {"a": "train", "b": "train", "c": "dev"}


@pytest.mark.parametrize("text", ["", "{", '{"train": [1]}', "[1]", "{}", "[" * 100_000])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DataError, match=r"s\.json"):
        read_splits(tmp_path / "s.json")


def test_patients_in_no_split_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found b, c, d and 1 more"):
        assign("abcde", {"a": "train"}, "s.json")
