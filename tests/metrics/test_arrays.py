"""Metrics of plain arrays: the same values in every form, and what does not fit is said in one line."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modiff import metrics
from modiff.errors import MetricError
from modiff.metrics import arrays
from modiff.metrics import functional as F

RNG = np.random.default_rng(0)
SAMPLES, MASKS = RNG.random((5, 12, 10)) > 0.6, RNG.random((3, 12, 10)) > 0.5
OF_SETS = ["ged", "hm_iou", "dmax", "best_dice", "collective_insight", "hd95", "average_surface_distance"]
OF_MAPS = ["ncc", "brier", "soft_dice", "expected_calibration_error", "uncertainty_ncc", "uncertainty_auroc"]
OF_RATERS = ["rater_diversity", "majority_vote"]


def by_hand(samples: np.ndarray, masks: np.ndarray) -> float:
    """GED with pairs of an element with itself, by plain loops."""

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return 1 - (a & b).sum() / (a | b).sum()

    def mean(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean([[distance(a, b) for b in other] for a in one]))

    return 2 * mean(samples, masks) - mean(samples, samples) - mean(masks, masks)


def flat(value: object) -> np.ndarray:
    """All numbers of a result."""
    return np.concatenate([np.ravel(part) for part in (value if isinstance(value, tuple) else (value,))])


def test_ged_of_plain_arrays_is_that_of_loops() -> None:
    assert metrics.ged(SAMPLES, MASKS) == pytest.approx(by_hand(SAMPLES, MASKS), abs=1e-12)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.astype(np.uint8),
        lambda x: x.astype(np.uint8) * 255,
        lambda x: x.astype(float),
        lambda x: x * 255.0,
        lambda x: x.astype(np.uint16) * 255,
        lambda x: x.astype(">i4"),
        lambda x: x.tolist(),
        np.asfortranarray,
        lambda x: x[:, ::-1][:, ::-1],
        torch.from_numpy,
        lambda x: x[:, None],
    ],
)
def test_masks_in_every_form_are_the_same(form) -> None:
    for name in OF_SETS + OF_MAPS:
        found, expected = (
            flat(getattr(metrics, name)(s, m)) for s, m in ((form(SAMPLES), form(MASKS)), (SAMPLES, MASKS))
        )
        assert np.array_equal(found, expected, equal_nan=True), name
    for name in OF_RATERS:
        assert np.array_equal(flat(getattr(metrics, name)(form(MASKS))), flat(getattr(metrics, name)(MASKS))), name


@pytest.mark.parametrize("name", OF_SETS + OF_MAPS)
def test_a_batch_is_what_the_functional_metric_says(name: str) -> None:
    samples, masks = RNG.random((2, 4, 2, 8, 8)) > 0.5, RNG.random((2, 3, 2, 8, 8)) > 0.5
    read = np.array([[True, True, False], [True, True, True]])
    masks[0, 2] = False
    expected = getattr(F, name)(torch.from_numpy(samples), torch.from_numpy(masks), read=torch.from_numpy(read))
    found = getattr(metrics, name)(samples, masks, read=read)
    parts = zip(*((value if isinstance(value, tuple) else (value,)) for value in (found, expected)), strict=True)
    assert all(np.array_equal(ours, theirs.numpy(), equal_nan=True) for ours, theirs in parts)
    one = getattr(metrics, name)(samples[0], masks[0], read=read[0])
    assert np.allclose(
        flat(one), flat(tuple(p[0] for p in (found if isinstance(found, tuple) else (found,)))), equal_nan=True
    )


def test_one_image_is_a_number_and_a_vote_has_the_masks_axes() -> None:
    assert type(metrics.ged(SAMPLES, MASKS)) is float
    assert metrics.majority_vote(MASKS).shape == (12, 10)
    assert metrics.majority_vote(MASKS[:, None]).shape == (1, 12, 10)
    assert metrics.iid_reference(MASKS, 5) == pytest.approx(
        metrics.rater_diversity(MASKS, estimator="u") * (1 / 5 + 1 / 3)
    )


def test_maps_are_scored_as_maps_and_not_as_masks() -> None:
    maps = RNG.random((5, 12, 10))
    mean, raters = maps.astype(np.float64).mean(0), MASKS.mean(0)
    assert metrics.brier(maps, MASKS) == pytest.approx(((mean - raters) ** 2).mean(), abs=1e-12)
    for name in OF_SETS:
        with pytest.raises(MetricError, match=r"samples: are not masks; .*samples > 0\.5"):
            getattr(metrics, name)(maps, MASKS)


@pytest.mark.parametrize("name", OF_SETS + OF_MAPS)
@pytest.mark.parametrize(
    ("samples", "masks", "match"),
    [
        (SAMPLES[0], MASKS, r"samples: wrong shape; found \(12, 10\); .*A single mask is samples\[None\]"),
        (SAMPLES, MASKS[:, :9], r"shapes do not fit one another; found samples \(5, 12, 10\) and masks \(3, 9, 10\)"),
        (SAMPLES[:, None], MASKS, r"shapes do not fit one another"),
        (
            SAMPLES,
            MASKS * 2,
            r"masks: are not masks; found values 0, 2; .*0/255\. Make a mask per class",
        ),
        (SAMPLES, MASKS * np.uint8(255) - MASKS[::-1] * np.uint8(1), r"masks: are not masks"),
        (SAMPLES, np.full(MASKS.shape, math.nan), r"masks: are not masks; found values nan"),
        (SAMPLES, -1.0 * MASKS, r"masks: are not masks"),
        (SAMPLES, MASKS.astype(str), r"masks: is not an array of numbers; found <U"),
        (SAMPLES, MASKS * 0.5, r"masks: are not masks.*masks > 0\.5"),
        (SAMPLES, [[[0]], [[0, 1]]], r"masks: are of different shapes"),
        (np.full(SAMPLES.shape, 128, np.uint8), MASKS, r"samples: are not masks; found values 128"),
        (np.full(SAMPLES.shape, math.inf), MASKS, r"samples: are not masks"),
        (SAMPLES[:0], MASKS, r"no samples"),
        (SAMPLES, MASKS[:0], r"no raters"),
    ],
)
def test_what_does_not_fit_is_said(name: str, samples, masks, match: str) -> None:
    with pytest.raises(MetricError, match=match) as refused:
        getattr(metrics, name)(samples, masks)
    assert "\n" not in str(refused.value)


def test_every_metric_of_sets_has_its_form_for_arrays() -> None:
    assert {*OF_SETS, *OF_MAPS, *OF_RATERS, "iid_reference"} == {
        name
        for name, value in vars(arrays).items()
        if getattr(value, "__module__", "") == arrays.__name__ and name[0] != "_"
    }
