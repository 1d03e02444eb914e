"""The plan of a prediction: which windows of a scan are looked at, what the model sees through them, and how its maps
are merged into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modiff.data.intensity import IntensityRule, convert
from modiff.errors import ConfigError
from modiff.methods.base import Segmenter
from modiff.prediction.windows import OVERLAP, Box, Window, importance, place, windows_over
from modiff.types import DataSpec, Samples, marks


@dataclass(frozen=True)
class Plan:
    """What of a scan is looked at, and through which windows: the same ones in each slice of the box.

    weights: (H,W) of a window's pixels in the merged maps. at: (x, y, z) of the place that was asked for. image: a 2-D
    image, whose maps are (H,W) in its whole frame; those of a scan are (z,h,w) within the box. placed: noise is a
    function of the place in the scan, so that windows fit together; else of the place in the window.
    """

    box: Box
    windows: tuple[Window, ...]
    weights: np.ndarray
    at: tuple[int, int, int] | None = None
    image: bool = False
    placed: bool = True

    @property
    def slid(self) -> bool:
        """Several windows per slice."""
        return len(self.windows) > 1

    @property
    def jobs(self) -> list[tuple[int, Window]]:
        """Every slice with every window."""
        return [(z, window) for z in range(*self.box.spans[0]) for window in self.windows]

    @property
    def area(self) -> Window:
        """The box's part of a slice as a window."""
        _, (top, bottom), (left, right) = self.box.spans
        return Window((self.box.shape[1], self.box.shape[2]), (bottom - top, right - left), top, left)

    @property
    def shown(self) -> Window:
        """What a figure of a slice shows: the model's own window where it is one, else the box."""
        return self.area if self.slid else self.windows[0]


def plan_windows(
    model: Segmenter,
    data: DataSpec,
    shape: tuple[int, int, int],
    *,
    at: Sequence[int] | None = None,
    slices: int = 0,
    roi: Box | None = None,
    overlap: float = OVERLAP,
    image: bool = False,
) -> Plan:
    """Which windows a scan (Z,H,W) is seen through.

    at: (x, y, z), one window of the training size about it, on slice z and `slices` neighbours on either side. roi: a
    box; windows are slid over it, or over everything. Neighbours share `overlap` of what they look at. Raises DataError
    for places outside, ConfigError for settings that contradict each other.
    """
    frame = (shape[1], shape[2])
    size = data.size or frame
    if at is None:
        box = roi or Box.whole(shape)
        # A place that is asked for is in the middle; a small image is shown once, whole.
        reach = model.reach(*size) if box.size[1] > size[0] or box.size[2] > size[1] else size
        found = windows_over(*box.spans[1:], frame, size, reach=reach, overlap=overlap, centred=data.prompted)
        weights = importance(size, reach) if len(found) > 1 else np.ones(size, np.float32)
        return Plan(box, tuple(found), weights, image=image, placed=not image or roi is not None)
    if roi is not None:
        raise ConfigError("contradict each other", field="--at and --roi", hint="Give one of them")
    if slices < 0:
        raise ConfigError("is out of range", field="--slices", found=slices, expected="0 or more")
    x, y, z = place(at, shape)
    window = Window.centred(frame, size, (x, y))
    rows, columns = window.covered
    spans = (max(0, z - slices), min(shape[0], z + slices + 1)), (rows.start, rows.stop), (columns.start, columns.stop)
    return Plan(Box(shape, spans), (window,), np.ones(size, np.float32), (x, y, z), image, placed=not image)


