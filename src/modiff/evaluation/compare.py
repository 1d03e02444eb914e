"""Paired differences between methods on the same images, with intervals by bootstrap over patients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from modiff.config.evaluation import RESAMPLES
from modiff.errors import ConfigError
from modiff.evaluation import words
from modiff.evaluation.bootstrap import LEVEL, mean_interval, pooled_difference
from modiff.evaluation.records import STRATA, write_json
from modiff.evaluation.results import Method, Way
from modiff.metrics.registry import FIRST, GAP, METRICS, POOLED, pooled, rank
from modiff.viz.charts import Panel, draw_differences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS = 60  # of a panel


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric's mean paired difference a − b over the images of a stratum where both are defined.

    value_a, value_b: their means over these images. ci_low, ci_high: 95 %, None under five patients. undefined: images
    of the stratum where one of both has no value. better: the name of the better method where the interval leaves out
    0 and the metric has a better side; else None.
    """

    metric: str
    a: str
    b: str
    protocol: str
    threshold: float
    n: int
    split: str
    stratum: str
    images: int
    undefined: int
    patients: int
    value_a: float | None
    value_b: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    better: str | None


@dataclass(frozen=True)
class Comparison:
    """Differences of every pair of methods, in the order given; notes: what a reader should know."""

    methods: tuple[Method, ...]
    differences: list[Difference]
    notes: tuple[str, ...]


