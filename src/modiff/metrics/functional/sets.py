"""Distances between the set of samples and the set of raters: GED, HM-IoU, diversity, best Dice."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from modiff.metrics.functional.pairwise import PairwiseDistances


def ged(
    samples: Tensor,
    masks: Tensor,
    *,
    read: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: Literal["v", "u"] = "v",
) -> Tensor:
    """Generalised energy distance D² = 2·E d(S,Y) − E d(S,S′) − E d(Y,Y′), d = class mean of 1 − IoU; lower is better.

    samples: (B,N,K,H,W) masks. masks: (B,R,K,H,W). read: (B,R), None is all. weights: (B,N), None is uniform; they are
    normalised. Returns (B,) float64, NaN for an image that nobody read.
    estimator "v" counts pairs of an element with itself (N², M² pairs) and is never negative; "u" leaves them out
    (pairs i < j), is unbiased and can be negative; a set of one element has self term 0 under both. With weights, "u"
    is Σ_{i≠j} w_i·w_j·d_ij / (1 − Σw²). A perfect model does not score 0: see `iid_reference`.
    Source: Székely and Rizzo 2013; Kohl et al. 2018, equation 4. Raises MetricError.
    """
    return PairwiseDistances.of(samples, masks, read=read).ged(estimator=estimator, weights=weights)


def hm_iou(
    samples: Tensor,
    masks: Tensor,
    *,
    read: Tensor | None = None,
    weights: Tensor | None = None,
    matching: Literal["optimal", "greedy"] = "optimal",
) -> Tensor:
    """Hungarian-matched IoU, mean IoU of matched pairs; higher is better.

    Shapes as `ged`; returns (B,) float64, NaN for an image that nobody read. Multi-class: whole hypotheses are
    matched, by the class mean of their IoU.
    matching "optimal": both sets repeated to lcm(N, M), optimal assignment, mean over all pairs, which is optimal
    transport between equal masses (or masses `weights`). "greedy": each rater in order takes the best sample not yet
    taken; mean over the raters that got one, so it uses M of N samples, depends on the raters' order and drops raters
    when N < M. Source: Kassapis et al. 2021, Zepf et al. 2023 (optimal). Raises MetricError.
    """
    return PairwiseDistances.of(samples, masks, read=read).hm_iou(matching=matching, weights=weights)


def rater_diversity(masks: Tensor, *, read: Tensor | None = None, estimator: Literal["v", "u"] = "v") -> Tensor:
    """Mean distance between two readers, E d(Y,Y′): (B,) float64; 0 with one reader, NaN with none. See `ged`."""
    return PairwiseDistances.of_raters(masks, read=read).rater_diversity(estimator=estimator)


def sample_diversity(samples: Tensor, *, weights: Tensor | None = None, estimator: Literal["v", "u"] = "v") -> Tensor:
    """Mean distance between two samples, E d(S,S′): (B,) float64; 0 with one sample. See `ged`."""
    return PairwiseDistances.of_samples(samples).sample_diversity(estimator=estimator, weights=weights)


def iid_reference(masks: Tensor, n: int, *, read: Tensor | None = None, estimator: Literal["v", "u"] = "v") -> Tensor:
    """Expected GED of n samples that are fresh raters of the image, i.i.d. with those who read it: (B,) float64.

    Under "v" it is d·(1/n + 1/M), d the mean distance of two different readers; under "u" 0 (d with n = 1). NaN where
    fewer than two raters read the image: d cannot be known. Print it beside a mean GED over all images of a data set:
    it is exact where images were not chosen by their marks, a guide where they were, and means nothing within a
    stratum that conditions on the marks. Raises MetricError.
    """
    return PairwiseDistances.of_raters(masks, read=read).iid_reference(n, estimator=estimator)


def best_dice(samples: Tensor, masks: Tensor, *, read: Tensor | None = None) -> Tensor:
    """Each rater's best Dice over the samples: (B,R) float64, Dice(∅,∅) = 1, class mean; NaN if not a reader."""
    return PairwiseDistances.of(samples, masks, read=read).best_dice()


def dmax(samples: Tensor, masks: Tensor, *, read: Tensor | None = None) -> Tensor:
    """Mean over the readers of their best Dice over the samples: (B,) float64, NaN for an image nobody read.

    Source: CIMD (Rahman et al. 2023), "maximum Dice matching". Raises MetricError.
    """
    return PairwiseDistances.of(samples, masks, read=read).dmax()
