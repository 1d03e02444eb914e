"""From probability maps to masks: the one step before every set metric, and where published numbers differ first."""

from __future__ import annotations

import torch
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional.ops import check_probabilities


def binarise(samples: Tensor, threshold: float | None) -> Tensor:
    """Masks of probability maps: (B,N,K,H,W) in [0,1] -> bool of the same shape.

    threshold None is the argmax: classes exclude each other, the background is 1 − Σp, a tie with it is background
    (K = 1: p > 0.5), a tie of two foreground classes goes to the first. A number is a threshold for each class on its
    own, p >= threshold; below one half classes may then overlap. So `binarise(p, 0.5)` is p >= 0.5 and differs from
    the argmax where p is exactly one half; what "0.5" means in a protocol is `Protocol.binarise`'s business.
    Raises MetricError for a shape that is not (B,N,K,H,W), values outside [0,1] or a threshold outside (0,1].
    """
    if samples.ndim != 5:
        raise MetricError("samples of a wrong shape", found=tuple(samples.shape), expected="(B,N,K,H,W)")
    if samples.is_floating_point():
        check_probabilities(samples)
    if threshold is not None:
        if not 0.0 < threshold <= 1.0:
            raise MetricError("a threshold outside its range", found=threshold, expected="0 < threshold <= 1")
        return samples >= threshold
    if samples.dtype == torch.bool:
        samples = samples.to(torch.uint8)
    if samples.shape[2] == 1:
        return samples > 0.5
    best, which = samples.max(dim=2, keepdim=True)
    wins = best > 1 - samples.sum(dim=2, keepdim=True)
    classes = torch.arange(samples.shape[2], device=samples.device).view(1, 1, -1, 1, 1)
    return wins & (which == classes)
