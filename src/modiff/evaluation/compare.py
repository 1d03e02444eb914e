"""Paired differences between methods on the same images, with intervals by bootstrap over patients."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from modiff.config.evaluation import RESAMPLES
from modiff.errors import ConfigError
from modiff.evaluation.bootstrap import (
    LEVEL,
    Interval,
    mean_interval,
    paired_difference,
    pooled_difference,
)
from modiff.evaluation.compare_inputs import Method, Way, shared_metrics
from modiff.evaluation.records import STRATA
from modiff.io.files import write_text
from modiff.metrics.registry import COLUMNS, FIRST, GAP, NAMES, POOLED, PooledError, pooled, rank

SCHEMA = 1


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

    metrics: names of `registry.COLUMNS`, or "all"; by default GED and HM-IoU.
    Raises ConfigError for fewer than two methods or a metric that not all of them have.
    """
    if len(methods) < 2:
        raise ConfigError("needs two methods", field="results", found=len(methods), expected="2 or more")
    chosen, notes = _metrics(methods, metrics)
    table = methods[0].table
    differences = []
    for stratum in STRATA:
        rows = table.rows(stratum)
        if not rows.any():
            continue
        patients = [table.patients[i] for i in np.flatnonzero(rows)]
        for way in sorted(methods[0].ways(), key=lambda way: (way[0] != "standard", way)):
            for metric in chosen:
                for a, b in combinations(methods, 2):
                    found = _difference(a, b, way, metric, rows, patients, seed=seed, resamples=resamples)
                    if found is not None:
                        differences.append(_described(a, b, way, metric, stratum, int(rows.sum()), *found))
    if len(methods) > 2:
        notes.append("intervals are not widened for the number of comparisons")
    return Comparison(tuple(methods), differences, tuple(notes))


def _metrics(methods: Sequence[Method], asked: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """Metrics of records in the order of tables, and what is to be said of those left out."""
    every, some = shared_metrics(methods)
    has = {metric for metric in every if not metric.startswith(GAP)}
    has |= {"ece"} if any(metric.startswith(GAP) for metric in every) else set()
    has |= {"presence_ece"} if {"presence_samples", "presence_raters"} <= has else set()
    names = list(FIRST) if asked is None else list(asked)
    if "all" in names:
        chosen = {metric for metric in has if NAMES.get(metric, ("", None))[1] is not None}
        notes = [f"only some results have {', '.join(some)}"] if some else []
        return sorted(chosen, key=rank), notes
    for name in names:
        if name not in COLUMNS:
            raise ConfigError("no such metric", field="metrics", found=name, expected=f"all, {', '.join(COLUMNS)}")
    parts = {part for name in names for part in _records_of(name)}
    if not parts & has:
        expected = ", ".join(sorted(has, key=rank)) or "metrics that all have"
        raise ConfigError("not in every result", field="metrics", found=", ".join(names), expected=expected)
    missing = sorted(parts - has, key=rank)
    return sorted(parts & has, key=rank), [f"not in every result: {', '.join(missing)}"] if missing else []


def _records_of(name: str) -> tuple[str, ...]:
    """The metrics of records that a name asks for, those with a better side."""
    if name == "presence":
        return ("presence_ece",)
    return ("ece",) if name == "ece" else tuple(part for part in COLUMNS[name] if NAMES[part][1] is not None)


def _difference(
    a: Method,
    b: Method,
    way: Way,
    metric: str,
    rows: np.ndarray,
    patients: list[str],
    *,
    seed: int,
    resamples: int,
) -> tuple[Interval, float | None, float | None] | None:
    """The difference and both means; None where the metric is not measured in this way (no threshold enters it)."""
    if metric in POOLED:
        ours, theirs = _pooled(a, way, metric), _pooled(b, way, metric)
        if ours is None or theirs is None:
            return None
        gaps = (ours.gaps[rows], theirs.gaps[rows])
        return pooled_difference(*gaps, patients, classes=ours.classes, seed=seed, resamples=resamples)
    if (way, metric) not in a.columns or (way, metric) not in b.columns:
        return None
    x, y = a.columns[way, metric][rows], b.columns[way, metric][rows]
    both = ~np.isnan(x - y)
    means = [mean_interval(np.where(both, values, np.nan), patients, resamples=1).value for values in (x, y)]
    return paired_difference(x, y, patients, seed=seed, resamples=resamples), means[0], means[1]


def _pooled(method: Method, way: Way, metric: str) -> PooledError | None:
    return pooled({name: values for (at, name), values in method.columns.items() if at == way}).get(metric)


def _described(
    a: Method,
    b: Method,
    way: Way,
    metric: str,
    stratum: str,
    images: int,
    interval: Interval,
    value_a: float | None,
    value_b: float | None,
) -> Difference:
    return Difference(
        metric=metric,
        a=a.name,
        b=b.name,
        protocol=way[0],
        threshold=way[1],
        n=way[2],
        split=a.table.split,
        stratum=stratum,
        images=interval.images,
        undefined=images - interval.images,
        patients=interval.patients,
        value_a=value_a,
        value_b=value_b,
        difference=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        better=_better(interval, metric, a.name, b.name),
    )


def _better(interval: Interval, metric: str, a: str, b: str) -> str | None:
    higher = NAMES.get(metric, ("", None))[1]
    if higher is None or interval.low is None or interval.high is None or interval.low <= 0 <= interval.high:
        return None
    return a if (interval.low > 0) == higher else b


def write_comparison(comparison: Comparison, path: str | Path, *, made: dict[str, Any]) -> Path:
    """Writes a comparison as JSON, a difference a line; the file is there whole or not at all."""
    methods = [
        {
            "name": method.name,
            "result": str(method.path.resolve()),
            "model": method.result.made.get("model"),
            "date": method.result.made.get("date"),
        }
        for method in comparison.methods
    ]
    store = comparison.methods[0].result.made.get("store")
    head = {**made, "level": LEVEL, "store": store, "methods": methods, "notes": list(comparison.notes)}
    rows = ",\n  ".join(json.dumps(asdict(row), allow_nan=False) for row in comparison.differences)
    made_text = json.dumps(head, indent=1, ensure_ascii=False).replace("\n", "\n ")
    return write_text(path, f'{{\n "schema": {SCHEMA},\n "made": {made_text},\n "differences": [\n  {rows}\n ]\n}}\n')
