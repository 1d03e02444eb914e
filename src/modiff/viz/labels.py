"""Labels beside points of a plot, each where it hides least: a choice of places, the best of them taken in turn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

# Offset in points from the point, horizontal and vertical alignment; the first that hides nothing is taken.
_PLACES = tuple(
    (sign_x * x, sign_y * y, "left" if sign_x > 0 else "right", "bottom" if sign_y > 0 else "top")
    for x, y in ((5, 4), (5, 12), (12, 4), (12, 20), (5, 28))
    for sign_x, sign_y in ((1, 1), (1, -1), (-1, 1), (-1, -1))
)
# How bad it is to hide something: another label, a marker, a bar, a line; and to leave the axes.
_LABEL, _MARKER, _BAR, _LINE, _OUTSIDE = 8.0, 6.0, 3.0, 2.0, 20.0
_MARKER_PX, _SAMPLES = 7.0, 60


def place_labels(
    axes: Axes,
    labels: Sequence[tuple[str, float, float, str]],
    *,
    bars: Sequence[tuple[float, float, float]] = (),
    curves: Sequence[Sequence[tuple[float, float]]] = (),
    levels: Sequence[float] = (),
    fontsize: float = 8,
) -> list[Annotation]:
    """Writes each label (text, x, y, colour) beside its point, where it covers least of what is drawn.

    bars: x, lowest and highest y of vertical bars. curves: points that lines join. levels: y of horizontal lines. The
    axes' limits, scales and place in the figure must be final. The same input gives the same places.
    """
    boxes, weights = _obstacles(axes, [(x, y) for _, x, y, _ in labels], bars, curves, levels)
    placed = []
    for text, x, y, colour in labels:
        note = axes.annotate(
            text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=fontsize, color=colour, zorder=4
        )
        box = _best(axes, note, boxes, weights)
        boxes, weights = np.vstack([boxes, box]), np.append(weights, _LABEL)
        placed.append(note)
    return placed


def _best(axes: Axes, note: Annotation, boxes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Moves the note to its best place; its box there (4,): left, bottom, right, top in pixels."""
    whole = axes.get_window_extent()
    tried = []
    for place in _PLACES:
        box = _moved(note, place)
        hidden = (boxes[:, 0] < box[2]) & (boxes[:, 2] > box[0]) & (boxes[:, 1] < box[3]) & (boxes[:, 3] > box[1])
        inside = whole.x0 <= box[0] and box[2] <= whole.x1 and whole.y0 <= box[1] and box[3] <= whole.y1
        tried.append(float(weights[hidden].sum()) + (0.0 if inside else _OUTSIDE))
    return _moved(note, _PLACES[int(np.argmin(tried))])


def _moved(note: Annotation, place: tuple[float, float, str, str]) -> np.ndarray:
    x, y, across, along = place
    note.xyann = (x, y)
    note.set(ha=across, va=along)
    box = note.get_window_extent()
    return np.array([box.x0, box.y0, box.x1, box.y1])


def _obstacles(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    bars: Sequence[tuple[float, float, float]],
    curves: Sequence[Sequence[tuple[float, float]]],
    levels: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (m,4) in pixels of what should stay visible, and how bad it is to hide each (m,)."""
    boxes: list[np.ndarray] = [np.empty((0, 4))]
    weights: list[np.ndarray] = [np.empty(0)]

    def add(low: np.ndarray, high: np.ndarray, weight: float, size: float) -> None:
        boxes.append(np.hstack([np.minimum(low, high) - size, np.maximum(low, high) + size]))
        weights.append(np.full(len(low), weight))

    if points:
        at = _pixels(axes, points)
        add(at, at, _MARKER, _MARKER_PX)
    if bars:
        add(
            _pixels(axes, [(x, low) for x, low, _ in bars]),
            _pixels(axes, [(x, high) for x, _, high in bars]),
            _BAR,
            2.0,
        )
    for curve in curves:
        for start, end in pairwise(curve):
            first, last = _pixels(axes, [start, end])
            along = first + np.linspace(0, 1, _SAMPLES)[:, None] * (last - first)
            # Few of the samples lie under a label: together they weigh about as much as one line.
            add(along[:-1], along[1:], _LINE / 4, 1.0)
    left, right = axes.get_xlim()
    if levels:
        add(_pixels(axes, [(left, y) for y in levels]), _pixels(axes, [(right, y) for y in levels]), _LINE, 2.0)
    return np.vstack(boxes), np.concatenate(weights)


def _pixels(axes: Axes, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Points of the data (m,2) as pixels of the figure."""
    return np.asarray(axes.transData.transform(np.asarray(points, dtype=np.float64)))
