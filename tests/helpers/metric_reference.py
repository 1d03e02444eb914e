"""Plain implementations, one pair at a time, that the vectorised ones must equal."""

from __future__ import annotations

import itertools
import math

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Class mean of the IoU of two label maps (K,H,W), IoU(∅,∅) = 1."""
    values = []
    for x, y in zip(a, b, strict=True):
        union = np.logical_or(x, y).sum()
        values.append(1.0 if union == 0 else np.logical_and(x, y).sum() / union)
    return float(np.mean(values))


def ged(samples: np.ndarray, raters: np.ndarray, estimator: str = "v", weights: np.ndarray | None = None) -> float:
    """GED of (N,K,H,W) and (M,K,H,W) as sums over pairs."""
    if weights is None:
        weights = np.full(len(samples), 1 / len(samples))
    uniform = np.full(len(raters), 1 / len(raters))
    cross = sum(
        w * v * (1 - iou(s, y))
        for w, s in zip(weights, samples, strict=True)
        for v, y in zip(uniform, raters, strict=True)
    )
    return 2 * cross - _within(samples, weights, estimator) - _within(raters, uniform, estimator)


def _within(masks: np.ndarray, weights: np.ndarray, estimator: str) -> float:
    total, weight = 0.0, 0.0
    for i, j in itertools.product(range(len(masks)), repeat=2):
        if estimator == "u" and i == j:
            continue
        total += weights[i] * weights[j] * (1 - iou(masks[i], masks[j]))
        weight += weights[i] * weights[j]
    return total / weight if weight > 0 else 0.0


def hm_iou(samples: np.ndarray, raters: np.ndarray) -> float:
    """Best mean IoU over all permutations of the sets repeated to their least common multiple."""
    size = math.lcm(len(samples), len(raters))
    left = [s for s in samples for _ in range(size // len(samples))]
    right = [y for y in raters for _ in range(size // len(raters))]
    matrix = [[iou(s, y) for y in right] for s in left]
    return max(sum(matrix[i][p] for i, p in enumerate(order)) / size for order in itertools.permutations(range(size)))


def hm_iou_greedy(samples: np.ndarray, raters: np.ndarray) -> float:
    """Each rater in order takes its best sample of those left."""
    left, found = list(range(len(samples))), []
    for rater in raters:
        if not left:
            break
        best = max(left, key=lambda i: iou(samples[i], rater))
        left.remove(best)
        found.append(iou(samples[best], rater))
    return float(np.mean(found))
