"""A scan's values made as those of the training data were: by scan, by slice or by window, as the rule says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modiff.data.intensity import IntensityRule
from modiff.prediction.intensity import convert
from modiff.prediction.window import Window

if TYPE_CHECKING:
    from modiff.prediction.predictor import Predictor
    from modiff.prediction.volumes import Plan


class Values:
    """What the model sees of `array` (C,Z,H,W) through windows.

    Percentiles are those of the whole scan, channel by channel. `minmax-slice` stretches each window of a model of
    lesion crops, as its crops were, and each slice otherwise. rule, trained: the rule applied and the model's own.
    notes: what differs from the rule, known beforehand; found: what showed in single windows or slices.
    """

    def __init__(self, predictor: Predictor, array: np.ndarray, intensity: str | None, plan: Plan) -> None:
        trained = self.trained = predictor.data.get("intensity")
        self.rule = intensity if intensity is not None else trained
        parsed = IntensityRule.parse(self.rule if self.rule is not None else "unit")
        self.notes: list[str] = []
        self.found: list[str] = []
        if self.rule is None:
            self.notes.append("the model does not say how its training values were made: taken as they are")
        elif trained is not None and self.rule not in (trained, trained.partition(":")[0], "ready"):
            self.notes.append(f"values were made by {self.rule}, those of the training data by {trained}")
        self._first = plan.box.spans[0][0]
        self._parsed = parsed
        self._raw: np.ndarray | None = None
        part = array[:, plan.box.spans[0][0] : plan.box.spans[0][1]]
        if parsed.kind == "minmax-slice":
            self._raw = part
            self._each_window = predictor.data.get("prompt") == "centre"
            self._slice: tuple[int, np.ndarray] = (-1, part[:, 0])
            return
        if parsed.kind == "percentiles":
            made, notes = convert(array.reshape(array.shape[0], -1, array.shape[-1]), parsed)
            made = made.reshape(array.shape)[:, plan.box.spans[0][0] : plan.box.spans[0][1]]
        else:
            if parsed.kind == "window":
                part = part.astype(np.float32)  # a scan's values have units, whatever their number type
            made, notes = convert(part.reshape(part.shape[0], -1, part.shape[-1]), parsed)
            made = made.reshape(part.shape)
        self._made = made
        self.notes += notes

    def cut(self, z: int, window: Window) -> np.ndarray:
        """(C,H,W) float32 in [0,1]: slice z of the scan through `window`."""
        place = z - self._first
        if self._raw is None:
            return window.cut(self._made[:, place])
        if self._each_window:
            return self._stretched(window.cut(self._raw[:, place]))
        if self._slice[0] != z:
            self._slice = (z, self._stretched(self._raw[:, place]))
        return window.cut(self._slice[1])

    def _stretched(self, values: np.ndarray) -> np.ndarray:
        made, notes = convert(values, self._parsed)
        self.found += [note for note in notes if note not in self.found]
        return made
