"""Metrics of the set of samples and the set of raters: GED, HM-IoU, CI, and distances of the majorities' boundaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import identity as eye
from scipy.sparse import kron, vstack
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional import ops
from modiff.metrics.functional.ops import PairwiseDistances

Sets = Tensor | PairwiseDistances
Estimator = Literal["v", "u"]
Matching = Literal["optimal", "greedy"]
Spacing = Sequence[float] | Tensor | None


def ged(
    samples: Sets,
    masks: Tensor | None = None,
    *,
    read: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: Estimator = "v",
) -> Tensor:
    """Generalised energy distance D² = 2·E d(S,Y) − E d(S,S′) − E d(Y,Y′), d = class mean of 1 − IoU; lower is better.

    samples: (B,N,K,H,W) masks. masks: (B,R,K,H,W). read: (B,R), None is all. weights: (B,N), None is uniform; they are
    normalised. Or `PairwiseDistances` in place of the sets. Returns (B,) float64, NaN for an image that nobody read.
    estimator "v" counts pairs of an element with itself (N², M² pairs) and is never negative; "u" leaves them out
    (pairs i < j), is unbiased and can be negative; a set of one element has self term 0 under both. With weights, "u"
    is Σ_{i≠j} w_i·w_j·d_ij / (1 − Σw²). A perfect model does not score 0: see `iid_reference`.
    Source: Székely and Rizzo 2013; Kohl et al. 2018, equation 4. Raises MetricError.
    """
    pairs = PairwiseDistances.of(samples, masks, read=read)
    of_samples, of_raters = ops.check_weights(weights, pairs.sample_rater), ops.rater_weights(pairs.read)
    cross = torch.einsum("bn,bnr,br->b", of_samples, pairs.sample_rater, of_raters)
    within = _self_term(pairs.sample_sample, of_samples, estimator)
    return 2.0 * cross - within - _self_term(pairs.rater_rater, of_raters, estimator)


def _self_term(distances: Tensor, weights: Tensor, estimator: str) -> Tensor:
    """Mean distance within a set, (B,M,M) and (B,M) weights -> (B,): with ("v") or without ("u") pairs i = j."""
    mean = torch.einsum("bi,bij,bj->b", weights, distances, weights)
    if estimator == "v":
        return mean
    if estimator != "u":
        raise MetricError("no such estimator", field="estimator", found=estimator, expected="v or u")
    # d(i,i) = 0: the sum over all pairs is the sum over i != j, whose weight is 1 − Σw². One element has no such pair.
    others = 1.0 - weights.square().sum(1)
    several = (weights > 0).sum(1) >= 2
    return torch.where(several | weights.isnan().any(1), mean / torch.where(several, others, 1.0), 0.0)


def sample_diversity(samples: Sets, *, weights: Tensor | None = None, estimator: Estimator = "v") -> Tensor:
    """Mean distance between two samples, E d(S,S′): (B,) float64; 0 with one sample. See `ged`."""
    pairs = PairwiseDistances.of(samples)
    return _self_term(pairs.sample_sample, ops.check_weights(weights, pairs.sample_sample), estimator)


def rater_diversity(masks: Sets, *, read: Tensor | None = None, estimator: Estimator = "v") -> Tensor:
    """Mean distance between two raters, E d(Y,Y′): (B,) float64; 0 with one rater, NaN with none. See `ged`."""
    pairs = PairwiseDistances.of_raters(masks, read=read)
    return _self_term(pairs.rater_rater, ops.rater_weights(pairs.read), estimator)


def iid_reference(masks: Sets, n: int, *, read: Tensor | None = None, estimator: Estimator = "v") -> Tensor:
    """Expected GED of n samples that are fresh raters of the image, i.i.d. with those who read it: (B,) float64.

    Under "v" it is d·(1/n + 1/M), d the mean distance of two different raters; under "u" 0 (d with n = 1). NaN where
    fewer than two raters read the image: d cannot be known. Print it beside a mean GED over all images of a data set:
    it is exact where images were not chosen by their marks, a guide where they were, and means nothing within a
    stratum that conditions on the marks. Raises MetricError.
    """
    if n < 1:
        raise MetricError("needs a sample", field="n", found=n, expected="n >= 1")
    pairs = PairwiseDistances.of_raters(masks, read=read)
    raters = pairs.read.sum(1)
    apart = torch.where(raters >= 2, rater_diversity(pairs, estimator="u"), torch.nan)
    if estimator == "v":
        return apart * (1.0 / n + 1.0 / raters.clamp(min=1))
    return apart if n == 1 else torch.zeros_like(apart).where(raters >= 2, torch.nan)


def hm_iou(
    samples: Sets,
    masks: Tensor | None = None,
    *,
    read: Tensor | None = None,
    weights: Tensor | None = None,
    matching: Matching = "optimal",
) -> Tensor:
    """Hungarian-matched IoU, mean IoU of matched pairs; higher is better.

    Arguments as `ged`; returns (B,) float64, NaN for an image that nobody read. Multi-class: whole hypotheses are
    matched, by the class mean of their IoU.
    matching "optimal": both sets repeated to lcm(N, M), optimal assignment, mean over all pairs, which is optimal
    transport between equal masses (or masses `weights`). "greedy": each rater in order takes the best sample not yet
    taken; mean over the raters that got one, so it uses M of N samples, depends on the raters' order and drops raters
    when N < M. Source: Kassapis et al. 2021, Zepf et al. 2023 (optimal). Raises MetricError.
    """
    pairs = PairwiseDistances.of(samples, masks, read=read)
    iou = 1.0 - pairs.sample_rater
    if matching == "greedy":
        if weights is not None:
            raise MetricError("greedy matching takes one sample per rater", field="weights", expected="None")
        return _greedy(iou, pairs.read)
    if matching != "optimal":
        raise MetricError("no such matching", field="matching", found=matching, expected="optimal or greedy")
    masses = [None] * len(iou) if weights is None else ops.check_weights(weights, iou).cpu().numpy()
    images = zip(iou.cpu().numpy(), pairs.read.cpu().numpy(), masses, strict=True)
    values = [_match(matrix[:, there], mass) for matrix, there, mass in images]
    return torch.tensor(values, dtype=torch.float64, device=iou.device)


def _match(iou: np.ndarray, mass: np.ndarray | None) -> float:
    """Optimal transport between samples and raters, IoU (N,R): an assignment where the samples have equal masses, a
    linear programme where they have masses (N,)."""
    samples, raters = iou.shape
    if raters == 0:
        return math.nan
    if mass is None:
        if samples == 1 or raters == 1:
            return float(iou.mean())
        size = math.lcm(samples, raters)
        square = np.repeat(np.repeat(iou, size // samples, axis=0), size // raters, axis=1)
        return float(square[linear_sum_assignment(square, maximize=True)].mean())
    by_sample = kron(eye(samples), np.ones((1, raters)))
    by_rater = kron(np.ones((1, samples)), eye(raters))
    totals = np.concatenate([mass, np.full(raters, 1.0 / raters)])
    # The last constraint follows from the others; with it, rounding of the masses could make the programme infeasible.
    plan = linprog(-iou.ravel(), A_eq=vstack([by_sample, by_rater]).tocsr()[:-1], b_eq=totals[:-1], method="highs")
    return -float(plan.fun)


def _greedy(iou: Tensor, read: Tensor) -> Tensor:
    """Each rater in order takes the best sample not yet taken, of equally good ones the first: (B,N,R) -> (B,)."""
    batch, samples, raters = iou.shape
    free = torch.ones(batch, samples, dtype=torch.bool, device=iou.device)
    total, count = iou.new_zeros(batch), iou.new_zeros(batch)
    rows = torch.arange(batch, device=iou.device)
    for rater in range(raters):
        best, which = iou[:, :, rater].masked_fill(~free, -1.0).max(1)
        matched = read[:, rater] & free.any(1)
        total += torch.where(matched, best, 0.0)
        count += matched
        free[rows, which] &= ~matched
    return total / count  # 0/0 is NaN: nobody read the image


class CollectiveInsight(NamedTuple):
    """Each (B,) float64. ci: the score. sensitivity: S_c. dmax: D_max. agreement: D_a."""

    ci: Tensor
    sensitivity: Tensor
    dmax: Tensor
    agreement: Tensor


def collective_insight(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, pairs: PairwiseDistances | None = None
) -> CollectiveInsight:
    """CI = 3·S_c·D_max·D_a / (S_c + D_max + D_a), as published (no harmonic mean), and its parts; higher is better.

    samples: (B,N,K,H,W) masks. masks: (B,R,K,H,W). read: (B,R). pairs: the overlaps of the same sets, if at hand.
    S_c = |∪Y ∩ ∪S| / |∪Y|: 1 where both are empty, undefined where only ∪Y is. D_max: see `dmax`. D_a = 1 −
    (|V_min,Y − V_min,S| + |V_max,Y − V_max,S|)/2, V over pairs of different masks the variance of their difference
    over pixels; undefined with fewer than two raters or samples. The parts are class means, CI is formed of these.
    NaN where undefined, for CI if one part or one class is; the three parts say which.
    Source: Rahman et al. 2023 (CIMD), section 3.3. Raises MetricError.
    """
    samples, masks, read = ops.check_sets(samples, masks, read)
    pairs = PairwiseDistances.of(samples, masks, read=read) if pairs is None else pairs
    sensitivity = _combined_sensitivity(samples, masks, read)
    best, agreement = dmax(pairs), _diversity_agreement(pairs)
    total = sensitivity + best + agreement
    ci = 3 * sensitivity * best * agreement / torch.where(total == 0, 1.0, total)
    return CollectiveInsight(ci, sensitivity, best, agreement)


def best_dice(samples: Sets, masks: Tensor | None = None, *, read: Tensor | None = None) -> Tensor:
    """Each rater's best Dice over the samples: (B,R) float64, Dice(∅,∅) = 1, class mean; NaN where not read."""
    pairs = PairwiseDistances.of(samples, masks, read=read)
    return pairs.dice.amax(1).where(pairs.read, torch.nan)


