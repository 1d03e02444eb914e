"""Results of evaluations side by side: read, refused where they are not of the same images, and compared in pairs.

Differences are paired, on the same images, with intervals by bootstrap over patients.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from modiff.config.evaluation import IID, RESAMPLES
from modiff.errors import ConfigError, DataError, counted
from modiff.evaluation import words
from modiff.evaluation.bootstrap import LEVEL, mean_interval, pooled_difference
from modiff.evaluation.evaluate import FOLDER
from modiff.evaluation.records import STRATA, ImageTable, Result, read_csv, read_result, write_json
from modiff.io.checksum import NAME
from modiff.io.files import files_in, located, sha256_of
from modiff.metrics.registry import FIRST, METRICS, POOLED, chosen, rank
from modiff.viz.charts import draw_differences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS = 60  # of a panel
MODEL = "model"
Way = tuple[str, float, int, str]  # protocol, threshold, n, selection
_FLAGS = {"protocol": "--protocol", "n": "-n", "threshold": "--threshold", "select": "--select"}
# What must be the same in two results: its name, its value, and how an error says it.
Facts = Iterable[tuple[str, object, str]]


@dataclass(frozen=True, eq=False)
class Method:
    """One method's values on every image. name: in tables. path: of its JSON. table: has them under `steps`.

    parts: the results that were pooled, one per fold; none where it is one result.
    """

    name: str
    path: Path
    result: Result
    table: ImageTable
    steps: int | None
    parts: tuple[Method, ...] = ()

    @cached_property
    def columns(self) -> dict[tuple[Way, str], Any]:
        """(images,) by how it was scored and metric, or a `PooledError` where the metric is one."""
        own = {q: found for q, found in self.table.measured.items() if (q.predictor, q.steps) == (MODEL, self.steps)}
        return {((q.protocol, q.threshold, q.n, q.select), q.metric): found for q, found in own.items()}

    def ways(self) -> set[Way]:
        """The protocols, thresholds, n and selections that it was scored under."""
        return {way for way, _ in self.columns}

    def facts(self) -> Facts:
        """What methods that are compared have in common."""
        store, frame, ways = self.result.text("store", "fingerprint"), self.table.frame, self.ways()
        yield "split", self.table.split, self.table.split
        yield "data", store, f"store {str(store)[:12]}"
        yield "images", sorted(frame.index), f"{len(frame)} images"
        rows = sorted(frame[["patient", "stratum", "raters"]].itertuples(name=None))
        yield "patients, raters or strata", rows, "other rows"
        for field, values in (
            ("protocol", {protocol for protocol, *_ in ways}),
            ("select", {select for *_, select in ways}),
            ("n", {n for _, _, n, _ in ways}),
            ("threshold", {f"{protocol} {threshold:g}" for protocol, threshold, *_ in ways}),
        ):
            yield field, values, _list(values)


def read_results(path: str | Path) -> tuple[Result, ImageTable]:
    """The result in `path`, a JSON, and the table of images beside it; DataError where they do not say the same."""
    path = Path(path)
    result, beside = read_result(path), path.with_suffix(".csv")
    table = read_csv(beside, str(result.made.get("split", "")))
    known = result.strata.get("all", {}).get("images")
    if known != len(table):
        found, expected = f"{len(table)} images", f"{known} as {path.name} says"
        raise DataError("does not belong to this result", path=beside, found=found, expected=expected)

    which = attrgetter("metric", "predictor", "protocol", "threshold", "n", "steps", "stratum", "select")
    told = {which(record): record.value for record in result.results}
    for record in table.records(resamples=1):
        values = (record.value, told.get(which(record), record.value))
        mean, said = (math.nan if value is None else value for value in values)
        if not np.isclose(mean, said, rtol=1e-9, atol=1e-12, equal_nan=True):
            field = f"{record.metric} of {record.predictor}, {record.protocol}, n={record.n}, {record.stratum}"
            found, expected = f"a mean of {mean:.6g}", f"{said:.6g} as {path.name} says"
            raise DataError("does not belong to this result", path=beside, field=field, found=found, expected=expected)
    own = sha256_of(beside)
    if (kept := result.text("csv_sha256") or own) != own:  # older results do not say
        hint = f"If you changed it on purpose, remove made.csv_sha256 and the {NAME} in {path.name}"
        raise DataError("is damaged", path=beside, field="SHA-256", found=own, expected=kept, hint=hint)
    return result, table


def find_result(path: str | Path, split: str | None = None) -> Path:
    """The JSON of an evaluation: the file itself, or the one in a folder or in its folder `evaluation`.

    Raises DataError where there is none, or several and none is <split>.json.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    there = [file for folder in (path, path / FOLDER) for file in files_in(folder, ".json")]
    found = sorted(file for file in there if file.with_suffix(".csv").is_file())
    named = [file for file in found if file.stem == (split or "test")]
    if len(named) == 1 or (len(found) == 1 and split is None):
        return (named or found)[0]
    if not found:
        raise DataError("holds no result", path=path, expected="what `modiff evaluate` wrote")
    names = ", ".join(str(file.relative_to(path)) for file in found)
    raise DataError("several results", path=path, found=names, hint="Name the file in place of the folder")


