"""Metrics of probability maps and calibration against other libraries and plain formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metric_sets import HUNDREDS, mask_sets
from scipy.stats import pearsonr
from torch import Tensor

from modiff.metrics import functional as F
from modiff.metrics.functional.maps import _auroc

Sets = tuple[Tensor, Tensor]


def maps(seed: int, *, classes: int = 1, dtype: torch.dtype = torch.float64) -> Sets:
    """Probabilities (2,5,K,12,12) whose classes sum to at most 1, and masks (2,4,K,12,12) that exclude each other."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 5, classes + 1, 12, 12, generator=rng, dtype=torch.float64)
    labels = torch.randint(classes + 1, (2, 4, 12, 12), generator=rng)
    masks = torch.stack([labels == k + 1 for k in range(classes)], dim=2)
    return logits.softmax(2)[:, :, 1:].to(dtype), masks


def pixel_ncc(samples: np.ndarray, masks: np.ndarray) -> float:
    """NCC as its definition reads, with loops: samples (N,K,H,W), masks (M,K,H,W)."""
    p = np.concatenate([1 - samples.sum(1, keepdims=True), samples], 1)
    y = np.concatenate([1 - masks.sum(1, keepdims=True), masks], 1)

    def entropy(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return -(b * np.log(a + 1e-8)).sum(0)

    among = np.mean([entropy(s, p.mean(0)) for s in p], 0)
    against = [np.mean([entropy(s, rater) for s in p], 0) for rater in y]
    return float(np.mean([pearsonr(among.ravel(), x.ravel()).statistic for x in against]))


@pytest.mark.parametrize("classes", [1, 3])
def test_ncc_is_its_definition(classes: int) -> None:
    samples, masks = maps(0, classes=classes)
    expected = [pixel_ncc(s, y) for s, y in zip(samples.numpy(), masks.double().numpy(), strict=True)]
    assert F.ncc(samples, masks).tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("kind", ["pixel", "row"])
def test_ncc_of_masks_is_that_of_the_same_probabilities(kind: str) -> None:
    samples, masks = maps(1)
    binary = samples > 0.5
    assert F.ncc(binary, masks, kind=kind).tolist() == pytest.approx(F.ncc(binary.double(), masks, kind=kind).tolist())


@pytest.mark.parametrize("kind", ["pixel", "row"])
def test_ncc_in_single_precision_is_close(kind: str) -> None:
    samples, masks = maps(2, classes=2)
    single = F.ncc(samples.float(), masks, kind=kind)
    assert single.tolist() == pytest.approx(F.ncc(samples, masks, kind=kind).tolist(), abs=1e-5)


@HUNDREDS
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_auroc_is_the_share_of_pairs_ordered_rightly(pixels: list[tuple[int, bool]]) -> None:
    scores, labels = (torch.tensor([pixel[i] for pixel in pixels])[None] for i in (0, 1))
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for (a, positive), (b, negative) in itertools.product(pixels, pixels)
        if positive and not negative
    ]
    expected = np.mean(pairs) if pairs else np.nan
    assert _auroc(scores.float(), labels.bool()).item() == pytest.approx(expected, nan_ok=True)


def test_uncertainty_of_the_raters_themselves_agrees_fully() -> None:
    _, masks = maps(3, classes=2)
    assert F.uncertainty_ncc(masks, masks).tolist() == pytest.approx([1, 1])
    assert F.uncertainty_auroc(masks, masks).tolist() == [1, 1]


@pytest.mark.parametrize(("p", "bits"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0), (0.25, 0.5 + 0.75 * np.log2(4 / 3))])
def test_entropy_of_one_class_is_that_of_a_coin(p: float, bits: float) -> None:
    found = F.uncertainty_map(torch.full((1, 1, 1, 1), p, dtype=torch.float64), "entropy")
    assert found.item() / np.log(2) == pytest.approx(bits, abs=1e-12)


def test_entropy_of_even_odds_is_the_logarithm_of_the_classes() -> None:
    even = torch.full((1, 2, 3, 3), 1 / 3, dtype=torch.float64)
    assert F.uncertainty_map(even, "entropy")[0, 0, 0].item() == pytest.approx(np.log(3))


def test_brier_is_the_mean_square() -> None:
    samples, masks = maps(4, classes=2)
    expected = ((samples.mean(1) - masks.double().mean(1)) ** 2).mean((1, 2, 3))
    assert F.brier(samples, masks).tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("raters", range(2, 41))
