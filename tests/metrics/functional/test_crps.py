"""The continuous ranked probability score is its integral, and the closed form of a Gaussian."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from modiff.errors import MetricError
from modiff.metrics.functional import crps, size_crps


def integral(values: np.ndarray, weights: np.ndarray, y: float) -> float:
    """∫(F(t) − 1{y ≤ t})² dt between the steps of F, where the integrand is constant."""
    ends = np.sort(np.unique([*values, y]))
    total = 0.0
    for low, high in pairwise(ends):
        reached = weights[values <= low].sum()
        total += (high - low) * (reached - (y <= low)) ** 2
    return total


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_integral_of_the_squared_difference(weighted):
    rng = np.random.default_rng(0)
    values, observed = rng.integers(0, 9, (6, 7)) * 1.5, rng.integers(0, 9, (6, 3)) * 1.0
    weights = rng.random((6, 7)) if weighted else np.ones((6, 7))
    read = rng.random((6, 3)) > 0.4
    read[0], read[1] = False, True
    found = crps(
        *map(torch.from_numpy, (values, observed)), read=torch.from_numpy(read), weights=torch.from_numpy(weights)
    )
    assert math.isnan(found[0])
    for i in range(1, 6):
        each = [integral(values[i], weights[i] / weights[i].sum(), y) for y in observed[i][read[i]]]
        assert found[i].item() == pytest.approx(np.mean(each), abs=1e-12)


@pytest.mark.parametrize("y", [-1.3, 0.0, 2.0])
def test_a_gaussian_has_its_closed_form(y):
    n = 4000
    quantiles = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    density, below = math.exp(-y * y / 2) / math.sqrt(2 * math.pi), (1 + math.erf(y / math.sqrt(2))) / 2
    expected = y * (2 * below - 1) + 2 * density - 1 / math.sqrt(math.pi)  # Gneiting and Raftery 2007, equation 21
    assert crps(quantiles[None], torch.tensor([[y]])).item() == pytest.approx(expected, abs=2e-3)


def test_one_sample_has_its_absolute_error():
    assert crps(torch.tensor([[7]]), torch.tensor([[4, 10]])).item() == 3


def test_sizes_are_counted_by_class_and_an_empty_mask_has_none():
    samples, masks = torch.zeros(1, 2, 2, 4, 4, dtype=torch.bool), torch.zeros(1, 1, 2, 4, 4, dtype=torch.bool)
    samples[0, 0, 0, :2], masks[0, 0, 1, 0, 0] = (
        True,
        True,
    )  # of class 0 sizes 8 and 0 against 0; of class 1 0 against 1
    assert size_crps(samples, masks).item() == pytest.approx(((4 - 2) + 1) / 2)


def test_a_perfect_model_scores_half_the_distance_of_two_raters():
    rng = np.random.default_rng(1)
    values, observed = rng.normal(size=(4000, 8)), rng.normal(size=(4000, 4))
    found = crps(torch.from_numpy(values), torch.from_numpy(observed)).mean().item()
    assert found == pytest.approx(2 / math.sqrt(math.pi) / 2 * (1 + 1 / 8), abs=0.01)


@pytest.mark.parametrize("shapes", [((2, 3), (3, 3)), ((2, 3), (2,)), ((2, 0), (2, 3)), ((2, 3), (2, 0))])
def test_numbers_that_do_not_fit_are_refused(shapes):
    with pytest.raises(MetricError, match="wrong shape"):
        crps(*map(torch.zeros, shapes))


@pytest.mark.parametrize("shape", [(2, 4), (2,), (2, 5, 1)])
def test_who_read_fits_the_numbers_or_is_refused(shape):
    with pytest.raises(MetricError, match="read: does not fit"):
        crps(torch.zeros(2, 3), torch.zeros(2, 5), read=torch.ones(shape))
