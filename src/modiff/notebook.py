"""What a notebook shows of an object: its facts in a table and a figure, which is matplotlib's and no file.

Figures are made without pyplot, so nothing is shared between them; names are other people's text and are escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from modiff.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL = "text-align:left;padding:1px 10px 1px 0"


def card(title: str, facts: Mapping[str, object], figure: Figure | None = None) -> str:
    """HTML of a title, a row for each fact, and a figure."""
    rows = (
        f'<tr><th style="{_CELL}">{_text(name)}</th><td style="{_CELL}">{_text(fact)}</td></tr>'
        for name, fact in facts.items()
    )
    data = "" if figure is None else base64.b64encode(_png(figure)).decode("ascii")
    shown = data and f'<img alt="{_text(title)}" src="data:image/png;base64,{data}">'
    return f"<div><b>{_text(title)}</b><table>{''.join(rows)}</table>{shown}</div>"


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def displayed(figure: Figure) -> Figure:
    """The figure, as a cell's result shown also where pyplot is not loaded, which is what makes notebooks draw one."""
    setattr(figure, "_repr_png_", partial(_png, figure))  # noqa: B010  not a name of Figure
    return figure


def grid(maps: np.ndarray, titles: Sequence[str], *, columns: int = 8) -> Figure:
    """Maps (M,H,W) of values in [0,1], black to white, side by side in rows of `columns`."""
    from matplotlib.figure import Figure

    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    height = min(max(1.5 * maps.shape[1] / maps.shape[2], 0.5), 4.0)  # readable where maps are long and thin
    figure = Figure(figsize=(1.3 * columns, height * rows), layout="constrained")
    for place, (values, title) in enumerate(zip(maps, titles, strict=True), 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(values, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(printable(title), fontsize=7, pad=3, parse_math=False)
    return displayed(figure)
