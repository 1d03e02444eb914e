"""Where a model looks: windows of an image, boxes and places of a scan, windows slid over what is larger; and how its
maps are merged into one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modiff.config.evaluation import OVERLAP
from modiff.errors import ConfigError, DataError
from modiff.methods.base import Segmenter
from modiff.types import DataSpec, Samples, marks

Area = tuple[slice, slice]  # rows, columns
Span = tuple[int, int]  # first, end

_SPAN = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*")
_LEAST = 1e-3
_FAR_SMALLER, _SMALL = 16, 512 * 512  # an image has a 16th of a crop's pixels, if the crop is of more than so many
_SIGMA = 0.125  # of the Gaussian that weighs a window's pixels, in window sides: MONAI's and nnU-Net's choice


@dataclass(frozen=True)
class Window:
    """A rectangle of `size` (H,W) whose upper left pixel is (top, left) of an `image` (h,w); it may reach outside."""

    image: tuple[int, int]
    size: tuple[int, int]
    top: int
    left: int

    @classmethod
    def centred(cls, image: tuple[int, int], size: tuple[int, int], at: tuple[int, int]) -> Window:
        """The window whose pixel (H//2, W//2) is the image's pixel `at` = (x, y)."""
        return cls(image, size, at[1] - size[0] // 2, at[0] - size[1] // 2)

    def within(self, rows: Span, columns: Span) -> tuple[Area, Area]:
        """Where it meets rows × columns of the image: in coordinates of that part, and in its own."""
        part, own = [], []
        for (low, high), corner, side in zip((rows, columns), (self.top, self.left), self.size, strict=True):
            begin, end = max(low, corner), max(low, corner, min(high, corner + side))
            part.append(slice(begin - low, end - low))
            own.append(slice(begin - corner, end - corner))
        return (part[0], part[1]), (own[0], own[1])

    @property
    def covered(self) -> Area:
        """Rows and columns of the image that it shows."""
        return self.within((0, self.image[0]), (0, self.image[1]))[0]

    @property
    def inside(self) -> Area:
        """Its own rows and columns that lie in the image."""
        return self.within((0, self.image[0]), (0, self.image[1]))[1]

    @property
    def padded(self) -> bool:
        """It reaches outside the image."""
        return self.inside != (slice(0, self.size[0]), slice(0, self.size[1]))

    def cut(self, image: np.ndarray, *, black: bool = False) -> np.ndarray:
        """(…,h,w) -> (…,H,W): outside the image its reflection, which keeps the texture that the model knows, or 0."""
        if black:
            seen = np.zeros((*image.shape[:-2], *self.size), image.dtype)
            seen[(..., *self.inside)] = image[(..., *self.covered)]
            return seen
        shown = []
        for start, length, size in zip((self.top, self.left), self.size, self.image, strict=True):
            period = max(2 * (size - 1), 1)
            index = np.arange(start, start + length) % period
            shown.append(np.minimum(index, period - index))
        return image[..., shown[0][:, None], shown[1]]


@dataclass(frozen=True)
class Box:
    """Voxels z0 ≤ z < z1, y0 ≤ y < y1, x0 ≤ x < x1 of a scan of `shape` (Z,H,W); spans are in that order."""

    shape: tuple[int, int, int]
    spans: tuple[Span, Span, Span]

    @classmethod
    def whole(cls, shape: tuple[int, int, int]) -> Box:
        """All of a scan."""
        return cls(shape, ((0, shape[0]), (0, shape[1]), (0, shape[2])))

    @classmethod
    def parse(cls, text: str, shape: tuple[int, int, int]) -> Box:
        """`X0:X1,Y0:Y1[,Z0:Z1]`, counted from 0, ends excluded; all slices without Z. Raises DataError."""
        found = [(int(span[1]), int(span[2])) for span in map(_SPAN.fullmatch, text.split(",")) if span is not None]
        if len(found) != text.count(",") + 1 or len(found) not in (2, 3):
            expected = "X0:X1,Y0:Y1 or X0:X1,Y0:Y1,Z0:Z1"
            raise DataError("cannot be understood", field="--roi", found=repr(text), expected=expected)
        found = [*found, (0, shape[0])][:3]
        for name, (low, high), size in zip("XYZ", found, reversed(shape), strict=True):
            if not low < high <= size:
                expected = f"0 ≤ {name}0 < {name}1 ≤ {size}"
                raise DataError("does not lie in the image", field="--roi", found=f"{low}:{high}", expected=expected)
        return cls(shape, (found[2], found[1], found[0]))

    @property
    def size(self) -> tuple[int, int, int]:
        """(z,h,w) voxels."""
        z, y, x = (high - low for low, high in self.spans)
        return z, y, x

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """To cut the box out of an array (…,Z,H,W)."""
        z, y, x = (slice(low, high) for low, high in self.spans)
        return z, y, x

    def put_back(self, values: np.ndarray, *, dimensions: int = 3) -> np.ndarray:
        """Values of the box (…,z,h,w) in the frame of the scan (…,Z,H,W), 0 outside.

        dimensions: 2 for values of whole or single slices, (…,h,w) -> (…,H,W).
        """
        if self.size == self.shape:
            return values
        whole = np.zeros((*values.shape[:-dimensions], *self.shape[-dimensions:]), dtype=values.dtype)
        where: tuple[Any, ...] = (..., *self.slices[3 - dimensions :])
        whole[where] = values
        return whole


def place(at: Sequence[int], shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """`at` = (x, y[, z]) checked against a scan (Z,H,W); z may be left out of a scan of one slice. Raises DataError."""
    found, sides = ",".join(map(str, at)), shape[::-1]
    if len(at) == 2 and shape[0] == 1:
        at = (*at, 0)
    if len(at) != 3:
        expected = "X,Y, whole numbers" if shape[0] == 1 else f"X,Y,Z: the scan has {shape[0]} slices"
        raise DataError("does not say where to look", field="at", found=found, expected=expected)
    whole = all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in at)
    if not whole or not all(0 <= value < side for value, side in zip(at, sides, strict=True)):
        limits = ", ".join(f"0 ≤ {name} < {side}" for name, side in zip("XYZ", sides, strict=True))
        raise DataError("lies outside the image", field="at", found=found, expected=f"whole numbers, {limits}")
    return int(at[0]), int(at[1]), int(at[2])


def starts(low: int, high: int, patch: int, overlap: float) -> list[int]:
    """First pixels of patches that cover low … high−1: evenly apart, the last one ends at `high`.

    A stretch shorter than a patch gets one, about its middle.
    """
    if high - low <= patch:
        return [(low + high - patch) // 2]  # as import pads
    step = max(1, int(patch * (1 - overlap)))
    return [*range(low, high - patch, step), high - patch]


def windows_over(
    box: Box, size: tuple[int, int], *, reach: tuple[int, int], overlap: float = OVERLAP, centred: bool = False
) -> list[Window]:
    """Windows of `size` (H,W) whose middle parts of `reach` (h,w) cover a slice of the box.

    centred: a window's middle means something to the model and stays where it is; otherwise windows that reach out of
    the image move inside as far as they can. Raises ConfigError for an overlap outside [0,1).
    """
    if not 0 <= overlap < 1:
        raise ConfigError("is out of range", field="overlap", found=overlap, expected="0 ≤ overlap < 1")
    sides = []
    for span, total, side, part in zip(box.spans[1:], box.shape[1:], size, reach, strict=True):
        corners = [start - (side - part) // 2 for start in starts(*span, part, overlap)]
        if not centred and part == side <= total:
            corners = sorted({min(max(corner, 0), total - side) for corner in corners})
        sides.append(corners)
    return [Window(box.shape[1:], size, top, left) for top in sides[0] for left in sides[1]]


def importance(size: tuple[int, int], reach: tuple[int, int]) -> np.ndarray:
    """(H,W) float32 weights of a window's pixels in the merged map: a Gaussian over its middle part `reach`, else 0.

    A model sees most around the middle of what it is shown. Every weight within the reach is at least 1/1000 (the
    largest is 1), so that a pixel that one window alone sees has that window's value.
    """
    factors = []
    for side, part in zip(size, reach, strict=True):
        away = (np.arange(part) - (part - 1) / 2) / (_SIGMA * part)
        begin = (side - part) // 2
        factors.append(np.pad(np.exp(-(away**2) / 2), (begin, side - part - begin)))
    weights = np.outer(*factors)
    return np.where(weights > 0, np.maximum(weights, _LEAST), 0).astype(np.float32)


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
        _, (top, _), (left, _) = self.box.spans
        return Window(self.box.shape[1:], self.box.size[1:], top, left)

    @property
    def shown(self) -> Window:
        """What a figure of a slice shows: the model's own window where it is one, else the box."""
        return self.area if self.slid else self.windows[0]


def judges_one_crop(shape: tuple[int, int, int], data: DataSpec) -> bool:
    """Whether a model of lesion crops sees (Z,H,W) through one window about the middle, where no place is given.

    What is smaller than a crop, if only one way, is a crop of another shape: no scan to be searched.
    """
    return data.prompted and data.size is not None and (shape[1] < data.size[0] or shape[2] < data.size[1])


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
    """Which windows a scan (Z,H,W) is seen through: of a place given as to `Predictor.set_image`, or over all of it.

    Raises DataError for places outside, ConfigError for settings that contradict each other.
    """
    size = data.size or shape[1:]
    if math.prod(size) > max(_SMALL, _FAR_SMALLER * math.prod(shape[1:])):  # it would be padded to what takes memory
        seen, own = (f"{width}×{height}" for height, width in (shape[1:], size))
        raise DataError("is far smaller than what the model was trained on", field="size", found=seen, expected=own)
    if at is None and roi is None and judges_one_crop(shape, data):
        corner = [(whole - part) // 2 for whole, part in zip(shape[1:], size, strict=True)]
        middle = Window(shape[1:], size, corner[0], corner[1])
        return Plan(Box.whole(shape), (middle,), np.ones(size, np.float32), image=image, placed=not image)
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
    window = Window.centred(shape[1:], size, (x, y))
    rows, columns = window.covered
    spans = (max(0, z - slices), min(shape[0], z + slices + 1)), (rows.start, rows.stop), (columns.start, columns.stop)
    return Plan(Box(shape, spans), (window,), np.ones(size, np.float32), (x, y, z), image, placed=not image)


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
    own, raters, part, presence = torch.zeros(n, dtype=torch.float64), None, None, []
    for jobs, samples in drawn:
        for (z, window), found in zip(jobs, samples.maps.float().cpu(), strict=True):
            target, source = window.within(*box.spans[1:])
            fraction = weights[source] / seen[target]  # of all windows it sums to 1 wherever one looks
            maps[(slice(None), slice(None), z - box.spans[0][0], *target)] += found[(..., *source)] * fraction
        own += samples.weights.double().cpu().sum(0)
        if samples.raters is not None and raters is None:
            raters = samples.raters[:1].cpu().clone()
        if samples.part is not None and part is None:  # the same in all windows
            part = samples.part[:1].cpu().clone()
        if samples.presence is not None:
            presence.append(samples.presence.max().cpu())
    maps.clamp_(0, 1)  # sums of fractions exceed 1 by rounding
    present = torch.stack([marks(sample.flatten(1, 2)) for sample in maps])
    if plan.image:
        maps = torch.from_numpy(box.put_back(maps.numpy()))[:, :, 0]
    most = torch.stack(presence).max()[None] if presence else None
    return Samples(maps[None], (own / own.sum()).float()[None], present[None], raters, most, part=part)
