"""Results to compare: found, read, and refused where their numbers are not of the same thing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modiff.errors import DataError
from modiff.evaluation.evaluate import FOLDER
from modiff.evaluation.records import Result
from modiff.evaluation.results import read_results
from modiff.evaluation.table import ImageTable, Quantity
from modiff.metrics.registry import GAP

MODEL = "model"
Way = tuple[str, float, int]  # protocol, threshold, n


@dataclass(frozen=True, eq=False)
class Method:
    """One method's values on every image. name: in tables. path: of its JSON. columns: (way, metric) -> (images,).

    parts: the results that were pooled, one a fold; none where it is one result.
    """

    name: str
    path: Path
    result: Result
    table: ImageTable
    columns: dict[tuple[Way, str], np.ndarray]
    parts: tuple[Method, ...] = ()

    def ways(self) -> set[Way]:
        """The protocols, thresholds and n that it was scored under."""
        return {way for way, _ in self.columns}

    def metrics(self) -> set[str]:
        """The metrics that it was scored by, a calibration error by the columns that it follows from."""
        return {metric for _, metric in self.columns}


@dataclass(frozen=True)
class Wanted:
    """What of the results is compared; None is everything."""

    protocols: tuple[str, ...] | None = None
    ns: tuple[int, ...] | None = None
    thresholds: tuple[float, ...] | None = None

    def has(self, quantity: Quantity) -> bool:
        """Whether a column is of it."""
        pairs = (
            (self.protocols, quantity.protocol),
            (self.ns, quantity.n),
            (self.thresholds, quantity.threshold),
        )
        return all(asked is None or value in asked for asked, value in pairs)


def find_result(path: str | Path, split: str | None = None) -> Path:
    """The JSON of an evaluation: the file itself, or the one in a folder or in its folder `evaluation`.

    Raises DataError where there is none, or several and none is <split>.json.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    there = [folder for folder in (path, path / FOLDER) if folder.is_dir()]
    found = sorted(file for folder in there for file in folder.glob("*.json") if file.with_suffix(".csv").is_file())
    named = [file for file in found if file.stem == (split or "test")]
    if len(named) == 1 or (len(found) == 1 and split is None):
        return (named or found)[0]
    if not found:
        raise DataError("no result here", path=path, expected="what `modiff evaluate` wrote")
    names = ", ".join(str(file.relative_to(path)) for file in found)
    raise DataError("several results", path=path, found=names, hint="Name the file in place of the folder")


def read_methods(
    paths: Sequence[str | Path],
    names: Sequence[str] | None = None,
    *,
    split: str | None = None,
    wanted: Wanted | None = None,
) -> list[Method]:
    """The methods of some results: one each, or one for each number of sampler steps where a result has several.

    names: one a path; by default what the results call their models, or their files where these are the same.
    Raises DataError for what is no result, and where the results are not of the same thing, saying what differs.
    """
    wanted = wanted or Wanted()
    files = [find_result(path, split) for path in paths]
    if names is not None and len(names) != len(files):
        raise DataError("one name a result", field="names", found=len(names), expected=len(files))
    results = [read_results(file) for file in files]
    labels = list(names) if names is not None else _labels(files, [result for result, _ in results])
    methods = [
        method
        for label, file, (result, table) in zip(labels, files, results, strict=True)
        for method in _methods(label, file, result, table, wanted)
    ]
    first = methods[0]
    compared = [_ordered_as(first, _checked(first, method)) for method in methods]
    again = sorted({method.name for method in compared if [m.name for m in compared].count(method.name) > 1})
    if again:
        raise DataError("two methods of one name", field="names", found=again[0], hint="--names tells them apart.")
    return compared


def _labels(files: list[Path], results: list[Result]) -> list[str]:
    names = [
        _text(result.made.get("model", {}).get("name")) or file.parent.name
        for file, result in zip(files, results, strict=True)
    ]
    return [
        name if names.count(name) == 1 else str(file.with_suffix("")) for name, file in zip(names, files, strict=True)
    ]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.isprintable() and value.strip() else None


