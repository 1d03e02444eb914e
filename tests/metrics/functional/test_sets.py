"""GED, HM-IoU, what follows from the pairwise overlaps, and boundaries: equal to plain sums and to other libraries."""

from __future__ import annotations

import itertools

import metric_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_sets import HUNDREDS, as_arrays, mask_sets
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_iou
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from modiff.metrics import functional as F
from modiff.metrics.functional import ops

Sets = tuple[Tensor, Tensor]
ALL_METRICS = {
    "ged_v": F.ged,
    "ged_u": lambda s, y: F.ged(s, y, estimator="u"),
    "hm_iou": F.hm_iou,
    "dmax": F.dmax,
    "rater_diversity": lambda s, y: F.rater_diversity(y),
    "sample_diversity": lambda s, y: F.sample_diversity(s),
    "iid_reference": lambda s, y: F.iid_reference(y, 4),
    "ci": lambda s, y: F.collective_insight(s, y).ci,
    "ncc": F.ncc,
    "soft_dice": F.soft_dice,
    "soft_dice_product": lambda s, y: F.soft_dice(s, y, levels=None),
    "brier": F.brier,
    "calibration": F.expected_calibration_error,
    "uncertainty_ncc": F.uncertainty_ncc,
    "uncertainty_auroc": F.uncertainty_auroc,
}


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-9, equal_nan=True)


@HUNDREDS
@given(mask_sets(), st.sampled_from(["v", "u"]))
def test_ged_equals_sums_over_pairs(sets: Sets, estimator: str) -> None:
    assert F.ged(*sets, estimator=estimator).item() == pytest.approx(
        reference.ged(*as_arrays(sets), estimator), abs=1e-12
    )


@HUNDREDS
@given(mask_sets(), st.sampled_from(["v", "u"]), st.data())
def test_weighted_ged_equals_weighted_sums_over_pairs(sets: Sets, estimator: str, data: st.DataObject) -> None:
    n = sets[0].shape[1]
    weights = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n).filter(any)), dtype=float)
    value = F.ged(*sets, estimator=estimator, weights=torch.from_numpy(weights)[None]).item()
    assert value == pytest.approx(reference.ged(*as_arrays(sets), estimator, weights / weights.sum()), abs=1e-12)


@HUNDREDS
@given(mask_sets(), st.integers(2, 3))
def test_weights_count_as_repetition(sets: Sets, times: int) -> None:
    samples, masks = sets
    weights = torch.ones(1, samples.shape[1])
    weights[0, 0] = times
    repeated = torch.cat([samples[:, :1].expand(-1, times - 1, -1, -1, -1), samples], dim=1)
    assert close(F.ged(samples, masks, weights=weights), F.ged(repeated, masks))
    assert close(F.hm_iou(samples, masks, weights=weights), F.hm_iou(repeated, masks))


@HUNDREDS
@given(mask_sets())
def test_ged_v_is_not_negative(sets: Sets) -> None:
    assert F.ged(*sets).item() >= -1e-12


@HUNDREDS
@given(mask_sets())
def test_ged_v_of_a_set_with_itself_is_zero(sets: Sets) -> None:
    assert F.ged(sets[0], sets[0]).abs().item() < 1e-12


@HUNDREDS
@given(mask_sets())
def test_ged_u_differs_from_v_by_the_pairs_of_an_element_with_itself(sets: Sets) -> None:
    samples, masks = sets
    n, m = samples.shape[1], masks.shape[1]
    more = F.sample_diversity(samples, estimator="u") / n + F.rater_diversity(masks, estimator="u") / m
    assert close(F.ged(samples, masks, estimator="u"), F.ged(samples, masks) - more)


@HUNDREDS
@given(mask_sets(max_samples=3, max_raters=3))
def test_hm_iou_is_the_best_of_all_permutations(sets: Sets) -> None:
    assert F.hm_iou(*sets).item() == pytest.approx(reference.hm_iou(*as_arrays(sets)), abs=1e-12)


@HUNDREDS
@given(mask_sets())
def test_hm_iou_with_equal_weights_is_the_assignment(sets: Sets) -> None:
    assert close(F.hm_iou(*sets, weights=torch.ones(1, sets[0].shape[1])), F.hm_iou(*sets))


@HUNDREDS
@given(mask_sets(max_samples=6))
def test_greedy_hm_iou_equals_the_loop_over_raters(sets: Sets) -> None:
    expected = reference.hm_iou_greedy(*as_arrays(sets))
    assert F.hm_iou(*sets, matching="greedy").item() == pytest.approx(expected, abs=1e-12)


@HUNDREDS
@given(mask_sets(max_samples=6))
def test_hm_iou_is_at_most_the_assignment_that_may_leave_out_samples(sets: Sets) -> None:
    matrix = F.pairwise_iou(*sets).mean(-1)[0].numpy()
    rectangular = matrix[linear_sum_assignment(matrix, maximize=True)].mean()
    if matrix.shape[0] % matrix.shape[1] == 0:
        assert F.hm_iou(*sets).item() <= rectangular + 1e-12