def read_methods(
    paths: Sequence[str | Path],
    names: Sequence[str] | None = None,
    *,
    split: str | None = None,
    wanted: Mapping[str, Collection[str | int | float]] | None = None,
) -> list[Method]:
    """The methods of some results: one each, or one for each number of sampler steps where a result has several.

    names: one per path; by default what the results call their models, or their files where these are the same.
    wanted: of the protocol, n, threshold and select, those that are compared; by default all.
    Raises DataError for what is not a result, and where the results are not of the same thing, saying what differs.
    """
    files = [find_result(path, split) for path in paths]
    if names is not None and len(names) != len(files):
        raise DataError("one name per result", field="names", found=len(names), expected=len(files))
    results = [read_results(file) for file in files]
    own = [result.text("model", "name") or file.parent.name for file, (result, _) in zip(files, results, strict=True)]
    called = names or distinct(own, [str(file.with_suffix("")) for file in files])
    several = zip(called, files, results, strict=True)
    methods = [method for label, file, read in several for method in _methods(label, file, *read, wanted or {})]
    first = methods[0]
    for i, method in enumerate(methods[1:], 1):
        check_alike(first.path, first.facts(), method.path, method.facts())
        frame = method.table.frame.loc[first.table.frame.index]
        methods[i] = replace(method, table=replace(method.table, frame=frame))
    again = [name for name, count in Counter(method.name for method in methods).items() if count > 1]
    if again:
        raise DataError("two methods of one name", field="names", found=again[0], hint="--names tells them apart.")
    return methods


def distinct(names: Sequence[str], *more: Sequence[str]) -> list[str]:
    """Each name, or where others are the same, with the first of `more` that tells all of them apart."""
    found = []
    for i, name in enumerate(names):
        alike = [k for k, other in enumerate(names) if other == name]
        telling = (texts for texts in more if len({texts[k] for k in alike}) == len(alike))
        found.append(name if len(alike) == 1 else f"{name}, {next(telling, more[-1])[i]}")
    return found


def _methods(
    label: str, file: Path, result: Result, table: ImageTable, wanted: Mapping[str, Collection[Any]]
) -> list[Method]:
    model = [quantity for quantity in table.columns if quantity.predictor == MODEL]
    left = [q for q in model if any(getattr(q, field) not in values for field, values in wanted.items())]
    every = sorted({quantity.steps for quantity in set(model) - set(left)}, key=lambda steps: steps or 0)
    if not every:
        parts = [
            f"{field} {_list({getattr(q, field) for q in model})}" for field in ("protocol", "n", "threshold", "select")
        ]
        raise DataError("holds none of the scores to be compared", path=file, found="; ".join(parts))
    table = replace(table, frame=table.frame.drop(columns=left))
    names = [f"{label}, {counted(steps, 'step')}" if steps is not None and len(every) > 1 else label for steps in every]
    return [Method(name, file, result, table, steps) for name, steps in zip(names, every, strict=True)]


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, sorted(values))) or "none"


def check_alike(first: Path, facts: Facts, other: Path, others: Facts) -> None:
    """Raises DataError that says in what the file `other` differs from `first`; arrays may differ by rounding."""
    for (field, ours, expected), (_, theirs, found) in zip(facts, others, strict=True):
        if isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray):
            same = ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-6, atol=1e-6)
        else:
            same = ours == theirs
        if not same:
            said = (
                ("others", f"the same as in {first}") if found == expected else (found, f"{expected}, as {first} has")
            )
            hint = f"{_FLAGS[field]} compares what both have." if field in _FLAGS else None
            message = "results of different data or settings cannot be compared"
            raise DataError(message, path=other, field=field, found=said[0], expected=said[1], hint=hint)


def pool(parts: Sequence[Method], split: str) -> Method:
    """One method's results on the images of several splits as one; what only some of them have is left out.

    split: what they are called together. Raises DataError where they share images.
    """
    first = parts[0]
    with located(first.path):
        table = ImageTable.together([part.table for part in parts], split)
    return replace(first, table=table, parts=tuple(parts))


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
    select: str
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
    """Differences of every pair of methods, in the order given; notes: what a user should know."""

    methods: tuple[Method, ...]
    differences: list[Difference]
    notes: tuple[str, ...]


