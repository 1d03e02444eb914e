"""How a model sees a scan, and the way back: axes turned as in training, slices resized where they were or are to be.

Turning permutes and flips voxels: what is made of a scan in another orientation is equal to the bit, on its own grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from modiff.config.evaluation import OVERLAP
from modiff.errors import ConfigError, DataError
from modiff.io.volume import Volume, change_of_axes, permuted, plane_of, resize, sides_of
from modiff.methods.base import Segmenter
from modiff.prediction.windows import Box, Plan, Span, judges_one_crop, place, plan_windows
from modiff.types import SAME_SIZE, DataSpec, Samples, marks

Shape = tuple[int, int, int]

_LARGEST = 1 << 14  # pixels of a side of a slice that is resized


@dataclass(frozen=True)
class Frame:
    """From the columns, rows and slices of a scan to those that a model sees.

    own: (Z,H,W) of the scan. size: (H,W) of a slice as the model sees it; resized where it differs from what turning
    gives. change: (3,2) where each of the scan's axes (column, row, slice) goes, and ±1; None where all stay as they
    are. orientation: the sides towards which they then run, where the scan was turned.
    """

    own: Shape
    size: tuple[int, int]
    change: np.ndarray | None = None
    orientation: str | None = None

    @property
    def turned(self) -> Shape:
        """(Z,H,W) after turning."""
        return self.own if self.change is None else _axes(self.own, self.change)

    @property
    def shape(self) -> Shape:
        """(Z,H,W) of what the model sees."""
        return self.turned[0], *self.size

    @property
    def resized(self) -> bool:
        """Slices have another size than they have in the scan."""
        return self.size != self.turned[1:]

    @property
    def same(self) -> bool:
        """The model sees the scan as it is."""
        return self.change is None and not self.resized

    def turn(self, scan: np.ndarray) -> np.ndarray:
        """(…,Z,H,W) of the scan, with its axes as the model sees them."""
        return scan if self.change is None else np.ascontiguousarray(permuted(scan, self.change))

    def resize(self, values: np.ndarray) -> np.ndarray:
        """(C,z,h,w) of turned slices in the size that the model sees, as import resizes them."""
        return resize(Volume(values, None, Path(), ""), self.size, mask=False).array if self.resized else values

    def box(self, own: Box) -> Box:
        """The part of what the model sees that shows a part of the scan."""
        turned = _spans(own.spans, self.own, self.change)
        sizes = zip(turned[1:], self.turned[1:], self.size, strict=True)
        rows, columns = (_scaled(span, was, now) for span, was, now in sizes)
        return Box(self.shape, (turned[0], rows, columns))

    def point(self, at: Sequence[int]) -> tuple[int, int, int]:
        """(x, y, z) of a pixel of the scan -> of what the model sees."""
        column, row, part = at
        z, y, x = self.box(Box(self.own, ((part, part + 1), (row, row + 1), (column, column + 1)))).spans
        return sum(x) // 2, sum(y) // 2, z[0]

    def own_box(self, seen: Box) -> Box:
        """The part of the scan that a part of what the model sees shows."""
        sizes = zip(seen.spans[1:], self.size, self.turned[1:], strict=True)
        rows, columns = (_scaled(span, was, now) for span, was, now in sizes)
        return Box(self.own, _spans((seen.spans[0], rows, columns), self.turned, self._back))

    def back(self, values: np.ndarray, seen: Box, own: Box) -> np.ndarray:
        """(…,z,h,w) of a part `seen` of what the model sees -> of the part `own` of the scan, which has its slices.

        Where slices were resized, linear between pixels.
        """
        if self.resized:
            whole = torch.from_numpy(np.ascontiguousarray(seen.put_back(values, dimensions=2)))
            flat = whole.reshape(-1, 1, *self.size).float()
            made = interpolate(flat, self.turned[1:], mode="bilinear", align_corners=False, antialias=True)
            _, rows, columns = (slice(*span) for span in _spans(own.spans, self.own, self.change))
            values = made.reshape(*whole.shape[:-2], *self.turned[1:]).numpy()[..., rows, columns]
        return np.ascontiguousarray(values if self._back is None else permuted(values, self._back))

    @property
    def _back(self) -> np.ndarray | None:
        if self.change is None:
            return None
        back = np.empty_like(self.change)
        for axis, (goes, sign) in enumerate(self.change):
            back[int(goes)] = axis, sign
        return back


def _axes(sides: Shape, change: np.ndarray) -> Shape:
    """(Z,H,W) with the axes permuted."""
    made = [0, 0, 0]
    for side, goes in zip(reversed(sides), change[:, 0].astype(int), strict=True):
        made[2 - goes] = side
    return made[0], made[1], made[2]


def _spans(spans: tuple[Span, Span, Span], shape: Shape, change: np.ndarray | None) -> tuple[Span, Span, Span]:
    """Spans along (Z,H,W) of a shape, with the axes permuted and flipped."""
    if change is None:
        return spans
    made: list[Span] = [(0, 0)] * 3
    for (low, high), side, (goes, sign) in zip(reversed(spans), reversed(shape), change, strict=True):
        made[2 - int(goes)] = (low, high) if sign > 0 else (side - high, side - low)
    return made[0], made[1], made[2]


def _scaled(span: Span, was: int, now: int) -> Span:
    """A span of `was` pixels, of the `now` pixels that show the same."""
    return span if was == now else (span[0] * now // was, min(now, -(-span[1] * now // was)))


def frame_of(
    shape: Shape,
    data: DataSpec,
    *,
    affine: np.ndarray | None = None,
    spacing: Sequence[float] | None = None,
    resample: bool = False,
) -> tuple[Frame, list[str]]:
    """How a model of `data` sees a scan (Z,H,W), and what differs from the training data, in words.

    affine: of the scan, voxel (column, row, slice) to RAS+ mm. spacing: mm of a pixel (row, column) or voxel (slice,
    row, column). resample: to the pixel size of the training data. Raises ConfigError where that is not known.
    """
    change, notes = _change(shape, data, affine)
    frame = Frame(shape, shape[1:], change)
    turned = frame.turned
    size, pixel = turned[1:], None
    if spacing is not None:
        own = (1.0, *map(float, spacing))[-3:]
        lengths = own if change is None else tuple(own[2 - int(axis)] for axis in np.argsort(change[:, 0])[::-1])
        pixel = lengths[1], lengths[2]
    if data.fit == "resize" and data.size is not None:
        size = data.size
    elif resample:
        if pixel is None or data.spacing is None:
            found = "that of the image is not known" if pixel is None else "that of the training data is not known"
            hint = "Give --spacing" if pixel is None and shape[0] == 1 else None
            raise ConfigError("needs two pixel sizes", field="--resample-to-model", found=found, hint=hint)
        scale = [mm / trained for mm, trained in zip(pixel, data.spacing, strict=True)]
        size = (max(1, round(turned[1] * scale[0])), max(1, round(turned[2] * scale[1])))
        if max(size) > _LARGEST:
            found, expected = f"{size[1]}×{size[0]}", f"at most {_LARGEST} pixels a side"
            raise ConfigError("slices would be too large", field="--resample-to-model", found=found, expected=expected)
    if pixel is not None:
        pixel = pixel[0] * turned[1] / size[0], pixel[1] * turned[2] / size[1]
    orientation = None if change is None else data.sides
    if data.context and spacing is not None and len(spacing) > 2 and turned[0] > 1:
        notes = [*notes, *filter(None, [data.other_steps(lengths[0], lengths[0])])]
    return Frame(shape, size, change, orientation), [*notes, *_sizes_differ(pixel, data)]


def _change(shape: Shape, data: DataSpec, affine: np.ndarray | None) -> tuple[np.ndarray | None, list[str]]:
    """How a scan's axes are to be turned, None for not at all; and what is guessed of them."""
    if data.sides is None:
        own = None if affine is None else sides_of(affine)
        if own is None or plane_of(own) == "axial":  # as slices of data sets that do not say it nearly always are
            return None, []
        note = f"these {plane_of(own)} slices are judged as they lie"
        return None, [f"{note}: the training data do not say how theirs lay in the patient"]
    trained = plane_of(data.sides)
    if affine is None:
        towards = ", ".join(data.sides if shape[0] > 1 else data.sides[:2])
        axes = "columns, rows and slices" if shape[0] > 1 else "columns and rows"
        note = f"the image does not say how it lies in the patient: its {axes} are taken to run towards {towards}, as "
        return None, [note + f"the {trained} slices of the training data"]
    if (own := sides_of(affine)) is None:
        raise DataError("no usable geometry", field="affine", found=np.asarray(affine).tolist())
    change = change_of_axes(own, data.sides)
    if shape[0] == 1 and change[2, 0] != 2:
        note = f"the slice is {plane_of(own)}, those of the training data are {trained}: it is judged as it lies"
        return None, [note]
    return (None if own == data.sides else change), []