@HUNDREDS
@given(mask_sets())
def test_greedy_hm_iou_is_at_most_the_best_rectangular_assignment(sets: Sets) -> None:
    matrix = F.pairwise_iou(*sets).mean(-1)[0].numpy()
    rectangular = matrix[linear_sum_assignment(matrix, maximize=True)].mean()
    if matrix.shape[0] >= matrix.shape[1]:
        assert F.hm_iou(*sets, matching="greedy").item() <= rectangular + 1e-12


@pytest.mark.parametrize("name", ALL_METRICS)
@settings(HUNDREDS, max_examples=100)
@given(sets=mask_sets(max_samples=4, max_raters=4), data=st.data())
def test_the_order_of_samples_and_raters_does_not_matter(name: str, sets: Sets, data: st.DataObject) -> None:
    samples, masks = sets
    shuffled = (x[:, data.draw(st.permutations(range(x.shape[1])))] for x in (samples, masks))
    assert close(ALL_METRICS[name](samples, masks), ALL_METRICS[name](*shuffled))


@pytest.mark.parametrize("name", ALL_METRICS)
@settings(HUNDREDS, max_examples=100)
@given(sets=mask_sets(max_samples=4, max_raters=4))
def test_transposed_images_score_the_same(name: str, sets: Sets) -> None:
    turned = (x.transpose(-1, -2) for x in sets)
    assert close(ALL_METRICS[name](*sets), ALL_METRICS[name](*turned))


@pytest.mark.parametrize("name", ALL_METRICS)
@settings(HUNDREDS, max_examples=100)
@given(sets=mask_sets(max_samples=4, max_raters=3), data=st.data())
def test_a_rater_who_did_not_read_the_image_is_as_if_absent(name: str, sets: Sets, data: st.DataObject) -> None:
    samples, masks = sets
    slots = data.draw(st.permutations(range(masks.shape[1] + 1)))
    with_another = torch.cat([masks, ~masks[:, :1]], dim=1)[:, slots]
    read = torch.tensor([[slot != masks.shape[1] for slot in slots]])
    functions = {
        "rater_diversity": lambda: F.rater_diversity(with_another, read=read),
        "sample_diversity": lambda: F.sample_diversity(samples),
        "iid_reference": lambda: F.iid_reference(with_another, 4, read=read),
        "ged_v": lambda: F.ged(samples, with_another, read=read),
        "ged_u": lambda: F.ged(samples, with_another, read=read, estimator="u"),
        "ci": lambda: F.collective_insight(samples, with_another, read=read).ci,
        "soft_dice_product": lambda: F.soft_dice(samples, with_another, read=read, levels=None),
        "calibration": lambda: F.expected_calibration_error(samples, with_another, read=read),
    }
    value = functions[name]() if name in functions else getattr(F, name)(samples, with_another, read=read)
    assert close(value, ALL_METRICS[name](samples, masks))


def test_greedy_hm_iou_depends_on_the_order_of_raters() -> None:
    one, two = torch.zeros(2, 1, 2, 2).bool()
    one[0, 0], two[0, 0, 0] = True, True
    near, nothing = two.clone(), torch.zeros_like(one)
    samples, masks = torch.stack([near, nothing])[None], torch.stack([one, two])[None]
    forth, back = (F.hm_iou(samples, x, matching="greedy").item() for x in (masks, masks.flip(1)))
    assert (forth, back) == (0.25, 0.5)


def test_hm_iou_can_be_above_a_greedy_matching_that_drops_raters() -> None:
    far, near = torch.zeros(2, 1, 1, 4).bool()
    far[..., :1], near[..., 1:] = True, True
    masks = torch.stack([far, near])[None]
    assert F.hm_iou(masks[:, 1:], masks, matching="greedy").item() == 0.0
    assert F.hm_iou(masks[:, 1:], masks).item() == 0.5


def test_ncc_by_rows_is_not_invariant_to_transposition() -> None:
    rng = torch.Generator().manual_seed(0)
    samples, masks = (torch.rand(1, m, 1, 8, 8, generator=rng) > 0.5 for m in (6, 4))
    turned = F.ncc(samples.transpose(-1, -2), masks.transpose(-1, -2), kind="row")
    assert (turned - F.ncc(samples, masks, kind="row")).abs().item() > 0.01


@HUNDREDS
@given(mask_sets())
def test_iou_equals_monai_where_the_ground_truth_is_not_empty(sets: Sets) -> None:
    samples, masks = sets
    ours = F.pairwise_iou(samples, masks)[0]
    for i, sample in enumerate(samples[0]):
        for j, rater in enumerate(masks[0]):
            theirs = compute_iou(sample[None].float(), rater[None].float(), ignore_empty=True)[0].double()
            filled = rater.flatten(1).any(-1)
            assert torch.allclose(ours[i, j][filled], theirs[filled], atol=1e-6, rtol=0)