def test_any_number_of_raters_agrees_with_itself(raters: int) -> None:
    """Nested masks, and votes counted in whole numbers: rounding makes no pixel disputed, and no level passed."""
    masks = torch.zeros(1, raters, 1, 1, raters + 3)
    for rater in range(raters):
        masks[0, rater, ..., : rater + 2] = 1
    masks = masks.bool()
    equal = torch.full((1, raters), 1 / raters, dtype=torch.float64)
    for weights in (None, equal):
        assert F.soft_dice(masks, masks, weights=weights).item() == 1
        assert F.uncertainty_auroc(masks, masks, weights=weights).item() == 1
    alike = masks[:, :1].expand_as(masks)
    assert F.uncertainty_auroc(masks, alike).isnan().all()  # no pixel is disputed


@HUNDREDS
@given(mask_sets())
def test_soft_dice_of_a_set_with_itself_is_one(sets: Sets) -> None:
    assert F.soft_dice(sets[0], sets[0]).item() == pytest.approx(1)
    assert F.soft_dice(sets[0], sets[0], levels=None).item() == pytest.approx(1)


@HUNDREDS
@given(mask_sets())
def test_calibration_error_equals_a_loop_over_bins(sets: Sets) -> None:
    samples, masks = sets
    p, q = samples.double().mean(1)[0].flatten(1), masks.double().mean(1)[0].flatten(1)
    errors = []
    for of_class, truth in zip(p, q, strict=True):
        which = (of_class * 10 + 1e-6).floor().clamp(max=9)
        parts = [(of_class[which == b].sum() - truth[which == b].sum()).abs() for b in range(10)]
        errors.append(sum(parts) / len(of_class))
    assert F.expected_calibration_error(samples, masks).item() == pytest.approx(float(np.mean(errors)))


def test_pooled_calibration_error_goes_to_zero_when_samples_and_raters_are_alike() -> None:
    rng = torch.Generator().manual_seed(5)
    chance = torch.rand(400, 1, 1, 8, 8, generator=rng)
    errors = []
    for n in (4, 256):
        samples, masks = (torch.rand(400, m, 1, 8, 8, generator=rng) < chance for m in (n, 4))
        errors.append(F.pooled_calibration_error(F.calibration_bins(samples, masks)).item())
    assert errors[1] < 0.01 < errors[0]


def test_pooled_calibration_error_leaves_out_images_that_nobody_read() -> None:
    samples, masks = maps(6)
    read = torch.tensor([[True] * 4, [False] * 4])
    both = F.pooled_calibration_error(F.calibration_bins(samples, masks, read=read))
    assert both.item() == F.expected_calibration_error(samples[:1], masks[:1]).item()


def test_presence_counts_samples_and_readers_that_mark_anything() -> None:
    masks = torch.zeros(1, 4, 2, 3, 3).bool()
    masks[0, 0, 1, 0, 0] = masks[0, 1, 0, 2, 2] = True
    read = torch.tensor([[True, True, True, False]])
    shares = F.presence_fractions(masks, masks, read=read)
    assert (shares.samples.item(), shares.raters.item()) == (0.5, pytest.approx(2 / 3))


def test_presence_calibration_is_over_images() -> None:
    shares = F.Presence(*torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 0.5, 1.0, 0.5, torch.nan]]).double())
    assert F.presence_calibration_error(shares).item() == pytest.approx((0.5 + 0.5) / 4)


def test_weighted_mean_maps_are_those_of_repeated_samples() -> None:
    samples, masks = maps(7)
    weights = torch.tensor([[2.0, 1, 1, 1, 1], [2, 1, 1, 1, 1]])
    repeated = torch.cat([samples[:, :1], samples], dim=1)
    for metric in (F.soft_dice, F.brier, F.expected_calibration_error, F.uncertainty_ncc, F.uncertainty_auroc):
        assert metric(samples, masks, weights=weights).tolist() == pytest.approx(metric(repeated, masks).tolist())


def test_a_mean_of_masks_lies_exactly_on_its_share_in_every_type() -> None:
    """Three of ten samples are 0.3, not above it: a level is a tie, whatever the type of the masks."""
    samples, masks = torch.zeros(1, 10, 1, 4, 4).bool(), torch.zeros(1, 4, 1, 4, 4).bool()
    samples[:, :3] = True
    values = [F.soft_dice(samples.to(dtype), masks).item() for dtype in (torch.bool, torch.float32, torch.float64)]
    assert values == pytest.approx([0.8] * 3)
