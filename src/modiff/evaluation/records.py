"""The numbers of an evaluation: a table of images with its CSV, and the tidy records of it with their JSON.

A record is one measured number with everything that is needed to read it. Whatever prints, plots or compares results
reads these records and tables and nothing else. Nothing here knows models: what scores samples (a trained model, or
files that another program made) fills an `ImageTable` and gets the same CSV, strata, intervals and records.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from modiff.config.evaluation import IID, RESAMPLES, SELECTIONS
from modiff.config.fields import typed
from modiff.errors import DataError
from modiff.evaluation.bootstrap import mean_interval, pooled_error_interval
from modiff.io.checksum import BLANK, stamped
from modiff.io.files import located
from modiff.io.output import write_bytes, write_text
from modiff.io.text import csv_text, read_json_text, read_table
from modiff.metrics.protocols import GIVEN_MARKS
from modiff.metrics.registry import GAP, NAMES, PooledError, pooled, rank
from modiff.plain import finite, json_text

SCHEMA = 1
BESIDE = BASELINE, ONE_RATER, REFERENCE = "majority_vote", "one_rater", "iid_reference"
STRATA = ("all", "all_marked", "some_empty", "none")
UNREAD = "unread"  # the stratum of images that nobody read
EMPTY = "no sample marks anything on any image"  # a note of a result
DIFFERENCE = "_minus_"  # "ged_minus_majority_vote": the predictor's GED less the other's, image by image
Seconds = dict[tuple[int | None, int] | tuple[int | None, int, str], float]
_IMAGE = ("case", "patient", "stratum", "raters")  # what a row says of its image, before its values


@dataclass(frozen=True, slots=True)
class Record:
    """One number: a metric's mean over the images of a stratum, with its 95 % interval.

    metric: "ged", "hm_iou", …; "<metric>_minus_<other>" is the mean paired difference predictor − other on the same
    images. n: samples per image. steps: of the sampler, None where the predictor takes none. threshold: at which
    probabilities became masks (0.5: the most probable class, ties to the background). images, patients: those on which
    the metric is defined, which the value is a mean over. value: None where it is defined on no image.
    ci_low, ci_high: bootstrap over patients, None under five of them. seconds_per_image: to draw the n samples. select:
    which samples (`Selection`); references, which are not drawn, have "iid".
    """

    metric: str
    predictor: str
    protocol: str
    n: int
    steps: int | None
    threshold: float
    split: str
    stratum: str
    images: int
    patients: int
    value: float | None
    ci_low: float | None
    ci_high: float | None
    seconds_per_image: float | None
    select: str = IID


@dataclass(frozen=True)
class Result:
    """An evaluation as it is written: made (how), strata (images and patients of each), results (the records).

    An undefined value is left out of a mean and counted: strata[s]["images"] less a record's images.
    """

    made: dict[str, Any]
    strata: dict[str, dict[str, int]]
    results: list[Record]

    def undefined(self, record: Record) -> int:
        """How many images of the record's stratum have no value of its metric."""
        return self.strata.get(record.stratum, {}).get("images", record.images) - record.images

    def text(self, *names: str) -> str | None:
        """One printable line of how it was made, e.g. text("model", "name"); None where there is none."""
        found: Any = self.made
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found if is_label(found) else None


def is_label(value: object) -> bool:
    """Whether it is one printable line of text, fit to name a method."""
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


def write_json(path: str | Path, made: Mapping[str, Any], strata: object, name: str, rows: Iterable[Any]) -> Path:
    """Writes made, strata (unless None) and, as `name`, dataclasses, one per line.

    The file is there whole or not at all. Numbers that are not finite become null.
    """
    lines = ",\n  ".join(json_text(finite(asdict(row))) for row in rows)
    how = json_text(finite(made), indent=1).replace("\n", "\n ")
    counts = "" if strata is None else f' "strata": {json_text(strata)},\n'
    own = json_text(BLANK)[1:-1]
    text = f'{{\n "schema": {SCHEMA},\n "made": {how},\n{counts} "{name}": [\n  {lines}\n ],\n {own}\n}}\n'
    return write_bytes(path, stamped(text.encode()))


def write_result(result: Result, path: str | Path) -> Path:
    """Writes an evaluation as JSON, one record per line; the file is there whole or not at all."""
    return write_json(path, result.made, result.strata, "results", result.results)


