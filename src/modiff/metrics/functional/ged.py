"""GED, the generalised energy distance of samples and raters, its self terms, and what a perfect model scores."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional.ops import PairwiseDistances, check_weights, rater_weights


def ged(
    samples: Tensor | PairwiseDistances,
    masks: Tensor | None = None,
    *,
    read: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: Literal["v", "u"] = "v",
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
    of_samples, of_raters = check_weights(weights, pairs.sample_rater), rater_weights(pairs.read)
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


def sample_diversity(
    samples: Tensor | PairwiseDistances, *, weights: Tensor | None = None, estimator: Literal["v", "u"] = "v"
) -> Tensor:
    """Mean distance between two samples, E d(S,S′): (B,) float64; 0 with one sample. See `ged`."""
    pairs = PairwiseDistances.of(samples)
    return _self_term(pairs.sample_sample, check_weights(weights, pairs.sample_sample), estimator)


def rater_diversity(
    masks: Tensor | PairwiseDistances, *, read: Tensor | None = None, estimator: Literal["v", "u"] = "v"
) -> Tensor:
    """Mean distance between two raters, E d(Y,Y′): (B,) float64; 0 with one rater, NaN with none. See `ged`."""
    pairs = PairwiseDistances.of_raters(masks, read=read)
    return _self_term(pairs.rater_rater, rater_weights(pairs.read), estimator)


def iid_reference(
    masks: Tensor | PairwiseDistances, n: int, *, read: Tensor | None = None, estimator: Literal["v", "u"] = "v"
) -> Tensor:
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
