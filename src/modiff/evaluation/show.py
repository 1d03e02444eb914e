"""Results on a terminal: each line names the protocol, n, threshold, split, images and interval of its number."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from modiff.evaluation import words
from modiff.evaluation.records import STRATA, Record, Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLUMNS = {
    "stratum": "left",
    "metric": "left",
    "predictor": "left",
    "protocol": "left",
    "n": "right",
    "steps": "right",
    "threshold": "left",
    "split": "left",
    "images": "right",
    "value": "right",
    "95 % interval": "right",
}
_WIDTH = 150  # where output goes to a file: lines are not to be cut at 80


def results_table(result: Result) -> Table:
    """All predictors on all images; below, the model in each stratum."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, justify in _COLUMNS.items():
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    previous = None
    for record in _shown(result.results):
        group = (record.stratum, record.protocol, record.threshold, record.n)
        if previous is not None and group != previous and (record.stratum == "all" or group[0] != previous[0]):
            table.add_section()
        previous = group
        bold = record.predictor == "model" and not words.is_difference(record)
        table.add_row(*_cells(record, result.undefined(record)), style="bold" if bold else "")
    return table


def _shown(records: list[Record]) -> list[Record]:
    """Everything on all images but how the control differs from the reference; the model's own values in the strata."""
    everywhere = [
        record
        for record in records
        if record.stratum == "all" and not (record.predictor == "shuffled" and record.metric.endswith("iid_reference"))
    ]
    model = [record for record in records if record.predictor == "model" and not words.is_difference(record)]
    return everywhere + [record for stratum in STRATA[1:] for record in model if record.stratum == stratum]


def _cells(record: Record, undefined: int) -> list[str]:
    return [
        record.stratum,
        words.metric(record),
        words.predictor(record),
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
