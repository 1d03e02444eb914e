"""Outlines of masks, and how long they are across."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_Point = tuple[float, float]  # row and column


def contours(values: np.ndarray, level: float = 0.5) -> list[np.ndarray]:
    """The lines (N,2) of (row, column) where `values` (H,W), a mask or a map, cross `level`; closed at the border.

    Of a mask they lie halfway between marked pixels and others: all marked centres are inside, and no other one.
    """
    from skimage.measure import find_contours

    lines = find_contours(np.pad(values.astype(np.float64), 1), level)
    # Back from the padded frame, and onto the border where the object is cut by it.
    return [np.clip(line - 1, -0.5, np.array(values.shape) - 0.5) for line in lines]


def rings(mask: np.ndarray) -> list[np.ndarray]:
    """Closed lines (N,2) of (row, column) around a mask (H,W) bool, one per separate part, the first point not again.

    A hole is joined to the line on its left by a bridge of no width, there and back: a keyhole. No bridge crosses the
    centre of a pixel, so that it does not matter which side of a line is inside.
    """
    lines = [list(map(tuple, line[:-1].tolist())) for line in contours(mask)]
    around = [line for line in lines if _area(line) > 0]
    on = {vertex: line for line in around for vertex in line}
    holes = [(min((column, row) for row, column in line), line) for line in lines if _area(line) <= 0]
    for (column, row), hole in sorted(holes):  # what lies to the left of one is joined before it
        before = np.flatnonzero(~mask[int(row), : int(column + 0.5)])
        vertex = (row, before[-1] + 0.5 if before.size else -0.5)
        ring = on[vertex]
        place, there = _downwards(ring, vertex)
        start, here = _downwards(hole, (row, column))
        ring[place:place] = [there, here, *hole[start:], *hole[:start], here, there]
        on |= dict.fromkeys(hole, ring)
    return [np.array(ring) for ring in around]


def _downwards(line: list[_Point], vertex: _Point) -> tuple[int, _Point]:
    """A point of a closed line a little below a vertex through which it runs up or down, and its place in the line."""
    at = line.index(vertex)
    after = line[(at + 1) % len(line)]
    place, other = (at + 1, after) if after[0] > vertex[0] else (at, line[at - 1])
    return place, (vertex[0] + (other[0] - vertex[0]) / 4, vertex[1] + (other[1] - vertex[1]) / 4)


def _area(line: Sequence[Sequence[float]]) -> float:
    """Of a closed line, negative of one that runs the other way round, as those of holes do."""
    y, x = np.array(line).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def long_axis(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """The largest distance between two points of one outline on one slice of a mask (z,H,W), 0 of an empty one.

    spacing: (row, column), whose unit it has. Pixels that touch at a corner are one part.
    """
    from scipy.ndimage import find_objects, label
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    longest, within = 0.0, np.zeros((3, 3, 3))
    within[1] = 1
    parts, _ = label(mask, within)
    for number, (z, *part) in enumerate(find_objects(parts), 1):
        points = np.concatenate(contours(parts[(z.start, *part)] == number)) * spacing
        longest = max(longest, float(pdist(points[ConvexHull(points).vertices]).max()))
    return longest
