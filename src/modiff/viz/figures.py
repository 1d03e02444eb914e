"""Figures that a radiologist can read: grey images in one stated window, thin contours, maps that hide nothing.

Drawn on matplotlib's Agg canvas without pyplot, so nothing is shared between figures or threads. A second sign (line
style, label) always goes with a colour.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modiff.viz.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASS_STYLES = ("solid", "dashed", "dotted", "dashdot")
LEVELS = ((0.1, COLOURS[1]), (0.5, COLOURS[2]), (0.9, COLOURS[5]))  # isolines of a probability map
HEAT = "magma"  # uniform to the eye and monotonous in lightness, so it survives grey printing
_DPI = 110


@dataclass(frozen=True)
class Contour:
    """The outline of a mask (H,W) or (K,H,W) bool; classes differ by line style."""

    mask: np.ndarray
    colour: str
    width: float = 1.2


@dataclass(frozen=True)
class Cell:
    """One picture: an image (H,W), (1,H,W) or RGB (3,H,W), and what is drawn on it.

    contours: outlines. isolines: a probability map (H,W), outlined at 10, 50 and 90 %. heat: a map (H,W) from 0 to
    `heat_max`, laid over the image, transparent where it is 0.
    """

    image: np.ndarray
    contours: tuple[Contour, ...] = ()
    isolines: np.ndarray | None = None
    heat: np.ndarray | None = None
    heat_max: float = 1.0
    title: str = ""


def class_styles(classes: Sequence[str]) -> str:
    """Words on how the classes' outlines differ; none for a single class."""
    if len(classes) < 2:
        return ""
    told = (f"{name} {CLASS_STYLES[kind % len(CLASS_STYLES)]}" for kind, name in enumerate(classes))
    return f"; outlines: {', '.join(told)}"


def new_figure(width: float, height: float) -> Figure:
    """A white figure of `width` × `height` inches on its own Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes, on the same matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as SVG with its text as text; the same figure gives the same bytes, on the same matplotlib."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "modiff"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def draw(axes: Axes, cell: Cell, *, window: tuple[float, float] = (0.0, 1.0)) -> None:
    """Draws `cell`: values from `window[0]` (black) to `window[1]` (white), the same for all cells of a figure."""
    show_image(axes, cell.image, window=window)
    if cell.heat is not None:
        show_heat(axes, cell.heat, largest=cell.heat_max)
    if cell.isolines is not None:
        for level, colour in LEVELS:
            outline(axes, cell.isolines, colour, level=level, width=1.0)
    for contour in cell.contours:
        masks = contour.mask if contour.mask.ndim == 3 else contour.mask[None]
        for kind, mask in enumerate(masks):
            style = CLASS_STYLES[kind % len(CLASS_STYLES)]
            outline(axes, mask, contour.colour, width=contour.width, style=style)
    if cell.title:
        axes.set_title(cell.title, fontsize=7, pad=3, parse_math=False)


def show_image(axes: Axes, image: np.ndarray, *, window: tuple[float, float] = (0.0, 1.0)) -> None:
    """An image (H,W) or (C,H,W) between two values; three channels as colours, otherwise the first one in grey."""
    low, high = window
    if image.ndim == 3 and image.shape[0] == 3:
        axes.imshow(np.clip((np.moveaxis(image, 0, 2) - low) / (high - low), 0, 1), interpolation="bilinear")
    else:
        grey = image if image.ndim == 2 else image[0]
        axes.imshow(grey, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
    axes.set_xticks([])
    axes.set_yticks([])


def heat_colours(share: np.ndarray, *, opacity: float = 0.55) -> np.ndarray:
    """RGBA (…,4) of values in [0,1]: the smaller the value, the more one sees through it."""
    from matplotlib import colormaps

    # The map's dark end is left out: on a dark image it would look like tissue.
    coloured = np.asarray(colormaps[HEAT](0.3 + 0.7 * share))
    coloured[..., 3] = opacity * np.sqrt(share)
    return coloured


def show_heat(axes: Axes, values: np.ndarray, *, largest: float = 1.0) -> None:
    """A map (H,W) from 0 to `largest` over what is there, in `heat_colours`."""
    axes.imshow(heat_colours(np.clip(values / largest, 0, 1)), interpolation="bilinear")


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
    inches: float = 1.4,
    below: float = 0.0,
) -> Figure:
    """Rows of cells side by side, all in the same window; None leaves a gap.

    inches: width of a cell. below: of the room left below the rows.
    """
    gap, title = 0.03, 0.19
    margin = 0.1 + 0.062 * max(map(len, row_titles), default=0)
    heights = [_cell_height(row, inches) for row in rows]
    titled = [title if any(cell is not None and cell.title for cell in row) else 0.0 for row in rows]
    figure = new_figure(
        margin + max(map(len, rows)) * (inches + gap), sum(heights) + sum(titled) + gap * (len(rows) + 1) + below
    )
    bottom = float(figure.get_size_inches()[1])
    for i, row in enumerate(rows):
        bottom -= heights[i] + titled[i] + gap
        for j, cell in enumerate(row):
            if cell is None:
                continue
            axes = axes_at(figure, (margin + j * (inches + gap), bottom, inches, heights[i]))
            draw(axes, cell, window=window)
            if j == 0 and i < len(row_titles):
                label = axes.set_ylabel(row_titles[i], fontsize=7, rotation=0, ha="right", va="center", labelpad=4)
                label.set_parse_math(False)
    return figure


def axes_at(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """New axes at (left, bottom, width, height) in inches from the figure's lower left corner."""
    width, height = figure.get_size_inches()
    return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))


def _cell_height(row: Sequence[Cell | None], inches: float) -> float:
    shapes = [cell.image.shape[-2:] for cell in row if cell is not None]
    return max((inches * height / width for height, width in shapes), default=inches)
