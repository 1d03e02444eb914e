"""Which part of an image is worth a closer look."""

from __future__ import annotations

import numpy as np


def close_up(
    marks: np.ndarray,
    *,
    least: int,
    around: float = 0.75,
    within: tuple[slice, slice] | None = None,
    centre: bool = False,
) -> tuple[slice, slice]:
    """Rows and columns of an image around all that is marked in `marks` (H,W) bool: the one rule of every figure.

    A square, of the marked area's longer side enlarged by the fraction `around` and at least `least` pixels; moved, and
    where it is larger than that cut, to lie in `within` (rows and columns; all of the image). It holds all that is
    marked there. Where nothing is marked it is all of `within`, or with `centre` the middle square of `least` pixels.
    """
    within = within or (slice(0, marks.shape[0]), slice(0, marks.shape[1]))
    spans = [np.flatnonzero(marks.any(1)), np.flatnonzero(marks.any(0))]
    if not spans[0].size:
        if not centre:
            return within
        spans = [np.array([(bounds.start + bounds.stop) // 2]) for bounds in within]
    side = max(int(found[-1] - found[0]) + 1 for found in spans)
    side = max(least, round(side * (1 + around)))
    cut = []
    for found, bounds in zip(spans, within, strict=True):
        length = min(side, bounds.stop - bounds.start)
        start = int(found[0] + found[-1] + 1) // 2 - length // 2
        start = min(max(start, bounds.start), bounds.stop - length)
        cut.append(slice(start, start + length))
    return cut[0], cut[1]
