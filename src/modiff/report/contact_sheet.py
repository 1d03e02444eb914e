"""A picture of a few cases: the whole image, and its lesions close by with every rater's outline in its own colour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modiff.data.store import Store
from modiff.errors import DataError
from modiff.io.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# After Okabe and Ito (2008), told apart by all common kinds of colour vision; brightened where grey would swallow them.
COLOURS = ("#E69F00", "#56B4E9", "#00C08B", "#F0E442", "#FF6A3C", "#E58BC0")
_LINES = ("solid", "dashed", "dotted", "dashdot")  # one a class
_COLUMNS = 4
_MARGIN = 1.0  # of the marked region's larger side, left around it on each side
_SMALLEST = 32  # pixels a side of the close-up, as far as the image has them


def contact_sheet(store: Store, path: str | Path, *, count: int = 12, seed: int = 0, split: str | None = None) -> None:
    """Writes a PNG of `count` cases drawn at random from a split, the same for the same seed; shows channel 0."""
    from matplotlib.figure import Figure

    there = store.rows(split)
    rows = np.sort(np.random.default_rng(seed).choice(there, min(count, len(there)), replace=False))
    columns = min(_COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.4 * lines + 0.5), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(lines, 2 * columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for place, row in enumerate(rows.tolist()):
        line, column = divmod(place, columns)
        _draw(store, row, panels[line, 2 * column], panels[line, 2 * column + 1])
    _legend(figure, store)
    try:
        with replacing(path) as beside:
            figure.savefig(beside, format="png")
    except OSError as error:
        raise DataError("cannot be written", path=path, found=error.strerror) from error


def _draw(store: Store, row: int, whole: Axes, close: Axes) -> None:
    from matplotlib.patches import Rectangle

    image, masks, read = store.image(row)[0], store.masks(row), store.read[row]
    for axes in (whole, close):
        axes.imshow(image, cmap="gray", interpolation="nearest")
    top, left, side = _region(masks)
    whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="white", linewidth=0.6, alpha=0.7))
    close.set_xlim(left, left + side)
    close.set_ylim(top + side, top)
    _outline(close, masks)
    marking = int((masks.reshape(len(masks), -1).any(1) & read).sum())
    whole.set_title(str(store.cases[row]), fontsize=7, loc="left")
    close.set_title(f"{marking} of {int(read.sum())} mark", fontsize=7, loc="right")


def _region(masks: np.ndarray) -> tuple[float, float, float]:
    """Top, left and side of the square that is shown close by: around what anyone marked, else the image's centre."""
    height, width = masks.shape[1:]
    rows, columns = np.nonzero(masks.any(0))
    centre, extent = ((height - 1) / 2, (width - 1) / 2), 0.0
    if rows.size:
        centre = ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2)
        extent = float(max(np.ptp(rows), np.ptp(columns))) + 1
    side = float(min(max(extent * (1 + 2 * _MARGIN), _SMALLEST), height, width))
    top = min(max(centre[0] - side / 2, -0.5), height - 0.5 - side)
    left = min(max(centre[1] - side / 2, -0.5), width - 0.5 - side)
    return float(top), float(left), side


def _outline(axes: Axes, masks: np.ndarray) -> None:
    raters = len(masks)
    for rater, mask in enumerate(masks):
        # Outlines often coincide: the later, the thinner, so that those below still show.
        width = 0.7 + 1.5 * (raters - 1 - rater) / max(raters - 1, 1)
        for index in np.unique(mask[mask > 0]).tolist():
            # A border of background closes the outline of what touches the image's edge.
            padded = np.pad(mask == index, 1)
            x, y = np.arange(padded.shape[1]) - 1, np.arange(padded.shape[0]) - 1
            axes.contour(
                x,
                y,
                padded,
                levels=[0.5],
                colors=[COLOURS[rater % len(COLOURS)]],
                linewidths=width,
                linestyles=_LINES[(index - 1) % len(_LINES)],
            )


def _legend(figure: Figure, store: Store) -> None:
    from matplotlib.lines import Line2D

    keys = [
        Line2D([], [], color=COLOURS[rater % len(COLOURS)], lw=2, label=name)
        for rater, name in enumerate(store.info.raters)
    ]
    if len(store.info.classes) > 1:
        keys += [
            Line2D([], [], color="black", ls=_LINES[place % len(_LINES)], label=name)
            for place, name in enumerate(store.info.classes)
        ]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 8), fontsize=8, frameon=False)
