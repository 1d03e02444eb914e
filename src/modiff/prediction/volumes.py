"""Hypotheses for a scan: windows slid over its slices, or one window at a place and through its neighbouring slices.

A hypothesis is one reading of the whole scan. All its windows share one seed, hence one reader, one draw of presence (a
window is marked where the drawn number is below its probability, so the same reader is as bold everywhere) and one
random field: noise is a function of row and column in the scan, the same in each slice, so that neighbouring windows
and slices start from the same noise and differ only by what the model sees around them. Through the slices of one
lesion the probability of presence is freed of valleys, so that no reading has a hole in its middle.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modiff.errors import ConfigError, DataError
from modiff.prediction.predictor import MAX_MAPS, PredictionWarning, Predictor, check_settings, content_hash
from modiff.prediction.region import Box, place
from modiff.prediction.tiling import OVERLAP, importance, windows_over
from modiff.prediction.values import Values
from modiff.prediction.window import Window
from modiff.rng import seeds_for
from modiff.types import RaterChoice, Samples, marks

_AT_ONCE = 16 << 20  # values of maps made in one call of the model


@dataclass(frozen=True)
class Plan:
    """What of a scan is looked at, and through which windows: the same ones in each slice of the box.

    weights: (H,W) of a window's pixels in the merged maps. seen: (h,w) their sum over the box, 0 where none looks.
    slid: several windows a slice. at: (x, y, z) of the place that was asked for.
    """

    box: Box
    windows: tuple[Window, ...]
    weights: np.ndarray
    seen: np.ndarray
    at: tuple[int, int, int] | None = None

    @property
    def slid(self) -> bool:
        """Several windows a slice."""
        return len(self.windows) > 1


@dataclass(frozen=True)
class VolumeSamples:
    """N hypotheses of a scan.

    maps: (N,K,z,h,w) float32 probabilities within `plan.box`; nothing is marked outside. weights: (N,), sum 1. present:
    (N,) bool, the merged maps mark something. raters: (N,) whose reading it is, where raters are identifiable.
    presence: the model's own probability that a reader marks anything anywhere in the box, where it has one. notes:
    what differs from the training data, in words. case: the name of the random numbers. values: what the model saw,
    and by which rule.
    """

    maps: Tensor
    weights: Tensor
    present: Tensor
    raters: Tensor | None
    presence: float | None
    plan: Plan
    notes: tuple[str, ...]
    case: str
    values: Values


def plan_windows(
    predictor: Predictor,
    shape: tuple[int, int, int],
    *,
    at: Sequence[int] | None = None,
    slices: int = 0,
    roi: Box | None = None,
    overlap: float = OVERLAP,
) -> Plan:
    """Which windows a scan (Z,H,W) is seen through.

    at: (x, y, z), one window of the training size about it, on slice z and `slices` neighbours on either side. roi: a
    box; windows are slid over it, or over everything. Neighbours share `overlap` of what they look at. Raises DataError
    for places outside, ConfigError for settings that contradict each other.
    """
    frame = (shape[1], shape[2])
    size = predictor.size or frame
    if at is not None:
        if roi is not None:
            raise ConfigError("contradict each other", field="--at and --roi", hint="Give one of them")
        return _plan_place(shape, size, place(at, shape), slices)
    box = roi or Box.whole(shape)
    centred = predictor.data.prompted
    # A place that is asked for is in the middle; a small image is shown once, whole.
    reach = predictor.model.reach(*size) if box.size[1] > size[0] or box.size[2] > size[1] else size
    windows = windows_over(*box.spans[1:], frame, size, reach=reach, overlap=overlap, centred=centred)
    return _plan(box, windows, importance(size, reach) if len(windows) > 1 else np.ones(size, np.float32))


def sample_volume(
    predictor: Predictor,
    array: np.ndarray,
    plan: Plan,
    n: int = 16,
    *,
    seed: int = 0,
    steps: int | None = None,
    raters: RaterChoice = "single",
    stratified: bool = False,
    intensity: str | None = None,
    case: str | None = None,
    spacing: Sequence[float] | None = None,
    picture: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> VolumeSamples:
    """n hypotheses of `array` (C,Z,H,W), or (Z,H,W), through the windows of `plan`.

    spacing: (row, column) mm, compared with that of the training data. picture: unsigned values run to full scale and
    have no physical units, as those of `Predictor.set_image`. progress: called with windows done and in all.
    The other settings are those of `Predictor.set_image` and `Predictor.sample`. Warns (PredictionWarning) of what
    differs from the training data. Raises DataError, ConfigError.
    """
    options = check_settings(predictor.model, n, steps, raters, stratified)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1:] != plan.box.shape:
        raise DataError(
            "is not the scan that was planned for", field="image", found=array.shape, expected=plan.box.shape
        )
    if array.shape[0] != predictor.model.channels:
        raise DataError(
            "has other channels than the model", field="image", found=array.shape[0], expected=predictor.model.channels
        )
    _check_memory(n * predictor.model.classes * math.prod(plan.box.size))
    values = Values(array, predictor.data, intensity, span=plan.box.spans[0], picture=picture)
    case = case if case is not None else content_hash(array.reshape(-1, *array.shape[2:]))
    placed = predictor.model.places_noise
    notes = _differences(predictor, plan, spacing, placed)
    merged = _Merged(n, predictor.model.classes, plan)
    done = 0
    for part, encoding in _encoded(predictor, values, plan, n):
        seeds = seeds_for(seed, [case], predictor.device).expand(len(part))
        if placed:
            options["origin"] = torch.tensor([(window.top, window.left) for _, window in part], device=predictor.device)
        with torch.inference_mode():
            drawn = predictor.model.sample(encoding, n, seeds=seeds, steps=steps, raters=raters, **options)
        merged.add(part, drawn)
        done += len(part)
        if progress is not None:
            progress(done, plan.box.size[0] * len(plan.windows))
    notes += values.notes  # all of them: some show in single windows only
    for note in notes:
        warnings.warn(note, PredictionWarning, stacklevel=2)
    return merged.result(tuple(notes), case, values)


def _encoded(
    predictor: Predictor, values: Values, plan: Plan, n: int
) -> Iterator[tuple[list[tuple[int, Window]], Any]]:
    """Slices and windows, as many as n samples of them fit into memory, and what the model makes of them.

    Slices of one lesion are judged together where the model can.
    """
    jobs = [(z, window) for z in range(*plan.box.spans[0]) for window in plan.windows]
    chunk = max(1, _AT_ONCE // (n * predictor.model.classes * math.prod(plan.windows[0].size)))
    parts = [jobs[first : first + chunk] for first in range(0, len(jobs), chunk)]

    def encode(part: list[tuple[int, Window]]) -> Any:
        seen = np.stack([values.cut(z, window) for z, window in part])
        with torch.inference_mode():
            return predictor.model.encode(torch.from_numpy(seen).to(predictor.device))

    if plan.at is None or len(jobs) == 1:
        yield from ((part, encode(part)) for part in parts)
        return
    with torch.inference_mode():
        joined = predictor.model.join_slices([encode(part) for part in parts])
    yield from zip(parts, joined, strict=True)


class _Merged:
    """Maps of windows summed into those of the box by their weights, and what else the model says, over all windows."""

    def __init__(self, n: int, classes: int, plan: Plan) -> None:
        self.plan = plan
        self.maps = torch.zeros(n, classes, *plan.box.size)
        self.weights = torch.zeros(n, dtype=torch.float64)
        self.raters: Tensor | None = None
        self.presence: float | None = None
        self.share = torch.from_numpy(plan.weights)
        # Each window's own share of a pixel: their sum is 1 wherever one looks.
        self.total = torch.from_numpy(np.where(plan.seen > 0, plan.seen, 1)).float()

    def add(self, jobs: Sequence[tuple[int, Window]], drawn: Samples) -> None:
        """Samples of windows, one a job: slice and window."""
        for (z, window), maps in zip(jobs, drawn.maps.float().cpu(), strict=True):
            target, source = _overlap(self.plan.box, window)
            share = self.share[source] / self.total[target]
            self.maps[(slice(None), slice(None), z - self.plan.box.spans[0][0], *target)] += (
                maps[(..., *source)] * share
            )
        self.weights += drawn.weights.double().cpu().sum(0)
        if drawn.raters is not None and self.raters is None:
            self.raters = drawn.raters[0].cpu().clone()
        if drawn.presence is not None:
            # One number is drawn for all windows: a reader marks anything where it is below the largest probability.
            self.presence = max(self.presence or 0.0, float(drawn.presence.max()))

    def result(self, notes: tuple[str, ...], case: str, values: Values) -> VolumeSamples:
        """Everything, as plain tensors."""
        maps = self.maps.clamp_(0, 1)  # sums of shares exceed 1 by rounding
        weights = (self.weights / self.weights.sum()).float()
        present = torch.stack([marks(sample.flatten(1, 2)) for sample in maps])
        return VolumeSamples(maps, weights, present, self.raters, self.presence, self.plan, notes, case, values)


def _plan_place(shape: tuple[int, int, int], size: tuple[int, int], at: tuple[int, int, int], slices: int) -> Plan:
    if slices < 0:
        raise ConfigError("is not possible", field="--slices", found=slices, expected="0 or more")
    x, y, z = at
    window = Window.centred((shape[1], shape[2]), size, (x, y))
    rows, columns = window.covered
    spans = (max(0, z - slices), min(shape[0], z + slices + 1)), (rows.start, rows.stop), (columns.start, columns.stop)
    return _plan(Box(shape, spans), [window], np.ones(size, np.float32), at)


def _plan(box: Box, windows: Sequence[Window], weights: np.ndarray, at: tuple[int, int, int] | None = None) -> Plan:
    seen = np.zeros(box.size[1:])
    for window in windows:
        target, source = _overlap(box, window)
        seen[target] += weights[source]
    return Plan(box, tuple(windows), weights, seen, at)


def _overlap(box: Box, window: Window) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a window and the box meet: rows and columns of the box, and of the window."""
    target, source = [], []
    for (low, high), corner, side in zip(box.spans[1:], (window.top, window.left), window.size, strict=True):
        begin, end = max(low, corner), max(low, corner, min(high, corner + side))
        target.append(slice(begin - low, end - low))
        source.append(slice(begin - corner, end - corner))
    return (target[0], target[1]), (source[0], source[1])