def _sizes_differ(pixel: tuple[float, float] | None, data: DataSpec) -> list[str]:
    """Says where pixels (row, column) as the model sees them are larger or smaller than all of the training data."""
    if pixel is None or data.spacing is None:
        return []
    ends = data.spacing_range
    low, high = (data.spacing, data.spacing) if ends is None else ((ends[0],) * 2, (ends[1],) * 2)
    ratios = [max(mm / most, least / mm) for mm, least, most in zip(pixel, low, high, strict=True)]
    if max(ratios) <= SAME_SIZE or not all(map(math.isfinite, ratios)):
        return []
    own, trained = ("×".join(f"{value:.3g}" for value in pair) for pair in (pixel, data.spacing))
    spread = "" if ends is None else f" ({ends[0]:.3g} to {ends[1]:.3g})"
    return [
        f"pixels are {own} mm, those of the training data {trained} mm{spread}: things look larger or smaller; "
        "--resample-to-model resamples to that size"
    ]


@dataclass(frozen=True)
class View:
    """What of a scan is looked at. seen: as the model sees it. own: in the scan's own columns, rows and slices."""

    frame: Frame
    seen: Plan
    own: Plan

    def on_own_grid(self, samples: Samples) -> Samples:
        """Samples (`merge`) of what the model sees -> of the scan."""
        if self.frame.same:
            return samples
        found, pool = self._back(samples.maps), samples.pool
        if pool is not None:
            pool = replace(pool, mean=self._back(pool.mean[:, None])[:, 0])
        present = torch.stack([marks(one.flatten(2, -2)) for one in found])
        return replace(samples, maps=found, present=present, pool=pool)

    def _back(self, maps: Tensor) -> Tensor:
        seen, own = self.seen.box, self.own.box
        if not self.own.image:
            return torch.from_numpy(self.frame.back(maps.numpy(), seen, own))
        # In the whole frame, 0 where no window looks.
        made = self.frame.back(maps.numpy()[:, :, :, None], Box.whole(self.frame.shape), own)
        return torch.from_numpy(own.put_back(made, dimensions=2)[:, :, :, 0])


