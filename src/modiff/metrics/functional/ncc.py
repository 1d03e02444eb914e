"""NCC: does the samples' cross-entropy among themselves vary over the image as that against the raters does?"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional.ops import any_of, check_sets, correlation, image_chunks, rater_weights, sample_mean

_EPS = 1e-8  # inside the logarithm, as PHiSeg has it
_ZERO_STD = 1e-9  # stands for a zero deviation in the row variant, as its script has it


class NccResult(NamedTuple):
    """value: (B,) NCC. degenerate: (B,) int64, raters whose correlation was settled by rule, a map being constant."""

    value: Tensor
    degenerate: Tensor


def ncc(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, kind: Literal["pixel", "row"] = "pixel"
) -> Tensor:
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


def ncc_result(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, kind: Literal["pixel", "row"] = "pixel"
) -> NccResult:
    """`ncc` with the number of raters per image whose correlation was degenerate."""
    samples, masks, read = check_sets(samples, masks, read, maps=True)
    if kind not in ("pixel", "row"):
        raise MetricError("no such kind of NCC", field="kind", found=kind, expected="pixel or row")
    if kind == "row" and masks.shape[-1] != masks.shape[-2]:
        raise MetricError("NCC by rows needs square images", found=f"{masks.shape[-2]}×{masks.shape[-1]}")
    by_kind = _pixel if kind == "pixel" else _row
    values, degenerate = [], []
    copies = samples.element_size() * samples.numel() + 16 * masks.numel()
    for part in image_chunks(len(masks), copies // max(1, len(masks))):
        value, flat = by_kind(samples[part], masks[part].double())
        use = read[part]
        values.append((torch.where(use, value, 0.0) * rater_weights(use)).sum(1))
        degenerate.append((flat & use).sum(1))
    if not values:
        return NccResult(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))
    return NccResult(torch.cat(values), torch.cat(degenerate))


def _mean_and_log(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the samples of p and of log(p + ε), (b,N,K,H,W) -> twice (b,K,H,W) float64."""
    mean = sample_mean(maps, None)
    if maps.dtype == torch.bool:  # two values only: no logarithm per pixel and sample
        return mean, mean * math.log(1 + _EPS) + (1 - mean) * math.log(_EPS)
    return mean, sample_mean((maps + _EPS).log_(), None)


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
    return correlation(among[:, None], against, constant)


def _background(samples: Tensor) -> Tensor:
    """(b,N,K,H,W) -> (b,N,1,H,W): 1 − Σp, or the pixels of no class."""
    if samples.dtype == torch.bool:
        return ~any_of(samples, 2)[:, :, None]
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
