"""How the values of a data set's images were made: a store's `intensity`, which prediction repeats."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modiff.errors import DataError

RULES = ("minmax-slice", "window:LOW:HIGH", "percentiles:LOW:HIGH", "unit", "ready")


@dataclass(frozen=True)
class IntensityRule:
    """What was done to the values of a data set's images: a store's `intensity`.

    `KIND` or `KIND:DETAILS`. `minmax-slice`: every slice from its minimum to its maximum. `window:LOW:HIGH`: clipped
    and scaled, in the source's units such as HU. `percentiles:LOW:HIGH`: clipped and scaled between two percentiles.
    `unit`: made in [0,1]. `source:WORDS`: as the source distributes them, which cannot be repeated. `ready`: not a
    store's, but a caller's word that the values are made already.
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
        raise DataError("no such rule", field="intensity", found=repr(text), expected=", ".join(RULES))
