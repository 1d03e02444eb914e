"""Metrics of probability maps: the mean map against the raters' mean label, NCC of cross-entropy maps, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional import ops

BINS = 10  # of calibration, of equal width on [0,1]
QUBIQ_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
_EPS = 1e-8  # inside the logarithm of NCC, as PHiSeg has it
_ROUNDED = 1e-9  # by which a mean may lie above a level that it equals
_ZERO_STD = 1e-9  # stands for a zero deviation in NCC by rows, as its script has it

Uncertainty = Literal["variance", "entropy"]
NccKind = Literal["pixel", "row"]


def _mean_maps(samples: Tensor, masks: Tensor, read: Tensor | None, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mean map of the samples and of the raters, each (B,K,H,W) float64; the latter NaN where nobody read."""
    samples, masks, read = ops.check_sets(samples, masks, read, maps=True)
    votes = torch.einsum("brkhw,br->bkhw", masks.double(), read.double())  # whole numbers: unanimity is exactly 1
    return ops.sample_mean(samples, weights), votes / read.sum(1)[:, None, None, None]


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
        return ops.ratio(2 * (p * q).sum(-1), (p.square() + q.square()).sum(-1)).mean(1)
    above = ((p > level + _ROUNDED, q > level + _ROUNDED) for level in levels)
    dice = [ops.ratio(2 * (a & b).sum(-1), a.sum(-1) + b.sum(-1)) for a, b in above]
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
    entropy: Tensor = torch.special.entr(everything)
    return entropy.sum(1)


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
    return ops.correlation(uncertainty_map(p, kind).flatten(1), uncertainty_map(q, kind).flatten(1), 1e-12)[0]


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


class NccResult(NamedTuple):
    """value: (B,) NCC. degenerate: (B,) int64, raters whose correlation was settled by rule, a map being constant."""

    value: Tensor
    degenerate: Tensor


def ncc(samples: Tensor, masks: Tensor, *, read: Tensor | None = None, kind: NccKind = "pixel") -> Tensor:
    """Normalised cross-correlation of cross-entropy maps, the S_NCC of PHiSeg; in [−1,1], higher is better.

    samples: (B,N,K,H,W) probabilities or masks. masks: (B,R,K,H,W). read: (B,R). Returns (B,) float64, NaN for an
    image that nobody read. With CE(a,b) = −Σ_c b_c·log(a_c + 1e-8) over classes and background,
    E_ss = mean_i CE(s_i, s̄) and E_sy,j = mean_i CE(s_i, y_j):
    "pixel" is mean_j corr(E_ss, E_sy,j) over pixels; of constant maps two correlate by 1, one by 0.
    "row" leaves out the background and correlates the sums over each image row, the mean over foreground classes; it
    needs square images, is not invariant to transposition, and a constant profile contributes 0.
    Logarithms have the precision of `samples`: pass float64 (or masks) for the last digits.
    Source: Baumgartner et al. 2019. Raises MetricError.
    """
    return ncc_result(samples, masks, read=read, kind=kind).value


def ncc_result(samples: Tensor, masks: Tensor, *, read: Tensor | None = None, kind: NccKind = "pixel") -> NccResult:
    """`ncc` with the number of raters per image whose correlation was degenerate."""
    samples, masks, read = ops.check_sets(samples, masks, read, maps=True)
    if kind not in ("pixel", "row"):
        raise MetricError("no such kind of NCC", field="kind", found=kind, expected="pixel or row")
    if kind == "row" and masks.shape[-1] != masks.shape[-2]:
        raise MetricError("NCC by rows needs square images", found=f"{masks.shape[-2]}×{masks.shape[-1]}")
    by_kind = _pixel if kind == "pixel" else _row
    values, degenerate = [], []
    step = ops.images_at_once(samples.element_size() * samples.shape[1:].numel() + 16 * masks.shape[1:].numel())
    for drawn, truth, use in zip(samples.split(step), masks.split(step), read.split(step), strict=True):
        value, flat = by_kind(drawn, truth.double())
        values.append((torch.where(use, value, 0.0) * ops.rater_weights(use)).sum(1))
        degenerate.append((flat & use).sum(1))
    return NccResult(torch.cat(values), torch.cat(degenerate))


