"""Intervals by bootstrap over patients, against a plain resampling loop and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modiff.evaluation.bootstrap import differences_from, mean_interval


def resampled(values: np.ndarray, patients: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The bootstrap as one would write it down: draw patients, put all their images together, take the mean."""
    rng = np.random.default_rng(seed)
    groups = [values[patients == name] for name in np.unique(patients)]
    return np.array(
        [
            np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]).mean()
            for _ in range(resamples)
        ]
    )


def some_data(images: int = 120, patients: int = 15) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    owner = rng.integers(0, patients, images)
    return rng.normal(size=patients)[owner] + 0.3 * rng.normal(size=images), np.array([f"p{i}" for i in owner])


def test_the_value_is_the_mean_over_images_not_over_patients():
    found = mean_interval([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"])
    assert found.value == 2.0


def test_the_interval_is_that_of_resampling_patients_one_by_one():
    values, patients = some_data()
    means = resampled(values, patients, 20_000, seed=1)
    found = mean_interval(values, patients, seed=2, resamples=20_000)
    spread = means.std()
    assert found.ci_low == pytest.approx(np.quantile(means, 0.025), abs=0.06 * spread)
    assert found.ci_high == pytest.approx(np.quantile(means, 0.975), abs=0.06 * spread)


def test_patients_widen_the_interval_that_independent_images_would_have():
    values, patients = some_data()
    by_patient = mean_interval(values, patients)
    by_image = mean_interval(values, [str(i) for i in range(len(values))])
    assert by_patient.ci_high - by_patient.ci_low > 1.5 * (by_image.ci_high - by_image.ci_low)


def test_under_five_patients_there_is_no_interval():
    found = mean_interval(np.arange(8.0), ["a", "b", "c", "d"] * 2)
    assert (found.value, found.ci_low, found.ci_high, found.patients) == (3.5, None, None, 4)


def test_five_patients_are_enough():
    assert mean_interval(np.arange(10.0), list("abcde") * 2).ci_low is not None


def test_undefined_values_are_left_out_with_their_patients():
    values = [1.0, np.nan, 3.0, np.nan]
    found = mean_interval(values, ["a", "a", "b", "c"])
    assert (found.value, found.images, found.patients) == (2.0, 2, 2)


def test_no_defined_value_gives_none():
    assert mean_interval([np.nan], ["a"]).value is None


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(30)), st.integers(0, 3))
def test_the_order_of_images_does_not_matter(order, seed):
    values, patients = some_data(30, 7)
    assert mean_interval(values[order], patients[order], seed=seed) == mean_interval(values, patients, seed=seed)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values, patients = some_data()
    assert mean_interval(values, patients, seed=4) == mean_interval(values, patients, seed=4)
    assert mean_interval(values, patients, seed=4) != mean_interval(values, patients, seed=5)


def test_a_paired_difference_is_narrower_than_what_its_two_means_allow():
    values, patients = some_data()
    better = values - 0.1 + 0.01 * np.random.default_rng(0).normal(size=len(values))
    found = mean_interval(better - values, patients)
    assert found.ci_high < 0
    assert found.ci_high - found.ci_low < 0.02


def test_a_pair_with_one_undefined_value_does_not_count():
    found = mean_interval(np.subtract([1.0, np.nan, 2.0], [0.0, 0.0, np.nan]), ["a", "b", "c"])
    assert (found.value, found.images) == (1.0, 1)


def test_values_and_patients_must_go_together():
    with pytest.raises(ValueError, match="one patient per value"):
        mean_interval([1.0, 2.0], ["a"])


def wrongly_apart(rows: int, trials: int, apart) -> float:
    """Share of trials in which some row of equal, independent rows is said to differ from the best one."""
    rng, patients = np.random.default_rng(0), [f"p{i}" for i in range(60)]
    values = rng.normal(size=(trials, rows, 60))
    return float(np.mean([apart(each, int(each.mean(1).argmax()), patients) for each in values]))


def outside(interval) -> bool:
    return not interval.ci_low <= 0 <= interval.ci_high


def test_equal_rows_differ_from_the_best_of_them_in_one_of_twenty_columns():
    def together(rows, best, patients):
        return any(outside(found) for found in differences_from(rows, best, patients, resamples=500))

    def one_by_one(rows, best, patients):
        return any(outside(mean_interval(row - rows[best], patients, resamples=500)) for row in rows)

    assert wrongly_apart(6, 300, together) == pytest.approx(0.05, abs=0.03)
    assert wrongly_apart(6, 100, one_by_one) > 0.2  # what it is for


def test_of_two_rows_the_interval_is_students():
    one, other = np.random.default_rng(1).normal(size=(2, 60))
    found = differences_from(np.stack([one, other]), 0, [f"p{i}" for i in range(60)], resamples=20_000)[1]
    expected = stats.ttest_rel(other, one).confidence_interval()
    assert found.value == pytest.approx((other - one).mean())
    assert (found.ci_low, found.ci_high) == pytest.approx(
        (expected.low, expected.high), abs=0.05 * (expected.high - expected.low)
    )


def test_rows_alike_differ_by_nothing():
    values, patients = some_data()
    found = differences_from(np.stack([values, values, values + 0.3 * values**2]), 0, patients)[1]
    assert (found.ci_low, found.ci_high) == (0.0, 0.0)


@pytest.mark.parametrize("few", [1, 2, 4])
def test_rows_that_differ_on_few_patients_hide_no_other_difference(few):
    rng, patients = np.random.default_rng(0), [f"p{i}" for i in range(60)]
    first = rng.normal(size=60)
    nearly, other = first + 0.3 * (np.arange(60) < few), first + 0.5 + 0.2 * rng.normal(size=60)
    alone = differences_from(np.stack([first, other]), 0, patients)[1]
    itself, far, near = differences_from(np.stack([first, other, nearly]), 0, patients)
    assert (itself.ci_low, itself.ci_high) == (0.0, 0.0)
    assert outside(far)
    assert far.ci_high - far.ci_low < 1.5 * (alone.ci_high - alone.ci_low)
    assert not outside(near)