def compare(
    methods: Sequence[Method], metrics: Iterable[str] | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> Comparison:
    """Every pair of methods, every protocol, threshold, n and selection, every stratum.

    metrics: names of `registry.METRICS`, or "all"; by default GED and HM-IoU.
    Raises ConfigError for fewer than two methods or a metric that not all of them have.
    """
    if len(methods) < 2:
        raise ConfigError("needs two methods", field="results", found=len(methods), expected="2 or more")
    measured, notes = _metrics(methods, metrics)
    if len(methods) > 2:
        notes.append("intervals are not widened for the number of comparisons")
    differences = [
        found
        for stratum in STRATA
        if methods[0].table.rows(stratum).any()
        for way in sorted(methods[0].ways(), key=lambda way: (way[0] != "standard", way))
        for metric in measured
        for a, b in combinations(methods, 2)
        if (found := _difference(a, b, way, metric, stratum, seed=seed, resamples=resamples)) is not None
    ]
    return Comparison(tuple(methods), differences, tuple(notes))


def _metrics(methods: Sequence[Method], asked: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """Metrics of records in the order of tables, and what is to be said of those left out."""
    own = [{metric for _, metric in method.columns} for method in methods]
    has = set.intersection(*own)
    names = list(FIRST) if asked is None else list(asked)
    if "all" in names:
        alone = sorted(set.union(*own) - has - set(POOLED))
        shared = sorted(has & words.HIGHER_IS_BETTER.keys(), key=rank)
        return shared, [f"only some results have {', '.join(alone)}"] if alone else []
    columns = {column.name for name in chosen(names) for column in METRICS[name].outputs}
    parts = columns & words.HIGHER_IS_BETTER.keys()
    if not parts & has:
        expected = ", ".join(sorted(has, key=rank)) or "metrics that all have"
        raise ConfigError("not in every result", field="metrics", found=", ".join(names), expected=expected)
    notes = [f"not in every result: {', '.join(missing)}"] if (missing := sorted(parts - has, key=rank)) else []
    if left := [words.METRICS[metric] for metric in FIRST if metric in has - parts]:
        notes.append(f"every result has {' and '.join(left)} too, by which another may be better")
    return sorted(parts & has, key=rank), notes


def _difference(a: Method, b: Method, way: Way, metric: str, stratum: str, **how: int) -> Difference | None:
    """The difference a − b; None where the metric is not measured in this way (no threshold enters it).

    how: seed and resamples of the bootstrap.
    """
    table, rows = a.table, a.table.rows(stratum)
    patients = table.frame["patient"][rows].tolist()
    if (way, metric) not in a.columns.keys() & b.columns.keys():
        return None
    x, y = a.columns[way, metric], b.columns[way, metric]
    if metric in POOLED:
        interval, value_a, value_b = pooled_difference(x.gaps[rows], y.gaps[rows], patients, classes=x.classes, **how)
    else:
        difference = (x - y)[rows]
        both = (np.where(np.isnan(difference), np.nan, values[rows]) for values in (x, y))
        value_a, value_b = (mean_interval(values, patients, resamples=1).value for values in both)
        interval = mean_interval(difference, patients, **how)
    value, low, high, images, people = astuple(interval)
    better = None
    if low is not None and not low <= 0 <= high:
        better = a.name if (low > 0) == words.HIGHER_IS_BETTER[metric] else b.name
    return Difference(
        *(metric, a.name, b.name, *way, table.split, stratum, images, int(rows.sum()) - images, people),
        *(value_a, value_b, value, low, high, better),
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
    rows = [row for row in comparison.differences if (row.a, row.b, row.stratum) == (a, b, stratum)]
    cells = []
    for row in rows:
        digits = words.decimals(row.metric)
        cell = {
            "a − b": f"{a} − {b}",
            "metric": words.METRICS[row.metric],
            "protocol": row.protocol,
            "threshold": words.masks_by(row.metric, row.protocol, row.threshold),
            "n": row.n,
            "selection": row.select,
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
        cells.append(cell)
    frame = pd.DataFrame(cells, index=[f"{row.protocol} {row.threshold} {row.n} {row.select}" for row in rows])
    return frame.drop(columns="selection") if all(row.select == IID for row in rows) and rows else frame


def figure_of(comparison: Comparison, stratum: str = "all") -> Figure:
    """A panel per metric, a line per pair of methods, protocol, threshold and n."""
    rows = [row for row in comparison.differences if row.stratum == stratum and row.difference is not None]
    panels = {}
    for metric in dict.fromkeys(row.metric for row in rows):
        shown = [row for row in rows if row.metric == metric][:_MOST_ROWS]
        labels = []
        for row in shown:
            how = words.masks_by(metric, row.protocol, row.threshold)
            setting = row.protocol if how == words.NONE else f"{row.protocol}, {how}"
            drawn = "" if row.select == IID else f", {row.select}"
            labels.append(f"{row.a} − {row.b}\n{setting}, n = {row.n}{drawn}")
        partly = any(row.undefined for row in shown)
        defined = f" (defined on {min(row.images for row in shown)})" if partly else ""
        side = "→" if words.HIGHER_IS_BETTER[metric] else "←"
        sides = [0 if row.better is None else 1 if row.better == row.a else -1 for row in shown]
        frame = pd.DataFrame(shown).assign(label=labels, side=sides, across=f"a − b   ({side} a is better)")
        panels[words.METRICS[metric] + defined] = frame
    images = rows[0].images + rows[0].undefined if rows else 0
    title = f"Paired differences on {counted(images, 'image')}, split {rows[0].split}" if rows else "Nothing is defined"
    return draw_differences(panels, f"{title}, {words.STRATA[stratum]}; 95 % intervals over patients")
