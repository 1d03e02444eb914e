"""A window of a slice around a nodule: image by linear, masks by nearest sampling, and where the window lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from modiff.io.dicom.geometry import Plane, affine_of


@dataclass(frozen=True)
class Window:
    """A square of size×size pixels. top, left: where its first pixel's centre lies in the slice, in the slice's pixels.

    scale: (rows, columns) of the slice a pixel of the window; 1 is native.
    """

    top: float
    left: float
    size: int
    scale: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def around(
        cls, centre: tuple[float, float], size: int, spacing: tuple[float, float], wanted: float | None
    ) -> Window:
        """Centred on a place (row, column) of a slice with `spacing`; wanted: mm per pixel, None for native.

        At native spacing the window lies on the slice's pixels, at most half a pixel off the centre.
        """
        if wanted is None:
            first = [float(round(place - (size - 1) / 2)) for place in centre]
            return cls(first[0], first[1], size)
        scale = wanted / spacing[0], wanted / spacing[1]
        first = [place - (size - 1) / 2 * step for place, step in zip(centre, scale, strict=True)]
        return cls(first[0], first[1], size, scale)

    @property
    def native(self) -> bool:
        """Whether the window's pixels are the slice's."""
        return self.scale == (1.0, 1.0)

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        steps = np.arange(self.size)
        return self.top + steps * self.scale[0], self.left + steps * self.scale[1]

    def image(self, values: np.ndarray, outside: float) -> np.ndarray:
        """(size,size) float32 of a slice (H,W); `outside` where the slice ends.

        Where the window is coarser than the slice, the slice is smoothed first, so that no detail aliases.
        """
        rows, columns = self._places()
        if self.native:
            return _take(values, rows, columns, outside).astype(np.float32)
        sigma = [max(step * step - 1, 0) ** 0.5 / 2 for step in self.scale]
        smooth = ndimage.gaussian_filter(values.astype(np.float32), sigma, mode="nearest")
        at = np.meshgrid(rows, columns, indexing="ij")
        made = ndimage.map_coordinates(smooth, at, order=1, mode="nearest")
        return np.where(_inside(rows, values.shape[0])[:, None] & _inside(columns, values.shape[1]), made, outside)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """(size,size) bool of a mask (H,W): the pixel nearest to each place."""
        return _take(mask, *self._places(), False)

    def valid(self, shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, left, bottom, right), half-open: the part of the window that is slice and not padding."""
        spans = []
        for places, length in zip(self._places(), shape, strict=True):
            inside = np.flatnonzero(_inside(places, length))
            spans.append((int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0))
        return spans[0][0], spans[1][0], spans[0][1], spans[1][1]

    def affine(self, plane: Plane) -> np.ndarray:
        """(4,4) pixel (column, row, slice) of the window to RAS+ mm."""
        affine = affine_of([plane])
        affine[:3, 3] += self.left * affine[:3, 0] + self.top * affine[:3, 1]
        affine[:3, 0] *= self.scale[1]
        affine[:3, 1] *= self.scale[0]
        return affine


def _inside(places: np.ndarray, length: int) -> np.ndarray:
    return (places > -0.5) & (places < length - 0.5)


def _take(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, outside: float) -> np.ndarray:
    made = np.full((len(rows), len(columns)), outside, dtype=values.dtype)
    in_rows, in_columns = _inside(rows, values.shape[0]), _inside(columns, values.shape[1])
    picked = values[np.ix_(np.rint(rows[in_rows]).astype(int), np.rint(columns[in_columns]).astype(int))]
    made[np.ix_(in_rows, in_columns)] = picked
    return made


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """HU -> uint8: `low` and below 0, `high` and above 255, rounded between."""
    return np.rint((np.clip(values.astype(np.float64), low, high) - low) * (255 / (high - low))).astype(np.uint8)
