"""One picture of an image's hypotheses: outlines with probabilities, mean map, uncertainty, and each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modiff.prediction.words import area_text, percent
from modiff.viz.figures import COLOURS, LEVELS, Cell, Contour, axes_at, draw, heat_colours, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from modiff.prediction.summary import Hypothesis, Summary
    from modiff.prediction.window import Window

SHOWN = 6  # hypotheses with a picture of their own; the others are given as one sum
_LARGE, _SMALL = 3.0, 1.97  # inches: width of the four upper pictures and of the six lower ones
_LEFT, _GAP, _KEY, _HEAD = 0.4, 0.05, 0.52, 0.58  # inches: margins, the room below the upper pictures and above them
_CLOSE, _AROUND = 32, 0.75  # the close-up: at least so many pixels, and this share of the marked area's size around it


def overlay(image: np.ndarray, summary: Summary, window: Window, *, title: str = "") -> Figure:
    """The figure of `summary` on `image`, the (C,H,W) values in [0,1] that the model saw through `window`.

    The first picture shows what of the window lies in the image, with the image's own pixels at its axes; the others
    are close-ups of all that any sample marks.
    """
    shown = summary.hypotheses[:SHOWN]
    colours = _colours(shown)
    place = close_up(summary, window)
    grey = image[(slice(None), *window.inside)]
    near = grey[(slice(None), *_within(place, window))]
    part = (..., *place)
    aspect, close_aspect = grey.shape[1] / grey.shape[2], near.shape[1] / near.shape[2]
    upper, lower = _LARGE * max(aspect, close_aspect), _SMALL * close_aspect
    width = _LEFT + 4 * (_LARGE + _GAP)
    figure = new_figure(width, _HEAD + upper + _KEY + 0.25 + lower + 0.08)
    base = 0.08 + lower + 0.25 + _KEY
    most = float(np.log2(len(summary.classes) + 1))
    whole, hypotheses, mean, doubt = (
        Cell(grey),
        Cell(near, contours=_contours(shown, colours, part)),
        Cell(near, isolines=np.clip(summary.mean.sum(0), 0, 1)[part]),
        Cell(near, heat=summary.entropy[part], heat_max=most),
    )
    names = ("image and close-up", "distinct hypotheses", "mean map, probability", "uncertainty, bits a pixel")
    for i, (cell, name) in enumerate(zip((whole, hypotheses, mean, doubt), names, strict=True)):
        height = _LARGE * (aspect if i == 0 else close_aspect)
        axes = axes_at(figure, (_left(i), base + upper - height, _LARGE, height))
        draw(axes, cell)
        axes.set_title(name, fontsize=8, pad=4)
        if i == 0:
            _locate(axes, window, place)
            _scale_bar(axes, summary, grey.shape[1:])
    _hypothesis_key(figure, shown, colours, base)
    _isoline_key(figure, base)
    _heat_key(figure, most, base)
    _hypothesis_row(figure, summary, colours, near, part)
    figure.text(_LEFT / width, 1 - 0.18 / figure.get_size_inches()[1], title, fontsize=8, va="center")
    return figure


def close_up(summary: Summary, window: Window) -> tuple[slice, slice]:
    """Rows and columns of the image around all that a sample marks, within the window; all of it where none does."""
    marked = summary.masks[summary.weights > 0]
    if not marked.any():
        return window.covered
    sides = [np.flatnonzero(marked.any((0, 1, other))) for other in (3, 2)]
    side = max(int(found[-1] - found[0]) + 1 for found in sides)
    side = max(_CLOSE, round(side * (1 + _AROUND)))
    place = []
    for found, bounds in zip(sides, window.covered, strict=True):
        length = min(side, bounds.stop - bounds.start)
        start = int(found[0] + found[-1] + 1) // 2 - length // 2
        start = min(max(start, bounds.start), bounds.stop - length)
        place.append(slice(start, start + length))
    return place[0], place[1]


def _left(i: int) -> float:
    return _LEFT + i * (_LARGE + _GAP)


def _within(place: tuple[slice, slice], window: Window) -> tuple[slice, slice]:
    """`place` in coordinates of the covered part."""
    rows, columns = (
        slice(part.start - bounds.start, part.stop - bounds.start)
        for part, bounds in zip(place, window.covered, strict=True)
    )
    return rows, columns


def _colours(shown: tuple[Hypothesis, ...]) -> dict[int, str]:
    marking = [hypothesis.medoid for hypothesis in shown if not hypothesis.nothing]
    return dict(zip(marking, COLOURS, strict=False))


def _contours(which: tuple[Hypothesis, ...], colours: dict[int, str], part: tuple) -> tuple[Contour, ...]:
    # The most probable comes last and lies on top.
    marking = [hypothesis for hypothesis in reversed(which) if not hypothesis.nothing]
    return tuple(Contour(hypothesis.mask[part], colours[hypothesis.medoid], 1.4) for hypothesis in marking)


def _locate(axes: Axes, window: Window, place: tuple[slice, slice]) -> None:
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


def _key(figure: Figure, column: int, base: float, handles: list[Any]) -> None:
    """A legend below an upper picture: nothing of it lies on the image."""
    width, height = figure.get_size_inches()
    spot = ((_left(column) + 0.15) / width, (base - 0.04) / height)
    figure.legend(
        handles=handles,
        ncols=4,
        loc="upper left",
        bbox_to_anchor=spot,
        frameon=False,
        fontsize=7.5,
        borderaxespad=0,
        handlelength=1.2,
        columnspacing=1.0,
    )


def _hypothesis_key(figure: Figure, shown: tuple[Hypothesis, ...], colours: dict[int, str], base: float) -> None:
    from matplotlib.lines import Line2D

    marking = [hypothesis for hypothesis in shown if not hypothesis.nothing]
    handles = [
        Line2D([], [], color=colours[hypothesis.medoid], linewidth=2, label=percent(hypothesis.probability))
        for hypothesis in marking
    ]
    empty = [
        Line2D([], [], color="none", label=f"{percent(hypothesis.probability)} nothing there")
        for hypothesis in shown
        if hypothesis.nothing
    ]
    _key(figure, 1, base, handles + empty)


def _isoline_key(figure: Figure, base: float) -> None:
    from matplotlib.lines import Line2D

    _key(figure, 2, base, [Line2D([], [], color=colour, linewidth=2, label=percent(p)) for p, colour in LEVELS])


def _heat_key(figure: Figure, most: float, base: float) -> None:
    axes = axes_at(figure, (_left(3) + 0.3, base - 0.17, 1.4, 0.09))
    axes.set_facecolor("0.15")
    axes.imshow(heat_colours(np.linspace(0, 1, 128)[None]), aspect="auto", extent=(0, most, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, most], ["0", f"{most:.3g}"])
    axes.tick_params(labelsize=6.5, length=2, pad=1)


def _hypothesis_row(figure: Figure, summary: Summary, colours: dict[int, str], near: np.ndarray, part: tuple) -> None:
    """Each hypothesis by itself; "nothing there" is one: the plain image."""
    step = (4 * (_LARGE + _GAP) - _GAP - _SMALL) / (SHOWN - 1)
    height = _SMALL * near.shape[1] / near.shape[2]
    for i, hypothesis in enumerate(summary.hypotheses[:SHOWN]):
        axes = axes_at(figure, (_LEFT + i * step, 0.08, _SMALL, height))
        draw(axes, Cell(near, contours=_contours((hypothesis,), colours, part)))
        text = f"{percent(hypothesis.probability)}   {area_text(hypothesis, summary)}"
        axes.set_title(text, fontsize=8, pad=4)
    rest = summary.hypotheses[SHOWN:]
    if rest:
        share = percent(sum(hypothesis.probability for hypothesis in rest))
        text = f"{len(rest)} rarer hypotheses, not drawn: {share} together"
        width, top = figure.get_size_inches()
        figure.text(1 - 0.05 / width, 1 - 0.18 / top, text, fontsize=8, va="center", ha="right")
