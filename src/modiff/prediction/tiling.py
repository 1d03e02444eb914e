"""Windows slid over an image that is larger than the model's, and how they are merged."""

from __future__ import annotations

import numpy as np

from modiff.errors import ConfigError
from modiff.prediction.window import Window

OVERLAP = 0.5  # share of a window that its neighbour sees too
_LEAST = 1e-3
_SIGMA = 0.125  # of the Gaussian that weighs a window's pixels, in window sides: MONAI's and nnU-Net's choice


def starts(low: int, high: int, patch: int, overlap: float) -> list[int]:
    """First pixels of patches that cover low … high−1: evenly apart, the last one ends at `high`.

    A stretch shorter than a patch gets one, about its middle.
    """
    if high - low <= patch:
        return [(low + high) // 2 - patch // 2]
    step = max(1, int(patch * (1 - overlap)))
    found = list(range(low, high - patch, step))
    return [*found, high - patch]


def windows_over(
    rows: tuple[int, int],
    columns: tuple[int, int],
    image: tuple[int, int],
    size: tuple[int, int],
    *,
    reach: tuple[int, int],
    overlap: float = OVERLAP,
    centred: bool = False,
) -> list[Window]:
    """Windows of `size` (H,W) whose middle parts of `reach` (h,w) cover rows × columns of an image.

    centred: a window's middle means something to the model and stays where it is; otherwise windows that reach out of
    the image move inside as far as they can. Raises ConfigError for an overlap outside [0,1).
    """
    if not 0 <= overlap < 1:
        raise ConfigError("is not possible", field="overlap", found=overlap, expected="0 ≤ overlap < 1")
    sides = []
    for span, total, side, part in zip((rows, columns), image, size, reach, strict=True):
        corners = [start - (side - part) // 2 for start in starts(*span, part, overlap)]
        if not centred and part == side <= total:
            corners = sorted({min(max(corner, 0), total - side) for corner in corners})
        sides.append(corners)
    return [Window(image, size, top, left) for top in sides[0] for left in sides[1]]


def importance(size: tuple[int, int], reach: tuple[int, int]) -> np.ndarray:
    """(H,W) float32 weights of a window's pixels in the merged map: a Gaussian over its middle part `reach`, else 0.

    A model sees most around the middle of what it is shown. Every weight within the reach is at least 1/1000 (the
    largest is 1), so that a pixel that one window alone sees has that window's value.
    """
    factors = []
    for side, part in zip(size, reach, strict=True):
        away = (np.arange(part) - (part - 1) / 2) / (_SIGMA * part)
        line = np.zeros(side)
        begin = (side - part) // 2
        line[begin : begin + part] = np.exp(-(away**2) / 2)
        factors.append(line)
    weights = np.outer(*factors)
    return np.where(weights > 0, np.maximum(weights, _LEAST), 0).astype(np.float32)
