"""Outlines filled, and grouped into physical nodules: LIDC's XML does not say which outlines mean the same nodule.

An outline's points are the first pixels *outside* the nodule, not part of it. The rule of grouping: two raters'
outlines may mean one nodule if their filled voxels overlap, or if the centres of their nearest voxels are no further
apart than one slice step. Pairs are joined from the best to the worst (overlaps by falling Dice, then gaps by rising
distance), and a pair is passed over where joining would put two outlines of one rater into one nodule. So each nodule
holds at most one outline per rater, and a chain of touching outlines is one nodule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.spatial import cKDTree

from modiff.data.importers.lidc_dicom.xml import Region
from modiff.errors import DataError


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


@dataclass(frozen=True)
class Marked:
    """One rater's outline of one nodule, filled. voxels: (n,3) int32, n ≥ 1: slice in its series, row, column."""

    reader: int
    voxels: np.ndarray

    @classmethod
    def of(cls, reader: int, masks: Mapping[int, np.ndarray]) -> Marked | None:
        """From slice's place -> (H,W) bool; None where no pixel is marked."""
        parts = [np.argwhere(mask[None]) + np.array((place, 0, 0)) for place, mask in sorted(masks.items())]
        voxels = np.concatenate(parts).astype(np.int32) if parts else np.empty((0, 3), np.int32)
        return cls(reader, voxels) if len(voxels) else None

    @property
    def slices(self) -> list[int]:
        """Places of the slices on which it has pixels, ascending."""
        return np.unique(self.voxels[:, 0]).tolist()

    def mask(self, place: int, shape: tuple[int, int]) -> np.ndarray:
        """(H,W) bool of one slice, empty where nothing was outlined."""
        _, rows, columns = self.voxels[self.voxels[:, 0] == place].T
        made = np.zeros(shape, bool)
        made[rows, columns] = True
        return made


@dataclass(frozen=True)
class Nodule:
    """One physical nodule. outlines: rater -> that rater's outline."""

    outlines: Mapping[int, Marked]

    @property
    def slices(self) -> list[int]:
        """Places of the slices on which anybody outlined it, ascending."""
        return sorted({place for marked in self.outlines.values() for place in marked.slices})

    @property
    def centre(self) -> tuple[float, float]:
        """(row, column): the centre of mass of each rater's outline, averaged over the raters who outlined it."""
        row, column = np.mean([marked.voxels[:, 1:].mean(0) for marked in self.outlines.values()], axis=0).tolist()
        return row, column


def group(marked: Sequence[Marked], steps: tuple[float, float, float]) -> list[Nodule]:
    """Nodules in order of their lowest slice, then of their centre. steps: mm between (slices, rows, columns)."""
    voxels = [one.voxels for one in marked]
    pairs = []
    for a, b in combinations(range(len(marked)), 2):
        if marked[a].reader != marked[b].reader and (rank := _closeness(voxels[a], voxels[b], steps)) is not None:
            pairs.append((rank, a, b))
    nodules = DisjointSet(range(len(marked)))
    for _, a, b in sorted(pairs):
        joined = nodules.subset(a) | nodules.subset(b)
        if len({marked[place].reader for place in joined}) == len(joined):
            nodules.merge(a, b)
    made = []
    for places in nodules.subsets():
        held = sorted((marked[place] for place in places), key=lambda one: one.reader)
        made.append(Nodule({one.reader: one for one in held}))
    return sorted(made, key=lambda nodule: (nodule.slices[0], *nodule.centre))


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
