"""How the values of a data set's images were made: a store's `intensity`, in import and, on new images, prediction.

Bounds are always those of the whole image or volume: cutting comes afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modiff.errors import ConfigError, DataError

RULES = ("unit", "minmax-slice", "window:LOW:HIGH", "percentiles:LOW:HIGH")  # what a source's values are made by
DARK = 1 / 8  # of full scale: an image without a value above it is dark to a model
_FLAT = 0.3  # of full scale, from an image's 1st to its 99th percentile: a model hardly sees what is in it
_FULL = 65535  # what is scaled is stored as 16 bits: finer than any display, half the size of floats


@dataclass(frozen=True)
class IntensityRule:
    """What was done to the values of a data set's images: a store's `intensity`.

    `KIND` or `KIND:DETAILS`. `minmax-slice`: every slice from its minimum to its maximum. `window:LOW:HIGH`: clipped
    and scaled, in the source's units such as HU. `percentiles:LOW:HIGH`: clipped and scaled between two percentiles of
    each channel of the whole image or volume. `unit`: made in [0,1]. `source:WORDS`: as the source distributes them,
    which cannot be repeated. `ready`: not a store's, but a caller's word that the values are made already.
    """

    kind: str
    text: str
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def parse(cls, text: str) -> IntensityRule:
        """From `KIND` or `KIND:DETAILS`; DataError for another form."""
        kind, _, details = text.partition(":")
        if kind in ("minmax-slice", "unit", "source", "ready"):
            return cls(kind, text)  # details, if any, are words
        if kind in ("window", "percentiles"):
            try:
                low, high = (float(part) for part in details.split(":"))
            except ValueError:
                low = high = math.nan
            if low < high and math.isfinite(high - low) and (kind == "window" or 0 <= low < high <= 100):
                return cls(kind, text, low, high)
        raise DataError("no such rule", field="intensity", found=repr(text), expected=", ".join((*RULES, "ready")))

    @classmethod
    def for_import(cls, text: str) -> IntensityRule:
        """Of an importer's `--intensity`, one of `RULES`; ConfigError for another form."""
        if text in ("unit", "minmax-slice") or text.partition(":")[0] in ("window", "percentiles"):
            with suppress(DataError):
                return cls.parse(text)
        expected = f"{', '.join(RULES)}, where LOW is below HIGH"
        raise ConfigError("no such rule", field="--intensity", found=repr(text), expected=expected)

    def bounds(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A whole (C,H,W) or (C,Z,H,W) -> what becomes 0 and what becomes 1, each (C,1,1) or (C,Z,1,1)."""
        shape = (*array.shape[:-2], 1, 1)
        if self.kind == "minmax-slice":
            return array.min((-2, -1), keepdims=True), array.max((-2, -1), keepdims=True)
        low, high = np.float64(self.low), np.float64(self.high)
        if self.kind == "percentiles":
            found = np.percentile(array.reshape(len(array), -1), [self.low, self.high], axis=1)
            low, high = found.reshape(2, len(array), *(1,) * (array.ndim - 1))
        return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


def has_units(dtype: np.dtype, rule: IntensityRule, *, scan: bool) -> bool:
    """Whether a window is of an image's own numbers: of a scan's always. A picture of 8 or 16 bits unsigned has none
    of a window that reaches beyond its range, such as HU: it is windowed already, from 0 to full scale."""
    return scan or dtype not in (np.uint8, np.uint16) or (rule.low >= 0 and rule.high <= np.iinfo(dtype).max)


def stretch(image: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Values from `low` to `high` (broadcastable) -> float64 in [0,1], clipped; 0 where there is no contrast."""
    low, span = np.asarray(low, np.float64), np.asarray(high, np.float64) - low
    return np.where(span > 0, (image - low) / np.where(span > 0, span, 1), 0).clip(0, 1)


def store_values(image: np.ndarray) -> np.ndarray:
    """Floats in [0,1] as the 16 bits that a store keeps; integers stay."""
    return np.rint(image * float(_FULL)).astype(np.uint16) if image.dtype.kind == "f" else image


def used_range(images: np.ndarray) -> np.ndarray:
    """(n,) of images (n,C,…), what lies between the 1st and the 99th percentile of the channel that has most, as a
    fraction of the range of their type."""
    full = float(np.ptp([np.iinfo(images.dtype).min, np.iinfo(images.dtype).max])) if images.dtype.kind in "iu" else 1.0
    low, high = np.percentile(images.reshape(*images.shape[:2], -1).astype(np.float64), [1, 99], axis=-1)
    used: np.ndarray = (high - low).max(1) / full
    return used


def little_contrast(used_ranges: Sequence[float] | np.ndarray) -> str | None:
    """What is to be said where half of some images, whose `used_range` is given, use little of their range."""
    if (used := float(np.median(used_ranges))) >= _FLAT:
        return None
    said = f"little contrast: half of the images use less than {used:.0%} of the range of values"
    return f"{said}; --intensity percentiles:1:99 of the import would show a model more"


def full_scale(array: np.ndarray) -> float | None:
    """What 1 is in a picture of 8 or 16 bits unsigned; None for other types."""
    return float(np.iinfo(array.dtype).max) if array.dtype in (np.uint8, np.uint16) else None


def check_unit(array: np.ndarray, path: str | Path | None = None, *, kinds: str = "f") -> None:
    """Raises DataError unless values can be taken as they are: 8 or 16 bits unsigned, or in [0,1].

    kinds: NumPy kinds of which values in [0,1] may be.
    """
    low, high = array.min(), array.max()
    if full_scale(array) is None and not (array.dtype.kind in kinds and low >= 0 and high <= 1):
        found, expected = f"{array.dtype}, {low:g} to {high:g}", "8 or 16 bits unsigned, or floats in [0,1]"
        hint = "Say how to scale them: --intensity minmax-slice, window:LOW:HIGH or percentiles:LOW:HIGH"
        what = "values are outside [0,1]"
        raise DataError(what, path=path, field="intensity", found=found, expected=expected, hint=hint)


def convert(image: np.ndarray, rule: IntensityRule, *, units: bool = False) -> tuple[np.ndarray, list[str]]:
    """Values of a whole (C,H,W) or (C,Z,H,W), of any number type, by `rule` -> float32 in [0,1]; and what differs from
    the rule, in words.

    8- and 16-bit unsigned values are a picture's, from 0 to full scale, where the rule does not say otherwise. units:
    a window is of these numbers (`has_units`); else a picture is taken as windowed already. Raises DataError where
    other values are needed in [0,1] and are not.
    """
    scale, values = full_scale(image), image.astype(np.float64)
    if rule.kind == "window" and units:
        scale = None
    if rule.kind in ("minmax-slice", "percentiles") or (rule.kind == "window" and scale is None):
        low, high = rule.bounds(values)
        flat = np.flatnonzero((high <= low).reshape(len(values), -1).any(1))
        notes = [f"channel {', '.join(map(str, flat))} has no contrast: there is nothing to see"] if flat.size else []
        return stretch(values, low, high).astype(np.float32), notes
    check_unit(image, kinds="fiub")
    most, notes = float(values.max()), []
    if scale is not None and most < DARK * scale:
        notes.append(f"values reach only {most:g} of {scale:g}: the image is dark to the model")
    if rule.kind == "window":
        window = f"taken as windowed from {rule.low:g} to {rule.high:g} already"
        notes.append(f"values 0 to {scale:g} of a picture have no physical units: {window}")
    if rule.kind == "source":
        how = rule.text.partition(":")[2]
        notes.append(f"training values were made by their source ({how}), which cannot be repeated: taken as they are")
    return (values / (scale or 1.0)).astype(np.float32), notes
