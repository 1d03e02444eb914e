"""Mean maps, correlation and ranking of maps: what the metrics of probability maps share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from modiff.metrics.functional._checks import check_weights, votes


def mean_map(samples: Tensor, weights: Tensor | None) -> Tensor:
    """(B,K,H,W) float64: the mean of maps (B,N,K,H,W), bool or float, weighted by (B,N) where given."""
    if weights is not None:
        return torch.einsum("bnkhw,bn->bkhw", samples.double(), check_weights(weights, samples))
    # The sum, not the mean, in the maps' own precision: it is exact for maps of 0 and 1, and then so is the share.
    total = votes(samples) if samples.dtype == torch.bool else samples.sum(1)
    return total.double() / samples.shape[1]


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
    """Area under the ROC curve with ties counted half: (B,P) scores and bool labels -> (B,) float64.

    NaN for an image without positives or without negatives.
    """
    scores, labels = score.cpu().numpy(), positive.cpu().numpy()
    values = [_auroc_of_one(*pair) for pair in zip(scores, labels, strict=True)]
    return torch.tensor(values, dtype=torch.float64, device=score.device)


def _auroc_of_one(score: np.ndarray, positive: np.ndarray) -> float:
    """Mann and Whitney: the share of pairs, one of each kind, that the score orders rightly, ties counted half."""
    negatives = np.sort(score[~positive])
    chosen = score[positive]
    if not len(negatives) or not len(chosen):
        return float("nan")
    below = np.searchsorted(negatives, chosen, side="left") + np.searchsorted(negatives, chosen, side="right")
    return float(below.mean() / (2 * len(negatives)))
