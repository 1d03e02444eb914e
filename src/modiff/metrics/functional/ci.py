"""CI, the collective insight score of CIMD, and its three parts: combined sensitivity, D_max, diversity agreement."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modiff.metrics.functional.ops import PairwiseDistances, any_of, check_sets


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
    samples, masks, read = check_sets(samples, masks, read)
    pairs = PairwiseDistances.of(samples, masks, read=read) if pairs is None else pairs
    sensitivity = _combined_sensitivity(samples, masks, read)
    best, agreement = dmax(pairs), _diversity_agreement(pairs)
    total = sensitivity + best + agreement
    ci = 3 * sensitivity * best * agreement / torch.where(total == 0, 1.0, total)
    return CollectiveInsight(ci, sensitivity, best, agreement)


def best_dice(
    samples: Tensor | PairwiseDistances, masks: Tensor | None = None, *, read: Tensor | None = None
) -> Tensor:
    """Each rater's best Dice over the samples: (B,R) float64, Dice(∅,∅) = 1, class mean; NaN where not read."""
    pairs = PairwiseDistances.of(samples, masks, read=read)
    return pairs.dice.amax(1).where(pairs.read, torch.nan)


def dmax(samples: Tensor | PairwiseDistances, masks: Tensor | None = None, *, read: Tensor | None = None) -> Tensor:
    """Mean over the raters of their best Dice over the samples: (B,) float64, NaN for an image that nobody read.

    Source: CIMD (Rahman et al. 2023), "maximum Dice matching". Raises MetricError.
    """
    return best_dice(samples, masks, read=read).nanmean(1)


def _combined_sensitivity(samples: Tensor, masks: Tensor, read: Tensor) -> Tensor:
    drawn = any_of(samples, 1).flatten(2)
    marked = any_of(masks & read[:, :, None, None, None], 1).flatten(2)
    area, common = marked.sum(-1).double(), (drawn & marked).sum(-1).double()
    covered = torch.where(drawn.any(-1) | (area > 0), common / area, 1.0)  # 0/0 is NaN: only the samples mark something
    return torch.where(read.any(1), covered.mean(1), torch.nan)


def _diversity_agreement(pairs: PairwiseDistances) -> Tensor:
    areas = pairs.areas.double() / pairs.pixels
    common = pairs.common.double() / pairs.pixels
    a, b = areas[..., :, None], areas[..., None, :]
    variance = a + b - 2 * common - (a - b).square()  # E[(x−y)²] − E[x−y]² of 0/1 maps
    of_samples = variance[..., : pairs.n, : pairs.n]
    of_raters = variance[..., pairs.n :, pairs.n :]
    both_read = (pairs.read[:, :, None] & pairs.read[:, None, :])[:, None]
    all_samples = torch.ones_like(of_samples, dtype=torch.bool)
    (low, high), (other_low, other_high) = _extremes(of_raters, both_read), _extremes(of_samples, all_samples)
    return (1 - ((low - other_low).abs() + (high - other_high).abs()) / 2).mean(1)


def _extremes(values: Tensor, use: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value over pairs i != j, (B,K,M,M) -> twice (B,K); NaN where there is no pair."""
    different = ~torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)
    use = (use & different).expand_as(values).flatten(2)
    flat = values.flatten(2)
    if flat.shape[-1] == 0:
        nothing = flat.new_full(flat.shape[:2], torch.nan)
        return nothing, nothing
    none = ~use.any(-1)
    low = flat.masked_fill(~use, torch.inf).amin(-1).masked_fill(none, torch.nan)
    return low, flat.masked_fill(~use, -torch.inf).amax(-1).masked_fill(none, torch.nan)
