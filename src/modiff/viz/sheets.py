"""The cells of a case's sheet: its whole image, and close by what raters and samples mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from modiff.viz.figures import COLOURS, Cell, Contour

RATER, SAMPLE = COLOURS[0], COLOURS[1]
Part = tuple[slice, slice]


def close_up(marks: np.ndarray, *, least: int, around: float = 0.75, centre: bool = False) -> Part:
    """Rows and columns of an image around all that is marked in `marks` (H,W) bool: the one rule of every figure.

    A square, of the marked area's longer side enlarged by the fraction `around` and at least `least` pixels; moved, and
    where it is larger than that cut, to lie in the image. It holds all that is marked. Where nothing is marked it is
    the whole image, or with `centre` the middle square of `least` pixels.
    """
    spans = [np.flatnonzero(marks.any(1)), np.flatnonzero(marks.any(0))]
    if not spans[0].size:
        if not centre:
            return slice(0, marks.shape[0]), slice(0, marks.shape[1])
        spans = [np.array([length // 2]) for length in marks.shape]
    side = max(int(found[-1] - found[0]) + 1 for found in spans)
    side = max(least, round(side * (1 + around)))
    cut = []
    for found, whole in zip(spans, marks.shape, strict=True):
        length = min(side, whole)
        start = min(max(int(found[0] + found[-1] + 1) // 2 - length // 2, 0), whole - length)
        cut.append(slice(start, start + length))
    return cut[0], cut[1]


def part_of_interest(marks: np.ndarray) -> Part:
    """The part of a case that its sheet shows close by: what is marked in `marks` (H,W) bool and around it.

    At least three eighths of the image's shorter side; around the centre where nothing is marked.
    """
    return close_up(marks, least=3 * min(marks.shape) // 8, centre=True)


def grey_window(images: np.ndarray) -> tuple[float, float]:
    """One window for images in [0,1]: the whole range, or the central 99 % of values if they fill less than half."""
    low, high = (float(value) for value in np.percentile(images, [0.5, 99.5]))
    return (low, high) if 0 < high - low < 0.5 else (0.0, 1.0)


def mean_label(masks: np.ndarray, read: np.ndarray) -> np.ndarray:
    """(H,W): the fraction of the raters who read the image that marked a pixel. masks: (R,K,H,W), read: (R,)."""
    return masks[read].any(1).mean(0) if read.any() else np.zeros(masks.shape[-2:])


@dataclass(frozen=True)
class CloseUp:
    """An image (H,W) or (C,H,W), and the part of it that the cells show; all maps and masks are of the whole image."""

    image: np.ndarray
    part: Part

    def near(self, values: np.ndarray) -> np.ndarray:
        """The part of an image, map or mask."""
        return values[(..., *self.part)]

    def whole(self, *contours: Contour, title: str = "image") -> Cell:
        """The whole image, with a frame around the part."""
        frame = np.zeros(self.image.shape[-2:], dtype=bool)
        frame[self.part] = True
        around = () if frame.all() else (Contour(frame, "white", 0.8),)
        return Cell(self.image, (*contours, *around), title=title)

    def contours(self, *contours: Contour, title: str = "") -> Cell:
        """Outlines of masks (H,W) or (K,H,W)."""
        near = tuple(replace(contour, mask=self.near(contour.mask)) for contour in contours)
        return Cell(self.near(self.image), near, title=title)

    def outlined(self, mask: np.ndarray, colour: str, name: str = "") -> Cell:
        """The outline of a mask (K,H,W); an empty one is said to be nothing."""
        if mask.any():
            return self.contours(Contour(mask, colour), title=name)
        return self.contours(title=f"{name}: nothing" if name else "nothing")

    def raters(self, masks: np.ndarray, read: np.ndarray, names: Sequence[str]) -> list[Cell]:
        """A cell for each rater's masks (R,K,H,W); a rater who did not read the image is named as such."""
        return [
            self.outlined(mask, RATER, name) if there else self.contours(title=f"{name}: did not read")
            for mask, there, name in zip(masks, read, names, strict=True)
        ]

    def probability(self, values: np.ndarray, title: str) -> Cell:
        """A probability map (H,W) as isolines."""
        return Cell(self.near(self.image), isolines=self.near(values), title=title)

    def heat(self, values: np.ndarray, largest: float, title: str) -> Cell:
        """A map (H,W) from 0 to `largest` as colours over the image."""
        return Cell(self.near(self.image), heat=self.near(values), heat_max=largest, title=title)


def everyones_outlines(image: np.ndarray, masks: np.ndarray, titles: tuple[str, str] = ("", "")) -> list[Cell]:
    """The whole image and the part of interest, every rater's outlines in a colour of its own.

    image: (H,W) in any unit, shown from its 1st to its 99th percentile. masks: (R,H,W) class index.
    """
    low, high = np.percentile(image, [1, 99])
    if high <= low:
        low, high = float(image.min()), max(float(image.max()), float(image.min()) + 1)
    close = CloseUp((image.astype(np.float64) - low) / (high - low), part_of_interest((masks != 0).any(0)))
    classes = np.arange(1, int(masks.max(initial=0)) + 1)[:, None, None]
    # Outlines often coincide: the later a rater, the thinner, so that those below still show.
    contours = [
        Contour(mask == classes, rater_colour(i), 0.8 + 1.4 * (len(masks) - 1 - i) / max(len(masks) - 1, 1))
        for i, mask in enumerate(masks)
        if mask.any()
    ]
    return [close.whole(*contours, title=titles[0]), close.contours(*contours, title=titles[1])]


def rater_colour(rater: int) -> str:
    """The colour of a rater's outlines where all raters are on one image."""
    return COLOURS[rater % len(COLOURS)]
