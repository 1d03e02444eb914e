"""Every number of a benchmark: one per row of methods, group, protocol, threshold, selection, metric and n.

A number is the mean over images of each image's mean over the seeds; its interval is by bootstrap over patients, and
it is given with the range over seeds. What is best in a column of a table is compared with every other row on the same
images, by intervals that hold for all pairs of rows at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modiff.benchmark.plan import ABLATIONS, CONTROLS, EDGES, METHODS
from modiff.benchmark.state import COSTS, Run, State, Status, evaluation_of
from modiff.config.evaluation import CANDIDATES, IID, REPRESENTATIVE, RESAMPLES, SELECTIONS
from modiff.errors import DataError
from modiff.evaluation.bootstrap import Floats, differences_from, mean_interval
from modiff.evaluation.compare import Method, pool, read_methods
from modiff.evaluation.records import BASELINE, EMPTY, REFERENCE, Quantity
from modiff.evaluation.records import select as having
from modiff.metrics.protocols import PROTOCOLS
from modiff.metrics.published import PublishedValue, published
from modiff.metrics.registry import NAMES, columns_of

MEASURED, REFERENCES, PUBLISHED = "measured", "reference", "published"
BEST, SAME, WORSE = "best", "same", "worse"
_TITLES = {BASELINE: "majority vote (oracle), repeated", REFERENCE: "i.i.d. reference: samples are fresh raters"}
_PAPERS_TABLES = {ABLATIONS: "Table 3", EDGES: "Table 4"}  # of MoDiff's paper
INFERRED = "; its protocol is inferred"
_ROLES = {(ABLATIONS, "modiff"): "MoDiff, both", (EDGES, "modiff"): "MoDiff, its own LDF"}


COLUMNS = (
    *("table", "kind", "row", "title", "protocol", "threshold", "select", "metric", "n", "value", "ci_low", "ci_high"),
    *("seeds", "seed_low", "seed_high", "difference_from_best", "difference_ci_low", "difference_ci_high", "verdict"),
    *("images", "patients", "undefined", "undefined_at_some_seed", "value_where_all_defined"),
    *("images_where_all_defined", "split", "budget", "images_seen_low", "images_seen_high", "parameters", "gflop"),
    *("evaluations", "seconds_per_image", "source"),
)
"""What is said of a number: the columns of tables.csv, None where one does not apply.

