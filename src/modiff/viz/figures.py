"""Figures that a radiologist can read: grey images in one stated window, thin contours, maps that hide nothing.

Drawn on matplotlib's Agg canvas without pyplot, so nothing is shared between figures or threads. A second sign (line
style, label) always goes with a colour.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiff.errors import ConfigError, DataError
from modiff.io.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito (2008): colours that colour-blind people tell apart, those first that stand out on dark tissue.
COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00", "#0072B2")
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


@dataclass(frozen=True)
class Cell:
    """One panel: an image (H,W), (1,H,W) or RGB (3,H,W), and what is drawn on it.

    contours: outlines. isolines: a probability map (H,W), outlined at 10, 50 and 90 %. heat: a map (H,W) from 0 to
    `heat_max`, laid over the image, transparent where it is 0.
    """

    image: np.ndarray
    contours: tuple[Contour, ...] = ()
    isolines: np.ndarray | None = None
    heat: np.ndarray | None = None
    heat_max: float = 1.0
    title: str = ""


def rgb(place: int, *, white: float = 0.0) -> tuple[int, int, int]:
    """Red, green and blue (0 to 255) of the colour at `place`, counted round and round; mixed with `white` (0 to 1)."""
    code = COLOURS[place % len(COLOURS)]
    red, green, blue = (round(int(code[i : i + 2], 16) * (1 - white) + 255 * white) for i in (1, 3, 5))
    return red, green, blue


def class_styles(classes: Sequence[str]) -> str:
    """Words on how the classes' outlines differ; none for a single class."""
    if len(classes) < 2:
        return ""
    return "; outlines: " + ", ".join(map(" ".join, zip(classes, cycle(CLASS_STYLES), strict=False)))


def new_figure(width: float, height: float) -> Figure:
    """A white figure of `width` × `height` inches on its own Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def encoded(figure: Figure, kind: str, *, dpi: float = 110) -> bytes:
    """The figure as "png", "svg" (text as text) or "pdf"; the same figure gives the same bytes, on one matplotlib."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "modiff", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=_UNDATED[kind])
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    return encoded(figure, "png")


def save(figure: Figure, path: str | Path, *, dpi: float = 150) -> Path:
    """Writes a figure as PNG, SVG or PDF by the name's end, whole or not at all.

    Raises ConfigError for another end, DataError where it cannot be written.
    """
    end = Path(path).suffix.lower()
    if end[1:] not in _UNDATED:
        expected = ", ".join(f".{kind}" for kind in _UNDATED)
        raise ConfigError("not a figure's name", path=path, found=end or "no suffix", expected=expected)
    try:
        return write_bytes(path, encoded(figure, end[1:], dpi=dpi))
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror or error})", path=path) from None


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
    axes.set_xticks([])
    axes.set_yticks([])
    if cell.heat is not None:
        axes.imshow(heat_colours(np.clip(cell.heat / cell.heat_max, 0, 1)), interpolation="bilinear")
    if cell.isolines is not None:
        for level, colour in LEVELS:
            outline(axes, cell.isolines, colour, level=level, width=1.0)
    for contour in cell.contours:
        masks = contour.mask.reshape(-1, *contour.mask.shape[-2:])
        for mask, style in zip(masks, cycle(CLASS_STYLES), strict=False):
            outline(axes, mask, contour.colour, width=contour.width, style=style)
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
    axes: Axes, values: np.ndarray, colour: str, *, level: float = 0.5, width: float = 1.2, style: str = "solid"
) -> None:
    """The line where `values` (H,W), a mask or a map, cross `level`; closed at the image's border."""
    from matplotlib.collections import LineCollection
    from skimage.measure import find_contours

    height, width_px = values.shape
    lines = find_contours(np.pad(values.astype(np.float64), 1), level)
    # Back from the padded frame, and onto the border where the object is cut by it.
    paths = [np.clip(line[:, ::-1] - 1, -0.5, (width_px - 0.5, height - 0.5)) for line in lines]
    if paths:
        axes.add_collection(LineCollection(paths, colors=colour, linewidths=width, linestyles=style), autolim=False)


def contact_sheet(
    rows: Sequence[Sequence[Cell | None]],
    *,
    row_titles: Sequence[str] = (),
    window: tuple[float, float] = (0.0, 1.0),
    inches: float | Sequence[float] = 1.4,
    title: str = "",
    left: float = 0.0,
) -> Figure:
    """Rows of cells side by side, all in the same window; None leaves a gap.

    inches: width of a cell, or of each row's cells; of a row without cells it is the height. title: above the rows.
    left: inches left free, for a legend or the like.
    """
    gap, margin = 0.03, 0.1 + left + 0.062 * max(map(len, row_titles), default=0)
    widths = [float(inches)] * len(rows) if isinstance(inches, int | float) else inches
    shapes = [[cell.image.shape[-2:] for cell in row if cell] for row in rows]
    heights = [max((w * y / x for y, x in row), default=w) for w, row in zip(widths, shapes, strict=True)]
    tops = [0.19 if any(cell and cell.title for cell in row) else 0.0 for row in rows]
    height = sum(heights) + sum(tops) + gap * (len(rows) + 1) + (0.3 if title else 0.0)
    figure = new_figure(margin + max(len(row) * (w + gap) for w, row in zip(widths, rows, strict=True)), height)
    figure.text(margin / figure.get_figwidth(), 1 - 0.15 / height, title, fontsize=8, va="center", parse_math=False)
    bottom = height - (0.3 if title else 0.0)
    for i, row in enumerate(rows):
        bottom -= heights[i] + tops[i] + gap
        for j, cell in enumerate(row):
            if cell is None:
                continue
            axes = axes_at(figure, (margin + j * (widths[i] + gap), bottom, widths[i], heights[i]))
            draw(axes, cell, window=window)
            axes.set_anchor("N")  # panels of different shapes end at one upper edge
            if j == 0 and i < len(row_titles):
                label = axes.set_ylabel(row_titles[i], fontsize=7, rotation=0, ha="right", va="center", labelpad=4)
                label.set_parse_math(False)
    return figure


def axes_at(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """New axes at (left, bottom, width, height) in inches from the figure's lower left corner."""
    width, height = figure.get_size_inches()
    return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))


def legend(owner: Axes | Figure, lines: Sequence[tuple[str, str, str]] | None = None, **layout: Any) -> None:
    """A legend whose names are plain text. lines: colour, style and name; by default of what `owner` shows.

    layout: keyword arguments of matplotlib's `legend`.
    """
    from matplotlib.lines import Line2D

    if lines is not None:
        layout["handles"] = [Line2D([], [], color=colour, ls=style, lw=2, label=name) for colour, style, name in lines]
    for text in owner.legend(**{"frameon": False} | layout).get_texts():
        text.set_parse_math(False)