def dmax(samples: Sets, masks: Tensor | None = None, *, read: Tensor | None = None) -> Tensor:
    """Mean over the raters of their best Dice over the samples: (B,) float64, NaN for an image that nobody read.

    Source: CIMD (Rahman et al. 2023), "maximum Dice matching". Raises MetricError.
    """
    return best_dice(samples, masks, read=read).nanmean(1)


def _combined_sensitivity(samples: Tensor, masks: Tensor, read: Tensor) -> Tensor:
    drawn = ops.any_of(samples, 1).flatten(2)
    marked = ops.any_of(masks & read[:, :, None, None, None], 1).flatten(2)
    area, common = marked.sum(-1).double(), (drawn & marked).sum(-1).double()
    covered = torch.where(drawn.any(-1) | (area > 0), common / area, 1.0)  # 0/0 is NaN: only the samples mark something
    return torch.where(read.any(1), covered.mean(1), torch.nan)


def _diversity_agreement(pairs: PairwiseDistances) -> Tensor:
    areas, common = pairs.areas.double() / pairs.pixels, pairs.common.double() / pairs.pixels
    a, b = areas[..., :, None], areas[..., None, :]
    variance = a + b - 2 * common - (a - b).square()  # E[(x−y)²] − E[x−y]² of 0/1 maps
    both_read = (pairs.read[:, :, None] & pairs.read[:, None, :])[:, None]
    low, high = _extremes(variance[..., pairs.n :, pairs.n :], both_read)
    other_low, other_high = _extremes(variance[..., : pairs.n, : pairs.n], torch.ones_like(both_read[..., :1, :1]))
    return (1 - ((low - other_low).abs() + (high - other_high).abs()) / 2).mean(1)


