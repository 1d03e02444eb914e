"""Results of evaluations: the JSON and the CSV read together, and refused where they are not of the same images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
_FLAGS = {"protocol": "--protocol", "n": "-n", "threshold": "--threshold"}
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
    def columns(self) -> dict[tuple[Way, str], np.ndarray]:
        """(images,) by how it was scored and metric, a calibration error by the columns that it follows from."""
        own = {q: column for q, column in self.table.columns.items() if (q.predictor, q.steps) == (MODEL, self.steps)}
        return {((q.protocol, q.threshold, q.n), q.metric): column for q, column in own.items()}

    def ways(self) -> set[Way]:
        """The protocols, thresholds and n that it was scored under."""
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
            ("protocol", {protocol for protocol, _, _ in ways}),
            ("n", {n for _, _, n in ways}),
            ("threshold", {f"{protocol} {threshold:g}" for protocol, threshold, _ in ways}),
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
        parts = [f"{field} {_list({getattr(q, field) for q in model})}" for field in ("protocol", "n", "threshold")]
        raise DataError("nothing of what is to be compared", path=file, found="; ".join(parts))
    table = replace(table, frame=table.frame.drop(columns=left))
    names = [f"{label}, {steps} steps" if len(every) > 1 else label for steps in every]
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
            message = "results of different things are not compared"
            raise DataError(message, path=other, field=field, found=said[0], expected=said[1], hint=hint)


def pooled(parts: Sequence[Method], split: str) -> Method:
    """One method's results on the images of several splits as one; what only some of them have is left out.

    split: what they are called together. Raises DataError where they share images.
    """
    first = parts[0]
    frame = pd.concat([part.table.frame for part in parts], join="inner")
    if not frame.index.is_unique:
        raise DataError("an image in two folds", path=first.path, field="case")
    return replace(first, table=ImageTable(split, frame), parts=tuple(parts))
