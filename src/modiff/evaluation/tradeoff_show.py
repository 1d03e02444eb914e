"""Quality against time as a table on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modiff.evaluation import words
from modiff.evaluation.tradeoff import Tradeoff

if TYPE_CHECKING:
    from rich.table import Table


def points_table(tradeoff: Tradeoff) -> Table:
    """A line a point, then what stands beside the models; the head says what all of them share."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    metric, asked = tradeoff.asked.metric, tradeoff.asked
    digits = words.decimals(metric)
    shared = [words.METRICS.get(metric, metric), f"{asked.protocol} protocol", f"n = {asked.n}"]
    if tradeoff.threshold_text != "–":
        shared.append(tradeoff.threshold_text)
    shared += [f"split {tradeoff.split}", words.STRATA[asked.stratum]]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=escape(", ".join(shared)), title_justify="left")
    table.add_column("model", overflow="fold")
    for name in ("steps", "seconds an image", words.METRICS.get(metric, metric), "95 % interval", "images"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in tradeoff.lines:
        for point in line.points:
            table.add_row(
                escape(line.name),
                "–" if point.steps is None else str(point.steps),
                f"{point.seconds:.3g}",
                words.number(point.value, digits=digits),
                _interval(point.ci_low, point.ci_high, digits),
                str(point.images),
            )
    table.add_section()
    for record in tradeoff.references:
        name, value, interval = words.predictor(record), words.value(record), words.interval(record)
        table.add_row(name, "–", "–", value, interval, str(record.images))
    return table


def _interval(low: float | None, high: float | None, digits: int) -> str:
    if low is None or high is None:
        return "under 5 patients"
    return " to ".join(words.number(end, digits=digits) for end in (low, high))