def compare(
    methods: Sequence[Method], metrics: Iterable[str] | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> Comparison:
    """Every pair of methods, every protocol, threshold and n, every stratum.

    metrics: names of `registry.METRICS`, or "all"; by default GED and HM-IoU.
    Raises ConfigError for fewer than two methods or a metric that not all of them have.
    """
    if len(methods) < 2:
        raise ConfigError("needs two methods", field="results", found=len(methods), expected="2 or more")
    chosen, notes = _metrics(methods, metrics)
    if len(methods) > 2:
        notes.append("intervals are not widened for the number of comparisons")
    differences = [
        found
        for stratum in STRATA
        if methods[0].table.rows(stratum).any()
        for way in sorted(methods[0].ways(), key=lambda way: (way[0] != "standard", way))
        for metric in chosen
        for a, b in combinations(methods, 2)
        if (found := _difference(a, b, way, metric, stratum, seed, resamples)) is not None
    ]
    return Comparison(tuple(methods), differences, tuple(notes))


def _metrics(methods: Sequence[Method], asked: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """Metrics of records in the order of tables, and what is to be said of those left out."""
    own = [{metric for _, metric in method.columns} for method in methods]
    every = set.intersection(*own)
    some = set.union(*own) - every
    has = {metric for metric in every if not metric.startswith(GAP)}
    has |= {"ece"} if any(metric.startswith(GAP) for metric in every) else set()
    has |= {"presence_ece"} if {"presence_samples", "presence_raters"} <= has else set()
    names = list(FIRST) if asked is None else list(asked)
    if "all" in names:
        alone = sorted(metric for metric in some if not metric.startswith(GAP))
        chosen = {metric for metric in has if words.HIGHER_IS_BETTER.get(metric) is not None}
        return sorted(chosen, key=rank), [f"only some results have {', '.join(alone)}"] if alone else []
    parts: set[str] = set()
    for name in names:
        if name not in METRICS:
            raise ConfigError("no such metric", field="metrics", found=name, expected=f"all, {', '.join(METRICS)}")
        parts |= {column.name for column in METRICS[name].outputs if column.higher_is_better is not None}
    if not parts & has:
        expected = ", ".join(sorted(has, key=rank)) or "metrics that all have"
        raise ConfigError("not in every result", field="metrics", found=", ".join(names), expected=expected)
    missing = sorted(parts - has, key=rank)
    return sorted(parts & has, key=rank), [f"not in every result: {', '.join(missing)}"] if missing else []


def _difference(
    a: Method, b: Method, way: Way, metric: str, stratum: str, seed: int, resamples: int
) -> Difference | None:
    """The difference a − b; None where the metric is not measured in this way (no threshold enters it)."""
    table, rows = a.table, a.table.rows(stratum)
    patients = table.frame["patient"][rows].tolist()
    if metric in POOLED:
        columns = [{name: values for (at, name), values in m.columns.items() if at == way} for m in (a, b)]
        ours, theirs = (pooled(found).get(metric) for found in columns)
        if ours is None or theirs is None:
            return None
        gaps, classes = (ours.gaps[rows], theirs.gaps[rows]), ours.classes
        interval, value_a, value_b = pooled_difference(*gaps, patients, classes=classes, seed=seed, resamples=resamples)
    elif (way, metric) in a.columns and (way, metric) in b.columns:
        x, y = a.columns[way, metric][rows], b.columns[way, metric][rows]
        undefined = np.isnan(x - y)
        both = (np.where(undefined, np.nan, values) for values in (x, y))
        value_a, value_b = (mean_interval(values, patients, resamples=1).value for values in both)
        interval = mean_interval(x - y, patients, seed=seed, resamples=resamples)
    else:
        return None
    better, higher = None, words.HIGHER_IS_BETTER.get(metric)
    if higher is not None and interval.low is not None and interval.high is not None:
        better = None if interval.low <= 0 <= interval.high else a.name if (interval.low > 0) == higher else b.name
    return Difference(
        *(metric, a.name, b.name, *way, table.split, stratum),
        *(interval.images, int(rows.sum()) - interval.images, interval.patients, value_a, value_b),
        *(interval.value, interval.low, interval.high, better),
    )


def write_comparison(comparison: Comparison, path: str | Path, *, made: dict[str, Any]) -> Path:
    """Writes a comparison as JSON, one difference per line; the file is there whole or not at all."""
    methods = [
        {"name": method.name, "result": str(method.path.resolve())}
        | {name: method.result.made.get(name) for name in ("model", "date")}
        for method in comparison.methods
    ]
    store = comparison.methods[0].result.made.get("store")
    head = {**made, "level": LEVEL, "store": store, "methods": methods, "notes": list(comparison.notes)}
    return write_json(path, head, None, "differences", comparison.differences)


def differences_frame(comparison: Comparison, a: str, b: str, stratum: str = "all") -> pd.DataFrame:
    """The cells of a table of two methods, a row per difference; indexed by protocol, threshold and n."""
    rows, index = [], []
    for row in comparison.differences:
        if (row.a, row.b, row.stratum) == (a, b, stratum):
            digits = words.decimals(row.metric)
            cells = {
                "a − b": f"{a} − {b}",
                "metric": words.METRICS[row.metric],
                "protocol": row.protocol,
                "threshold": words.masks_by(row.metric, row.protocol, row.threshold),
                "n": row.n,
                "split": row.split,
                "stratum": words.STRATA[row.stratum],
                "images": row.images,
                "undefined": row.undefined or "",
                "a": words.number(row.value_a, digits=digits),
                "b": words.number(row.value_b, digits=digits),
                "difference": words.number(row.difference, signed=True, digits=digits),
                words.INTERVAL: words.ends(row.ci_low, row.ci_high, signed=True, digits=digits),
                "better": row.better or (words.NONE if row.ci_low is None else "not shown"),
            }
            rows.append(cells)
            index.append(f"{row.protocol} {row.threshold} {row.n}")
    return pd.DataFrame(rows, index=index)


def figure_of(comparison: Comparison, stratum: str = "all") -> Figure:
    """A panel per metric, a line per pair of methods, protocol, threshold and n."""
    rows = [row for row in comparison.differences if row.stratum == stratum and row.difference is not None]
    panels = []
    for metric in dict.fromkeys(row.metric for row in rows):
        shown = [row for row in rows if row.metric == metric][:_MOST_ROWS]
        labels = []
        for row in shown:
            how = words.masks_by(metric, row.protocol, row.threshold)
            setting = row.protocol if how == words.NONE else f"{row.protocol}, {how}"
            labels.append(f"{row.a} − {row.b}\n{setting}, n = {row.n}")
        partly = any(row.undefined for row in shown)
        defined = f" (defined on {min(row.images for row in shown)})" if partly else ""
        side = "→" if words.HIGHER_IS_BETTER[metric] else "←"
        sides = [0 if row.better is None else 1 if row.better == row.a else -1 for row in shown]
        frame = pd.DataFrame(shown).assign(label=labels, side=sides)
        panels.append(Panel(words.METRICS[metric] + defined, f"a − b   ({side} a is better)", frame))
    images = rows[0].images + rows[0].undefined if rows else 0
    title = f"Paired differences on {images} images, split {rows[0].split}" if rows else "Nothing is defined"
    return draw_differences(panels, f"{title}, {words.STRATA[stratum]}; 95 % intervals over patients")
