"""Pictures of a scan's hypotheses: its key slice as an image's, and a sheet of slices."""

from __future__ import annotations

import numpy as np

from modiff.prediction.volume_summary import VolumeSummary
from modiff.prediction.volumes import VolumeSamples
from modiff.prediction.window import Window
from modiff.prediction.words import percent

MAX_SLICES, _ACROSS = 24, 6
_MARGIN = 8  # letters
_SHOWN = 6  # hypotheses outlined
_CLOSE, _AROUND = 48, 0.75  # the cut-out: at least so many pixels, and this share of the marked area's size around it


def key_picture(samples: VolumeSamples, summary: VolumeSummary, *, title: str = "") -> bytes:
    """PNG: the slice on which the samples mark most, as `overlay` shows an image."""
    from modiff.prediction.overlay import overlay
    from modiff.viz.figures import png

    z = summary.key_slice()
    window = box_window(samples)
    shown = samples.values.cut(z, window)
    words = f"{title}   slice {z} of 0 to {summary.box.shape[0] - 1}"
    return png(overlay(shown, summary.of_slice(samples, z), window, title=words.strip()))


def slices_picture(samples: VolumeSamples, summary: VolumeSummary) -> bytes:
    """PNG: up to 24 slices, evenly among those that any sample marks, with the distinct hypotheses' outlines."""
    from modiff.viz.figures import COLOURS, Cell, Contour, contact_sheet, png

    numbered = enumerate(summary.hypotheses[:_SHOWN], 1)  # as the files are
    shown = [(number, hypothesis) for number, hypothesis in numbered if not hypothesis.nothing]
    window = _box(samples)
    rows, columns = _cut_out(summary)
    first = summary.box.spans[0][0]
    cells = []
    for place in _chosen(summary):
        contours = tuple(
            Contour(summary.mask_of(hypothesis)[:, place, rows, columns], colour, 1.0)
            for (_, hypothesis), colour in reversed(list(zip(shown, COLOURS, strict=False)))
        )
        image = samples.values.cut(first + place, window)[:, rows, columns]
        cells.append(Cell(image, contours=contours, title=f"slice {first + place}"))
    rows_of_cells = [cells[i : i + _ACROSS] for i in range(0, len(cells), _ACROSS)]
    # Blank titles leave a margin, in which the key stands.
    figure = contact_sheet(rows_of_cells, row_titles=[" " * _MARGIN] * len(rows_of_cells), inches=1.9)
    width, height = figure.get_size_inches()
    for i, ((number, hypothesis), colour) in enumerate(zip(shown, COLOURS, strict=False)):
        words = f"{number}: {percent(hypothesis.probability)}"
        y = 1 - (0.35 + 0.2 * i) / height
        figure.text(0.06 / width, y, words, fontsize=7.5, bbox={"facecolor": colour, "pad": 2, "linewidth": 0})
    return png(figure)


def box_window(samples: VolumeSamples) -> Window:
    """What a picture of a slice shows: the model's own window where it is one, else the box."""
    plan = samples.plan
    return _box(samples) if plan.slid else plan.windows[0]


def _box(samples: VolumeSamples) -> Window:
    plan = samples.plan
    _, (top, bottom), (left, right) = plan.box.spans
    return Window((plan.box.shape[1], plan.box.shape[2]), (bottom - top, right - left), top, left)


def _chosen(summary: VolumeSummary) -> list[int]:
    """Places in the box."""
    marked = np.flatnonzero(summary.masks.any((0, 1, 3, 4)))
    if not marked.size:
        return [summary.key_slice() - summary.box.spans[0][0]]
    low, high = max(0, int(marked[0]) - 1), min(summary.box.size[0] - 1, int(marked[-1]) + 1)
    count = min(MAX_SLICES, high - low + 1)
    return sorted({round(float(place)) for place in np.linspace(low, high, count)})


def _cut_out(summary: VolumeSummary) -> tuple[slice, slice]:
    """Rows and columns of the box around all that a sample marks."""
    marked = np.asarray(summary.masks.any((0, 1, 2)))
    if not marked.any():
        return slice(None), slice(None)
    spans = [np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))]
    side = max(int(found[-1] - found[0]) + 1 for found in spans)
    side = max(_CLOSE, round(side * (1 + _AROUND)))
    cut = []
    for found, size in zip(spans, marked.shape, strict=True):
        length = min(side, size)
        start = min(max(int(found[0] + found[-1] + 1) // 2 - length // 2, 0), size - length)
        cut.append(slice(start, start + length))
    return cut[0], cut[1]
