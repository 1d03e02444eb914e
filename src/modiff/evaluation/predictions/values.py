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
            raise _wrong(raw, "number of channels", channels, expected)
        if array.dtype == bool:
            array = array.astype(np.uint8)
        meaning = self._meaning(raw, array) if self.meaning == "auto" else self.meaning
        maps = self._masks(raw, array) if meaning == "masks" else self._probabilities(raw, array)
        return np.ascontiguousarray(np.moveaxis(maps, 2, 0))

    def _meaning(self, raw: RawMaps, array: np.ndarray) -> str:
        if array.dtype.kind == "f":
            one_channel_of_several = array.shape[1] == 1 < self.classes
            return "masks" if one_channel_of_several else "probabilities"
        high, highest = int(array.max()), 1 if array.shape[1] > 1 else self.classes
        if int(array.min()) == high == 0 or (highest == 1 and _is_full_scale(array)):
            return "masks"  # an empty mask, or 0 and full scale: the same in both readings
        seen = "masks" if high <= highest else "probabilities"
        self._first = self._first or (seen, raw.case)
        if self._first[0] != seen:
            found = f"{seen} here, {self._first[0]} in case {self._first[1]}"
            hint = "Say which with --values, or --truth-values."
            raise _wrong(raw, "masks or probabilities?", found, hint=hint)
        return seen

    def _masks(self, raw: RawMaps, array: np.ndarray) -> np.ndarray:
        """(N,K,Z,H,W) bool."""
        highest = 1 if array.shape[1] > 1 else self.classes
        if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
            raise _wrong(raw, "mask values that are not whole", None, at=array % 1 != 0)
        wrong = (array < 0) | (array > highest)
        if wrong.any() and not (highest == 1 and _is_full_scale(array)):
            raise _wrong(raw, "mask values", f"the value {array[wrong][0]:g}", f"0 to {highest}", at=wrong)
        if array.shape[1] != self.classes:
            return np.concatenate([array == kind for kind in range(1, self.classes + 1)], axis=1)
        marked = array != 0
        if self.classes > 1 and int(marked.sum(1).max()) > 1:
            raise _wrong(raw, "classes exclude each other", "a pixel of two")
        return marked

    def _probabilities(self, raw: RawMaps, array: np.ndarray) -> np.ndarray:
        """(N,K,Z,H,W) float32 in [0,1]."""
        if array.shape[1] != self.classes:
            hint = "One channel holds masks of several classes, not their probabilities."
            raise _wrong(raw, "number of channels", 1, f"{self.classes} channels, a class each", hint=hint)
        if array.dtype.kind != "f":
            if array.dtype not in _SCALED:
                hint = "Write 8 or 16-bit unsigned numbers, or floats."
                raise _wrong(raw, "no scale for probabilities", array.dtype, hint=hint)
            return (array / np.float32(np.iinfo(array.dtype).max)).astype(np.float32)
        wrong = ~((array >= 0) & (array <= 1))  # NaN too
        if wrong.any():
            found = f"the value {array[wrong][0]:g}"
            raise _wrong(raw, "values outside [0,1]", found, "probabilities in [0,1]", at=wrong)
        if self.classes > 1 and float(array.sum(1).max()) > _SUM:
            found = f"a sum of {float(array.sum(1).max()):.3g}"
            raise _wrong(raw, "classes exclude each other", found, "at most 1 per pixel")
        return array.astype(np.float32)


def _is_full_scale(array: np.ndarray) -> bool:
    """Only 0 and the largest value of an 8 or 16-bit type."""
    return array.dtype in _SCALED and bool(((array == 0) | (array == np.iinfo(array.dtype).max)).all())


def _wrong(
    raw: RawMaps, what: str, found: object, expected: str | None = None, *, hint: str = "", at: np.ndarray | None = None
) -> DataError:
    """The error that names the case and, where wrong values are `at` places, the first map that has one."""
    first = "" if at is None else f", map {raw.names[int(np.flatnonzero(at.any((1, 2, 3, 4)))[0])]}"
    return DataError(what, path=raw.where, field=raw.case + first, found=found, expected=expected, hint=hint or None)
