"""Values of a source made as a store's `intensity` says: the rules that prediction repeats on new images."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from modiff.data.intensity import IntensityRule
from modiff.errors import ConfigError, DataError

RULES = "unit, minmax-slice, window:LOW:HIGH or percentiles:LOW:HIGH"
_FULL = 65535  # what is scaled is stored as 16 bits: finer than any display, half the size of floats


def parse_rule(text: str) -> IntensityRule:
    """From `unit`, `minmax-slice`, `window:LOW:HIGH` or `percentiles:LOW:HIGH`; ConfigError for another form."""
    if text in ("unit", "minmax-slice") or text.partition(":")[0] in ("window", "percentiles"):
        with suppress(DataError):
            return IntensityRule.parse(text)
    raise ConfigError("no such rule", field="--intensity", found=repr(text), expected=RULES)


def bounds(rule: IntensityRule, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C,Z,H,W) -> what becomes 0 and what becomes 1, each (C,Z,1,1); percentiles are of the whole volume."""
    shape = (*array.shape[:2], 1, 1)
    if rule.kind == "minmax-slice":
        return array.min((2, 3), keepdims=True), array.max((2, 3), keepdims=True)
    if rule.kind == "percentiles":
        found = np.percentile(array.reshape(len(array), -1), [rule.low, rule.high], axis=1)
        low, high = found[:, :, None, None, None]
        return np.broadcast_to(low, shape), np.broadcast_to(high, shape)
    return np.full(shape, rule.low), np.full(shape, rule.high)


def check_unit(array: np.ndarray, path: object) -> None:
    """Raises DataError unless values can be taken as they are: 8 or 16 bits unsigned, or floats in [0,1]."""
    if array.dtype in (np.uint8, np.uint16):
        return
    low, high = array.min(), array.max()
    if array.dtype.kind != "f" or not (low >= 0 and high <= 1):
        raise DataError(
            "values have no full scale",
            path=path if path is None else str(path),
            field="intensity",
            found=f"{array.dtype}, {low:g} to {high:g}",
            expected="8 or 16 bits unsigned, or floats in [0,1]",
            hint="Say how to scale them: --intensity minmax-slice, window:LOW:HIGH or percentiles:LOW:HIGH.",
        )


def stretch(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(C,H,W) from low to high (C,1,1) -> uint16, clipped; a channel without contrast is 0."""
    low, span = np.asarray(low, np.float64), np.asarray(high, np.float64) - low
    values = np.where(span > 0, (image - low) / np.where(span > 0, span, 1), 0).clip(0, 1)
    return np.rint(values * _FULL).astype(np.uint16)


def kept(image: np.ndarray) -> np.ndarray:
    """Values that `check_unit` let pass, in the type that is stored: floats become 16 bits."""
    return np.rint(image * float(_FULL)).astype(np.uint16) if image.dtype.kind == "f" else image
