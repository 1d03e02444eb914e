"""Outlines filled by LIDC's rule: the points are the first pixels *outside* the nodule, not part of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

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
        _mark_line(on_line, x0, y0, x1, y1)
        if y0 != y1:
            _cross_rows(toggles, *((x0, y0, x1, y1) if y0 < y1 else (x1, y1, x0, y0)))
    inside = (np.cumsum(toggles, axis=1)[:, :width] & 1).astype(bool)
    return inside & ~on_line, top, left


def _mark_line(on_line: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> None:
    """Pixels whose centre lies on the line: the ends and whole-number points between."""
    steps = int(np.gcd(x1 - x0, y1 - y0))
    if steps <= 1:  # neighbours, as most points are
        on_line[y0, x0] = on_line[y1, x1] = True
        return
    k = np.arange(steps + 1)
    on_line[y0 + k * ((y1 - y0) // steps), x0 + k * ((x1 - x0) // steps)] = True


def _cross_rows(toggles: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> None:
    """From (x0,y0) down to (x1,y1): in each row y0 ≤ y < y1, pixels right of the crossing change sides."""
    rows = np.arange(y0, y1)
    crossing = x0 + ((rows - y0) * (x1 - x0)) // (y1 - y0)  # rounded down: the pixel there is not right of it
    toggles[rows, crossing + 1] += 1


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
