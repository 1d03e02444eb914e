"""HM-IoU: mean IoU of matched samples and raters, by optimal transport between both sets or by greedy choice."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import identity as eye
from scipy.sparse import kron, vstack
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional.ops import PairwiseDistances, check_weights


def hm_iou(
    samples: Tensor | PairwiseDistances,
    masks: Tensor | None = None,
    *,
    read: Tensor | None = None,
    weights: Tensor | None = None,
    matching: Literal["optimal", "greedy"] = "optimal",
) -> Tensor:
    """Hungarian-matched IoU, mean IoU of matched pairs; higher is better.

    Arguments as `ged`; returns (B,) float64, NaN for an image that nobody read. Multi-class: whole hypotheses are
    matched, by the class mean of their IoU.
    matching "optimal": both sets repeated to lcm(N, M), optimal assignment, mean over all pairs, which is optimal
    transport between equal masses (or masses `weights`). "greedy": each rater in order takes the best sample not yet
    taken; mean over the raters that got one, so it uses M of N samples, depends on the raters' order and drops raters
    when N < M. Source: Kassapis et al. 2021, Zepf et al. 2023 (optimal). Raises MetricError.
    """
    pairs = PairwiseDistances.of(samples, masks, read=read)
    iou = 1.0 - pairs.sample_rater
    if matching == "greedy":
        if weights is not None:
            raise MetricError("greedy matching takes one sample per rater", field="weights", expected="None")
        return _greedy(iou, pairs.read)
    if matching != "optimal":
        raise MetricError("no such matching", field="matching", found=matching, expected="optimal or greedy")
    masses = [None] * len(iou) if weights is None else check_weights(weights, iou).cpu().numpy()
    values = []
    for matrix, there, mass in zip(iou.cpu().numpy(), pairs.read.cpu().numpy(), masses, strict=True):
        best, of_raters = math.nan, matrix[:, there]
        if there.any():
            best = _assign(of_raters) if mass is None else _transport(of_raters, mass)
        values.append(best)
    return torch.tensor(values, dtype=torch.float64, device=iou.device)


def _assign(iou: np.ndarray) -> float:
    """Equal masses: an assignment. IoU (N,R)."""
    samples, raters = iou.shape
    if samples == 1 or raters == 1:
        return float(iou.mean())
    size = math.lcm(samples, raters)
    square = np.repeat(np.repeat(iou, size // samples, axis=0), size // raters, axis=1)
    return float(square[linear_sum_assignment(square, maximize=True)].mean())


def _transport(iou: np.ndarray, mass: np.ndarray) -> float:
    """Masses of the samples: a linear programme. IoU (N,R)."""
    samples, raters = iou.shape
    by_sample = kron(eye(samples), np.ones((1, raters)))
    by_rater = kron(np.ones((1, samples)), eye(raters))
    totals = np.concatenate([mass, np.full(raters, 1.0 / raters)])
    # The last constraint follows from the others; with it, rounding of the masses could make the programme infeasible.
    plan = linprog(-iou.ravel(), A_eq=vstack([by_sample, by_rater]).tocsr()[:-1], b_eq=totals[:-1], method="highs")
    return -float(plan.fun)


def _greedy(iou: Tensor, read: Tensor) -> Tensor:
    """Each rater in order takes the best sample not yet taken, of equally good ones the first: (B,N,R) -> (B,)."""
    batch, samples, raters = iou.shape
    free = torch.ones(batch, samples, dtype=torch.bool, device=iou.device)
    total, count = iou.new_zeros(batch), iou.new_zeros(batch)
    rows = torch.arange(batch, device=iou.device)
    for rater in range(raters):
        best, which = iou[:, :, rater].masked_fill(~free, -1.0).max(1)
        matched = read[:, rater] & free.any(1)
        total += torch.where(matched, best, 0.0)
        count += matched
        free[rows, which] &= ~matched
    return total / count  # 0/0 is NaN: nobody read the image
