"""Figures that a radiologist can read: grey images in one stated window, thin contours, maps that hide nothing.

Drawn without pyplot, so nothing is shared between figures or threads. A second sign (line style, label) always goes
with a colour. What draws comes first, then the cells of a case's sheet: its whole image, and close by what is marked.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modiff.errors import ConfigError, printable
from modiff.io.outlines import contours
from modiff.io.output import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Part = tuple[slice, slice]  # rows and columns of an image
# Okabe & Ito (2008): colours that colour-blind people tell apart, those first that stand out on dark tissue.
COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00", "#0072B2")
RATER, SAMPLE = COLOURS[:2]
CLASS_STYLES = ("solid", "dashed", "dotted", "dashdot")
LEVELS = ((0.1, COLOURS[1]), (0.5, COLOURS[2]), (0.9, COLOURS[5]))  # isolines of a probability map
# File formats, without what differs from day to day.
_UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None},
}


@dataclass(frozen=True)
class Contour:
    """The outline of a mask (H,W) or (K,H,W) bool; classes differ by line style."""

    mask: np.ndarray
    colour: str
    width: float = 1.2
    opacity: float = 1.0


@dataclass(frozen=True)
class Cell:
    """One panel: an image (H,W), (1,H,W) or RGB (3,H,W), and what is drawn on it.

    contours: outlines. isolines: a probability map (H,W), outlined at 10, 50 and 90 %. heat: a map (H,W) from 0 to 1,
    laid over the image, transparent where it is 0.
    """

    image: np.ndarray
    contours: tuple[Contour, ...] = ()
    isolines: np.ndarray | None = None
    heat: np.ndarray | None = None
    title: str = ""


def rgb(place: int, *, white: float = 0.0) -> tuple[int, int, int]:
    """Red, green and blue (0 to 255) of the colour at `place`, counted round and round; mixed with `white` (0 to 1)."""
    code = COLOURS[place % len(COLOURS)]
    red, green, blue = (round(int(code[i : i + 2], 16) * (1 - white) + 255 * white) for i in (1, 3, 5))
    return red, green, blue


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = None) -> Figure:
    """A white figure of `width` × `height` inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, facecolor="white", layout=layout)


def encoded(figure: Figure, kind: str = "png", *, dpi: float = 110) -> bytes:
    """The figure as "png", "svg" (text as text) or "pdf"; the same figure gives the same bytes, on one matplotlib.

    All its texts are plain: no formulas, and `printable`.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_text(printable(text.get_text(), keep="\n"))
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "modiff", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=_UNDATED[kind])
    return buffer.getvalue()


def save(figure: Figure, path: str | Path, *, dpi: float = 150) -> Path:
    """Writes a figure as PNG, SVG or PDF by the name's end, whole or not at all.

    Raises ConfigError for another end, DataError where it cannot be written.
    """
    end = Path(path).suffix.lower()
    if end[1:] not in _UNDATED:
        expected = ", ".join(f".{kind}" for kind in _UNDATED)
        raise ConfigError("not a figure's name", path=path, found=end or "no suffix", expected=expected)
    return write_bytes(path, encoded(figure, end[1:], dpi=dpi))


def draw(axes: Axes, cell: Cell, *, window: tuple[float, float] = (0.0, 1.0)) -> None:
    """Draws `cell`: values from `window[0]` (black) to `window[1]` (white), the same for all cells of a figure.

    An image of three channels is in colour, of any other the first channel is drawn.
    """
    image, (low, high) = cell.image, window
    if image.ndim == 3 and len(image) == 3:
        axes.imshow(np.clip((np.moveaxis(image, 0, 2) - low) / (high - low), 0, 1), interpolation="bilinear")
    else:
        grey = image if image.ndim == 2 else image[0]
        axes.imshow(grey, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
    axes.set(xticks=[], yticks=[])
    if cell.heat is not None:
        axes.imshow(heat_colours(np.clip(cell.heat, 0, 1)), interpolation="bilinear")
    if cell.isolines is not None:
        for level, colour in LEVELS:
            outline(axes, cell.isolines, colour, level=level, width=1.0)
    for contour in cell.contours:
        masks = contour.mask.reshape(-1, *contour.mask.shape[-2:])
        for mask, style in zip(masks, cycle(CLASS_STYLES), strict=False):
            outline(axes, mask, contour.colour, width=contour.width, style=style, opacity=contour.opacity)
    axes.set_title(cell.title, fontsize=7, pad=3, parse_math=False)


def heat_colours(fraction: np.ndarray, *, opacity: float = 0.55) -> np.ndarray:
    """RGBA (…,4) of values in [0,1]: the smaller the value, the more one sees through it."""
    from matplotlib import colormaps

    # Uniform to the eye and monotonous in lightness, so it survives grey printing. The map's dark end is left out: on a
    # dark image it would look like tissue.
    coloured = np.asarray(colormaps["magma"](0.3 + 0.7 * fraction))
    coloured[..., 3] = opacity * np.sqrt(fraction)
    return coloured


def outline(
    axes: Axes,
    values: np.ndarray,
    colour: str,
    *,
    level: float = 0.5,
    width: float = 1.2,
    style: str = "solid",
    opacity: float = 1.0,
) -> None:
    """The line where `values` (H,W), a mask or a map, cross `level`; closed at the image's border."""
    from matplotlib.collections import LineCollection

    paths = [line[:, ::-1] for line in contours(values, level)]
    if paths:
        look: dict[str, Any] = {"colors": colour, "linewidths": width, "linestyles": style, "alpha": opacity}
        axes.add_collection(LineCollection(paths, **look), autolim=False)


