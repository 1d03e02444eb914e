"""Figures of hypotheses: an image or a slice with outlines and probabilities, and a sheet of a scan's slices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modiff.prediction.summary import percent
from modiff.viz.figures import COLOURS, LEVELS, CloseUp, Contour, close_up, contact_sheet, encoded, heat_colours, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from modiff.prediction.plan import Window
    from modiff.prediction.predict import Prediction
    from modiff.prediction.summary import Summary

SHOWN = 6  # hypotheses with a figure of their own; the others are given as one sum
MAX_SLICES, _ACROSS = 24, 6
_LARGE, _SMALL, _KEYS = 3.0, 1.99, 0.45  # inches: width of the upper panels and of the lower ones, room for keys
_LEAST, _LEAST_OF_SCAN = 32, 48  # pixels of a close-up, at least


def key_figure(prediction: Prediction, *, title: str = "") -> bytes:
    """PNG: the image, or the slice of a scan on which the samples mark most, as `overlay` shows it."""
    plan, z, summary = prediction.plan, 0, prediction.summary
    if not plan.image:
        z = prediction.key_slice
        summary = prediction.slice_summary(z)
        title = f"{title}   slice {z} of 0 to {plan.box.shape[0] - 1}".strip()
    return encoded(overlay(prediction.values.cut(z, plan.shown), summary, plan.shown, title=title))


def slices_figure(prediction: Prediction) -> bytes:
    """PNG: up to 24 slices, evenly among those that any sample marks, with the distinct hypotheses' outlines."""
    summary, plan = prediction.summary, prediction.plan
    first = plan.box.spans[0][0]
    part = close_up(np.asarray(summary.masks.any((0, 1, 2))), least=_LEAST_OF_SCAN)
    marked = np.flatnonzero(summary.masks.any((0, 1, 3, 4)))
    chosen = [summary.key_slice()]
    if marked.size:
        low, high = max(0, int(marked[0]) - 1), min(plan.box.size[0] - 1, int(marked[-1]) + 1)
        places = np.linspace(low, high, min(MAX_SLICES, high - low + 1))
        chosen = sorted({round(float(place)) for place in places})
    cells = []
    for z in chosen:
        close = CloseUp(prediction.values.cut(first + z, plan.area), part)
        outlines = _outlines(summary, (z,), 1.0)
        cells.append(close.contours(*reversed(outlines.values()), title=f"slice {first + z}"))
    figure = contact_sheet([cells[i : i + _ACROSS] for i in range(0, len(cells), _ACROSS)], inches=1.9, left=0.7)
    numbered = [(i, hyp) for i, hyp in enumerate(summary.hypotheses, 1) if hyp.medoid in outlines]  # as the files are
    keys = [(outlines[hyp.medoid].colour, "solid", f"{i}: {percent(hyp.probability)}") for i, hyp in numbered]
    legend(figure, keys, loc="upper left", fontsize=7.5, handlelength=1.2, borderaxespad=0.2)
    return encoded(figure)


def overlay(image: np.ndarray, summary: Summary, window: Window, *, title: str = "") -> Figure:
    """The figure of `summary` on `image`, the (C,H,W) values in [0,1] that the model saw through `window`.

    The first panel shows what of the window lies in the image, with the image's own pixels at its axes; the others are
    close-ups of all that any sample marks: below, each hypothesis by itself; "nothing there" is one, the plain image.
    """
    shown, rest, covered = summary.hypotheses[:SHOWN], summary.hypotheses[SHOWN:], window.covered
    marked = np.asarray(summary.masks[summary.weights > 0].any((0, 1)))[covered]
    close = CloseUp(image[(slice(None), *window.inside)], close_up(marked, least=_LEAST))
    most = float(np.log2(len(summary.classes) + 1))
    outlines = _outlines(summary, covered)
    panels = [
        close.whole(title="image and close-up"),
        close.contours(*reversed(outlines.values()), title="distinct hypotheses"),  # the most probable lies on top
        close.probability(np.clip(summary.mean.sum(0), 0, 1)[covered], "mean map, probability"),
        close.heat(summary.entropy[covered], most, "uncertainty, bits per pixel"),
    ]
    single, keys, nothing = [], [], []
    for hyp in shown:
        words, own = percent(hyp.probability), [] if hyp.nothing else [outlines[hyp.medoid]]
        single.append(close.contours(*own, title=f"{words}   {summary.size_text(hyp)}"))
        keys += [(outline.colour, words) for outline in own]
        nothing += [("none", f"{words} nothing there")] if hyp.nothing else []
    figure = contact_sheet([panels, [], single], inches=(_LARGE, _KEYS, _SMALL), title=title, left=0.3)
    whole, distinct, mean, entropy = figure.axes[:4]
    _locate(whole, window, summary.spacing)
    levels = [(colour, percent(level)) for level, colour in LEVELS]
    for axes, lines in ((distinct, keys + nothing), (mean, levels)):
        layout = {"loc": "upper left", "bbox_to_anchor": (0.04, -0.01), "borderaxespad": 0, "fontsize": 7.5}
        legend(axes, [(c, "solid", name) for c, name in lines], ncols=4, handlelength=1.2, columnspacing=1.0, **layout)
    _, height, width = close.near(close.image).shape
    inch = width / height / _LARGE  # in parts of the panel's height
    scale = entropy.inset_axes((0.1, -0.17 * inch, 0.47, 0.09 * inch), facecolor="0.15")
    scale.imshow(heat_colours(np.linspace(0, 1, 128)[None]), aspect="auto", extent=(0, most, 0, 1))
    scale.set_yticks([])
    scale.set_xticks([0, most], ["0", f"{most:.3g}"])
    scale.tick_params(labelsize=6.5, length=2, pad=1)
    if rest:
        together = percent(sum(hypothesis.probability for hypothesis in rest))
        text = f"{len(rest)} rarer hypotheses, not drawn: {together} together"
        wide, high = figure.get_size_inches()
        figure.text(1 - 0.05 / wide, 1 - 0.15 / high, text, fontsize=8, va="center", ha="right")
    return figure


def _outlines(summary: Summary, part: tuple[slice | int, ...], width: float = 1.4) -> dict[int, Contour]:
    """In a part of an image, or on a slice: the outline of each hypothesis that is shown, by its medoid's index."""
    marking = [hypothesis for hypothesis in summary.hypotheses[:SHOWN] if not hypothesis.nothing]
    return {
        hypothesis.medoid: Contour(hypothesis.mask[(slice(None), *part)], colour, width)
        for hypothesis, colour in zip(marking, COLOURS, strict=False)
    }


def _locate(axes: Axes, window: Window, spacing: tuple[float, ...] | None) -> None:
    """Where in the whole image a panel lies, at its axes, and a scale bar."""
    sides = []
    for bounds, set_ticks in zip(window.covered, (axes.set_yticks, axes.set_xticks), strict=True):
        sides.append(bounds.stop - bounds.start)
        ticks = sorted({0, (sides[-1] - 1) // 2, sides[-1] - 1})
        set_ticks(ticks, [str(bounds.start + tick) for tick in ticks])
    axes.tick_params(labelsize=6, length=2, pad=1)
    pixel = 0.0 if spacing is None else spacing[1]
    length = next((mm for mm in (50, 20, 10, 5, 2, 1) if mm < sides[1] * pixel / 3), None)
    if length is not None:
        y, x = sides[0] * 0.95, sides[1] * 0.04
        axes.plot([x, x + length / pixel], [y, y], color="white", linewidth=1.5)
        axes.text(x, y - sides[0] * 0.02, f"{length} mm", color="white", fontsize=6, va="bottom")