def view_of(
    model: Segmenter,
    data: DataSpec,
    frame: Frame,
    *,
    at: Sequence[int] | None,
    roi: Box | None,
    slices: int,
    flat: bool,
    slide: bool,
    overlap: float = OVERLAP,
) -> View:
    """What a model looks at; places and boxes are the scan's own, as to `Predictor.set_image`. flat: a 2-D image.

    A model of resized slices sees whole ones: a place or a box says which, and of what results are.
    Raises DataError for what is larger than a window, without a place, unless windows may `slide`.
    """
    where = None if at is None else place(at, frame.own)
    seen_at, seen_roi, shape = where and frame.point(where), roi and frame.box(roi), frame.shape
    if data.fit == "resize" and (seen_at is not None or seen_roi is not None):
        low, high = seen_roi.spans[0] if seen_roi is not None else (0, shape[0])
        if seen_at is not None:
            low, high = max(0, seen_at[2] - slices), min(shape[0], seen_at[2] + slices + 1)
        seen_at, seen_roi = None, Box(shape, ((low, high), (0, shape[1]), (0, shape[2])))
    height, width = data.size or shape[1:]
    larger = (shape[1] > height or shape[2] > width) and not judges_one_crop(shape, data)
    if seen_at is None and seen_roi is None and larger:
        if not slide:
            raise _too_large(frame, data, (height, width), flat=flat)
        seen_roi = Box.whole(shape)
    seen = plan_windows(model, data, shape, at=seen_at, slices=slices, roi=seen_roi, overlap=overlap, image=flat)
    if frame.same:
        return View(frame, seen, seen)
    box = frame.own_box(seen.box) if roi is None else roi
    own = replace(seen, box=box, at=where, weights=np.ones(box.size[1:], np.float32))
    return View(frame, seen, replace(own, windows=(own.area,)))


def _too_large(frame: Frame, data: DataSpec, most: tuple[int, int], *, flat: bool) -> DataError:
    lies, words = ("(x, y)", "X,Y") if flat else ("(x, y, z)", "X,Y,Z")
    pixel = "the pixel of the lesion" if data.prompted else "a pixel"
    hint = f"Give --at {words} (in Python at={lies}, or a roi to slide over), {pixel}"
    what, found = "is larger than what the model was trained on", f"{frame.shape[2]}×{frame.shape[1]}"
    expected = f"at most {most[1]}×{most[0]}, or the position to look at"
    return DataError(what, field="image", found=found, expected=expected, hint=hint)


def differences(plan: Plan, data: DataSpec, *, places_noise: bool) -> list[str]:
    """How what is looked at differs from what a model was trained on, in words. plan: as the model sees it."""
    notes, window = [], plan.windows[0]
    size, own = (f"{width}×{height}" for height, width in (window.size, window.image))
    beyond = "black, as in training" if data.fit == "crop" else "its reflection"
    if data.prompted and plan.at is None and (plan.slid or plan.box.size[0] > 1):
        notes.append(
            "the model was trained on crops centred on a lesion and is slid over a whole scan: it takes the middle "
            "of each window for a lesion and marks what is none; give the place with --at"
        )
    elif data.prompted and plan.at is None and own != size:
        spans = zip((window.top, window.left), window.size, window.image, strict=True)
        aside = any(abs(2 * start + side - whole) > 1 for start, side, whole in spans)
        what = "takes the region's middle for one" if aside else f"sees the middle of this image of {own}"
        notes.append(
            f"the model judges crops of {size} with a lesion in their middle and {what}"
            f"{f', and beyond it {beyond}' if window.padded else ''}; give the place with --at"
        )
        return notes
    if window.padded and not plan.slid:
        notes.append(f"the image ends inside the {size} window: beyond it the model sees {beyond}")
    if plan.slid and not places_noise:
        notes.append("the method draws its noise per window: neighbouring windows of a hypothesis may not fit together")
    return notes
