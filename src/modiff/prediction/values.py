"""What a model sees: an image or scan of any kind as values in [0,1], made as those of the training data were."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
from torch import Tensor

from modiff.data.context import near, own_slice
from modiff.data.intensity import IntensityRule, convert, has_units
from modiff.errors import DataError
from modiff.prediction.frame import Frame, View
from modiff.prediction.windows import Box, Plan, Window
from modiff.types import DataSpec


def read_array(image: np.ndarray | Tensor, channels: int, names: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """An image or a volume as it is, and as (C,Z,H,W) with the model's C; DataError for what is neither.

    names: of the channels. A colour image whose three colours are equal is a grey one.
    """
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3, 4) or 0 in array.shape:
        found = getattr(array, "shape", type(array).__name__)
        expected = "(H,W), (C,H,W) or (C,Z,H,W)"
        raise DataError("is not an image or a volume", field="image", found=found, expected=expected)
    if array.dtype.kind not in "uif":
        raise DataError("is not an array of numbers", field="image", found=array.dtype, expected="integer or float")
    scan = array[None] if array.ndim == 2 else array
    if scan.ndim == 3:
        grey = len(scan) == 3 and channels == 1 and (scan == scan[:1]).all()
        scan = (scan[:1] if grey else scan)[:, None]
    if len(scan) != channels:
        hint = "Channels come first: (C,H,W)" if array.shape[-1] == channels else None
        found, expected = f"{len(scan)} of shape {array.shape}", f"{channels}"
        expected += f": {', '.join(names)}" if names else ""
        raise DataError("has other channels than the model", field="image", found=found, expected=expected, hint=hint)
    return array, scan


class Values:
    """What the model sees of `array` (C,Z,H,W), a scan turned to its frame, through the windows of a plan in it.

    data: what is known of the model's training data. Values are made of the whole array as import makes them, resized
    where the frame says so, and then cut. Bounds are those of the whole image: percentiles of all its slices, channel
    by channel, and minimum and maximum of each slice. The one exception to `minmax-slice` are models of crops (prompt
    `centre`) that their source had cut: those were stretched one by one, and so are the windows.
    Outside the image is its reflection, or 0 where import padded with it. A model whose channels are slices with their
    neighbours has these from the scan. neighbours: the array's own channels are such already.
    rule, trained: the rule applied and the model's own. notes: what differs from the rule; `cut` may add to them.
    """

    def __init__(
        self,
        array: np.ndarray,
        data: DataSpec,
        intensity: str | None,
        plan: Plan,
        frame: Frame,
        *,
        neighbours: bool = False,
    ) -> None:
        trained = self.trained = data.intensity
        self.rule = intensity if intensity is not None else trained
        self._parsed = IntensityRule.parse(self.rule if self.rule is not None else "unit")
        self.notes: list[str] = []
        if self.rule is None:
            self.notes.append("the model does not say how its training values were made: taken as they are")
        elif trained is not None and self.rule not in (trained, trained.partition(":")[0], "ready"):
            self.notes.append(f"values were made by {self.rule}, those of the training data by {trained}")
        self._given, self._context = (data.context, 0) if neighbours else (0, data.context)
        kind, self._depth, (first, end) = self._parsed.kind, array.shape[1], plan.box.spans[0]
        shown = slice(max(0, first - self._context), min(self._depth, end + self._context))
        # Import took a picture's numbers for a window's where they can be; of scans' units a picture knows nothing.
        pictures = data.orientation in ("none", "mixed")
        self._units = has_units(array.dtype, self._parsed, scan=not plan.image) and (pictures or not plan.image)
        self._first, self.padded = shown.start, data.fit == "crop"
        self._each_window = kind == "minmax-slice" and data.prompted and not self.padded
        values = array[:, shown]
        if kind == "percentiles":
            values = self._made(array)[:, shown]
        elif not self._each_window:
            values = self._made(values)
        self._values = frame.resize(values)

    def cut(self, z: int, window: Window) -> np.ndarray:
        """(C,H,W) float32 in [0,1], C being a scan's own channels: slice z through `window`, to be shown."""
        return self._through(window, own_slice(self._values, self._given)[:, z - self._first])

    def seen(self, z: int, window: Window) -> np.ndarray:
        """The same as the model sees it: C channels with those of the neighbouring slices."""
        around = self._values[:, [place - self._first for place in near(z, self._depth, self._context)]]
        return self._through(window, around.reshape(-1, *around.shape[2:]))

    def _through(self, window: Window, values: np.ndarray) -> np.ndarray:
        seen = window.cut(values, black=self.padded)
        return self._made(seen) if self._each_window else seen

    def back(self, view: View) -> Values:
        """The same on the scan's own grid, to be shown. view: the one that they were made for."""
        frame, slices = view.frame, (self._first, self._first + self._values.shape[1])
        if frame.same:
            return self
        whole = Box(frame.shape, (slices, (0, frame.size[0]), (0, frame.size[1])))
        own, made = frame.own_box(whole), copy(self)
        made._values, made._first = own.put_back(frame.back(self._values, whole, own)), 0
        return made

    def _made(self, values: np.ndarray) -> np.ndarray:
        made, notes = convert(values, self._parsed, units=self._units)
        self.notes += [note for note in notes if note not in self.notes]
        return made
