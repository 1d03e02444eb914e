"""The tables of a benchmark as data: one a group of rows, protocol and threshold, so that no column mixes any of them.

A cell is the mean over images of each image's mean over the seeds; its interval is by bootstrap over patients, and the
range over seeds stands beside it. What is best in a column is compared with every other row on the same images, by
intervals that hold for all pairs of rows at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modiff.benchmark.check import evaluation_of, scoring_of
from modiff.benchmark.plan import ABLATIONS, CONTROLS, EDGES, METHODS
from modiff.benchmark.state import DONE, RowFacts, Run, State
from modiff.config.evaluation import RESAMPLES
from modiff.errors import DataError
from modiff.evaluation.bootstrap import Interval, differences_from, mean_interval
from modiff.evaluation.compare_inputs import Method, pooled, read_methods
from modiff.evaluation.settings import EvaluationSettings
from modiff.evaluation.table import BASELINE, REFERENCE, Quantity
from modiff.metrics.protocols import PROTOCOLS
from modiff.metrics.registry import NAMES, columns_of

Column = tuple[str, int]  # metric, n
BEST, SAME, WORSE = "best", "same", "worse"
REFERENCES = {BASELINE: "majority vote, repeated", REFERENCE: "i.i.d. reference: samples are fresh raters"}


@dataclass(frozen=True)
class Cell:
    """A number of a table.

    interval: mean over images and its 95 % interval over patients. seeds: the mean of each seed. undefined: images on
    which no seed has a value; partly: on which some seed has one and another has not, so that the seeds' means are over
    different images. difference: this row less the best one, on the images where every row has a value; the
    best one is best on them. verdict: "best", or equal to it; "same", the interval of the difference holds 0; "worse",
    it does not; None where there is no interval or nothing to compare. shared: where some row is undefined on some
    image, the mean over the images that all rows have, on which they are compared, and how many they are.
    """

    interval: Interval
    seeds: tuple[float, ...] = ()
    undefined: int = 0
    difference: Interval | None = None
    verdict: str | None = None
    shared: tuple[float | None, int] | None = None
    partly: int = 0


@dataclass(frozen=True)
class Line:
    """A row of a table. images: seen in training, fewest and most over the seeds. seconds: by n, to draw n samples."""

    key: str
    title: str
    cells: dict[Column, Cell]
    seeds: tuple[int, ...] = ()
    images: tuple[int, int] | None = None
    cost: dict[str, float] | None = None
    seconds: dict[int, float] = field(default_factory=dict)

    def gflop(self, n: int) -> float | None:
        """GFLOP of an image with n samples."""
        return None if self.cost is None else self.cost["gflop_image"] + n * self.cost["gflop_sample"]


@dataclass(frozen=True)
class BenchmarkTable:
    """Rows under one protocol and threshold. references: majority vote and the i.i.d. reference, not compared."""

    group: str
    protocol: str
    threshold: float
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    references: tuple[Line, ...]

    @property
    def masks(self) -> str:
        """How probabilities became masks."""
        return PROTOCOLS[self.protocol].threshold_text(self.threshold)


@dataclass(frozen=True)
class Tables:
    """All tables of a benchmark, and what they were made of."""

    state: State
    tables: tuple[BenchmarkTable, ...]
    split: str
    images: int
    patients: int
    left_out: tuple[str, ...]


def build_tables(folder: str | Path, state: State, *, resamples: int = RESAMPLES) -> Tables:
    """The tables of the runs that are done; raises DataError where none is."""
    folder = Path(folder)
    done = [run for run in state.runs.values() if run.status == DONE]
    if not done:
        raise DataError(
            "no run is finished", path=folder, found=state.counted() or "no runs", hint="`modiff benchmark` goes on"
        )
    scoring = scoring_of(state)
    whole = _whole(done, state.folds)
    if not whole:
        hint = "`modiff benchmark` goes on"
        raise DataError("no method has finished every fold", path=folder, found=state.counted(), hint=hint)
    by_row = _read(folder, whole, state)
    methods = [method for found in by_row.values() for method in found]
    table = methods[0].table
    made = []
    for group in (METHODS, ABLATIONS, EDGES, CONTROLS):
        keys = [key for key, facts in state.rows.items() if group in facts.tables and key in by_row]
        if group != METHODS and not any(state.rows[key].tables == [group] for key in keys):
            continue  # MoDiff alone is no table of ablations
        if keys:
            made += [
                _table(group, way, {key: by_row[key] for key in keys}, state, whole, scoring, resamples)
                for way in sorted({way[:2] for way in methods[0].ways()}, key=lambda way: (way[0] != "standard", way))
            ]
    left_out = tuple(_left_out(state, whole))
    return Tables(state, tuple(made), table.split, len(table), len(set(table.patients)), left_out)


def _whole(done: Sequence[Run], folds: Sequence[int | None]) -> list[Run]:
    """The finished runs of those rows and seeds that have finished every fold."""
    there = {(run.row, run.seed, run.fold) for run in done}
    return [run for run in done if all((run.row, run.seed, fold) in there for fold in folds)]


def _read(folder: Path, whole: Sequence[Run], state: State) -> dict[str, list[Method]]:
    """The results by row, one for each seed; of folds, the patients held out by each are pooled."""
    parts: dict[tuple[str, int], list[Method]] = {}
    for fold in state.folds:
        runs = [run for run in whole if run.fold == fold]
        files = [evaluation_of(folder, run, state) for run in runs]
        for run, method in zip(runs, read_methods(files, [run.name for run in runs]), strict=True):
            parts.setdefault((run.row, run.seed), []).append(method)
    by_row: dict[str, list[Method]] = {}
    for (row, _), found in parts.items():
        by_row.setdefault(row, []).append(found[0] if len(found) == 1 else pooled(found, _split_text(state)))
    return by_row


def _split_text(state: State) -> str:
    """The split in words, e.g. "test of folds 0, 1, 2"."""
    split = str(state.settings["split"])
    return split if state.folds == (None,) else f"{split} of folds {', '.join(map(str, state.folds))}"


def _left_out(state: State, whole: Sequence[Run]) -> list[str]:
    used = {run.name for run in whole}
    found = []
    for run in state.runs.values():
        if run.status != DONE:
            found.append(f"{run.name}: {run.status}" + (f", {run.error}" if run.error else ""))
        elif run.name not in used:
            found.append(f"{run.name}: done, but not every fold of this method and seed is")
    return found


def _table(
    group: str,
    way: tuple[str, float],
    rows: dict[str, list[Method]],
    state: State,
    whole: Sequence[Run],
    scoring: EvaluationSettings,
    resamples: int,
) -> BenchmarkTable:
    every = [method for methods in rows.values() for method in methods]
    columns = tuple(
        (metric, n)
        for n in scoring.ns
        for metric in columns_of(scoring.metrics)
        if all(((*way, n), metric) in method.columns for method in every)
    )
    patients = every[0].table.patients
    cells: dict[str, dict[Column, Cell]] = {key: {} for key in rows}
    for metric, n in columns:
        values = {
            key: np.stack([method.columns[(*way, n), metric] for method in methods]) for key, methods in rows.items()
        }
        for key, cell in _column(values, metric, patients, resamples).items():
            cells[key][metric, n] = cell
    lines = tuple(
        _line(state.rows[key], [run for run in whole if run.row == key], methods, cells[key])
        for key, methods in rows.items()
    )
    return BenchmarkTable(group, *way, columns, lines, _references(every[0], way, columns, resamples))


def _column(
    values: dict[str, NDArray[np.float64]], metric: str, patients: Sequence[str], resamples: int
) -> dict[str, Cell]:
    """The cells of one column from (seeds, images) values of each row."""
    means = {key: mean_of_seeds(found) for key, found in values.items()}
    common = ~np.isnan(np.stack(list(means.values()))).any(0)
    best = _best({key: mean[common] for key, mean in means.items()}, metric)
    differences: dict[str, Interval] = {}
    if best is not None:
        rows, owners = np.stack([mean[common] for mean in means.values()]), np.asarray(patients)[common]
        compared = differences_from(rows, list(means).index(best), owners.tolist(), resamples=resamples)
        differences = {key: found for key, found in zip(means, compared, strict=True) if key != best}
    cells = {}
    for key, found in values.items():
        seeds = tuple(value for row in found if (value := mean_interval(row, patients, resamples=1).value) is not None)
        difference = differences.get(key)
        verdict = BEST if key == best else _verdict(difference) if difference is not None else None
        interval = mean_interval(means[key], patients, resamples=resamples)
        undefined = int(np.isnan(means[key]).sum())
        partly = int(np.isnan(found).any(0).sum()) - undefined
        shared = None if common.all() else (_mean(means[key][common]), int(common.sum()))
        cells[key] = Cell(interval, seeds, undefined, difference, verdict, shared, partly)
    return cells


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None


def _best(means: dict[str, NDArray[np.float64]], metric: str) -> str | None:
    """The row of the best mean over the images on which every row is defined; None where there is nothing to choose."""
    if len(means) < 2 or not next(iter(means.values())).size:
        return None
    return (max if NAMES[metric][1] else min)(means, key=lambda key: float(means[key].mean()))


def mean_of_seeds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(seeds, images) -> (images,): the mean of the seeds that are defined on an image; NaN where none is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        return np.nanmean(values, axis=0)


def _verdict(difference: Interval) -> str | None:
    if difference.value is not None and abs(difference.value) < 1e-12:
        return BEST
    if difference.low is None or difference.high is None:
        return None
    return SAME if difference.low <= 0 <= difference.high else WORSE


def _line(facts: RowFacts, runs: Sequence[Run], methods: list[Method], cells: dict[Column, Cell]) -> Line:
    seen = [run.images for run in runs if run.images is not None]
    times: dict[int, list[float]] = {}
    for result in (part.result for method in methods for part in method.parts or (method,)):
        found = {
            record.n: record.seconds_per_image
            for record in result.results
            if record.predictor == "model" and record.seconds_per_image is not None
        }
        for n, seconds in found.items():
            times.setdefault(n, []).append(float(seconds or 0.0))
    return Line(
        runs[0].row,
        facts.title,
        cells,
        tuple(dict.fromkeys(run.seed for run in runs)),
        (min(seen), max(seen)) if seen else None,
        _cost(facts.cost),
        {n: sum(all_) / len(all_) for n, all_ in sorted(times.items())},
    )


def _cost(found: Any) -> dict[str, float] | None:
    names = ("parameters", "evaluations", "gflop_image", "gflop_sample")
    good = isinstance(found, dict) and all(isinstance(found.get(name), int | float) for name in names)
    return found if good else None


def _references(
    method: Method, way: tuple[str, float], columns: tuple[Column, ...], resamples: int
) -> tuple[Line, ...]:
    lines = []
    for predictor, title in REFERENCES.items():
        cells = {}
        for metric, n in columns:
            quantity = Quantity(*way, n, None, predictor, metric)
            if quantity in method.table.columns:
                values = method.table.columns[quantity]
                interval = mean_interval(values, method.table.patients, resamples=resamples)
                cells[metric, n] = Cell(interval, undefined=int(np.isnan(values).sum()))
        if cells:
            lines.append(Line(predictor, title, cells))
    return tuple(lines)
