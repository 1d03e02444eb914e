"""An image's values made as those of the model's training data were, or a warning that says what differs."""

from __future__ import annotations

import numpy as np

from modiff.data.intensity import IntensityRule
from modiff.errors import DataError


class PredictionWarning(UserWarning):
    """The image differs from what the model was trained on, in a way that prediction cannot mend."""


def convert(image: np.ndarray, rule: IntensityRule) -> tuple[np.ndarray, list[str]]:
    """Values (C,H,W) of any number type by `rule` -> float32 in [0,1]; and what differs from the rule, in words.

    8- and 16-bit unsigned values are a picture's, from 0 to full scale, where the rule does not say otherwise. Raises
    DataError where other values are needed in [0,1] and are not.
    """
    scale = float(np.iinfo(image.dtype).max) if image.dtype in (np.uint8, np.uint16) else None
    values = image.astype(np.float64)
    if rule.kind == "minmax-slice":
        return _stretch(values, values.min((1, 2)), values.max((1, 2)))
    if rule.kind == "percentiles":
        low, high = np.percentile(values, [rule.low, rule.high], axis=(1, 2))
        return _stretch(values, low, high)
    if rule.kind == "window" and scale is None:
        return np.clip((values - rule.low) / (rule.high - rule.low), 0, 1).astype(np.float32), []
    made, notes = _unit(values, scale)
    if rule.kind == "window":
        notes.append(
            f"values 0 to {scale:g} of a picture have no physical units: taken as windowed from {rule.low:g} "
            f"to {rule.high:g} already"
        )
    if rule.kind == "source":
        how = rule.text.partition(":")[2]
        notes.append(f"training values were made by their source ({how}), which cannot be repeated: taken as they are")
    return made, notes


def _unit(values: np.ndarray, scale: float | None) -> tuple[np.ndarray, list[str]]:
    low, high = float(values.min()), float(values.max())
    if scale is None and (low < 0 or high > 1):
        raise DataError(
            "values are outside [0,1]",
            field="image",
            found=f"{low:g} to {high:g}",
            expected="[0,1], or 8- or 16-bit unsigned integers",
            hint="Say how to make them: minmax-slice, window:LOW:HIGH or percentiles:LOW:HIGH",
        )
    notes = []
    if scale is not None and high < scale / 8:
        notes.append(f"values reach only {high:g} of {scale:g}: the image is dark to the model")
    return (values / (scale or 1.0)).astype(np.float32), notes


def _stretch(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Each channel from `low` to `high` onto [0,1], clipped; a channel without contrast is 0."""
    low, span = low[:, None, None], (high - low)[:, None, None]
    flat = np.flatnonzero(span <= 0)
    made = np.where(span > 0, (values - low) / np.where(span > 0, span, 1), 0).clip(0, 1).astype(np.float32)
    notes = [f"channel {', '.join(map(str, flat))} has no contrast: there is nothing to see"] if flat.size else []
    return made, notes
