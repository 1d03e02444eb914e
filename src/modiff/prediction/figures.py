"""Figures of hypotheses: an image or a slice with outlines and probabilities, and a sheet of a scan's slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modiff.prediction.summary import percent
from modiff.viz.closeup import close_up
from modiff.viz.figures import (
    COLOURS,
    LEVELS,
    Cell,
    Contour,
    axes_at,
    contact_sheet,
    draw,
    heat_colours,
    new_figure,
    png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from modiff.prediction.predict import Prediction
    from modiff.prediction.summary import Hypothesis, Summary
    from modiff.prediction.windows import Area, Window

SHOWN = 6  # hypotheses with a figure of their own; the others are given as one sum
MAX_SLICES, _ACROSS = 24, 6
_LARGE, _SMALL = 3.0, 1.97  # inches: width of the four upper panels and of the six lower ones
_LEFT, _GAP, _KEY, _HEAD = 0.4, 0.05, 0.52, 0.58  # inches: margins, the room below the upper panels and above them
_LEAST, _LEAST_OF_SCAN = 32, 48  # pixels of a close-up, at least
_MARGIN = 8  # letters


def key_figure(prediction: Prediction, *, title: str = "") -> bytes:
    """PNG: the image, or the slice of a scan on which the samples mark most, as `overlay` shows it."""
    if prediction.plan.image:
        return png(overlay(prediction.seen(0), prediction.summary, prediction.plan.shown, title=title))
    z = prediction.key_slice
    words = f"{title}   slice {z} of 0 to {prediction.plan.box.shape[0] - 1}".strip()
    return png(overlay(prediction.seen(z), prediction.slice_summary(z), prediction.plan.shown, title=words))


def slices_figure(prediction: Prediction) -> bytes:
    """PNG: up to 24 slices, evenly among those that any sample marks, with the distinct hypotheses' outlines."""
    summary, plan = prediction.summary, prediction.plan
    colours = _colours(summary)
    rows, columns = close_up(np.asarray(summary.masks.any((0, 1, 2))), least=_LEAST_OF_SCAN)
    first = plan.box.spans[0][0]
    cells = []
    for z in _chosen(summary):
        contours = _contours(summary.hypotheses, colours, (z, rows, columns), 1.0)
        image = prediction.values.cut(first + z, plan.area)[:, rows, columns]
        cells.append(Cell(image, contours=contours, title=f"slice {first + z}"))
    lines = [cells[i : i + _ACROSS] for i in range(0, len(cells), _ACROSS)]
    # Blank titles leave a margin, in which the key stands.
    figure = contact_sheet(lines, row_titles=[" " * _MARGIN] * len(lines), inches=1.9)
    width, height = figure.get_size_inches()
    numbered = [(i, hyp) for i, hyp in enumerate(summary.hypotheses, 1) if hyp.medoid in colours]  # as the files are
    for line, (number, hypothesis) in enumerate(numbered):
        words = f"{number}: {percent(hypothesis.probability)}"
        box = {"facecolor": colours[hypothesis.medoid], "pad": 2, "linewidth": 0}
        figure.text(0.06 / width, 1 - (0.35 + 0.2 * line) / height, words, fontsize=7.5, bbox=box)
    return png(figure)


def _chosen(summary: Summary) -> list[int]:
    """Slices of the box."""
    marked = np.flatnonzero(summary.masks.any((0, 1, 3, 4)))
    if not marked.size:
        return [summary.key_slice()]
    low, high = max(0, int(marked[0]) - 1), min(summary.mean.shape[1] - 1, int(marked[-1]) + 1)
    count = min(MAX_SLICES, high - low + 1)
    return sorted({round(float(place)) for place in np.linspace(low, high, count)})


def overlay(image: np.ndarray, summary: Summary, window: Window, *, title: str = "") -> Figure:
    """The figure of `summary` on `image`, the (C,H,W) values in [0,1] that the model saw through `window`.

    The first panel shows what of the window lies in the image, with the image's own pixels at its axes; the others are
    close-ups of all that any sample marks.
    """
    shown, colours = summary.hypotheses[:SHOWN], _colours(summary)
    marked = np.asarray(summary.masks[summary.weights > 0].any((0, 1)))
    place = close_up(marked, least=_LEAST, within=window.covered)
    grey = image[(slice(None), *window.inside)]
    near = grey[(slice(None), *_within(place, window))]
    aspect, close_aspect = grey.shape[1] / grey.shape[2], near.shape[1] / near.shape[2]
    upper, lower = _LARGE * max(aspect, close_aspect), _SMALL * close_aspect
    width, base = _LEFT + 4 * (_LARGE + _GAP), 0.08 + lower + 0.25 + _KEY
    figure = new_figure(width, _HEAD + upper + _KEY + 0.25 + lower + 0.08)
    most = float(np.log2(len(summary.classes) + 1))
    panels = {
        "image and close-up": Cell(grey),
        "distinct hypotheses": Cell(near, contours=_contours(shown, colours, place)),
        "mean map, probability": Cell(near, isolines=np.clip(summary.mean.sum(0), 0, 1)[place]),
        "uncertainty, bits per pixel": Cell(near, heat=summary.entropy[place], heat_max=most),
    }
    for i, (name, cell) in enumerate(panels.items()):
        height = _LARGE * (aspect if i == 0 else close_aspect)
        axes = axes_at(figure, (_left(i), base + upper - height, _LARGE, height))
        draw(axes, cell)
        axes.set_title(name, fontsize=8, pad=4)
        if i == 0:
            _locate(axes, window, place)
            _scale_bar(axes, summary, grey.shape[1:])
    nothing = [("none", f"{percent(hyp.probability)} nothing there") for hyp in shown if hyp.nothing]
    lines = [(colours[hyp.medoid], percent(hyp.probability)) for hyp in shown if not hyp.nothing]
    _key(figure, 1, base, lines + nothing)
    _key(figure, 2, base, [(colour, percent(level)) for level, colour in LEVELS])
    _heat_key(figure, most, base)
    _hypothesis_row(figure, summary, colours, near, place)
    figure.text(_LEFT / width, 1 - 0.18 / figure.get_size_inches()[1], title, fontsize=8, va="center")
    return figure


