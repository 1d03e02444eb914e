"""How slices come to one size, cropped or padded about the centre or lesions, or resized; and what that cuts off."""

from __future__ import annotations

import argparse
import math
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modiff.errors import ConfigError, DataError
from modiff.io.text import read_table
from modiff.io.volume import Volume, resize, window

_ALLOWED = 0.01  # fraction of a rater's marked pixels that may be cut off without --allow-cut
_LARGEST = 1 << 14  # pixels per side: a slice of them takes 1 GiB
_STEP = 8  # pixels that sides of windows are a multiple of: networks halve an image three times
Point = tuple[float, float, float | None]  # x, y, z: column, row, slice of the image as stored


class Place(NamedTuple):
    """A window of a case. name: of its lesion, "" for the case itself. part: its one slice, None for all slices."""

    name: str
    part: int | None
    top: int
    left: int


class Cut:
    """Counts what fitting loses of each rater's marks, over all images of an import."""

    def __init__(self) -> None:
        self._lock, self._sums = threading.Lock(), np.zeros((4, 1), np.int64)

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """An image's marked pixels per rater, (R,): as its source has them, and of these what is left."""
        marked = before > 0
        with self._lock:  # some importers read several images at a time
            rest = max(len(before) - self._sums.shape[1], 0)
            self._sums = np.pad(self._sums, ((0, 0), (0, rest)))
            self._sums[:, : len(before)] += np.stack([before, before - after, marked, marked & (after == 0)])

    def told(self, raters: Sequence[str]) -> list[str]:
        """A line for each rater who loses marks."""
        return [
            f"{name} loses {lost} of {marked} marked pixels ({100 * lost / marked:.3g} %)"
            + f"; in {empty} of {images} images nothing of {name}'s marks is left" * (empty > 0)
            for name, (marked, lost, images, empty) in zip(raters, self._sums.T.tolist(), strict=False)
            if lost
        ]

    def check(self, raters: Sequence[str], path: Path | str) -> None:
        """Raises DataError where a rater loses more than may be lost without --allow-cut."""
        marked, lost = self._sums[:2]
        if (lost > _ALLOWED * marked).any():
            found, expected = "; ".join(self.told(raters)), f"at most {100 * _ALLOWED:g} % per rater"
            hint = "Take a larger window, or --allow-cut to accept the loss."
            raise DataError("marks are cut off", path=path, found=found, expected=expected, hint=hint)


