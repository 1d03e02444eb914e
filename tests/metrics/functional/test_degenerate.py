"""Empty sets, few samples, few or no readers: what is defined has its value, the rest is NaN for that image alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics import functional as F


def discs(*sizes: int) -> Tensor:
    """(1,len(sizes),1,8,8) bool: as many pixels, in the order of rows."""
    found = torch.zeros(1, len(sizes), 1, 64).bool()
    for i, size in enumerate(sizes):
        found[0, i, 0, :size] = True
    return found.view(1, len(sizes), 1, 8, 8)


NOBODY = torch.zeros(1, 2).bool()
PER_IMAGE = {
    "ged": F.ged,
    "hm_iou": F.hm_iou,
    "hm_iou_greedy": lambda s, y, read: F.hm_iou(s, y, read=read, matching="greedy"),
    "dmax": F.dmax,
    "ci": lambda s, y, read: F.collective_insight(s, y, read=read).ci,
    "ncc": F.ncc,
    "ncc_row": lambda s, y, read: F.ncc(s, y, read=read, kind="row"),
    "soft_dice": F.soft_dice,
    "soft_dice_product": lambda s, y, read: F.soft_dice(s, y, read=read, levels=None),
    "brier": F.brier,
    "calibration": F.expected_calibration_error,
    "uncertainty_ncc": F.uncertainty_ncc,
    "uncertainty_auroc": F.uncertainty_auroc,
    "presence": lambda s, y, read: F.presence_fractions(s, y, read=read).raters,
    "rater_diversity": lambda s, y, read: F.rater_diversity(y, read=read),
    "iid_reference": lambda s, y, read: F.iid_reference(y, 4, read=read),
    "hd95": F.hd95,
    "average_surface_distance": F.average_surface_distance,
}


@pytest.mark.parametrize("name", PER_IMAGE)
def test_an_image_that_nobody_read_is_undefined(name: str) -> None:
    assert PER_IMAGE[name](discs(3, 5), discs(4, 5), read=NOBODY).isnan().tolist() == [True]


@pytest.mark.parametrize("name", PER_IMAGE)
def test_an_undefined_image_leaves_the_others_alone(name: str) -> None:
    samples, masks = (discs(*sizes).expand(2, -1, -1, -1, -1) for sizes in ((3, 5), (4, 6)))
    read = torch.tensor([[False, False], [True, True]])
    values = PER_IMAGE[name](samples, masks, read=read)
    assert values.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "value"),
    {"ged": 0, "hm_iou": 1, "hm_iou_greedy": 1, "dmax": 1, "ci": 1, "ncc": 1, "ncc_row": 0, "soft_dice": 1, "brier": 0,
     "soft_dice_product": 1, "calibration": 0, "uncertainty_ncc": 1, "uncertainty_auroc": math.nan, "presence": 0,
     "rater_diversity": 0, "iid_reference": 0, "hd95": math.nan}.items(),
)  # fmt: skip
def test_where_everything_is_empty(name: str, value: float) -> None:
    read = torch.ones(1, 2).bool()
    assert PER_IMAGE[name](discs(0, 0), discs(0, 0), read=read).item() == pytest.approx(value, nan_ok=True)


def test_one_sample_has_no_diversity() -> None:
    assert [F.sample_diversity(discs(5), estimator=e).item() for e in ("v", "u")] == [0, 0]


def test_one_reader_has_no_diversity() -> None:
    assert [F.rater_diversity(discs(5), estimator=e).item() for e in ("v", "u")] == [0, 0]


@pytest.mark.parametrize("estimator", ["v", "u"])
def test_ged_of_one_sample_and_one_reader_is_twice_their_distance(estimator: str) -> None:
    assert F.ged(discs(2), discs(8), estimator=estimator).item() == pytest.approx(2 * 0.75)


def test_one_sample_with_all_the_weight_has_no_self_term_under_u() -> None:
    weights = torch.tensor([[1.0, 0.0]])
    assert F.ged(discs(2, 5), discs(8), weights=weights, estimator="u").item() == pytest.approx(1.5)


def test_the_iid_reference_needs_two_readers() -> None:
    assert F.iid_reference(discs(5), 16).isnan().item()


def test_the_iid_reference_of_u_is_zero_with_two_samples_and_the_distance_with_one() -> None:
    masks = discs(2, 8)
    assert [F.iid_reference(masks, n, estimator="u").item() for n in (2, 1)] == [0, pytest.approx(0.75)]


def test_greedy_matching_drops_raters_without_a_sample() -> None:
    assert F.hm_iou(discs(4), discs(4, 8), matching="greedy").item() == 1.0


def test_optimal_matching_repeats_the_samples_for_all_raters() -> None:
    assert F.hm_iou(discs(4), discs(4, 8)).item() == pytest.approx(0.75)


def test_collective_insight_is_undefined_where_only_samples_mark_something() -> None:
    parts = F.collective_insight(discs(0, 3), discs(0, 0))
    assert [part.isnan().item() for part in parts] == [True, True, False, False]


@pytest.mark.parametrize(("samples", "masks"), [((3,), (3, 4)), ((3, 4), (3,))])
def test_collective_insight_needs_two_samples_and_two_readers(samples: tuple[int, ...], masks: tuple[int, ...]) -> None:
    parts = F.collective_insight(discs(*samples), discs(*masks))
    assert (parts.ci.isnan().item(), parts.agreement.isnan().item(), parts.sensitivity.isnan().item()) == (
        True,
        True,
        False,
    )


def test_collective_insight_is_zero_where_its_parts_are() -> None:
    one, other = discs(8, 8), discs(8, 8).flip(-1, -2)
    assert F.collective_insight(one, other).ci.item() == 0


def test_a_class_that_only_samples_mark_leaves_collective_insight_undefined() -> None:
    samples = torch.cat([discs(3, 4), discs(0, 2)], dim=2)
    masks = torch.cat([discs(3, 4), discs(0, 0)], dim=2)
    assert F.collective_insight(samples, masks).ci.isnan().item()


def test_constant_maps_correlate_by_rule_and_are_counted() -> None:
    identical, varied = discs(5, 5, 5), discs(3, 6)
    result = F.ncc_result(identical, varied)
    assert (result.value.item(), result.degenerate.item()) == (0, 2)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_constant_maps_are_found_in_every_precision(dtype: torch.dtype) -> None:
    assert F.ncc_result(discs(0, 0).to(dtype), discs(0, 0)).degenerate.item() == 2


def test_a_surface_needs_both_majorities() -> None:
    assert F.hd95(discs(5, 5), discs(0, 0)).isnan().item()


def test_boundary_distances_are_means_over_the_classes_that_have_one() -> None:
    samples, masks = torch.cat([discs(8), discs(0)], dim=2), torch.cat([discs(16), discs(3)], dim=2)
    assert F.hd95(samples, masks).item() == F.hd95(discs(8), discs(16)).item()


def test_the_majority_of_nobody_is_background() -> None:
    assert not F.majority_vote(discs(5, 5), NOBODY).any()


def test_a_tie_of_the_readers_is_background() -> None:
    assert F.majority_vote(discs(2, 5)).sum().item() == 2


def test_the_majority_counts_readers_only() -> None:
    read = torch.tensor([[True, False, False]])
    assert F.majority_vote(discs(5, 0, 0), read).sum().item() == 5


def test_multi_class_distance_is_the_mean_over_classes() -> None:
    samples, masks = torch.cat([discs(2), discs(3)], dim=2), torch.cat([discs(8), discs(3)], dim=2)
    assert F.hm_iou(samples, masks).item() == pytest.approx((0.25 + 1) / 2)


def test_no_image_is_an_empty_answer() -> None:
    samples, masks = discs(2, 3)[:0], discs(2, 3)[:0]
    assert [len(f(samples, masks, read=None)) for f in PER_IMAGE.values()] == [0] * len(PER_IMAGE)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: F.ged(discs(2)[:, :, 0], discs(2)), "shape"),
        (lambda: F.ged(discs(2), discs(2)[..., :4]), "fit"),
        (lambda: F.ged(discs(2) * 0.4, discs(2)), "0 and 1"),
        (lambda: F.ged(discs(2)[:, :0], discs(2)), "no samples"),
        (lambda: F.ged(discs(2), discs(2)[:, :0]), "no raters"),
        (lambda: F.ged(discs(2), discs(2), read=torch.ones(1, 3)), "read"),
        (lambda: F.ged(discs(2), discs(2), weights=torch.ones(1, 3)), "weights"),
        (lambda: F.ged(discs(2), discs(2), weights=torch.zeros(1, 1)), "weights"),
        (lambda: F.ged(discs(2), discs(2), estimator="w"), "estimator"),
        (lambda: F.hm_iou(discs(2), discs(2), matching="best"), "matching"),
        (lambda: F.hm_iou(discs(2), discs(2), matching="greedy", weights=torch.ones(1, 1)), "weights"),
        (lambda: F.ncc(discs(2), discs(2), kind="column"), "NCC"),
        (lambda: F.ncc(discs(2)[..., :4], discs(2)[..., :4], kind="row"), "square"),
        (lambda: F.ncc(discs(2) * 1.5, discs(2)), "[0,1]"),
        (lambda: F.brier(discs(2) * math.nan, discs(2)), "[0,1]"),
        (lambda: F.uncertainty_ncc(discs(2), discs(2), kind="range"), "uncertainty"),
        (lambda: F.expected_calibration_error(discs(2), discs(2), bins=0), "bin"),
        (lambda: F.hd95(discs(2), discs(2), spacing=(1.0, -1.0)), "spacing"),
        (lambda: F.iid_reference(discs(2, 3), 0), "n >= 1"),
        (lambda: F.PairwiseDistances.of(discs(2), discs(2)).subset(2), "1 to 1"),
        (lambda: F.pairwise_iou(discs(2), discs(2)[..., :4]), "fit"),
    ],
)
def test_bad_input_is_named(call: object, word: str) -> None:
    with pytest.raises(MetricError) as caught:
        call()  # type: ignore[operator]
    assert word in str(caught.value)
