"""Fixed subsets of cases, and derangements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modiff.errors import ConfigError
from modiff.evaluation.source import derangement, subset

names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=40, unique=True)


@given(names, st.integers(1, 50))
def test_a_subset_has_the_asked_size_and_keeps_the_order(cases, limit):
    rows = subset(cases, limit)
    assert len(rows) == min(limit, len(cases))
    assert rows == sorted(rows)


@given(names, st.integers(1, 20))
def test_smaller_subsets_lie_in_larger_ones(cases, limit):
    assert set(subset(cases, limit)) <= set(subset(cases, limit + 7))


@given(names, st.randoms())
def test_a_subset_does_not_depend_on_the_order_of_the_store(cases, random):
    shuffled = list(cases)
    random.shuffle(shuffled)
    assert {cases[row] for row in subset(cases, 5)} == {shuffled[row] for row in subset(shuffled, 5)}


def test_without_a_limit_all_images_count():
    assert subset(["b", "a"], None) == [0, 1]


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(0, 5))
def test_a_derangement_gives_every_case_another_one_each_once(owners, seed):
    cases = [f"case-{i}" for i in range(len(owners))]
    other = derangement(cases, [str(owner) for owner in owners], seed)
    assert sorted(other) == list(range(len(cases)))
    assert all(row != given_row for row, given_row in enumerate(other))


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(0, 5))
def test_it_is_of_another_patient_unless_one_has_more_than_half(owners, seed):
    patients = [str(owner) for owner in owners]
    other = derangement([f"case-{i}" for i in range(len(owners))], patients, seed)
    if 2 * max(patients.count(name) for name in patients) <= len(patients):
        assert all(patients[row] != patients[given_row] for row, given_row in enumerate(other))


def test_one_case_has_no_other():
    with pytest.raises(ConfigError, match="another case"):
        derangement(["a"], ["p"], 0)