class Values:
    """What the model sees of `array` (C,Z,H,W) through the windows of a plan: made of the whole of it, and then cut.

    data: what is known of the model's training data. 8- and 16-bit unsigned values of an image run to full scale and
    have no units, which those of a scan have.

    Bounds are those of the whole image: percentiles of all its slices, channel by channel, and minimum and maximum of
    each slice. A model of lesion crops (prompt `centre`) is the one exception to `minmax-slice`: its crops were
    stretched one by one, and so are its windows.
    rule, trained: the rule applied and the model's own. notes: what differs from the rule; `cut` may add to them.
    """

    def __init__(self, array: np.ndarray, data: DataSpec, intensity: str | None, plan: Plan) -> None:
        trained = self.trained = data.intensity
        self.rule = intensity if intensity is not None else trained
        self._parsed = IntensityRule.parse(self.rule if self.rule is not None else "unit")
        self.notes: list[str] = []
        if self.rule is None:
            self.notes.append("the model does not say how its training values were made: taken as they are")
        elif trained is not None and self.rule not in (trained, trained.partition(":")[0], "ready"):
            self.notes.append(f"values were made by {self.rule}, those of the training data by {trained}")
        kind, shown = self._parsed.kind, plan.box.slices[0]
        self._first, self._each_window = shown.start, kind == "minmax-slice" and data.prompted
        if self._each_window:
            self._values = array[:, shown]
        elif kind == "percentiles":
            self._values = self._made(array)[:, shown]
        else:
            units = kind == "window" and not plan.image
            self._values = self._made(array[:, shown].astype(np.float32) if units else array[:, shown])

    def cut(self, z: int, window: Window) -> np.ndarray:
        """(C,H,W) float32 in [0,1]: slice z through `window`."""
        seen = window.cut(self._values[:, z - self._first])
        return self._made(seen) if self._each_window else seen

    def _made(self, values: np.ndarray) -> np.ndarray:
        made, notes = convert(values, self._parsed)
        self.notes += [note for note in notes if note not in self.notes]
        return made


class Merged:
    """Maps of windows summed into those of the box by their weights, and what else the model says, over all windows."""

    def __init__(self, plan: Plan, n: int, classes: int) -> None:
        self.plan = plan
        self.maps = torch.zeros(n, classes, *plan.box.size)
        self.weights = torch.zeros(n, dtype=torch.float64)
        self.raters: Tensor | None = None
        self.presence: Tensor | None = None
        seen = np.zeros(plan.box.size[1:])
        for window in plan.windows:
            target, source = window.within(*plan.box.spans[1:])
            seen[target] += plan.weights[source]
        self.seen = torch.from_numpy(np.where(seen > 0, seen, 1)).float()

    def add(self, jobs: Sequence[tuple[int, Window]], drawn: Samples) -> None:
        """Samples of windows, one per job: slice and window."""
        weights, first = torch.from_numpy(self.plan.weights), self.plan.box.spans[0][0]
        for (z, window), maps in zip(jobs, drawn.maps.float().cpu(), strict=True):
            target, source = window.within(*self.plan.box.spans[1:])
            fraction = weights[source] / self.seen[target]  # of all windows it sums to 1 wherever one looks
            self.maps[(slice(None), slice(None), z - first, *target)] += maps[(..., *source)] * fraction
        self.weights += drawn.weights.double().cpu().sum(0)
        if drawn.raters is not None and self.raters is None:
            self.raters = drawn.raters[:1].cpu().clone()
        if drawn.presence is not None:
            # One number is drawn for all windows: a rater marks anything where it is below the largest probability.
            most = drawn.presence.max()[None].cpu().clone()
            self.presence = most if self.presence is None else torch.maximum(most, self.presence)

    def samples(self) -> Samples:
        """Everything, as a batch of one: maps (1,N,K,H,W) of an image in its whole frame, (1,N,K,z,h,w) of a box.

        present: the merged maps mark something. presence: the largest of the windows.
        """
        maps = self.maps.clamp_(0, 1)  # sums of fractions exceed 1 by rounding
        present = torch.stack([marks(sample.flatten(1, 2)) for sample in maps])
        if self.plan.image:
            maps = torch.from_numpy(self.plan.box.put_back(maps.numpy()))[:, :, 0]
        weights = (self.weights / self.weights.sum()).float()
        return Samples(maps[None], weights[None], present[None], self.raters, self.presence)
