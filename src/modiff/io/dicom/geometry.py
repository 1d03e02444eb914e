"""Where DICOM slices lie: one plane a slice, and the regular grid that a series of them makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from modiff.errors import DataError
from modiff.io.dicom.header import numbers

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
        expected = f"{low:g} to {high:g} mm"
        raise DataError("no distances", path=path, field="PixelSpacing", found=spacing, expected=expected)
    if max(map(abs, position)) > _FAR_MM:
        raise DataError("no place in a room", path=path, field="ImagePositionPatient", found=position)
    right = right / lengths[0]
    down = down - (down @ right) * right
    fields = ("SpacingBetweenSlices", "SliceThickness")
    stated = (abs(value) for field in fields for value in numbers(path, header, field, 1, (0.0,)))
    thickness = next((value for value in stated if low <= value <= high), 1.0)
    return Plane(np.array(position), right, down / np.linalg.norm(down), (spacing[0], spacing[1]), thickness)


def check_same_grid(path: Path, planes: Sequence[Plane]) -> None:
    """Raises DataError unless all slices are parallel and of one pixel spacing."""
    first = planes[0]
    for plane in planes[1:]:
        turned = max(np.abs(plane.right - first.right).max(), np.abs(plane.down - first.down).max())
        if turned > _SAME_DIRECTION:
            hint = "Is a scout among them?"
            raise DataError("slices are not parallel", path=path, field="ImageOrientationPatient", hint=hint)
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
        found = _listed(heights[:-1][steps < _SAME_PLACE_MM], "{:.2f}")
        raise DataError("several slices in one place", path=path, found=found)
    usual = float(np.median(steps))
    positions = np.stack([plane.position for plane in planes])
    off = np.abs(positions - np.linspace(positions[0], positions[-1], len(planes))).max(1) > _EVEN * usual
    if not off.any():
        return
    field = "ImagePositionPatient"
    wide = np.abs(steps - usual) > _EVEN * usual
    if not wide.any():
        raise DataError("slices are not on one line", path=path, field=field, found=_listed(heights[off], "{:.2f}"))
    what = "slices are missing" if (steps[wide] > 1.5 * usual).any() else "slices are unevenly spaced"
    gaps = np.stack([steps, heights[:-1], heights[1:]], 1)[wide]
    found = _listed(gaps, "{:.2f} mm from {:.2f} to {:.2f}")
    raise DataError(what, path=path, field=field, found=found, expected=f"{usual:.2f} mm between all")


def affine_of(planes: Sequence[Plane]) -> np.ndarray:
    """(4,4) voxel (column, row, slice) to RAS+ mm of slices in order; a tilted gantry makes the slice axis oblique."""
    first, last = planes[0], planes[-1]
    step = (last.position - first.position) / (len(planes) - 1) if len(planes) > 1 else first.normal * first.thickness
    columns = np.stack([first.right * first.spacing[1], first.down * first.spacing[0], step, first.position], axis=1)
    affine = np.eye(4)
    affine[:3] = _LPS_TO_RAS[:, None] * columns
    return affine


def _listed(rows: np.ndarray, words: str) -> str:
    """The first five rows, in words."""
    listed = [words.format(*np.atleast_1d(row)) for row in rows[:5]]
    return ", ".join(listed) + (" …" if len(rows) > 5 else "")
