"""The plan of a prediction: which windows of a scan are looked at, what the model sees through them, and how its maps
are merged into one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from modiff.config.sampling import OVERLAP
from modiff.data.intensity import IntensityRule, convert
from modiff.errors import ConfigError
from modiff.methods.base import Segmenter
from modiff.prediction.windows import Box, Window, importance, place, windows_over
from modiff.types import DataSpec, Samples, marks

Job = tuple[int, Window]  # a slice and a window of it


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
    def jobs(self) -> list[Job]:
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
        found = windows_over(box, size, reach=reach, overlap=overlap, centred=data.prompted)
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
        self._values = array[:, shown]
        if kind == "percentiles":
            self._values = self._made(array)[:, shown]
        elif not self._each_window:
            units = kind == "window" and not plan.image
            self._values = self._made(self._values.astype(np.float32) if units else self._values)

    def cut(self, z: int, window: Window) -> np.ndarray:
        """(C,H,W) float32 in [0,1]: slice z through `window`."""
        seen = window.cut(self._values[:, z - self._first])
        return self._made(seen) if self._each_window else seen

    def _made(self, values: np.ndarray) -> np.ndarray:
        made, notes = convert(values, self._parsed)
        self.notes += [note for note in notes if note not in self.notes]
        return made


def merge(plan: Plan, n: int, classes: int, drawn: Iterable[tuple[Sequence[Job], Samples]]) -> Samples:
    """Samples of windows as one batch of one: maps (1,N,K,H,W) of an image in its whole frame, (1,N,K,z,h,w) of a box.

    drawn: for each part of the plan's jobs their samples, whose maps are summed by the window's weights. present: the
    merged maps mark something. presence: the largest of the windows, for one number is drawn for all of them, and a
    rater marks anything where it is below the largest probability.
    """
    box, weights = plan.box, torch.from_numpy(plan.weights)
    maps, seen = torch.zeros(n, classes, *box.size), torch.zeros(box.size[1:], dtype=torch.float64)
    for window in plan.windows:
        target, source = window.within(*box.spans[1:])
        seen[target] += weights[source]
    seen = torch.where(seen > 0, seen, 1).float()
    own, raters, presence = torch.zeros(n, dtype=torch.float64), None, []
    for jobs, samples in drawn:
        for (z, window), found in zip(jobs, samples.maps.float().cpu(), strict=True):
            target, source = window.within(*box.spans[1:])
            fraction = weights[source] / seen[target]  # of all windows it sums to 1 wherever one looks
            maps[(slice(None), slice(None), z - box.spans[0][0], *target)] += found[(..., *source)] * fraction
        own += samples.weights.double().cpu().sum(0)
        if samples.raters is not None and raters is None:
            raters = samples.raters[:1].cpu().clone()
        if samples.presence is not None:
            presence.append(samples.presence.max().cpu())
    maps.clamp_(0, 1)  # sums of fractions exceed 1 by rounding
    present = torch.stack([marks(sample.flatten(1, 2)) for sample in maps])
    if plan.image:
        maps = torch.from_numpy(box.put_back(maps.numpy()))[:, :, 0]
    most = torch.stack(presence).max()[None] if presence else None
    return Samples(maps[None], (own / own.sum()).float()[None], present[None], raters, most)