kind: "measured", "reference" (majority vote and i.i.d. reference, which are not compared) or "published". value: the
mean over images, ci_low and ci_high its 95 % interval over patients, seed_low and seed_high the range of the seeds'
means. difference_from_best: on the images where every row has a value; the best row is best on them. verdict: "best",
or equal to it; "same", the interval of the difference holds 0; "worse", it does not; None where there is no interval or
nothing to compare. undefined: images on which no seed has a value; undefined_at_some_seed: those on which some seed has
one and another has not, so that the seeds' means are over different images. value_where_all_defined: where some row is
undefined on some image, the mean over the images that all rows have, on which they are compared. images_seen: in
training, fewest and most over the seeds. seconds_per_image: to draw n samples. source: of a published number.
"""
Facts = dict[str, Any]  # of a number, by column


@dataclass(frozen=True)
class Numbers:
    """All numbers of a benchmark, a row each, in the order of its tables, and what they were made of.

    left_out: runs that are not in them, and why. empty: titles of the rows whose samples all mark nothing.
    """

    state: State
    numbers: pd.DataFrame
    split: str
    images: int
    patients: int
    left_out: tuple[str, ...]
    empty: tuple[str, ...] = ()


def read_numbers(folder: str | Path, state: State, *, resamples: int = RESAMPLES) -> Numbers:
    """The numbers of the runs that are done; DataError where none is, and where results are not of the same images."""
    folder, runs = Path(folder), state.complete()
    if not runs:
        what = "no method has finished every fold" if state.counts()[Status.DONE] else "no run is finished"
        hint = "`modiff benchmark` resumes"
        raise DataError(what, path=folder, found=state.counted() or "no runs", hint=hint)
    by_row = _read(folder, runs, state)
    first = next(iter(by_row.values()))[0]
    ways = {(protocol, threshold, select) for protocol, threshold, _, select in first.ways()}
    order = sorted(ways, key=lambda way: (way[0] != "standard", way[:2], SELECTIONS.index(way[2])))
    numbers: list[Facts] = []
    for group in (METHODS, ABLATIONS, EDGES, CONTROLS):
        keys = [key for key, facts in state.rows.items() if group in facts.tables and key in by_row]
        if group != METHODS and not any(state.rows[key].tables == (group,) for key in keys):
            continue  # MoDiff alone is not a table of ablations
        for way in order if keys else ():
            numbers += _table(group, *way, {key: by_row[key] for key in keys}, state, resamples)
    used, table = {run.name for run in runs}, first.table
    reasons: dict[str, str] = {Status.DONE: "done, but not every fold of this method and seed is"}
    left_out = tuple(
        f"{run.name}: {reasons.get(run.status, run.status)}{', ' if run.error else ''}{run.error or ''}"
        for run in state.runs.values()
        if run.name not in used
    )
    empty = tuple(state.rows[key].title for key, found in by_row.items() if all(map(_empty, found)))
    frame = pd.DataFrame(numbers, columns=list(COLUMNS), dtype=object)
    counts = len(table), len(set(table.patients))
    return Numbers(state, frame.where(frame.notna(), None), table.split, *counts, left_out, empty)


def _empty(method: Method) -> bool:
    """Whether none of its samples marks anything."""
    parts = method.parts or (method,)
    return all(EMPTY in part.result.made.get("notes", []) for part in parts)


def _read(folder: Path, runs: Sequence[Run], state: State) -> dict[str, list[Method]]:
    """The results by row, one for each seed; of folds, the patients held out by each are pooled."""
    parts: dict[tuple[str, int], list[Method]] = {}
    for fold in state.folds:
        own = [run for run in runs if run.fold == fold]
        files = [evaluation_of(folder, run, state) for run in own]
        for run, method in zip(own, read_methods(files, [run.name for run in own]), strict=True):
            parts.setdefault((run.row, run.seed), []).append(method)
    split = f"{state.settings.split} of folds {', '.join(map(str, state.folds))}"
    by_row: dict[str, list[Method]] = {}
    for (row, _), found in parts.items():
        by_row.setdefault(row, []).append(found[0] if len(found) == 1 else pool(found, split))
    return by_row


def _table(
    group: str,
    protocol: str,
    threshold: float,
    select: str,
    rows: dict[str, list[Method]],
    state: State,
    resamples: int,
) -> Iterator[Facts]:
    """The numbers of one table, row by row: those measured, the references, those published."""
    every = [method for methods in rows.values() for method in methods]
    first, at = every[0].table, {"table": group, "protocol": protocol, "threshold": threshold, "select": select}
    columns = [
        (metric, n)
        for n in state.settings.ns
        for metric in columns_of(state.settings.metrics)
        if all(((protocol, threshold, n, select), metric) in method.columns for method in every)
    ]

    def about(kind: str, row: str, title: str, column: tuple[str, int], values: Floats) -> Facts:
        """A number that is compared with nothing yet. values: (seeds, images)."""
        mean = mean_of_seeds(values)
        undefined, partly = int(np.isnan(mean).sum()), int(np.isnan(values).any(0).sum())
        facts = asdict(mean_interval(mean, first.patients, resamples=resamples)) | {"split": first.split}
        facts |= {"undefined": undefined, "undefined_at_some_seed": partly - undefined}
        return at | {"kind": kind, "row": row, "title": title, "metric": column[0], "n": column[1]} | facts

    values, compared = {}, {}
    for metric, n in columns:
        by_row = {
            key: np.stack([one.columns[(protocol, threshold, n, select), metric] for one in rows[key]]) for key in rows
        }
        means = {key: mean_of_seeds(own) for key, own in by_row.items()}
        values[metric, n], compared[metric, n] = by_row, _compared(metric, means, first.patients, resamples)
    for key, methods in rows.items():
        title = _ROLES.get((group, key), state.rows[key].title)
        for column in columns:
            own = values[column][key]
            seeds = [mean_interval(seed, first.patients, resamples=1).value for seed in own]
            known = {"seeds": len(seeds)} | _range("seed", [mean for mean in seeds if mean is not None])
            number = about(MEASURED, key, title, column, own) | known
            yield number | _costs(key, column[1], select, methods, state) | compared[column][key]
    for (predictor, title), (metric, n) in product(_TITLES.items(), columns):
        drawn = first.columns.get(Quantity(protocol, threshold, n, None, predictor, metric))
        if drawn is not None:
            yield about(REFERENCES, predictor, title, (metric, n), drawn[None])
    for printed in (
        ()
        if select != IID
        else _published_beside(group, protocol, threshold, columns, str(state.data.get("source", "")))
    ):
        yield at | printed


def _range(of: str, values: Sequence[Any]) -> Facts:
    """The smallest and the largest, None where there is none."""
    return {f"{of}_low": min(values, default=None), f"{of}_high": max(values, default=None)}


def _costs(key: str, n: int, select: str, methods: Sequence[Method], state: State) -> Facts:
    """What a row cost. methods: its results, one for each seed."""
    seen = [run.images for run in state.complete() if run.row == key and run.images is not None]
    seconds = []
    for result in (part.result for method in methods for part in method.parts or (method,)):
        drawn = (record.seconds_per_image for record in having(result.results, predictor="model", n=n, select=select))
        seconds += [taken for taken in drawn if taken is not None][-1:]
    found: Facts = {"budget": state.settings.budget} | _range("images_seen", seen)
    found["seconds_per_image"] = sum(seconds) / len(seconds) if seconds else None
    cost = state.rows[key].cost or {}
    if all(isinstance(cost.get(name), int | float) for name in COSTS):
        number = n * CANDIDATES if select == REPRESENTATIVE else n
        gflop = cost["gflop_image"] + number * cost["gflop_sample"]
        found |= {"parameters": cost["parameters"], "evaluations": cost["evaluations"], "gflop": gflop}
    return found


def _compared(metric: str, means: dict[str, Floats], patients: Sequence[str], resamples: int) -> dict[str, Facts]:
    """The difference of each row of one column from the best. means: (images,) of each row."""
    common = ~np.isnan(np.stack(list(means.values()))).any(0)
    shared = {key: mean[common] for key, mean in means.items()}
    found: dict[str, Facts] = {key: {} for key in means}
    if not common.all():
        for key, own in shared.items():
            found[key]["value_where_all_defined"] = float(own.mean()) if own.size else None
            found[key]["images_where_all_defined"] = int(common.sum())
    if len(means) < 2 or not common.any():
        return found
    best = (max if NAMES[metric][1] else min)(shared, key=lambda key: float(shared[key].mean()))
    owners = np.asarray(patients)[common].tolist()
    apart = differences_from(np.stack(list(shared.values())), list(shared).index(best), owners, resamples=resamples)
    for key, (value, low, high, *_) in zip(shared, map(astuple, apart), strict=True):
        if key != best:
            found[key] |= {"difference_from_best": value, "difference_ci_low": low, "difference_ci_high": high}
        if key == best or abs(value) < 1e-12:
            found[key]["verdict"] = BEST
        elif low is not None:
            found[key]["verdict"] = SAME if low <= 0 <= high else WORSE
    return found


def mean_of_seeds(values: Floats) -> Floats:
    """(seeds, images) -> (images,): the mean of the seeds that are defined on an image; NaN where none is."""
    defined: Floats = np.ma.array(values, mask=np.isnan(values)).mean(axis=0).filled(np.nan)
    return defined


def dataset_of(source: str) -> str | None:
    """What published numbers call the data set that a store is of; None for others."""
    if source.startswith("LIDC-IDRI"):
        return "lidc"
    return "ms_mri" if source.startswith("ISBI 2015 longitudinal MS") else None


def _published_beside(
    group: str, protocol: str, threshold: float, columns: Collection[tuple[str, int]], source: str
) -> Iterator[Facts]:
    """The printed numbers of a table's protocol; none at another threshold than the protocol's.

    columns: (metric, n) of the table. source: of the store. Numbers of one method and source follow each other.
    """
    dataset = dataset_of(source)
    if dataset is None or threshold != PROTOCOLS[protocol].threshold:
        return

    def belongs(value: PublishedValue) -> bool:
        of_modiff = value.source.title.startswith("MoDiff:")
        own = of_modiff and value.source.table in _PAPERS_TABLES.values()
        if group in _PAPERS_TABLES:
            return of_modiff and (value.method == "MoDiff" or value.source.table == _PAPERS_TABLES[group])
        return not own and group != CONTROLS

    printed = published(dataset=dataset, protocol=protocol)
    found = [value for value in printed if (value.metric, value.n) in columns and belongs(value)]
    order = list(dict.fromkeys((value.method, value.source) for value in found))
    for value in sorted(found, key=lambda value: order.index((value.method, value.source))):
        cited = (value.source.title, value.source.reference, value.source.table)
        said = f"{', '.join(part for part in cited if part)}; {value.source.data}"
        facts: Facts = {"kind": PUBLISHED, "title": value.method, "parameters": value.parameters}
        facts |= {"metric": value.metric, "n": value.n, "value": value.value, "evaluations": value.steps}
        yield facts | {"source": said + ("" if value.protocol_stated else INFERRED)}
