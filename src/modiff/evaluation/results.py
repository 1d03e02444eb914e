"""Results of evaluations: the JSON and the CSV read together, and refused where they are not of the same images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modiff.errors import DataError
from modiff.evaluation.evaluate import FOLDER
from modiff.evaluation.records import Result, read_result
from modiff.evaluation.table import ImageTable, read_csv, records_of

MODEL = "model"
Way = tuple[str, float, int]  # protocol, threshold, n


@dataclass(frozen=True, eq=False)
class Method:
    """One method's values on every image. name: in tables. path: of its JSON. columns: (way, metric) -> (images,).

    parts: the results that were pooled, one per fold; none where it is one result.
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


def read_results(path: str | Path) -> tuple[Result, ImageTable]:
    """The result in `path`, a JSON, and the table of images beside it; DataError where they do not say the same."""
    path = Path(path)
    result, beside = read_result(path), path.with_suffix(".csv")
    table = read_csv(beside, str(result.made.get("split", "")))
    known = result.strata.get("all", {}).get("images")
    if known != len(table):
        found, expected = f"{len(table)} images", f"{known} as {path.name} says"
        raise DataError("not of this result", path=beside, found=found, expected=expected)

    which = attrgetter("metric", "predictor", "protocol", "threshold", "n", "steps", "stratum")
    told = {which(record): record.value for record in result.results}
    for record in records_of(table, resamples=1):
        values = (record.value, told.get(which(record), record.value))
        mean, said = (math.nan if value is None else value for value in values)
        if not np.isclose(mean, said, rtol=1e-9, atol=1e-12, equal_nan=True):
            field = f"{record.metric} of {record.predictor}, {record.protocol}, n={record.n}, {record.stratum}"
            found, expected = f"a mean of {mean:.6g}", f"{said:.6g} as {path.name} says"
            raise DataError("not of this result", path=beside, field=field, found=found, expected=expected)
    return result, table


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
    wanted: Mapping[str, Collection[str | int | float]] | None = None,
) -> list[Method]:
    """The methods of some results: one each, or one for each number of sampler steps where a result has several.

    names: one per path; by default what the results call their models, or their files where these are the same.
    wanted: of the protocol, n and threshold, those that are compared; by default all.
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
    for i, method in enumerate(methods[1:], 1):
        check_alike(methods[0], method, _ASPECTS)
        order = method.table.frame.index.get_indexer(methods[0].table.frame.index)
        columns = {key: values[order] for key, values in method.columns.items()}
        methods[i] = replace(method, table=methods[0].table, columns=columns)
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
    by_steps: dict[int | None, dict[tuple[Way, str], np.ndarray]] = {}
    for quantity in model:
        if all(getattr(quantity, field) in values for field, values in wanted.items()):
            way = (quantity.protocol, quantity.threshold, quantity.n)
            by_steps.setdefault(quantity.steps, {})[way, quantity.metric] = table.columns[quantity]
    if not by_steps:
        parts = [f"{field} {_list({getattr(q, field) for q in model})}" for field in ("protocol", "n", "threshold")]
        raise DataError("nothing of what is to be compared", path=file, found="; ".join(parts))
    several = len(by_steps) > 1
    return [
        Method(f"{label}, {steps} steps" if several else label, file, result, table, columns)
        for steps, columns in sorted(by_steps.items(), key=lambda item: item[0] or 0)
    ]


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, sorted(values))) or "none"


# What must be the same: its name, how it is found, how an error says it, and what the user can do.
Aspect = tuple[str, Callable[[Any], Any], Callable[[Any], str], str | None]


_ASPECTS: list[Aspect] = [
    ("split", lambda m: m.table.split, str, None),
    ("data", lambda m: m.result.text("store", "fingerprint"), lambda found: f"store {str(found)[:12]}", None),
    ("images", lambda m: sorted(m.table.cases), lambda found: f"{len(found)} images", None),
    (
        "patients, raters or strata",
        lambda m: sorted(m.table.frame[["patient", "stratum", "raters"]].itertuples(name=None)),
        lambda found: "other rows",
        None,
    ),
    ("protocol", lambda m: {way[0] for way in m.ways()}, _list, "--protocol compares what both have."),
    ("n", lambda m: {way[2] for way in m.ways()}, _list, "-n compares what both have."),
    (
        "threshold",
        lambda m: {f"{protocol} {threshold:g}" for protocol, threshold, _ in m.ways()},
        _list,
        "--threshold compares what both have.",
    ),
]


def check_alike(first: Any, other: Any, aspects: Iterable[Aspect]) -> None:
    """Raises DataError that says in what `other` differs from `first`; both have the path of a file.

    Lists of numbers may differ by rounding.
    """
    for field, of, say, hint in aspects:
        ours, theirs = of(first), of(other)
        lists = (isinstance(values, list) and all(isinstance(v, float) for v in values) for values in (ours, theirs))
        numbers = all(lists) and len(ours) == len(theirs)
        if ours != theirs and not (numbers and np.allclose(ours, theirs, rtol=1e-6, atol=1e-6)):
            found, expected = say(theirs), f"{say(ours)}, as {first.path} has"
            if found == say(ours):
                found, expected = "others", f"the same as in {first.path}"
            message = "results of different things are not compared"
            raise DataError(message, path=other.path, field=field, found=found, expected=expected, hint=hint)


def pooled(parts: Sequence[Method], split: str) -> Method:
    """One method's results on the images of several splits as one; what only some of them have is left out.

    split: what they are called together. Raises DataError where they share images.
    """
    first = parts[0]
    frame = pd.concat([part.table.frame for part in parts], join="inner")
    if not frame.index.is_unique:
        raise DataError("an image in two folds", path=first.path, field="case")
    shared = [key for key in first.columns if all(key in part.columns for part in parts)]
    columns = {key: np.concatenate([part.columns[key] for part in parts]) for key in shared}
    return Method(first.name, first.path, first.result, ImageTable(split, frame), columns, tuple(parts))
