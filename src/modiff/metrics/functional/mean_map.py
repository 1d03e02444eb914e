"""The samples' mean map against the raters' mean label: soft Dice, Brier score, and agreement of the uncertainties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional.ops import check_sets, correlation, rater_mean, sample_mean

QUBIQ_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)

Uncertainty = Literal["variance", "entropy"]


def _mean_maps(samples: Tensor, masks: Tensor, read: Tensor | None, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mean map of the samples and of the raters, each (B,K,H,W) float64; the latter NaN where nobody read."""
    samples, masks, read = check_sets(samples, masks, read, maps=True)
    return sample_mean(samples, weights), rater_mean(masks, read)


def soft_dice(
    samples: Tensor,
    masks: Tensor,
    *,
    read: Tensor | None = None,
    weights: Tensor | None = None,
    levels: Sequence[float] | None = QUBIQ_LEVELS,
) -> Tensor:
    """Dice of the samples' mean map p with the raters' mean label q: (B,) float64, class mean; higher is better.

    samples: (B,N,K,H,W) probabilities or masks; other shapes as `ged`. levels: the mean over these of the Dice of
    {p > level} and {q > level}, Dice(∅,∅) = 1 (QUBIQ; D-Persona's Dice_soft); None: 2·Σpq / Σ(p² + q²), 1 only where
    p = q. NaN for an image that nobody read. Raises MetricError.
    """
    p, q = (x.flatten(2) for x in _mean_maps(samples, masks, read, weights))
    if levels is None:
        total = (p.square() + q.square()).sum(-1)
        return torch.where(total == 0, 1.0, 2 * (p * q).sum(-1) / torch.where(total == 0, 1.0, total)).mean(1)
    dice = []
    for level in levels:
        a, b = p > level, q > level
        size = (a.sum(-1) + b.sum(-1)).double()
        dice.append(torch.where(size == 0, 1.0, 2 * (a & b).sum(-1) / size.clamp(min=1)))
    value = torch.stack(dice).mean(0).mean(1)
    return torch.where(q.isnan().flatten(1).any(1), torch.nan, value)


def brier(samples: Tensor, masks: Tensor, *, read: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Mean over pixels and classes of (p − q)², p the samples' mean map, q the raters' mean; (B,) float64.

    Shapes as `soft_dice`; lower is better, 0 for p = q. Against single raters it would be larger by their variance
    q·(1 − q), whatever the model. NaN for an image that nobody read. Source: Brier 1950. Raises MetricError.
    """
    p, q = _mean_maps(samples, masks, read, weights)
    return (p - q).square().flatten(1).mean(1)


def uncertainty_map(mean: Tensor, kind: Uncertainty = "variance") -> Tensor:
    """How far a mean map (B,K,H,W) is from certain: (B,H,W). Σ_k p·(1 − p), or the entropy in nats with background."""
    if kind == "variance":
        return (mean * (1 - mean)).sum(1)
    if kind != "entropy":
        raise MetricError("no such uncertainty", field="kind", found=kind, expected="variance or entropy")
    everything = torch.cat([(1 - mean.sum(1, keepdim=True)).clamp(min=0), mean], 1)
    return -torch.special.xlogy(everything, everything).sum(1)


def uncertainty_ncc(
    samples: Tensor,
    masks: Tensor,
    *,
    read: Tensor | None = None,
    weights: Tensor | None = None,
    kind: Uncertainty = "variance",
) -> Tensor:
    """Correlation over pixels of the samples' uncertainty map with that of the raters: (B,) float64, in [−1,1].

    Shapes as `soft_dice`. Two constant maps (all agree in both) correlate by 1, a constant one with another by 0. NaN
    for an image that nobody read. Raises MetricError.
    """
    p, q = _mean_maps(samples, masks, read, weights)
    return correlation(uncertainty_map(p, kind).flatten(1), uncertainty_map(q, kind).flatten(1), 1e-12)[0]


def uncertainty_auroc(
    samples: Tensor,
    masks: Tensor,
    *,
    read: Tensor | None = None,
    weights: Tensor | None = None,
    kind: Uncertainty = "variance",
) -> Tensor:
    """How well the samples' uncertainty ranks pixels where raters disagree above the rest: (B,) float64 AUROC.

    Shapes as `soft_dice`. 0.5 is chance, and what samples that all agree score. NaN where no pixel or every pixel is
    disputed, as with one rater or none. Raises MetricError.
    """
    p, q = _mean_maps(samples, masks, read, weights)
    disputed = ((q > 0) & (q < 1)).any(1).flatten(1)
    # float32 joins values that are equal but for rounding, such as 0.3·0.7 and 0.7·0.3.
    score = uncertainty_map(p, kind).flatten(1).float()
    return _auroc(score, disputed)


def _auroc(score: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve: (B,P) scores and bool labels -> (B,) float64; NaN without positives or negatives.

    By Mann and Whitney: the fraction of pairs, one of each kind, that the score orders rightly, ties counted half.
    """
    values = []
    for scores, labels in zip(score.cpu().numpy(), positive.cpu().numpy(), strict=True):
        negatives, chosen = np.sort(scores[~labels]), scores[labels]
        below = np.searchsorted(negatives, chosen, side="left") + np.searchsorted(negatives, chosen, side="right")
        defined = len(negatives) and len(chosen)
        values.append(float(below.mean() / (2 * len(negatives))) if defined else float("nan"))
    return torch.tensor(values, dtype=torch.float64, device=score.device)
