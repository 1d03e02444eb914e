"""Where the model's input lies in the image's frame: cut it out, put the maps back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from modiff.errors import DataError


def _reflected(start: int, length: int, size: int) -> np.ndarray:
    """Indices start … start+length−1 mirrored into [0, size) about the first and last pixel, as often as needed."""
    if size == 1:
        return np.zeros(length, dtype=np.intp)
    period = 2 * (size - 1)
    index = np.arange(start, start + length) % period
    return np.minimum(index, period - index)


@dataclass(frozen=True)
class Window:
    """A rectangle of `size` (H,W) whose upper left pixel is (top, left) of an `image` (h,w); it may reach outside."""

    image: tuple[int, int]
    size: tuple[int, int]
    top: int
    left: int

    @classmethod
    def centred(cls, image: tuple[int, int], size: tuple[int, int], at: tuple[int, int] | None = None) -> Window:
        """The window whose pixel (H//2, W//2) is the image's pixel `at` = (x, y), by default its own (h//2, w//2).

        Raises DataError where `at` is outside the image.
        """
        (h, w), (height, width) = image, size
        x, y = at if at is not None else (w // 2, h // 2)
        if not (0 <= x < w and 0 <= y < h):
            raise DataError(
                "lies outside the image", field="at", found=f"{x},{y}", expected=f"0 ≤ X < {w} and 0 ≤ Y < {h}"
            )
        return cls(image, size, y - height // 2, x - width // 2)

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the window, in its own coordinates, that lie in the image."""
        (h, w), (height, width) = self.image, self.size
        return (
            slice(max(0, -self.top), min(height, h - self.top)),
            slice(max(0, -self.left), min(width, w - self.left)),
        )

    @property
    def covered(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the window shows."""
        rows, columns = self.inside
        return (
            slice(rows.start + self.top, rows.stop + self.top),
            slice(columns.start + self.left, columns.stop + self.left),
        )

    @property
    def padded(self) -> bool:
        """The window reaches outside the image."""
        rows, columns = self.inside
        return (rows.stop - rows.start, columns.stop - columns.start) != self.size

    def cut(self, image: np.ndarray) -> np.ndarray:
        """(…,h,w) -> (…,H,W): outside the image its reflection, which keeps the texture that the model knows."""
        rows = _reflected(self.top, self.size[0], self.image[0])
        columns = _reflected(self.left, self.size[1], self.image[1])
        return image[..., rows[:, None], columns]

    def put_back(self, maps: Tensor) -> Tensor:
        """(…,H,W) -> (…,h,w): each pixel at its place, 0 where the window did not look."""
        if self.image == self.size and (self.top, self.left) == (0, 0):
            return maps
        whole = maps.new_zeros((*maps.shape[:-2], *self.image))
        whole[(..., *self.covered)] = maps[(..., *self.inside)]
        return whole
