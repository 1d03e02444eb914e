"""What the numbers of a file mean: masks (class indices) or probabilities."""

from __future__ import annotations

from typing import Literal

import numpy as np

from modiff.errors import DataError
from modiff.evaluation.predictions.base import RawMaps

Meaning = Literal["auto", "masks", "probabilities"]
_SCALED = (np.uint8, np.uint16)  # whole numbers that may be probabilities: their type's maximum is 1
_SUM = 1.001


class Values:
    """Turns a case's numbers into masks or probabilities, all cases of a set alike.

    meaning "masks": class indices 0 to K, or with one class 0 and the type's maximum; "probabilities": floats in [0,1],
    or 8 and 16-bit numbers whose maximum is 1; "auto": floats are probabilities, whole numbers are masks where no other
    value occurs and probabilities otherwise, and a set in which both occur is refused: it must be said.
    """

    def __init__(self, meaning: Meaning, classes: int) -> None:
        self.meaning, self.classes = meaning, classes
        self._first: tuple[str, str] | None = None  # what "auto" took the numbers for, and the case that showed it

    def read(self, raw: RawMaps) -> np.ndarray:
        """(N,C,Z,H,W) in a file's numbers -> (Z,N,K,H,W), bool for masks or float32; raises DataError."""
        array, channels = raw.array, raw.array.shape[1]
        if channels not in (1, self.classes):
            expected = "1" if self.classes == 1 else f"1 or {self.classes}"
            raise DataError("number of channels", path=raw.where, field=raw.case, found=channels, expected=expected)
        if array.dtype == bool:
            array = array.astype(np.uint8)
        meaning = self._meaning(raw, array)
        maps = self._masks(raw, array) if meaning == "masks" else self._probabilities(raw, array)
        return np.ascontiguousarray(np.moveaxis(maps, 2, 0))

    def _meaning(self, raw: RawMaps, array: np.ndarray) -> str:
        if self.meaning != "auto":
            return self.meaning
        if array.dtype.kind == "f":
            one_channel_of_several = array.shape[1] == 1 < self.classes
            return "masks" if one_channel_of_several else "probabilities"
        low, high = int(array.min()), int(array.max())
        highest = 1 if array.shape[1] > 1 else self.classes
        if low == high == 0 or (highest == 1 and _is_full_scale(array)):
            return "masks"  # an empty mask, or 0 and full scale: the same in both readings
        seen = "masks" if high <= highest else "probabilities"
        if self._first is None:
            self._first = seen, raw.case
        elif self._first[0] != seen:
            found = f"{seen} here, {self._first[0]} in case {self._first[1]}"
            hint = "Say which with --values, or --truth-values."
            raise DataError("masks or probabilities?", path=raw.where, field=raw.case, found=found, hint=hint)
        return seen

    def _masks(self, raw: RawMaps, array: np.ndarray) -> np.ndarray:
        """(N,K,Z,H,W) bool."""
        highest = 1 if array.shape[1] > 1 else self.classes
        if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
            raise DataError("mask values that are not whole", path=raw.where, field=_which(raw, array % 1 != 0))
        full_scale = highest == 1 and array.dtype.kind in "ui" and _is_full_scale(array)
        wrong = (array < 0) | (array > highest)
        if wrong.any() and not full_scale:
            found, expected = f"the value {array[wrong][0]:g}", f"0 to {highest}"
            raise DataError("mask values", path=raw.where, field=_which(raw, wrong), found=found, expected=expected)
        if array.shape[1] != self.classes:
            return np.concatenate([array == kind for kind in range(1, self.classes + 1)], axis=1)
        marked = array != 0
        if self.classes > 1 and int(marked.sum(1).max()) > 1:
            raise DataError("classes exclude each other", path=raw.where, field=raw.case, found="a pixel of two")
        return marked

    def _probabilities(self, raw: RawMaps, array: np.ndarray) -> np.ndarray:
        """(N,K,Z,H,W) float32 in [0,1]."""
        if array.shape[1] != self.classes:
            hint = "One channel holds masks of several classes, not their probabilities."
            expected = f"{self.classes} channels, a class each"
            raise DataError("number of channels", path=raw.where, field=raw.case, found=1, expected=expected, hint=hint)
        if array.dtype.kind != "f":
            if array.dtype not in _SCALED:
                hint = "Write 8 or 16-bit unsigned numbers, or floats."
                raise DataError(
                    "no scale for probabilities", path=raw.where, field=raw.case, found=array.dtype, hint=hint
                )
            return (array / np.float32(np.iinfo(array.dtype).max)).astype(np.float32)
        wrong = ~((array >= 0) & (array <= 1))  # NaN too
        if wrong.any():
            found, expected = f"the value {array[wrong][0]:g}", "probabilities in [0,1]"
            raise DataError(
                "values outside [0,1]", path=raw.where, field=_which(raw, wrong), found=found, expected=expected
            )
        if self.classes > 1 and float(array.sum(1).max()) > _SUM:
            found = f"a sum of {float(array.sum(1).max()):.3g}"
            raise DataError(
                "classes exclude each other", path=raw.where, field=raw.case, found=found, expected="at most 1 a pixel"
            )
        return array.astype(np.float32)


def _is_full_scale(array: np.ndarray) -> bool:
    """Only 0 and the largest value of an 8 or 16-bit type."""
    return array.dtype in _SCALED and bool(((array == 0) | (array == np.iinfo(array.dtype).max)).all())


def _which(raw: RawMaps, wrong: np.ndarray) -> str:
    """The case and its first map with a wrong value."""
    return f"{raw.case}, map {raw.names[int(np.flatnonzero(wrong.any((1, 2, 3, 4)))[0])]}"