def _methods(label: str, file: Path, result: Result, table: ImageTable, wanted: Wanted) -> list[Method]:
    by_steps: dict[int | None, dict[tuple[Way, str], np.ndarray]] = {}
    for quantity, values in table.columns.items():
        if quantity.predictor == MODEL and wanted.has(quantity):
            way = (quantity.protocol, quantity.threshold, quantity.n)
            by_steps.setdefault(quantity.steps, {})[way, quantity.metric] = values
    if not by_steps:
        raise DataError("nothing of what is to be compared", path=file, found=_offer(table))
    several = len(by_steps) > 1
    return [
        Method(f"{label}, {steps} steps" if several else label, file, result, table, columns)
        for steps, columns in sorted(by_steps.items(), key=lambda item: item[0] or 0)
    ]


def _offer(table: ImageTable) -> str:
    """What a table has, in words."""
    model = [quantity for quantity in table.columns if quantity.predictor == MODEL]
    parts = (("protocols", [q.protocol for q in model]), ("n", [q.n for q in model]))
    said = "; ".join(f"{name} {_list(values)}" for name, values in parts)
    return f"{said}; thresholds {_list(q.threshold for q in model)}"


def _list(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in sorted(set(values))) or "none"


_HINTS = {
    "protocol": "--protocol compares what both have.",
    "n": "-n compares what both have.",
    "threshold": "--threshold compares what both have.",
}


def _checked(first: Method, other: Method) -> Method:
    """The other method; raises DataError that says in what it differs from the first."""

    def store(method: Method) -> str:
        return str(method.result.made.get("store", {}).get("fingerprint"))

    aspects: list[tuple[str, Callable[[Method], Any], Callable[[Any], str]]] = [
        ("split", lambda m: m.table.split, str),
        ("data", store, lambda found: f"store {found[:12]}"),
        ("images", lambda m: sorted(m.table.cases), lambda found: f"{len(found)} images"),
        ("patients, raters or strata", _rows, lambda found: "other rows"),
        ("protocol", lambda m: sorted({way[0] for way in m.ways()}), _list),
        ("n", lambda m: sorted({way[2] for way in m.ways()}), _list),
        ("threshold", lambda m: sorted({way[:2] for way in m.ways()}), _thresholds),
    ]
    for field, of, say in aspects:
        ours, theirs = of(first), of(other)
        if ours != theirs:
            found, expected = say(theirs), f"{say(ours)}, as {first.path} has"
            if found == say(ours):
                found, expected = "others", f"the same as in {first.path}"
            raise DataError(
                "results of different things are not compared",
                path=other.path,
                field=field,
                found=found,
                expected=expected,
                hint=_HINTS.get(field),
            )
    return other


def _rows(method: Method) -> list[tuple[str, str, str, int]]:
    table = method.table
    return sorted(zip(table.cases, table.patients, table.strata, table.raters, strict=True))


def _thresholds(found: list[tuple[str, float]]) -> str:
    return ", ".join(f"{protocol} {threshold:g}" for protocol, threshold in found)


def _ordered_as(first: Method, other: Method) -> Method:
    """The other method with its images in the order of the first."""
    place = {case: i for i, case in enumerate(other.table.cases)}
    order = np.array([place[case] for case in first.table.cases])
    return replace(other, table=first.table, columns={key: values[order] for key, values in other.columns.items()})


def pooled(parts: Sequence[Method], split: str) -> Method:
    """One method's results on the images of several splits as one; what only some of them have is left out.

    split: what they are called together. Raises DataError where they share images.
    """
    tables, first = [part.table for part in parts], parts[0]
    cases = [case for table in tables for case in table.cases]
    if len(set(cases)) != len(cases):
        raise DataError("an image in two folds", path=first.path, field="case")
    columns = {
        key: np.concatenate([part.columns[key] for part in parts])
        for key in first.columns
        if all(key in part.columns for part in parts)
    }
    table = ImageTable(
        split,
        cases,
        [patient for table in tables for patient in table.patients],
        [stratum for table in tables for stratum in table.strata],
        [raters for table in tables for raters in table.raters],
        {
            quantity: np.concatenate([table.columns[quantity] for table in tables])
            for quantity in tables[0].columns
            if all(quantity in table.columns for table in tables)
        },
    )
    return Method(first.name, first.path, first.result, table, columns, tuple(parts))


def shared_metrics(methods: Sequence[Method]) -> tuple[list[str], list[str]]:
    """Metrics that all methods have, and those that only some have; columns of a pooled error count as its parts."""
    every = set.intersection(*(method.metrics() for method in methods))
    some = set.union(*(method.metrics() for method in methods)) - every
    return sorted(every), sorted(metric for metric in some if not metric.startswith(GAP))
