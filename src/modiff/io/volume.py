"""A volume with its place in space: what NIfTI and DICOM are read into and written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modiff.errors import DataError


@dataclass(frozen=True)
class Volume:
    """Voxels and where they lie. A 2-D image with geometry is a volume of one slice (Z = 1).

    array: (C,Z,H,W) in the values' own number type, rescaled to the source's units (HU for CT); C = 1 unless the file
    holds several channels on one grid. affine: (4,4) float64, voxel (column, row, slice) = (index along W, H, Z) to
    RAS+ mm: nibabel's convention for the array transposed to (W,H,Z), and the store's for `affine`. format: "NIfTI" or
    "DICOM". sha256: file's name -> SHA-256 of what was read. source: what the format needs to write results back into
    the same geometry (a NIfTI header, the headers of a DICOM series in the order of the slices): opaque to others.
    Raises DataError where array and affine do not fit together.
    """

    array: np.ndarray
    affine: np.ndarray
    path: Path
    format: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    source: Any = field(default=None, repr=False)  # a header may name a patient, and a repr ends up in logs

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.size == 0:
            raise DataError("is no volume", path=self.path, field="array", found=self.array.shape, expected="(C,Z,H,W)")
        affine = np.asarray(self.affine, dtype=np.float64)
        usable = affine.shape == (4, 4) and bool(np.isfinite(affine).all()) and affine[3].tolist() == [0, 0, 0, 1]
        if not usable or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            found, expected = affine.tolist(), "an invertible (4,4)"
            raise DataError("no usable geometry", path=self.path, field="affine", found=found, expected=expected)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z,H,W)."""
        return self.array.shape[1], self.array.shape[2], self.array.shape[3]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between neighbouring voxels along (Z,H,W): slice, row, column."""
        column, row, part = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return part, row, column

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def slice_affine(self, index: int) -> np.ndarray:
        """(4,4) pixel (column, row, 0) of slice `index` to RAS+ mm."""
        affine = self.affine.copy()
        affine[:3, 3] += index * affine[:3, 2]
        return affine
