"""Outlines filled, and grouped into physical nodules: LIDC's XML does not say which outlines mean the same nodule.

An outline's points are the first pixels *outside* the nodule, not part of it. The rule of grouping: two raters'
outlines may mean one nodule if their filled voxels overlap, or if the centres of their nearest voxels are no further
apart than one slice step. Pairs are joined from the best to the worst (overlaps by falling Dice, then gaps by rising
distance), and a pair is passed over where joining would put two outlines of one rater into one nodule. So each nodule
holds at most one outline per rater, and a chain of touching outlines is one nodule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.spatial import cKDTree

from modiff.data.importers.lidc_dicom.xml import Region
from modiff.errors import DataError

Marked = tuple[int, np.ndarray]  # a rater's number and what the outline fills: (n,3) slice in its series, row, column
Nodule = dict[int, np.ndarray]  # one physical nodule: rater -> voxels, as above, n ≥ 1


def interior(points: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Pixels strictly inside a closed curve of straight lines between points (n,2) int (column, row).

    Returns the mask (h,w) bool of the curve's bounding box and the box's top row and left column. Inside is what an odd
    number of crossings separates from the outside; pixels whose centre lies on a line are outside. Exact, in whole
    numbers only (scikit-image's grid_points_in_poly is not). Empty for fewer than three points.
    """
    left, top = points.min(0).tolist()
    width, height = (points.max(0) - (left, top) + 1).tolist()
    toggles = np.zeros((height, width + 1), np.int32)
    on_line = np.zeros((height, width), bool)
    ends = np.roll(points, -1, axis=0)
    for (x0, y0), (x1, y1) in zip((points - (left, top)).tolist(), (ends - (left, top)).tolist(), strict=True):
        # The pixels whose centre lies on the line: its ends and the whole-number points between.
        steps = max(math.gcd(x1 - x0, y1 - y0), 1)
        k = np.arange(steps + 1)
        on_line[y0 + k * ((y1 - y0) // steps), x0 + k * ((x1 - x0) // steps)] = True
        if y0 != y1:  # in each row of the line but its last, pixels right of the crossing change sides
            (first, start), (last, end) = sorted([(y0, x0), (y1, x1)])
            rows = np.arange(first, last)
            crossing = start + ((rows - first) * (end - start)) // (last - first)  # rounded down: not right of it
            toggles[rows, crossing + 1] += 1
    inside = (np.cumsum(toggles, axis=1)[:, :width] & 1).astype(bool)
    return inside & ~on_line, top, left


def fill(regions: Iterable[Region], shape: tuple[int, int], where: str) -> np.ndarray:
    """One rater's outline of one nodule on one slice, (H,W) bool: what its inclusions enclose, less its holes.

    Raises DataError where a region leaves the slice.
    """
    mask = np.zeros(shape, bool)
    for region in sorted(regions, key=lambda region: not region.inclusion):
        if not len(region.points):
            continue
        if (region.points.max(0) >= (shape[1], shape[0])).any():
            found = f"column {region.points[:, 0].max()}, row {region.points[:, 1].max()}"
            raise DataError("an outline leaves the slice", path=where, found=found, expected=f"{shape[1]}×{shape[0]}")
        inside, top, left = interior(region.points)
        box = mask[top : top + inside.shape[0], left : left + inside.shape[1]]
        box[inside] = region.inclusion
    return mask


def slices_of(nodule: Nodule) -> list[int]:
    """Places of the slices on which anybody outlined it, ascending."""
    return np.unique(np.concatenate([*nodule.values()])[:, 0]).tolist()


def centre_of(nodule: Nodule) -> tuple[float, float]:
    """(row, column): the centre of mass of each rater's outline, averaged over the raters who outlined it."""
    row, column = np.mean([voxels[:, 1:].mean(0) for voxels in nodule.values()], axis=0).tolist()
    return row, column


def group(marked: Sequence[Marked], steps: tuple[float, float, float]) -> list[Nodule]:
    """Nodules in order of their lowest slice, then of their centre. steps: mm between (slices, rows, columns)."""
    pairs = []
    for a, b in combinations(range(len(marked)), 2):
        (reader, voxels), (other, others) = marked[a], marked[b]
        if reader != other and (rank := _closeness(voxels, others, steps)) is not None:
            pairs.append((rank, a, b))
    nodules = DisjointSet(range(len(marked)))
    for _, a, b in sorted(pairs):
        joined = nodules.subset(a) | nodules.subset(b)
        if len({marked[place][0] for place in joined}) == len(joined):
            nodules.merge(a, b)
    made = [dict(sorted(marked[place] for place in places)) for places in nodules.subsets()]
    return sorted(made, key=lambda nodule: (slices_of(nodule)[0], *centre_of(nodule)))


def _closeness(a: np.ndarray, b: np.ndarray, steps: tuple[float, float, float]) -> tuple[int, float] | None:
    """Smaller is closer: (0, −Dice) where voxels overlap, (1, mm) within a slice step, None beyond."""
    place_a, place_b = a * np.array(steps), b * np.array(steps)
    gap = np.maximum(place_a.min(0) - place_b.max(0), place_b.min(0) - place_a.max(0))
    if np.linalg.norm(np.maximum(gap, 0)) > steps[0]:
        return None
    distance = cKDTree(place_a).query(place_b, distance_upper_bound=steps[0] * (1 + 1e-9))[0]
    if shared := np.count_nonzero(distance == 0):
        return 0, -2 * shared / (len(a) + len(b))
    return (1, float(distance.min())) if np.isfinite(distance.min()) else None
