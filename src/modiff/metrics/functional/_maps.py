"""Mean maps, correlation and ranking of maps: what the metrics of probability maps share."""

from __future__ import annotations

import torch
from torch import Tensor

from modiff.metrics.functional._checks import check_weights


def mean_map(samples: Tensor, weights: Tensor | None) -> Tensor:
    """(B,K,H,W) float64: the mean of the samples' maps (B,N,K,H,W), weighted by (B,N) where given."""
    if weights is None:
        return samples.mean(1, dtype=torch.float64)
    return torch.einsum("bnkhw,bn->bkhw", samples.double(), check_weights(weights, samples))


def correlation(a: Tensor, b: Tensor, constant: float) -> tuple[Tensor, Tensor]:
    """Pearson correlation over the last axis with population deviations, and whether a map was constant.

    A map whose range is at most `constant` counts as constant; two constant maps correlate by 1, one with another map
    by 0 (the formula would divide 0, or rounding noise, by 0). NaN stays NaN.
    """
    flat_a, flat_b = (_range(x) <= constant for x in (a, b))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    scale = (a.square().mean(-1) * b.square().mean(-1)).sqrt()
    degenerate = flat_a | flat_b
    value = (a * b).mean(-1) / torch.where(degenerate, 1.0, scale)
    return torch.where(degenerate & ~value.isnan(), (flat_a & flat_b).to(value.dtype), value), degenerate


def _range(x: Tensor) -> Tensor:
    return x.amax(-1) - x.amin(-1)


def auroc(score: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve by ranks, ties counted half: (B,P) scores and bool labels -> (B,) float64.

    NaN for an image without positives or without negatives.
    """
    ordered = score.sort(dim=1).values
    below = torch.searchsorted(ordered, score)
    not_above = torch.searchsorted(ordered, score, right=True)
    ranks = (below + not_above + 1).double() / 2
    positives = positive.sum(1).double()
    negatives = positive.shape[1] - positives
    wins = (ranks * positive).sum(1) - positives * (positives + 1) / 2
    return wins / (positives * negatives)  # 0/0 is NaN