def contact_sheet(
    rows: Sequence[Sequence[Cell]],
    *,
    row_titles: Sequence[str] = (),
    window: tuple[float, float] = (0.0, 1.0),
    inches: float | Sequence[float] = 1.4,
    title: str = "",
    left: float = 0.0,
) -> Figure:
    """Rows of cells side by side, all in the same window.

    inches: width of a cell, or of each row's cells; of a row without cells it is the height. title: above the rows.
    left: inches left free, for a legend or the like.
    """
    gap, margin = 0.03, 0.1 + left + 0.062 * max(map(len, row_titles), default=0)
    widths = [float(inches)] * len(rows) if isinstance(inches, int | float) else inches
    shapes = [[cell.image.shape[-2:] for cell in row] for row in rows]
    heights = [max((w * y / x for y, x in row), default=w) for w, row in zip(widths, shapes, strict=True)]
    tops = [0.19 if any(cell.title for cell in row) else 0.0 for row in rows]
    height = sum(heights) + sum(tops) + gap * (len(rows) + 1) + (0.3 if title else 0.0)
    width = margin + max(len(row) * (w + gap) for w, row in zip(widths, rows, strict=True))
    figure = new_figure(width, height)
    figure.text(margin / width, 1 - 0.15 / height, title, fontsize=8, va="center", parse_math=False)
    bottom = height - (0.3 if title else 0.0)
    for i, row in enumerate(rows):
        bottom -= heights[i] + tops[i] + gap
        for j, cell in enumerate(row):
            place = ((margin + j * (widths[i] + gap)) / width, bottom / height, widths[i] / width, heights[i] / height)
            axes = figure.add_axes(place)
            draw(axes, cell, window=window)
            axes.set_anchor("N")  # panels of different shapes end at one upper edge
            if j == 0 and i < len(row_titles):
                name = axes.set_ylabel(row_titles[i], fontsize=7, rotation=0, ha="right", va="center", labelpad=4)
                name.set_parse_math(False)
    return figure


def legend(owner: Axes | Figure, lines: Sequence[tuple[str, str, str]] | None = None, **layout: Any) -> None:
    """A legend whose names are plain text. lines: colour, style and name; by default of what `owner` shows.

    layout: keyword arguments of matplotlib's `legend`.
    """
    from matplotlib.lines import Line2D

    if lines is not None:
        layout["handles"] = [Line2D([], [], color=colour, ls=style, lw=2, label=name) for colour, style, name in lines]
    for text in owner.legend(**{"frameon": False} | layout).get_texts():
        text.set_parse_math(False)


def close_up(marks: np.ndarray, *, least: int | None = None, around: float = 0.75) -> Part:
    """Rows and columns of an image around all that is marked in `marks` (H,W) bool: the one rule of every figure.

    A square, of the marked area's longer side enlarged by the fraction `around` and at least `least` pixels; moved, and
    where it is larger than that cut, to lie in the image. It holds all that is marked. Where nothing is marked it is
    the whole image. Without `least` it is at least three eighths of the image's shorter side, and that square in the
    middle where nothing is marked: the part of a case that its sheet shows close by.
    """
    spans = [np.flatnonzero(marks.any(1)), np.flatnonzero(marks.any(0))]
    if not spans[0].size:
        if least is not None:
            return slice(0, marks.shape[0]), slice(0, marks.shape[1])
        spans = [np.array([length // 2]) for length in marks.shape]
    side = max(int(found[-1] - found[0]) + 1 for found in spans)
    side = max(3 * min(marks.shape) // 8 if least is None else least, round(side * (1 + around)))
    cut = []
    for found, whole in zip(spans, marks.shape, strict=True):
        length = min(side, whole)
        start = min(max(int(found[0] + found[-1] + 1) // 2 - length // 2, 0), whole - length)
        cut.append(slice(start, start + length))
    return cut[0], cut[1]


def grey_window(images: np.ndarray) -> tuple[float, float]:
    """One window for images in [0,1]: the whole range, or the central 99 % of values if they fill less than half."""
    low, high = np.percentile(images, [0.5, 99.5]).tolist()
    return (low, high) if 0 < high - low < 0.5 else (0.0, 1.0)


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
        return Cell(self.near(self.image), heat=self.near(values) / largest, title=title)


def everyones_outlines(image: np.ndarray, masks: np.ndarray, titles: tuple[str, str] = ("", "")) -> list[Cell]:
    """The whole image and the part of interest, every rater's outlines in a colour of its own.

    image: (H,W) in any unit, shown from its 1st to its 99th percentile. masks: (R,H,W) class index.
    """
    low, high = np.percentile(image, [1, 99])
    if high <= low:
        low, high = float(image.min()), max(float(image.max()), float(image.min()) + 1)
    close = CloseUp((image.astype(np.float64) - low) / (high - low), close_up((masks != 0).any(0)))
    classes = np.arange(1, int(masks.max(initial=0)) + 1)[:, None, None]
    # Outlines often coincide: the later a rater, the thinner, so that those below still show.
    contours = [
        Contour(mask == classes, COLOURS[i % len(COLOURS)], 0.8 + 1.4 * (len(masks) - 1 - i) / max(len(masks) - 1, 1))
        for i, mask in enumerate(masks)
        if mask.any()
    ]
    return [close.whole(*contours, title=titles[0]), close.contours(*contours, title=titles[1])]