def _extremes(values: Tensor, use: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value over pairs i != j, (B,K,M,M) -> twice (B,K); NaN where there is no pair."""
    different = ~torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)
    use, flat = (use & different).expand_as(values).flatten(2), values.flatten(2)
    low, high = flat.masked_fill(~use, torch.inf).amin(-1), flat.masked_fill(~use, -torch.inf).amax(-1)
    none = ~use.any(-1)
    return low.masked_fill(none, torch.nan), high.masked_fill(none, torch.nan)


class SurfaceDistances(NamedTuple):
    """Each (B,) float64, in pixels or in the spacing's unit. hd95: larger of the two directions. average: symmetric."""

    hd95: Tensor
    average: Tensor


def surface_distances(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, spacing: Spacing = None
) -> SurfaceDistances:
    """HD95 and average symmetric surface distance of the samples' majority and the raters' majority; lower is better.

    samples: (B,N,K,H,W) masks; masks: (B,R,K,H,W); read: (B,R). spacing: (row, column) size of a pixel, one for all
    images or (B,2); None counts pixels. A boundary is the mask's pixels with a neighbour outside it, of four, or at the
    image's border, as MONAI has it. A class is scored where both majorities mark it, the image's value is the mean over
    these classes, and NaN where there is none (no boundary, no distance). Raises MetricError.
    """
    samples, masks, read = ops.check_sets(samples, masks, read)
    ours, theirs = ops.majority_vote(samples).cpu(), ops.majority_vote(masks, read).cpu()
    sizes = _spacings(spacing, len(masks))
    both = ops.any_of(ours.flatten(2), -1) & ops.any_of(theirs.flatten(2), -1)
    found = torch.full((*both.shape, 2), torch.nan, dtype=torch.float64)
    for i, k in both.nonzero().tolist():
        pair = ours[i, k].numpy(), theirs[i, k].numpy()
        ways = [_distances(*pair, sizes[i]), _distances(*pair[::-1], sizes[i])]
        found[i, k, 0] = max(way.quantile(0.95) for way in ways)
        found[i, k, 1] = torch.cat(ways).mean()
    return SurfaceDistances(*found.nanmean(1).to(masks.device).unbind(1))


def hd95(samples: Tensor, masks: Tensor, *, read: Tensor | None = None, spacing: Spacing = None) -> Tensor:
    """95th percentile of the Hausdorff distance of the consensus: (B,) float64; see `surface_distances`."""
    return surface_distances(samples, masks, read=read, spacing=spacing).hd95


def average_surface_distance(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, spacing: Spacing = None
) -> Tensor:
    """Average symmetric surface distance of the consensus: (B,) float64; see `surface_distances`."""
    return surface_distances(samples, masks, read=read, spacing=spacing).average


def _spacings(spacing: Spacing, images: int) -> list[list[float]]:
    if spacing is None:
        return [[1.0, 1.0]] * images
    sizes = torch.as_tensor(spacing, dtype=torch.float64)
    if sizes.shape not in ((2,), (images, 2)) or not bool((sizes > 0).all() & sizes.isfinite().all()):
        raise MetricError("not a pixel size", field="spacing", found=spacing, expected="(2,) or (B,2) numbers > 0")
    return sizes.expand(images, 2).tolist()


def _distances(mask: np.ndarray, other: np.ndarray, spacing: list[float]) -> Tensor:
    """From each pixel of a mask's boundary to the nearest of the other's: (P,) float64, rounded to single precision.

    Rounded as MONAI rounds them, so that a percentile does not fall between distances that are equal.
    """
    edge, far = (x & ~binary_erosion(x) for x in (mask, other))
    to_other = distance_transform_edt(~far, sampling=spacing)
    return torch.from_numpy(np.asarray(to_other)[edge].astype(np.float32)).double()


def crps(values: Tensor, observed: Tensor, *, read: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Continuous ranked probability score of numbers, ∫(F(t) − 1{y ≤ t})² dt = E|X − y| − E|X − X′|/2; lower is better.

    values: (B,N), a sample's number each, such as a volume, whose distribution F is. observed: (B,R), a rater's each.
    read: (B,R), None is all. weights: (B,N), None is uniform. Returns (B,) float64 in the unit of the numbers, the mean
    over raters; NaN for an image that nobody read. Of one sample it is the absolute error. A perfect model does not
    score 0: it scores half the mean distance of two raters, and with N samples 1 + 1/N times that on average.
    Source: Matheson and Winkler 1976; Gneiting and Raftery 2007, equation 21. Raises MetricError.
    """
    shapes = tuple(values.shape), tuple(observed.shape)
    if {len(shape) for shape in shapes} != {2} or len(values) != len(observed) or 0 in (shapes[0][1], shapes[1][1]):
        found = f"{shapes[0]} and {shapes[1]}"
        raise MetricError("numbers of a wrong shape", found=found, expected="(B,N) and (B,R), N and R >= 1")
    if read is not None and tuple(read.shape) != shapes[1]:
        raise MetricError("does not fit the numbers", field="read", found=tuple(read.shape), expected=shapes[1])
    x, y = values.double(), observed.double()
    of_samples = ops.check_weights(weights, x)
    there = torch.ones_like(y, dtype=torch.bool) if read is None else read.to(y.device, torch.bool)
    cross = torch.einsum("bn,bnr,br->b", of_samples, (x[:, :, None] - y[:, None]).abs(), ops.rater_weights(there))
    return cross - _self_term((x[:, :, None] - x[:, None]).abs(), of_samples, "v") / 2


def size_crps(samples: Tensor, masks: Tensor, *, read: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """`crps` of how many pixels are marked, mean over classes: samples (B,N,K,H,W) and masks (B,R,K,H,W), (B,) float64.

    An empty mask has size 0. Raises MetricError.
    """
    samples, masks, there = ops.check_sets(samples, masks, read)
    sizes, marked = samples.flatten(3).sum(-1), masks.flatten(3).sum(-1)
    each = [crps(sizes[..., k], marked[..., k], read=there, weights=weights) for k in range(sizes.shape[-1])]
    return torch.stack(each).mean(0)
