"""Maps that other programs made, case by case: a folder of PNG or NIfTI, NPZ, or HDF5. The same for samples and raters.

A case holds several maps: samples where predictions are read, raters where the ground truth is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from modiff.data.store_format import check_case
from modiff.errors import DataError

FORMATS = "a folder (a sub-folder per case, a PNG or NIfTI file per map), an NPZ or an HDF5 file"


@dataclass(eq=False)
class RawMaps:
    """The maps of one case as their files have them.

    array: (N,C,Z,H,W); C is 1 or the number of classes, Z > 1 for volumes. names: N. affine: (4,4) where the files say.
    weights: (N,) where they say.
    """

    case: str
    where: str
    names: tuple[str, ...]
    array: np.ndarray
    affine: np.ndarray | None = None
    weights: np.ndarray | None = None

    @classmethod
    def numbered(cls, case: str, path: Path, array: np.ndarray) -> RawMaps:
        """From (N,H,W) or (N,C,H,W), called by their numbers; DataError for another shape or no numbers."""
        if array.dtype.kind not in "biuf":
            raise DataError("not an array of numbers", path=path, field=case, found=array.dtype)
        if array.ndim not in (3, 4) or 0 in array.shape:
            raise DataError("wrong shape", path=path, field=case, found=array.shape, expected="(N,H,W) or (N,K,H,W)")
        array = array[:, None, None] if array.ndim == 3 else array[:, :, None]
        return cls(case, str(path), tuple(map(str, range(len(array)))), array)


class Closing:
    """What holds files open until its block ends."""

    def close(self) -> None:
        """Lets go of the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class MapSource(Closing, ABC):
    """A set of cases on disk, a context manager. path: where. cases: their names, sorted."""

    path: Path
    cases: tuple[str, ...]

    @abstractmethod
    def read(self, case: str) -> RawMaps:
        """The maps of a case; raises DataError that names it."""

    @abstractmethod
    def count(self, case: str) -> int:
        """How many maps a case has, without reading them where that is possible."""

    def _named(self, names: Sequence[str]) -> tuple[str, ...]:
        """Case names, checked; raises DataError where there are none."""
        if not names:
            raise DataError("no cases", path=self.path, expected=FORMATS)
        try:
            return tuple(sorted(check_case(name) for name in names))
        except DataError as error:
            raise DataError(str(error), path=self.path) from error
