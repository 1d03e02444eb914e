"""Results on a terminal: each line names the protocol, n, threshold, split, images and interval of its number."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from modiff.evaluation import words
from modiff.evaluation.records import Record, Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLUMNS = ("metric", "predictor", "protocol", "n", "steps", "threshold", "split", "images", "value", "95 % interval")
_NUMBERS = {"n", "steps", "images", "value", "95 % interval"}
_WIDTH = 150  # where output goes to a file: lines are not to be cut at 80


def results_table(result: Result) -> Table:
    """All predictors on all images; below, the model in each stratum."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("stratum", *_COLUMNS):
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    shown = [record for record in result.results if record.stratum == "all"]
    strata = [r for r in result.results if r.stratum != "all" and r.predictor == "model" and not words.is_difference(r)]
    previous: tuple[object, ...] | None = None
    for record in [*shown, *sorted(strata, key=lambda record: list(words.STRATA).index(record.stratum))]:
        group = (record.stratum, record.protocol, record.threshold, record.n)
        if previous is not None and group[:1] != previous[:1]:
            table.add_section()
        elif previous is not None and group != previous:
            table.add_row()
        previous = group
        bold = record.predictor == "model" and not words.is_difference(record)
        table.add_row(
            words.STRATA[record.stratum], *_cells(record, result.undefined(record)), style="bold" if bold else ""
        )
    return table


def _cells(record: Record, undefined: int) -> list[str]:
    return [
        words.metric(record),
        words.predictor(record.predictor),
        record.protocol,
        str(record.n),
        "–" if record.steps is None else str(record.steps),
        words.threshold(record),
        record.split,
        f"{record.images}" + (f" ({undefined} undefined)" if undefined else ""),
        words.value(record),
        words.interval(record),
    ]


def wide_console() -> Console:
    """A console that does not cut tables where standard output is a file or a pipe."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)