def _differences(predictor: Predictor, plan: Plan, spacing: Sequence[float] | None, placed: bool) -> list[str]:
    notes = []
    if predictor.data.prompted and plan.at is None and (plan.slid or plan.box.size[0] > 1):
        notes.append(
            "the model was trained on crops centred on a lesion and is slid over a whole scan: it takes the middle of "
            "each window for a lesion and marks what is none; give the place with --at"
        )
    window = plan.windows[0]
    if window.padded and not plan.slid:
        notes.append(
            f"the image ends inside the {window.size[1]}×{window.size[0]} window: "
            "beyond it the model sees its reflection"
        )
    if plan.slid and not placed:
        notes.append("the method draws its noise a window: neighbouring windows of a hypothesis may not fit together")
    trained = predictor.data.spacing
    if trained is not None and spacing is not None:
        ratio = [float(own) / float(seen) for own, seen in zip(spacing, trained, strict=True)]
        if max(ratio) > 1.25 or min(ratio) < 0.8:
            own, seen = ("×".join(f"{value:.3g}" for value in pair) for pair in (spacing, trained))
            notes.append(f"pixels are {own} mm, those of the training data {seen} mm: things look larger or smaller")
    return notes


def _check_memory(values: int) -> None:
    if 4 * values > MAX_MAPS:
        raise ConfigError(
            "too many for the memory",
            field="n",
            found=f"{4 * values >> 20} MiB of maps",
            expected=f"at most {MAX_MAPS >> 20} MiB",
            hint="Give fewer samples, or a part of the scan with --roi or --at",
        )