def read_json(path: Path, parts: Mapping[str, type], *, what: str, hint: str) -> dict[str, Any]:
    """A JSON object of this schema with these parts, objects or lists; DataError where it is missing or is not `what`.

    hint: how one is made.
    """
    if not path.exists():
        raise DataError("no such file", path=path, expected=what, hint=hint)
    content = read_json_text(path, kind=what, hint=hint)
    if not isinstance(content, dict) or not {"schema", *parts} <= content.keys():
        raise DataError(f"not {what}", path=path, expected=f"an object with schema, {', '.join(parts)}")
    if content["schema"] != SCHEMA:
        raise DataError("unknown schema", path=path, field="schema", found=content["schema"], expected=SCHEMA)
    for name, kind in parts.items():
        if not isinstance(content[name], kind):
            message = "not a list" if kind is list else "not an object"
            raise DataError(message, path=path, field=name, found=type(content[name]).__name__)
    return content


def read_result(path: str | Path) -> Result:
    """Reads an evaluation; raises DataError for what is not JSON, missing or unknown keys and values of wrong type."""
    path = Path(path)
    parts = {"made": dict, "strata": dict, "results": list}
    content = read_json(path, parts, what="an evaluation", hint="`modiff evaluate` makes one.")
    made, strata, results = (content[part] for part in parts)
    for name in ("versions", "store", "model", "settings"):
        if not isinstance(made.get(name, {}), dict):
            raise DataError("not an object", path=path, field=f"made.{name}", found=type(made[name]).__name__)
    for stratum, counts in strata.items():
        good = isinstance(counts, dict) and all(type(count) is int and count >= 0 for count in counts.values())
        if not good:
            raise DataError("not counts of a stratum", path=path, field=f"strata.{stratum}", found=counts)
    records = []
    for i, row in enumerate(results):
        record = typed(Record, row, "not a record", path=path, field=f"results[{i}]", optional={"select"})
        for name in ("n", "images", "patients"):
            if (count := getattr(record, name)) < 0:
                raise DataError("is negative", path=path, field=f"results[{i}].{name}", found=count)
        for name, value, known in (("stratum", record.stratum, STRATA), ("select", record.select, SELECTIONS)):
            if value not in known:
                where, expected = f"results[{i}].{name}", ", ".join(known)
                raise DataError(f"unknown {name}", path=path, field=where, found=value, expected=expected)
        records.append(record)
    return Result(made, strata, records)


def select(records: Iterable[Any], **wanted: Any) -> list[Any]:
    """The records (or quantities) whose fields equal what is wanted, or are among a list, tuple or set that is."""
    unknown = wanted.keys() - {field.name for field in fields(Record)}
    if unknown:
        raise TypeError(f"a record has no {', '.join(sorted(unknown))}")
    asked = {key: value if isinstance(value, list | tuple | set) else (value,) for key, value in wanted.items()}
    return [record for record in records if all(getattr(record, key) in among for key, among in asked.items())]


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """What a column holds: a metric of a predictor, with all that was fixed to measure it."""

    protocol: str
    threshold: float
    n: int
    steps: int | None
    predictor: str
    metric: str
    select: str = IID

    @property
    def name(self) -> str:
        """The column's name, e.g. "ged|model|standard|n=16|steps=10|threshold=0.5"."""
        steps = "" if self.steps is None else f"|steps={self.steps}"
        found = f"{self.metric}|{self.predictor}|{self.protocol}|n={self.n}{steps}|threshold={float(self.threshold)!r}"
        return found if self.select == IID else f"{found}|select={self.select}"

    @property
    def timed(self) -> tuple[int | None, int] | tuple[int | None, int, str]:
        """What its seconds are found by: steps and n, and the selection of other than i.i.d. samples."""
        return (self.steps, self.n) if self.select == IID else (self.steps, self.n, self.select)

    @classmethod
    def parse(cls, name: str) -> Quantity:
        """The quantity of a column's name; raises DataError for one that is not a column of values."""
        try:
            metric, predictor, protocol, *pairs = name.split("|")
            given = dict(pair.split("=", 1) for pair in pairs)
            steps = int(given["steps"]) if "steps" in given else None
            select = SELECTIONS[SELECTIONS.index(given.get("select", IID))]
            return cls(protocol, float(given["threshold"]), int(given["n"]), steps, predictor, metric, select)
        except (ValueError, KeyError):
            raise DataError("not a column of values", field=name, expected="metric|predictor|protocol|n=…") from None


