"""Where DICOM slices lie: one plane a slice, and the regular grid that a series of them makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modiff.errors import DataError
from modiff.io.dicom.header import numbers

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SAME_DIRECTION = 1e-3  # of a cosine: scanners write four to six digits
_SAME_PLACE_MM = 1e-3
# Positions rounded to 0.1 mm move a slice of 0.6 mm by 8 % of the step; a missing slice moves it by 100 %.
_EVEN = 0.1
_SPACING_MM = (1e-3, 1e3)
_FAR_MM = 1e5
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Plane:
    """A slice in DICOM's patient coordinates (LPS+, mm; PS3.3 C.7.6.2).

    position: (3,) centre of the first pixel. right, down: (3,) unit vectors along which the column and the row index
    grow. spacing: (row, column). thickness: mm a slice stands for, 1 where not stated.
    """

    position: np.ndarray
    right: np.ndarray
    down: np.ndarray
    spacing: tuple[float, float]
    thickness: float

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector along which slices are ordered."""
        return np.cross(self.right, self.down)

    @property
    def height(self) -> float:
        """mm along the normal."""
        return float(self.position @ self.normal)


def plane_of(path: Path, header: Dataset) -> Plane:
    """A slice's place; raises DataError where it is missing or makes no sense."""
    position = numbers(path, header, "ImagePositionPatient", 3)
    cosines = numbers(path, header, "ImageOrientationPatient", 6)
    spacing = numbers(path, header, "PixelSpacing", 2)
    right, down = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.linalg.norm(right), np.linalg.norm(down)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(right @ down)) > _SAME_DIRECTION:
        expected = "two unit vectors at right angles"
        raise DataError("no directions", path=path, field="ImageOrientationPatient", found=cosines, expected=expected)
    low, high = _SPACING_MM
    if not low <= min(spacing) <= max(spacing) <= high:
        raise DataError(
            "no distances", path=path, field="PixelSpacing", found=spacing, expected=f"{low:g} to {high:g} mm"
        )
    if max(map(abs, position)) > _FAR_MM:
        raise DataError("no place in a room", path=path, field="ImagePositionPatient", found=position)
    right = right / lengths[0]
    down = down - (down @ right) * right
    return Plane(
        np.array(position), right, down / np.linalg.norm(down), (spacing[0], spacing[1]), _thickness(path, header)
    )


def _thickness(path: Path, header: Dataset) -> float:
    for field in ("SpacingBetweenSlices", "SliceThickness"):
        (value,) = numbers(path, header, field, 1, (0.0,))
        if _SPACING_MM[0] <= abs(value) <= _SPACING_MM[1]:
            return abs(value)
    return 1.0


def check_same_grid(path: Path, planes: Sequence[Plane]) -> None:
    """Raises DataError unless all slices are parallel and of one pixel spacing."""
    first = planes[0]
    for plane in planes[1:]:
        turned = max(np.abs(plane.right - first.right).max(), np.abs(plane.down - first.down).max())
        if turned > _SAME_DIRECTION:
            raise DataError(
                "slices are not parallel", path=path, field="ImageOrientationPatient", hint="Is a scout among them?"
            )
        if np.abs(np.subtract(plane.spacing, first.spacing)).max() > 1e-4 * max(first.spacing):
            found = f"{first.spacing} and {plane.spacing}"
            raise DataError("slices differ in pixel spacing", path=path, field="PixelSpacing", found=found)


def in_order(planes: Sequence[Plane]) -> list[int]:
    """Places of the slices from the lowest to the highest along the normal."""
    return sorted(range(len(planes)), key=lambda place: planes[place].height)


def check_even(path: Path, planes: Sequence[Plane]) -> None:
    """Raises DataError, with the positions, unless slices in order are even: none missing, none twice, on one line."""
    if len(planes) < 2:
        return
    heights = np.array([plane.height for plane in planes])
    steps = np.diff(heights)
    if (steps < _SAME_PLACE_MM).any():
        raise DataError("several slices in one place", path=path, found=_places(heights[:-1][steps < _SAME_PLACE_MM]))
    usual = float(np.median(steps))
    positions = np.stack([plane.position for plane in planes])
    off = np.abs(positions - np.linspace(positions[0], positions[-1], len(planes))).max(1) > _EVEN * usual
    if not off.any():
        return
    wide = np.flatnonzero(np.abs(steps - usual) > _EVEN * usual)
    if not wide.size:
        found = _places(heights[off])
        raise DataError("slices are not on one line", path=path, field="ImagePositionPatient", found=found)
    gaps = [
        f"{step:.2f} mm from {low:.2f} to {low + step:.2f}"
        for low, step in zip(heights[wide], steps[wide], strict=True)
    ]
    raise DataError(
        "slices are missing" if (steps[wide] > 1.5 * usual).any() else "slices are unevenly spaced",
        path=path,
        field="ImagePositionPatient",
        found=", ".join(gaps[:5]) + (" …" if len(gaps) > 5 else ""),
        expected=f"{usual:.2f} mm between all",
    )


def affine_of(planes: Sequence[Plane]) -> np.ndarray:
    """(4,4) voxel (column, row, slice) to RAS+ mm of slices in order; a tilted gantry makes the slice axis oblique."""
    first, last = planes[0], planes[-1]
    step = (last.position - first.position) / (len(planes) - 1) if len(planes) > 1 else first.normal * first.thickness
    columns = np.stack([first.right * first.spacing[1], first.down * first.spacing[0], step, first.position], axis=1)
    affine = np.eye(4)
    affine[:3] = _LPS_TO_RAS[:, None] * columns
    return affine


def _places(heights: np.ndarray) -> str:
    return ", ".join(f"{height:.2f}" for height in heights[:5]) + (" …" if heights.size > 5 else "")