def _left(i: int) -> float:
    return _LEFT + i * (_LARGE + _GAP)


def _within(place: Area, window: Window) -> Area:
    """`place` in coordinates of the covered part."""
    rows, columns = (
        slice(part.start - bounds.start, part.stop - bounds.start)
        for part, bounds in zip(place, window.covered, strict=True)
    )
    return rows, columns


def _colours(summary: Summary) -> dict[int, str]:
    """The colours of what is outlined, by the medoid's index."""
    marking = [hypothesis.medoid for hypothesis in summary.hypotheses[:SHOWN] if not hypothesis.nothing]
    return dict(zip(marking, COLOURS, strict=False))


def _contours(
    which: Sequence[Hypothesis], colours: dict[int, str], part: tuple[int | slice, ...], width: float = 1.4
) -> tuple[Contour, ...]:
    # The most probable comes last and lies on top.
    drawn = [hypothesis for hypothesis in reversed(which) if hypothesis.medoid in colours]
    return tuple(Contour(hyp.mask[(slice(None), *part)], colours[hyp.medoid], width) for hyp in drawn)


def _locate(axes: Axes, window: Window, place: Area) -> None:
    """Where in the whole image this is, and where in it the close-up."""
    from matplotlib.patches import Rectangle

    for bounds, set_ticks in zip(window.covered, (axes.set_yticks, axes.set_xticks), strict=True):
        last = bounds.stop - bounds.start - 1
        ticks = sorted({0, last // 2, last})
        set_ticks(ticks, [str(bounds.start + tick) for tick in ticks])
    axes.tick_params(labelsize=6, length=2, pad=1)
    if place != window.covered:
        rows, columns = _within(place, window)
        corner, size = (columns.start - 0.5, rows.start - 0.5), (columns.stop - columns.start, rows.stop - rows.start)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=0.6, linestyle=(0, (4, 4))))


def _scale_bar(axes: Axes, summary: Summary, shape: tuple[int, ...]) -> None:
    if summary.spacing is None:
        return
    across = shape[1] * summary.spacing[1]
    length = next((mm for mm in (50, 20, 10, 5, 2, 1) if mm < across / 3), None)
    if length is None:
        return
    y, x = shape[0] * 0.95, shape[1] * 0.04
    axes.plot([x, x + length / summary.spacing[1]], [y, y], color="white", linewidth=1.5)
    axes.text(x, y - shape[0] * 0.02, f"{length} mm", color="white", fontsize=6, va="bottom")


def _key(figure: Figure, column: int, base: float, lines: list[tuple[str, str]]) -> None:
    """A legend, colours with words, below an upper panel: nothing of it lies on the image."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    layout: dict[str, Any] = {"ncols": 4, "loc": "upper left", "frameon": False, "fontsize": 7.5, "borderaxespad": 0}
    figure.legend(
        handles=[Line2D([], [], color=colour, linewidth=2, label=words) for colour, words in lines],
        bbox_to_anchor=((_left(column) + 0.15) / width, (base - 0.04) / height),
        handlelength=1.2,
        columnspacing=1.0,
        **layout,
    )


def _heat_key(figure: Figure, most: float, base: float) -> None:
    axes = axes_at(figure, (_left(3) + 0.3, base - 0.17, 1.4, 0.09))
    axes.set_facecolor("0.15")
    axes.imshow(heat_colours(np.linspace(0, 1, 128)[None]), aspect="auto", extent=(0, most, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, most], ["0", f"{most:.3g}"])
    axes.tick_params(labelsize=6.5, length=2, pad=1)


def _hypothesis_row(figure: Figure, summary: Summary, colours: dict[int, str], near: np.ndarray, part: Area) -> None:
    """Each hypothesis by itself; "nothing there" is one: the plain image."""
    step = (4 * (_LARGE + _GAP) - _GAP - _SMALL) / (SHOWN - 1)
    height = _SMALL * near.shape[1] / near.shape[2]
    for i, hypothesis in enumerate(summary.hypotheses[:SHOWN]):
        axes = axes_at(figure, (_LEFT + i * step, 0.08, _SMALL, height))
        draw(axes, Cell(near, contours=_contours((hypothesis,), colours, part)))
        axes.set_title(f"{percent(hypothesis.probability)}   {summary.size_text(hypothesis)}", fontsize=8, pad=4)
    rest = summary.hypotheses[SHOWN:]
    if rest:
        together = percent(sum(hypothesis.probability for hypothesis in rest))
        text = f"{len(rest)} rarer hypotheses, not drawn: {together} together"
        width, top = figure.get_size_inches()
        figure.text(1 - 0.05 / width, 1 - 0.18 / top, text, fontsize=8, va="center", ha="right")
