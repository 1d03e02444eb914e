"""Where in a scan to look: a box of voxels, a place with its neighbouring slices, or everything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modiff.errors import DataError

_SPAN = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*")


@dataclass(frozen=True)
class Box:
    """Voxels z0 ≤ z < z1, y0 ≤ y < y1, x0 ≤ x < x1 of a scan of `shape` (Z,H,W); spans are in that order."""

    shape: tuple[int, int, int]
    spans: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

    @classmethod
    def whole(cls, shape: tuple[int, int, int]) -> Box:
        """All of a scan."""
        return cls(shape, ((0, shape[0]), (0, shape[1]), (0, shape[2])))

    @classmethod
    def parse(cls, text: str, shape: tuple[int, int, int]) -> Box:
        """`X0:X1,Y0:Y1[,Z0:Z1]`, counted from 0, ends excluded; all slices without Z. Raises DataError."""
        spans = [_SPAN.fullmatch(part) for part in text.split(",")]
        if len(spans) not in (2, 3) or not all(spans):
            expected = "X0:X1,Y0:Y1 or X0:X1,Y0:Y1,Z0:Z1"
            raise DataError("cannot be understood", field="--roi", found=repr(text), expected=expected)
        found = [(int(span[1]), int(span[2])) for span in spans if span is not None]
        if len(found) == 2:
            found.append((0, shape[0]))
        for name, (low, high), size in zip("XYZ", found, reversed(shape), strict=True):
            if not low < high <= size:
                expected = f"0 ≤ {name}0 < {name}1 ≤ {size}"
                raise DataError("does not lie in the image", field="--roi", found=f"{low}:{high}", expected=expected)
        return cls(shape, (found[2], found[1], found[0]))

    @property
    def size(self) -> tuple[int, int, int]:
        """(z,h,w) voxels."""
        z, y, x = (high - low for low, high in self.spans)
        return z, y, x

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """To cut the box out of an array (…,Z,H,W)."""
        z, y, x = (slice(low, high) for low, high in self.spans)
        return z, y, x

    def put_back(self, values: np.ndarray) -> np.ndarray:
        """(…,z,h,w) of the box -> (…,Z,H,W) of the scan, 0 outside."""
        if self.size == self.shape:
            return values
        whole = np.zeros((*values.shape[:-3], *self.shape), dtype=values.dtype)
        whole[(..., *self.slices)] = values
        return whole


def place(at: Sequence[int], shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """`at` = (x, y[, z]) checked against a scan (Z,H,W); z may be left out of a scan of one slice. Raises DataError."""
    if len(at) == 2 and shape[0] == 1:
        at = (*at, 0)
    if len(at) != 3:
        expected = f"X,Y,Z: the scan has {shape[0]} slices"
        raise DataError("does not say where to look", field="at", found=",".join(map(str, at)), expected=expected)
    x, y, z = (int(value) for value in at)
    if not (0 <= x < shape[2] and 0 <= y < shape[1] and 0 <= z < shape[0]):
        expected = f"0 ≤ X < {shape[2]}, 0 ≤ Y < {shape[1]}, 0 ≤ Z < {shape[0]}"
        raise DataError("lies outside the image", field="at", found=f"{x},{y},{z}", expected=expected)
    return x, y, z
