"""Calibration: pixel-wise ECE, and calibration of lesion presence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional.ops import any_of, check_sets, check_weights, rater_mean, rater_weights, sample_mean

BINS = 10  # of equal width on [0,1]


def calibration_bins(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, weights: Tensor | None = None, bins: int = BINS
) -> Tensor:
    """Sums for reliability curves: (B,K,bins,3) float64 = number of pixels, Σp and Σq by bins of p.

    samples: (B,N,K,H,W) probabilities or masks, p their mean; q the mean of the raters' masks (B,R,K,H,W). Sums of
    images add up to the sums of the data set. Σq is NaN for an image that nobody read. Raises MetricError.
    """
    samples, masks, read = check_sets(samples, masks, read, maps=True)
    return _bin(sample_mean(samples, weights).flatten(2), rater_mean(masks, read).flatten(2), bins)


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
    samples, masks, read = check_sets(samples, masks, read)
    drawn = any_of(samples.flatten(2), -1).double()
    marked = any_of(masks.flatten(2), -1).double()
    return Presence((drawn * check_weights(weights, samples)).sum(1), (marked * rater_weights(read)).sum(1))


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
