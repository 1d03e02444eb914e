"""Raters' outlines grouped into physical nodules: LIDC's XML does not say which outlines mean the same nodule.

The rule: two raters' outlines may mean one nodule if their filled voxels overlap, or if the centres of their nearest
voxels are no further apart than one slice step. Pairs are joined from the best to the worst (overlaps by falling Dice,
then gaps by rising distance), and a pair is passed over where joining would put two outlines of one rater into one
nodule. So each nodule holds at most one outline per rater, and a chain of touching outlines is one nodule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np


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
    member = list(range(len(marked)))
    for _, a, b in sorted(pairs):
        if member[a] == member[b]:
            continue
        joined = [place for place, name in enumerate(member) if name in (member[a], member[b])]
        readers = [marked[place].reader for place in joined]
        if len(set(readers)) == len(readers):
            for place in joined:
                member[place] = min(joined)
    nodules = []
    for name in sorted(set(member)):
        held = [one for one, of in zip(marked, member, strict=True) if of == name]
        nodules.append(Nodule({one.reader: one for one in sorted(held, key=lambda one: one.reader)}))
    return sorted(nodules, key=lambda nodule: (nodule.slices[0], *nodule.centre))


def _closeness(a: np.ndarray, b: np.ndarray, steps: tuple[float, float, float]) -> tuple[int, float] | None:
    """Smaller is closer: (0, −Dice) where voxels overlap, (1, mm) within a slice step, None beyond."""
    from scipy.spatial import cKDTree

    place_a, place_b = a * np.array(steps), b * np.array(steps)
    gap = np.maximum(place_a.min(0) - place_b.max(0), place_b.min(0) - place_a.max(0))
    if np.linalg.norm(np.maximum(gap, 0)) > steps[0]:
        return None
    shared = len(np.intersect1d(_numbers(a), _numbers(b)))
    if shared:
        return 0, -2 * shared / (len(a) + len(b))
    nearest = float(cKDTree(place_a).query(place_b, distance_upper_bound=steps[0] * (1 + 1e-9))[0].min())
    return (1, nearest) if np.isfinite(nearest) else None


def _numbers(voxels: np.ndarray) -> np.ndarray:
    """One number per voxel: slices, rows and columns are below 2^20."""
    voxels = voxels.astype(np.int64)
    return (voxels[:, 0] << 40) | (voxels[:, 1] << 20) | voxels[:, 2]
