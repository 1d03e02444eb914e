"""A figure of a few cases: the whole image, and its lesions close by with every rater's outline in its own colour."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modiff.data.store import Store
from modiff.errors import DataError
from modiff.io.files import replacing
from modiff.viz import figures
from modiff.viz.sheets import everyones_outlines, part_of_interest, rater_colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4
_LEGEND = 0.4  # inches below the cells


def contact_sheet(store: Store, path: str | Path, *, count: int = 12, seed: int = 0, split: str | None = None) -> None:
    """Writes a PNG of `count` cases drawn at random from a split, the same for the same seed; shows channel 0."""
    there = store.rows(split)
    rows = np.sort(np.random.default_rng(seed).choice(there, min(count, len(there)), replace=False))
    pairs = [_pair(store, row) for row in rows.tolist()]
    lines = [[*chain(*pairs[i : i + _COLUMNS])] for i in range(0, len(pairs), _COLUMNS)]
    figure = figures.contact_sheet(lines, inches=2.1, below=_LEGEND)
    _add_legend(figure, store)
    try:
        with replacing(path) as beside:
            beside.write_bytes(figures.png(figure))
    except OSError as error:
        raise DataError("cannot be written", path=path, found=error.strerror) from error


def _pair(store: Store, row: int) -> list[figures.Cell | None]:
    masks, read = store.masks(row), store.read[row]
    marking = int((masks.any((1, 2)) & read).sum())
    titles = (str(store.cases[row]), f"{marking} of {int(read.sum())} raters marked something")
    return [*everyones_outlines(store.image(row)[0], masks, part_of_interest(np.any(masks > 0, axis=0)), titles)]


def _add_legend(figure: Figure, store: Store) -> None:
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=rater_colour(i), lw=2, label=name) for i, name in enumerate(store.info.raters)]
    if len(store.info.classes) > 1:
        styles = figures.CLASS_STYLES
        keys += [
            Line2D([], [], color="black", ls=styles[i % len(styles)], label=name)
            for i, name in enumerate(store.info.classes)
        ]
    legend = figure.legend(handles=keys, loc="lower center", ncols=min(len(keys), 8), fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
