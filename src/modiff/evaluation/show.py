"""Results on a terminal: each number with its protocol, n, threshold, split, images and interval."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import pandas as pd

from modiff.evaluation import words
from modiff.evaluation.records import STRATA, Record, Result, select

if TYPE_CHECKING:
    from rich.console import Console, Group

_WIDTH = 100  # where output goes to a file: lines are not to be cut at 80
_LEFT = ("stratum", "metric", "predictor", "protocol", "threshold", "split", "a − b", "better")
_WRAPPED = ("predictor", "stratum", "better", "a", "b")
# How a title says what is the same in every row.
_SHARED = {
    "a − b": "{}",
    "predictor": "{}",
    "metric": "{}",
    "protocol": "{} protocol",
    "n": "n = {}",
    "threshold": "{}",
    "split": "split {}",
    "stratum": "{}",
    "undefined": "undefined on {} of them",
}


def text_table(
    frame: pd.DataFrame, *, heads: Mapping[str, str] | None = None, bold: Sequence[bool] | None = None
) -> Group:
    """A title and a table of text for a terminal; what is the same in every row is said once, in the title.

    frame: a line parts rows that differ in their index. heads: what columns are called, by default their names. bold:
    whether each row is.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text  # names are other people's text: square brackets in them are not markup

    said = []
    for name in [name for name in _SHARED if name in frame]:
        values = set(frame[name]) - ({words.NONE} if name == "threshold" else set())
        if len(values) < 2:
            said += [_SHARED[name].format(value) for value in values if value != ""]
            frame = frame.drop(columns=name)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in frame.columns.astype(str):
        head = Text((heads or {}).get(name, name))
        justify: Literal["left", "right"] = "left" if name in _LEFT else "right"
        table.add_column(head, justify=justify, overflow="fold", no_wrap=name not in _WRAPPED)
    for i, cells in enumerate(frame.itertuples(index=False, name=None)):
        if i and frame.index[i] != frame.index[i - 1]:
            table.add_section()
        table.add_row(*(Text(str(cell)) for cell in cells), style="bold" if bold is not None and bold[i] else "")
    return Group(Text(", ".join(said), style="italic"), table)


def results_table(result: Result) -> Group:
    """A table per protocol and threshold of all predictors on all images; below, the same of the model by stratum."""
    from rich.console import Group

    everywhere = [
        record
        for record in result.results
        if record.stratum == "all" and not (record.predictor == "shuffled" and record.metric.endswith("iid_reference"))
    ]
    model = [record for record in result.results if _is_model(record)]
    strata = [record for stratum in STRATA[1:] for record in model if record.stratum == stratum]
    ways = dict.fromkeys((record.protocol, record.threshold) for record in result.results)
    parts = [select(records, protocol=way[0], threshold=way[1]) for records in (everywhere, strata) for way in ways]
    return Group(*(_records_table(result, records) for records in parts if records))


def _is_model(record: Record) -> bool:
    return record.predictor == "model" and not words.is_difference(record)


def _records_table(result: Result, records: Sequence[Record]) -> Group:
    rows = [words.row(record, result.undefined(record)) for record in records]
    frame = pd.DataFrame(rows).set_index(["stratum", "n"], drop=False).drop(columns="seconds per image")
    return text_table(frame, bold=[_is_model(record) and record.stratum == "all" for record in records])


def wide_console() -> Console:
    """A console that does not cut tables where standard output is a file or a pipe."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def print_notes(notes: Sequence[str]) -> None:
    """What a user should know, on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    for note in notes:
        console.print(f"Note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
