"""Terms of losses: each returns one value per image, (B,); and the means of these."""

from __future__ import annotations

import torch
from torch import Tensor


def with_background(logits: Tensor) -> Tensor:
    """(B,K,H,W) -> (B,1+K,H,W): a background logit of 0, so that K = 1 is a plain sigmoid."""
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1)


def probabilities(logits: Tensor) -> Tensor:
    """(B,K,H,W) foreground probabilities of classes that exclude each other."""
    return with_background(logits).softmax(1)[:, 1:]


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over pixels of −Σ_c p_c·log P_c with soft labels (B,K,H,W), background included."""
    log_p = with_background(logits).log_softmax(1)
    background = (1 - label.sum(1, keepdim=True)).clamp_min(0)
    return -(torch.cat([background, label], 1) * log_p).sum(1).mean((1, 2))


def soft_dice_loss(p: Tensor, label: Tensor, smooth: float = 1.0) -> Tensor:
    """1 − (2·Σpq + s)/(Σp + Σq + s), mean over classes; s = one pixel keeps empty maps defined."""
    overlap = 2 * (p * label).sum((2, 3)) + smooth
    return 1 - (overlap / (p.sum((2, 3)) + label.sum((2, 3)) + smooth)).mean(1)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over pixels and classes: L_simple (Ho et al. 2020, Eq. 14)."""
    return (prediction - target).square().mean((1, 2, 3))


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Scalar mean of (B,) values, with weights of mean one."""
    return values.mean() if weights is None else (values * weights).mean()


def mean_of_known(values: Tensor, known: Tensor) -> Tensor:
    """Scalar mean of (B,) values over the rows that are known; a zero with a graph where none is."""
    weights = known.float()
    return (values * weights).sum() / weights.sum().clamp_min(1)