@HUNDREDS
@given(mask_sets(max_samples=6), st.data())
def test_a_subset_of_the_counts_is_the_count_of_the_subset(sets: Sets, data: st.DataObject) -> None:
    samples, masks = sets
    which = data.draw(st.lists(st.integers(0, samples.shape[1] - 1), min_size=1, max_size=6))
    chosen = F.PairwiseDistances.of(samples, masks).subset(torch.tensor(which))
    assert torch.equal(chosen.common, F.PairwiseDistances.of(samples[:, which], masks).common)


@HUNDREDS
@given(mask_sets())
def test_both_ways_to_count_overlaps_agree(sets: Sets) -> None:
    both = torch.cat(sets, dim=1)
    assert torch.equal(ops._products(both.flatten(3)), F.PairwiseDistances.of(*sets).common)


@pytest.mark.parametrize("metric", ["ged", "hm_iou", "dmax", "ncc", "soft_dice", "brier", "uncertainty_ncc"])
def test_images_of_a_batch_do_not_touch_each_other(metric: str) -> None:
    rng = torch.Generator().manual_seed(1)
    samples, masks = (torch.rand(5, m, 2, 9, 7, generator=rng) > 0.6 for m in (6, 4))
    read = torch.rand(5, 4, generator=rng) > 0.4
    read[3] = False
    function = getattr(F, metric)
    together = function(samples, masks, read=read)
    alone = torch.cat([function(samples[i : i + 1], masks[i : i + 1], read=read[i : i + 1]) for i in range(5)])
    assert close(together, alone)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ALL_METRICS)
def test_a_cuda_device_gives_the_same_values(name: str) -> None:
    rng = torch.Generator().manual_seed(3)
    samples, masks = (torch.rand(3, m, 2, 16, 16, generator=rng) > 0.6 for m in (6, 4))
    assert close(ALL_METRICS[name](samples.cuda(), masks.cuda()).cpu(), ALL_METRICS[name](samples, masks))


def test_the_iid_reference_is_the_mean_ged_of_fresh_raters() -> None:
    """Raters and samples drawn from one list of masks: the mean GED over many draws is the mean reference."""
    rng = torch.Generator().manual_seed(2)
    pool = torch.rand(6, 1, 6, 6, generator=rng) > torch.linspace(0.3, 1.0, 6)[:, None, None, None]
    draws, n, m = 4_000, 3, 4
    samples, masks = (pool[torch.randint(6, (draws, k), generator=rng)] for k in (n, m))
    for estimator in ("v", "u"):
        gap = F.ged(samples, masks, estimator=estimator) - F.iid_reference(masks, n, estimator=estimator)
        assert abs(gap.mean().item()) < 4 * (gap.std() / draws**0.5).item()


def blobs(seed: int) -> Sets:
    """Samples (1,3,2,24,24) and masks (1,3,2,24,24): rectangles of which each majority keeps some pixels."""
    rng = np.random.default_rng(seed)
    found = torch.zeros(2, 1, 3, 2, 24, 24).bool()
    for which, j, k in itertools.product(range(2), range(3), range(2)):
        top, left = rng.integers(0, 6, 2)
        found[which, 0, j, k, top : top + rng.integers(8, 18), left : left + rng.integers(8, 18)] = True
    return found[0], found[1]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI warns of its own call
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("spacing", [None, (0.7, 1.3)])
def test_boundary_distances_are_those_of_monai(seed: int, spacing: tuple[float, float] | None) -> None:
    samples, masks = blobs(seed)
    ours = F.surface_distances(samples, masks, spacing=spacing)
    pair = [F.majority_vote(x).float() for x in (samples, masks)]
    options = {"include_background": True, "spacing": list(spacing) if spacing else None}
    hausdorff = compute_hausdorff_distance(*pair, percentile=95, **options).mean()
    average = compute_average_surface_distance(*pair, symmetric=True, **options).mean()
    assert ours.hd95.item() == pytest.approx(hausdorff.item(), abs=1e-5)
    assert ours.average.item() == pytest.approx(average.item(), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_boundary_distances_are_those_of_all_pairs_of_pixels(seed: int) -> None:
    samples, masks = (x[:, :1, :1] for x in blobs(seed))
    scale = np.array([0.7, 1.3])
    edges = [np.argwhere(boundary(x[0, 0, 0].numpy())) * scale for x in (samples, masks)]
    apart = np.linalg.norm(edges[0][:, None] - edges[1], axis=-1)
    there, back = apart.min(1), apart.min(0)
    ours = F.surface_distances(samples, masks, spacing=scale.tolist())
    assert ours.hd95.item() == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-5)
    assert ours.average.item() == pytest.approx(np.concatenate([there, back]).mean(), abs=1e-5)


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask of which a neighbour, of four, is not of it."""
    around = np.pad(mask, 1)
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return mask & ~inside


def test_each_image_has_its_own_spacing() -> None:
    samples, masks = blobs(3)
    twice = [x.expand(2, -1, -1, -1, -1) for x in (samples, masks)]
    both = F.hd95(*twice, spacing=torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    assert both[1].item() == pytest.approx(2 * both[0].item())