class Fitting:
    """What --size, --resize and --crop say. kind: none, crop (or padding) or resize. size: (H,W).

    lesions: windows lie about what was marked, so that an image's centre says which lesion is meant. measuring: the
    size is the largest that any case needs, and `measure` is to be called with the masks of each.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        given = args.crop and args.crop.partition(":")
        self.lesions, self._points = bool(given), dict[str, list[Point]]()
        side = args.size
        if given and given[0] == "marks" and given[2]:
            if side:
                raise ConfigError("a size is given twice", field="--crop", found=args.crop, expected="without --size")
            side = given[2]
        if args.resize and (side or given):
            raise ConfigError("cannot be combined with --size or --crop", field="--resize", found=args.resize)
        self.size = parse_size(args.resize, "--resize") or parse_size(side, "--size")
        if given and given[0] != "marks":
            if args.crop == "table" and not args.table:
                raise ConfigError("takes the columns x and y of --table", field="--crop", found="no --table")
            self._points = read_points(Path(args.table if args.crop == "table" else args.crop))
            if self.size is None:
                raise ConfigError("about the points of a table needs a size", field="--crop", expected="--size HxW")
        self.measuring = self.lesions and self.size is None
        self.kind = "resize" if args.resize else "crop" if self.size or given else "none"
        said = {"--resize": args.resize, "--crop": args.crop, "--size": args.size}
        self.text = "".join(f" {option} {Path(value).name}" for option, value in said.items() if value)

    def check_cases(self, cases: Sequence[str], path: str) -> None:
        """Raises DataError unless a table of points has these cases, and no others."""
        if self._points:
            for what, names in (
                ("cases that the folder does not have", set(self._points) - set(cases)),
                ("cases that the table does not have", set(cases) - set(self._points)),
            ):
                if names:
                    raise DataError(what, path=path, field="--crop", found=", ".join(sorted(names)[:3]))

    def measure(self, masks: np.ndarray) -> None:
        """Makes the window as large as what all raters marked in a volume, (R,Z,H,W), needs."""
        if (box := _box(masks)) is not None:
            needed = (_STEP * math.ceil((last + 1 - first) / _STEP) for first, last in box)
            height, width = (max(pair) for pair in zip(needed, self.size or (_STEP, _STEP), strict=True))
            self.size = height, width

    def places(self, case: str, masks: np.ndarray, image: Volume, stored: Volume) -> list[Place]:
        """The windows of a volume, (R,Z,H,W) being all raters' masks; none where nobody marked what it should show.

        image: turned to its plane, stored: as it was. Raises DataError for a point outside the volume.
        """
        if self.kind != "crop" or self.size is None:
            return [Place("", None, 0, 0)]
        (height, width), (full, wide) = self.size, image.shape[1:]
        if not self.lesions:
            return [Place("", None, (full - height) // 2, (wide - width) // 2)]
        if self._points:
            made: list[Place] = []
            for number, point in enumerate(self._points.get(case, ()), 1):
                x, y, z = _turned(point, image, stored)
                inside = -0.5 <= x < wide - 0.5 and -0.5 <= y < full - 0.5 and (z is None or 0 <= z < len(masks[0]))
                if not inside:
                    found, expected = f"{case}: {point}", f"within {wide}×{full}×{len(masks[0])} (x, y, z)"
                    raise DataError("a point outside its image", path=image.path, found=found, expected=expected)
                made.append(Place(f"lesion-{number}", z, *_corner((y, x), self.size)))
            return made
        box = _box(masks)
        return [] if box is None else [Place("", None, *_corner([sum(side) / 2 for side in box], self.size))]

    def fit(self, volume: Volume, place: Place, *, mask: bool) -> tuple[Volume, tuple[int, int, int, int] | None]:
        """A slice, or its masks, in a window or resized; and the part that is not padding, None where all is image."""
        if self.kind == "none" or self.size is None:
            return volume, None
        if self.kind == "crop":
            return window(volume, place.top, place.left, self.size)
        made = resize(volume, self.size, mask=mask)
        if not mask and (dtype := volume.array.dtype).kind == "u":
            made = replace(made, array=np.rint(made.array.clip(0, np.iinfo(dtype).max)).astype(dtype))
        return made, None

    def count(self, cut: Cut, masks: np.ndarray, places: Sequence[Place]) -> None:
        """Tells `cut` what is lost of masks (R,Z,H,W): of each slice that a window shows, what lies in none."""
        if self.kind == "none" or self.size is None:
            return
        for index in range(masks.shape[1]):
            marked = masks[:, index] != 0
            corners = [(place.top, place.left) for place in places if place.part in (None, index)]
            if not corners or not marked.any():
                continue
            before = marked.sum((1, 2))
            if self.kind == "resize":
                cut.add(before, np.array([_left(mask, self.size) for mask in marked]))
                continue
            shown = np.zeros(marked.shape[1:], bool)
            for top, left in corners:
                shown[max(top, 0) : max(top + self.size[0], 0), max(left, 0) : max(left + self.size[1], 0)] = True
            cut.add(before, (marked & shown).sum((1, 2)))


def _left(mask: np.ndarray, size: tuple[int, int]) -> int:
    """Pixels of the connected parts of a mask (H,W) of which resizing leaves something.

    Each grows or shrinks with its image, but may fall between new pixels.
    """
    from scipy.ndimage import label

    parts, _ = label(mask, np.ones((3, 3)))
    kept = np.unique(resize(Volume(parts[None, None], None, Path(), "PNG"), size, mask=True).array)
    return int(np.isin(parts, kept[kept > 0]).sum())


def parse_size(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """(H,W) from 128x128; ConfigError for another form."""
    if text is None:
        return None
    height, x, width = text.lower().partition("x")
    sides = [int(side) if side.isdecimal() else 0 for side in (height, width)]
    if not (x and min(sides) > 0 and max(sides) <= _LARGEST):
        expected = f"HxW, such as 128x128, up to {_LARGEST} pixels per side"
        raise ConfigError("is not a size", field=option, found=repr(text), expected=expected)
    return int(height), int(width)


def read_points(path: Path) -> dict[str, list[Point]]:
    """Case -> its points, from a CSV with the columns case, x, y and perhaps z, in pixels and slices from 0."""
    found: dict[str, list[Point]] = defaultdict(list)
    for line, row in read_table(path, ("case", "x", "y"), ("z",), kind="table of points"):
        texts = [row.get(name, "") for name in "xyz"]
        try:
            x, y, z = (float(text) if text else None for text in texts)
        except ValueError:
            x = y = z = None
        if x is None or y is None or not all(map(math.isfinite, (x, y, z or 0))):
            raise DataError("not a point", path=path, field=line, found=", ".join(texts), expected="numbers x, y")
        found[row["case"]].append((x, y, z))
    if not found:
        raise DataError("the table holds no points", path=path)
    return dict(found)


def _box(masks: np.ndarray) -> list[tuple[int, int]] | None:
    """First and last row and column of what anybody marks in (R,Z,H,W); None where nobody marks anything."""
    marked = np.asarray(masks.any((0, 1)))
    if not marked.any():
        return None
    lines = [np.flatnonzero(marked.any(axis=axis)) for axis in (1, 0)]
    return [(int(line[0]), int(line[-1])) for line in lines]


def _corner(centre: Sequence[float], size: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of a window whose middle lies on `centre` (row, column), at most half a pixel off.

    A whole number is its pixel (H//2, W//2), as `--at` of prediction has it.
    """
    top, left = (math.ceil(at - side / 2) for at, side in zip(centre, size, strict=True))
    return top, left


def _turned(point: Point, image: Volume, stored: Volume) -> tuple[float, float, int | None]:
    """(x, y, z) of a point of the stored image in the turned one."""
    x, y, z = point
    if image.affine is None or stored.affine is None or np.array_equal(image.affine, stored.affine):
        return x, y, None if z is None else round(z)
    if z is None:
        hint = "Add the column z, or leave out --plane."
        raise DataError("a point without a slice in a volume that is turned", path=image.path, hint=hint)
    x, y, z, _ = np.linalg.inv(image.affine) @ stored.affine @ (x, y, z, 1)
    return x, y, round(z)