def _mean_and_log(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the samples of p and of log(p + ε), (b,N,K,H,W) -> twice (b,K,H,W) float64."""
    mean = ops.sample_mean(maps, None)
    if maps.dtype == torch.bool:  # two values only: no logarithm per pixel and sample
        return mean, mean * math.log(1 + _EPS) + (1 - mean) * math.log(_EPS)
    return mean, ops.sample_mean((maps + _EPS).log_(), None)


def _pixel(samples: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """(b,R) correlations over pixels, and which were degenerate."""
    mean, log = _mean_and_log(samples)
    rest, log_rest = _mean_and_log(_background(samples))
    mean, log = torch.cat([rest, mean], 1), torch.cat([log_rest, log], 1)
    nothing = 1 - masks.amax(2, keepdim=True)
    among = -(mean * log).sum(1).flatten(1)
    against = -(torch.cat([nothing, masks], 2) * log[:, None]).sum(2).flatten(2)
    # The range that rounding can give a map that is constant: logarithms reach 18.4.
    constant = 1e-6 if samples.dtype == torch.float32 else 1e-12
    return ops.correlation(among[:, None], against, constant)


def _background(samples: Tensor) -> Tensor:
    """(b,N,K,H,W) -> (b,N,1,H,W): 1 − Σp, or the pixels of no class."""
    if samples.dtype == torch.bool:
        return ~ops.any_of(samples, 2)[:, :, None]
    foreground = samples if samples.shape[2] == 1 else samples.sum(2, keepdim=True)
    return (1 - foreground).clamp_(min=0)


def _row(samples: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """(b,R) correlations over row profiles, mean over foreground classes, and which had a zero deviation."""
    mean, log = _mean_and_log(samples)
    among = -(mean * log).sum(-1)[:, None]  # (b,1,K,H)
    against = -(masks * log[:, None]).sum(-1)  # (b,R,K,H)
    among, against = among - among.mean(-1, keepdim=True), against - against.mean(-1, keepdim=True)
    deviations = [x.square().mean(-1).sqrt() for x in (among, against)]
    flat = (deviations[0] == 0) | (deviations[1] == 0)
    scales = [torch.where(x == 0, _ZERO_STD, x) for x in deviations]
    return ((among * against).mean(-1) / (scales[0] * scales[1])).mean(-1), flat.any(-1)


def calibration_bins(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, weights: Tensor | None = None, bins: int = BINS
) -> Tensor:
    """Sums for reliability curves: (B,K,bins,3) float64 = number of pixels, Σp and Σq by bins of p.

    samples: (B,N,K,H,W) probabilities or masks, p their mean; q the mean of the raters' masks (B,R,K,H,W). Sums of
    images add up to the sums of the data set. Σq is NaN for an image that nobody read. Raises MetricError.
    """
    p, q = _mean_maps(samples, masks, read, weights)
    return _bin(p.flatten(2), q.flatten(2), bins)


def _bin(p: Tensor, q: Tensor, bins: int) -> Tensor:
    """(..., P) predicted and observed fractions -> (..., bins, 3)."""
    if bins < 1:
        raise MetricError("needs a bin", field="bins", found=bins, expected="bins >= 1")
    # The small addition keeps a fraction such as 3/10, or a mean of float32 maps, in the bin that starts there.
    which = (p.nan_to_num() * bins + 1e-6).long().clamp_(0, bins - 1)
    sums = [p.new_zeros(*p.shape[:-1], bins).scatter_add_(-1, which, x) for x in (torch.ones_like(p), p, q)]
    return torch.stack(sums, -1)


def calibration_gaps(sums: Tensor) -> Tensor:
    """Σp − Σq of each bin as a fraction of all that is binned: (..., bins, 3) -> (..., bins).

    The error of a data set is the sum over bins of |the mean gap over images|.
    """
    return (sums[..., 1] - sums[..., 2]) / sums[..., 0].sum(-1, keepdim=True)


def pooled_calibration_error(sums: Tensor) -> Tensor:
    """Scalar expected calibration error of bins pooled over images: (B,K,bins,3) -> mean over classes.

    Images that nobody read (NaN) are left out; NaN if none is left.
    """
    total = sums[~sums.isnan().flatten(1).any(1)].sum(0)
    return _error(total).mean()


def _error(sums: Tensor) -> Tensor:
    """Σ_b |Σp − Σq| / Σ_b n_b: (..., bins, 3) -> (...)."""
    return (sums[..., 1] - sums[..., 2]).abs().sum(-1) / sums[..., 0].sum(-1)


def expected_calibration_error(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, weights: Tensor | None = None, bins: int = BINS
) -> Tensor:
    """Σ_b n_b/P·|mean p − mean q| over bins of p, in one image: (B,) float64, class mean; lower is better.

    Shapes as `calibration_bins`. One image has few raters, so even the true distribution does not score 0 here; the
    error of a data set is `pooled_calibration_error` of the summed bins. Most pixels are background on which all
    agree, so compare values only on the same data. NaN for an image that nobody read. Source: Naeini et al. 2015.
    """
    return _error(calibration_bins(samples, masks, read=read, weights=weights, bins=bins)).mean(1)


class Presence(NamedTuple):
    """The fraction of samples (weighted) and of raters that mark anything, of any class: each (B,) float64."""

    samples: Tensor
    raters: Tensor


def presence_fractions(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, weights: Tensor | None = None
) -> Presence:
    """The fraction of samples and of raters that mark anything at all; NaN for raters where nobody read.

    samples: (B,N,K,H,W) masks; other shapes as `ged`. Raises MetricError.
    """
    samples, masks, read = ops.check_sets(samples, masks, read)
    drawn = ops.any_of(samples.flatten(2), -1).double()
    marked = ops.any_of(masks.flatten(2), -1).double()
    return Presence((drawn * ops.check_weights(weights, samples)).sum(1), (marked * ops.rater_weights(read)).sum(1))


def presence_gaps(presence: Presence, bins: int = BINS) -> Tensor:
    """Predicted − observed fraction of each image, in the bin of the predicted one: (B,bins), NaN where nobody read."""
    return calibration_gaps(_bin(presence.samples[:, None], presence.raters[:, None], bins))


def presence_bins(presence: Presence, bins: int = BINS) -> Tensor:
    """Reliability of presence over images: (bins,3) float64 = number of images, Σ predicted, Σ observed fraction.

    Images that nobody read are left out.
    """
    known = ~presence.raters.isnan()
    return _bin(presence.samples[known], presence.raters[known], bins)


def presence_calibration_error(presence: Presence, bins: int = BINS) -> Tensor:
    """Scalar: Σ_b n_b/n·|mean predicted − mean observed fraction that marks| over images; NaN without images."""
    return _error(presence_bins(presence, bins))
