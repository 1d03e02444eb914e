"""Distinct hypotheses: samples whose outlines lie close together are one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LARGE = 0.04  # of large objects: the fraction of the diameter that counts like a pixel of small ones; from 25 pixels on


@dataclass(frozen=True)
class Hypothesis:
    """One of the distinct readings that the samples show.

    probability: the summed weights of its samples; in a `Summary` with the model's own presence, its part of that.
    members: their indices. sizes: pixels or voxels that each of them marks, of any class. medoid: the index of the
    sample that stands for them, of the largest weighted mean IoU with the others. mask: that sample's (K,…) bool.
    nothing: no sample of it marks a pixel.
    """

    probability: float
    members: tuple[int, ...]
    sizes: tuple[int, ...]
    medoid: int
    mask: np.ndarray
    nothing: bool


def group(
    masks: np.ndarray,
    overlaps: Overlaps,
    weights: np.ndarray,
    *,
    distinct: float,
    spacing: Sequence[float] | None = None,
) -> tuple[Hypothesis, ...]:
    """Distinct hypotheses of masks (N,K,…), the most probable first.

    They are average-linkage clusters of a mean outline distance (`outline_distance`) of at most `distinct` pixels;
    samples that mark nothing are one of their own.
    """
    marked = np.asarray(masks.any(tuple(range(1, masks.ndim))))
    label = marked.astype(int)  # 0: nothing there
    if marked.sum() > 1:
        from scipy.cluster.hierarchy import fcluster, linkage
        from scipy.spatial.distance import squareform

        distance = outline_distance(masks, overlaps.iou, spacing)[np.ix_(marked, marked)]
        tree = linkage(squareform(distance, checks=False), method="average")
        # A hair above the cut: what lies exactly on it belongs together whatever its rounding.
        label[marked] = fcluster(tree, distinct + 1e-9, criterion="distance")
    found = []
    for members in (np.flatnonzero(label == value) for value in np.unique(label)):
        closeness = overlaps.mean[np.ix_(members, members)] @ weights[members]
        # Rounding must not decide between equals: the first of them stands for the group.
        medoid = int(members[np.flatnonzero(closeness >= closeness.max() - 1e-12)[0]])
        sizes = tuple(int(masks[i].sum()) for i in members)
        probability, indices = float(weights[members].sum()), tuple(members.tolist())
        found.append(Hypothesis(probability, indices, sizes, medoid, masks[medoid], not marked[medoid]))
    return tuple(sorted(found, key=lambda hypothesis: (-hypothesis.probability, hypothesis.members)))


def outline_distance(masks: np.ndarray, iou: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    """(N,N) how far the outlines of masks (N,K,…) lie apart, on average along them, in pixels; of the class that
    differs most.

    It is the area between two outlines divided by their mean length (of a scan: volume and surface). Of objects more
    than 25 pixels across, 4 % of their diameter count as one pixel: what is large is looked at from further away. Marks
    of one class that do not meet are at least two pixels apart, however small they are. iou: (N,N,K). spacing: lengths
    of a pixel or voxel in any unit, by default 1; a pixel is the mean one of a slice.
    """
    sides = masks.ndim - 2
    lengths = np.ones(sides) if spacing is None else np.asarray(spacing, float)
    lengths = lengths / math.sqrt(lengths[-2] * lengths[-1])
    sizes = masks.sum(tuple(range(2, masks.ndim))) * lengths.prod()  # (N,K)
    outlines = np.array([[_outline(mask, lengths) for mask in classes] for classes in masks])
    total = sizes[:, None] + sizes
    between, length = total * (1 - iou) / (1 + iou), (outlines[:, None] + outlines) / 2
    apart = np.divide(between, length, out=np.zeros_like(between), where=length > 0)
    # The disc or ball of the mean size.
    diameter = 2 * np.sqrt(total / 2 / math.pi) if sides == 2 else 2 * np.cbrt(3 * total / 2 / (4 * math.pi))
    apart /= np.maximum(1, LARGE * diameter)
    both = (sizes[:, None] > 0) & (sizes > 0)
    distance: np.ndarray = np.where(both & (iou == 0), np.maximum(apart, 2), apart).max(2)
    return distance


def _outline(mask: np.ndarray, lengths: np.ndarray) -> float:
    """Length of a mask's outline (H,W), or its surface (z,h,w): pixel edges or voxel faces, times what they are too
    long by on average over all directions, π/4 and 2/3 (Cauchy)."""
    found = 0.0
    for axis, step in enumerate(lengths):
        lines = np.moveaxis(mask, axis, 0)
        faces = np.count_nonzero(lines[1:] != lines[:-1]) + np.count_nonzero(lines[0]) + np.count_nonzero(lines[-1])
        found += faces * lengths.prod() / step
    return found * (math.pi / 4 if mask.ndim == 2 else 2 / 3)


@dataclass(frozen=True)
class Overlaps:
    """IoU of all pairs of samples. iou: (N,N,K) by class, 1 where neither marks it. mean: (N,N) over the classes that
    either marks, 1 where neither marks any: over all classes, two disjoint marks of one class would be called alike
    because they agree on the others."""

    iou: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(cls, masks: Tensor) -> Overlaps:
        """Of masks (N,K,H,W) bool."""
        from modiff.metrics.functional import pairwise_iou

        rows, columns = masks.any(3).any(1).any(0), masks.any(2).any(1).any(0)  # what nobody marks costs nothing
        small = masks[:, :, rows][:, :, :, columns]
        if small.numel() == 0:
            n, classes = masks.shape[:2]
            return cls(np.ones((n, n, classes)), np.ones((n, n)))
        iou = pairwise_iou(small[None], small[None])[0]
        marks = small.flatten(2).any(-1)
        either = marks[:, None] | marks[None]
        count = either.sum(-1)
        mean = torch.where(count > 0, (iou * either).sum(-1) / count.clamp(min=1), 1.0)
        return cls(iou.numpy(), mean.numpy())
