"""What the model sees of an image or a scan through windows: values made from the whole of it, and then cut."""

from __future__ import annotations

import numpy as np

from modiff.data.intensity import IntensityRule, convert
from modiff.prediction.windows import Window
from modiff.types import DataSpec


class Values:
    """What the model sees of `array` (C,Z,H,W) through windows.

    data: what is known of the model's training data. picture: 8- and 16-bit unsigned values run to full scale and have
    no units, which those of a scan have. span: the slices that will be looked at.

    Bounds are those of the whole image: percentiles of all its slices, channel by channel, and minimum and maximum of
    each slice. A model of lesion crops (prompt `centre`) is the one exception to `minmax-slice`: its crops were
    stretched one by one, and so are its windows.
    rule, trained: the rule applied and the model's own. notes: what differs from the rule; `cut` may add to them.
    """

    def __init__(
        self, array: np.ndarray, data: DataSpec, intensity: str | None, *, picture: bool, span: tuple[int, int]
    ) -> None:
        trained = self.trained = data.intensity
        self.rule = intensity if intensity is not None else trained
        self._parsed = IntensityRule.parse(self.rule if self.rule is not None else "unit")
        self.notes: list[str] = []
        if self.rule is None:
            self.notes.append("the model does not say how its training values were made: taken as they are")
        elif trained is not None and self.rule not in (trained, trained.partition(":")[0], "ready"):
            self.notes.append(f"values were made by {self.rule}, those of the training data by {trained}")
        self._first, part = span[0], array[:, slice(*span)]
        self._each_window = self._parsed.kind == "minmax-slice" and data.prompted
        if self._each_window:
            self._values = part
        elif self._parsed.kind == "percentiles":
            self._values = self._made(array)[:, slice(*span)]
        else:
            units = self._parsed.kind == "window" and not picture
            self._values = self._made(part.astype(np.float32) if units else part)

    def cut(self, z: int, window: Window) -> np.ndarray:
        """(C,H,W) float32 in [0,1]: slice z through `window`."""
        seen = window.cut(self._values[:, z - self._first])
        return self._made(seen) if self._each_window else seen

    def _made(self, values: np.ndarray) -> np.ndarray:
        made, notes = convert(values, self._parsed)
        self.notes += [note for note in notes if note not in self.notes]
        return made
