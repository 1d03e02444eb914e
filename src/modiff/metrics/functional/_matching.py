"""Matchings of samples and raters by IoU, one value an image."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import identity as eye
from scipy.sparse import kron, vstack
from torch import Tensor


def optimal(iou: Tensor, read: Tensor, weights: Tensor | None) -> Tensor:
    """Optimal transport of equal masses, IoU (B,N,R) -> (B,): both sets are repeated to their least common multiple.

    With weights (B,N) the samples' masses are these, and a linear programme takes the assignment's place.
    """
    matrices, readers = iou.cpu().numpy(), read.cpu().numpy()
    masses = None if weights is None else weights.cpu().numpy()
    values = np.full(len(matrices), np.nan)
    for i, (matrix, reader) in enumerate(zip(matrices, readers, strict=True)):
        if reader.any():
            of_readers = matrix[:, reader]
            values[i] = _assign(of_readers) if masses is None else _transport(of_readers, masses[i])
    return torch.from_numpy(values).to(iou.device)


def _assign(iou: np.ndarray) -> float:
    samples, raters = iou.shape
    if samples == 1 or raters == 1:
        return float(iou.mean())
    size = math.lcm(samples, raters)
    rows = np.repeat(iou, size // samples, axis=0)
    square = np.repeat(rows, size // raters, axis=1)
    return float(square[linear_sum_assignment(square, maximize=True)].mean())


def _transport(iou: np.ndarray, mass: np.ndarray) -> float:
    samples, raters = iou.shape
    by_sample = kron(eye(samples), np.ones((1, raters)))
    by_rater = kron(np.ones((1, samples)), eye(raters))
    totals = np.concatenate([mass, np.full(raters, 1.0 / raters)])
    # The last constraint follows from the others; with it, rounding of the masses could make the programme infeasible.
    plan = linprog(-iou.ravel(), A_eq=vstack([by_sample, by_rater]).tocsr()[:-1], b_eq=totals[:-1], method="highs")
    return -float(plan.fun)


def greedy(iou: Tensor, read: Tensor) -> Tensor:
    """Each reader in order takes the best sample not yet taken, IoU (B,N,R) -> (B,): mean of those that got one.

    Of equally good samples the first is taken.
    """
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