@dataclass(eq=False)
class ImageTable:
    """One row per image, which nobody changes.

    frame: indexed by case; patient, stratum, raters (how many it is scored against), then a column of float64 per
    `Quantity`, NaN where undefined. stratum: "all_marked" (every rater who read it marked something), "some_empty",
    "none" (nobody did). seconds: by `Quantity.timed`, the mean time to draw n samples of an image. unread: images
    left out, as nobody read them. marked: whether any sample marks anything, where rows were scored; a file does not
    say. few: images of which fewer than n samples mark anything, where only such samples count.
    """

    split: str
    frame: pd.DataFrame
    seconds: Seconds = field(default_factory=dict)
    unread: int = 0
    marked: bool = True
    few: int = 0

    @classmethod
    def of(cls, split: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> ImageTable:
        """A table from rows of case, patient, stratum, raters and a value per quantity, whose names end the header.

        Raises DataError for two images or columns of one name and for a column's name that is not a quantity's.
        """
        quantities = list(map(Quantity.parse, header[len(_IMAGE) :]))
        frame = pd.DataFrame(rows, columns=[*_IMAGE, *quantities], dtype=object).set_index("case")
        for kind, names in (("image", frame.index), ("column", frame.columns)):
            if not names.is_unique:
                raise DataError(f"two {kind}s of one name", found=names[names.duplicated()][0])
        return cls(split, frame.astype({"raters": int} | dict.fromkeys(quantities, np.float64)))

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def columns(self) -> dict[Quantity, NDArray[np.float64]]:
        """The values alone: (images,) of each quantity."""
        return {label: self.frame[label].to_numpy() for label in self.frame if isinstance(label, Quantity)}

    @cached_property
    def measured(self) -> dict[Quantity, NDArray[np.float64] | PooledError]:
        """The values, where a calibration error replaces the columns that it is pooled from."""
        sets: dict[Quantity, dict[str, NDArray[np.float64]]] = {}  # columns by metric of each set of samples
        for quantity, values in self.columns.items():
            sets.setdefault(replace(quantity, metric=""), {})[quantity.metric] = values
        own = {quantity: one for quantity, one in self.columns.items() if not quantity.metric.startswith(GAP)}
        return own | {replace(of, metric=name): one for of, has in sets.items() for name, one in pooled(has).items()}

    def largest(self, **wanted: Any) -> Quantity:
        """That of the largest n among those that are as wanted (`select`); DataError where none is."""
        found = select(self.columns, **wanted)
        if not found:
            raise DataError("has no such values", path=self.split, found=wanted)
        return max(found, key=lambda quantity: quantity.n)

    @classmethod
    def together(cls, tables: Sequence[ImageTable], split: str) -> ImageTable:
        """The images of several splits as one; what only some tables have is left out. DataError for an image twice."""
        frame = pd.concat([table.frame for table in tables], join="inner")
        if not frame.index.is_unique:
            twice = frame.index[frame.index.duplicated()][0]
            raise DataError("an image in two folds", field="case", found=twice, expected="folds that share no image")
        return cls(split, frame)

    @property
    def cases(self) -> list[str]:
        """Each image's name."""
        return self.frame.index.tolist()

    @property
    def patients(self) -> list[str]:
        """Each image's patient."""
        return self.frame["patient"].tolist()

    def counts(self) -> dict[str, dict[str, int]]:
        """Images and patients of each stratum, whether or not a metric is defined on them."""
        parts = {stratum: self.frame["patient"][self.rows(stratum)] for stratum in STRATA}
        return {stratum: {"images": len(part), "patients": part.nunique()} for stratum, part in parts.items()}

    def rows(self, stratum: str) -> NDArray[np.bool_]:
        """(images,) which rows belong to the stratum."""
        return (self.frame["stratum"] == stratum).to_numpy(dtype=bool) | (stratum == "all")

    def records(self, *, seed: int = 0, resamples: int = RESAMPLES) -> list[Record]:
        """The records of every quantity and stratum, and of the paired differences from the references.

        The i.i.d. reference describes images that were not chosen by their marks: it has the stratum "all" only, but of
        protocols given that a rater marks, whose strata are not chosen by the outlines that are compared.
        """
        measured = self.measured | _differences(self)
        strata = {name: rows for name in STRATA if (rows := self.rows(name)).any()}
        owners = {name: self.frame["patient"][rows].tolist() for name, rows in strata.items()}
        how, records = {"seed": seed, "resamples": resamples}, []
        for quantity in sorted(measured, key=_reading_order):
            one = measured[quantity]
            reference = quantity.predictor == REFERENCE or quantity.metric.endswith(DIFFERENCE + REFERENCE)
            drawn = quantity.predictor == "model" and DIFFERENCE not in quantity.metric
            seconds = self.seconds.get(quantity.timed) if drawn else None
            for name, rows in strata.items():
                if reference and name != "all" and not quantity.protocol.endswith(GIVEN_MARKS):
                    continue
                if isinstance(one, PooledError):
                    interval = pooled_error_interval(one.gaps[rows], owners[name], classes=one.classes, **how)
                else:
                    interval = mean_interval(one[rows], owners[name], **how)
                about = asdict(quantity) | {"split": self.split, "stratum": name, "seconds_per_image": seconds}
                records.append(Record(**about, **asdict(interval)))
        return records


def strata_of(marked: Tensor, read: Tensor) -> list[str]:
    """The stratum of each of B images from (B,R) bool: who marked something, and who read the image.

    An image that nobody read is "unread" and belongs to no stratum.
    """
    counts = zip((marked & read).sum(1).tolist(), read.sum(1).tolist(), strict=True)
    return [
        UNREAD if not raters else "none" if not marks else "all_marked" if marks == raters else "some_empty"
        for marks, raters in counts
    ]


def _differences(table: ImageTable) -> dict[Quantity, NDArray[np.float64] | PooledError]:
    """A column for each difference of a predictor that draws samples from those that do not."""
    found: dict[Quantity, NDArray[np.float64] | PooledError] = {}
    for quantity, values in table.columns.items():
        if quantity.predictor in BESIDE or NAMES.get(quantity.metric, ("", None))[1] is None:
            continue
        for other in (BASELINE, REFERENCE):
            beside = table.columns.get(replace(quantity, steps=None, predictor=other, select=IID))
            if beside is not None and (other == BASELINE or quantity.select == IID):
                found[replace(quantity, metric=f"{quantity.metric}{DIFFERENCE}{other}")] = values - beside
    return found


def _reading_order(quantity: Quantity) -> tuple[object, ...]:
    """Standard before paper; within it by threshold, n and metric, references right below the model."""
    order = ("model", "shuffled", *BESIDE)
    predictor = order.index(quantity.predictor) if quantity.predictor in order else 0
    metric, difference, _ = quantity.metric.partition(DIFFERENCE)
    steps = -1 if quantity.steps is None else quantity.steps
    protocol = (quantity.protocol != "standard", quantity.protocol)
    drawn = SELECTIONS.index(quantity.select)
    what = bool(difference), rank(metric), quantity.metric, predictor, drawn
    return (protocol, quantity.threshold, quantity.n, *what, steps)


def write_csv(table: ImageTable, path: str | Path) -> Path:
    """Writes case, patient, stratum, raters and a column per quantity, a row per image; undefined values are empty."""
    quantities = sorted(table.columns, key=_reading_order)
    frame = table.frame[[*_IMAGE[1:], *quantities]]
    frame = frame.set_axis([*_IMAGE[1:], *(quantity.name for quantity in quantities)], axis=1)
    return write_text(path, csv_text(frame.copy().reset_index()))


def read_csv(path: str | Path, split: str) -> ImageTable:
    """Reads what `write_csv` wrote; raises DataError for what is not such a table."""
    path, rows = Path(path), read_table(path, _IMAGE, None, kind="table of images")
    if not rows:
        raise DataError("a table without images", path=path)
    quantities = [name for name in rows[0][1] if name not in _IMAGE]

    def number(place: str, name: str, cell: str) -> float:
        try:
            value = int(cell) if name == "raters" else float(cell or "nan")
            if math.isinf(value):
                raise ValueError
            return value
        except ValueError:
            raise DataError("not a number", field=f"{place}, {name}", found=repr(cell)) from None

    with located(path):
        cells = (
            [*map(row.get, _IMAGE[:-1]), *(number(place, name, row[name]) for name in (_IMAGE[-1], *quantities))]
            for place, row in rows
        )
        return ImageTable.of(split, [*_IMAGE, *quantities], cells)


def assemble(split: str, rows: Sequence[Mapping[str, Any]], seconds: Seconds | None = None) -> ImageTable:
    """A table from rows {"case", "patient", "stratum", "raters", "values": {column name: value or None}}.

    "marked": whether a sample of the row marks anything. "few": whether fewer than n do, where only such count.
    "control": {"case", "values"}: further values of another case, found while this one was worked on. Images that
    nobody read have nothing to be scored against and are left out.
    """
    extra = {row["control"]["case"]: row["control"]["values"] for row in rows if "control" in row}
    every, rows = rows, [row for row in rows if row["stratum"] != UNREAD]
    names = {name for row in (*(row["values"] for row in rows), *extra.values()) for name in row}
    header = [*_IMAGE, *sorted(names)]
    cells = ({**row, **row["values"], **extra.get(row["case"], {})} for row in rows)
    table = ImageTable.of(split, header, ([row.get(name) for name in header] for row in cells))
    marked = any(row.get("marked", True) for row in rows)
    few = sum(row.get("few", False) for row in rows)
    return replace(table, seconds=seconds or {}, unread=len(every) - len(rows), marked=marked, few=few)
