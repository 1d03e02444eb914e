"""The table of images, one row each, and its way into CSV and into records.

Nothing here knows models: whoever scores samples (a trained model, or files that another program made) fills an
`ImageTable` and gets the same CSV, strata, intervals and records.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from modiff.config.evaluation import RESAMPLES
from modiff.errors import DataError
from modiff.evaluation.bootstrap import Interval, mean_interval, pooled_error_interval
from modiff.evaluation.records import DIFFERENCE, STRATA, Record
from modiff.io.files import write_text
from modiff.metrics.registry import GAP, NAMES, pooled, rank

REFERENCE = "iid_reference"
BASELINE = "majority_vote"
ONE_RATER = "one_rater"
UNREAD = "unread"


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """What a column holds: a metric of a predictor, with all that was fixed to measure it.

    Raises:
        DataError: from `parse`, a name that is not a column of values.
    """

    protocol: str
    threshold: float
    n: int
    steps: int | None
    predictor: str
    metric: str

    @property
    def name(self) -> str:
        """The column's name, e.g. "ged|model|standard|n=16|steps=10|threshold=0.5"."""
        steps = "" if self.steps is None else f"|steps={self.steps}"
        return f"{self.metric}|{self.predictor}|{self.protocol}|n={self.n}{steps}|threshold={float(self.threshold)!r}"

    @classmethod
    def parse(cls, name: str) -> Quantity:
        """The quantity of a column's name."""
        try:
            metric, predictor, protocol, *pairs = name.split("|")
            given = dict(pair.split("=", 1) for pair in pairs)
            steps = int(given["steps"]) if "steps" in given else None
            return cls(protocol, float(given["threshold"]), int(given["n"]), steps, predictor, metric)
        except (ValueError, KeyError):
            raise DataError("not a column of values", field=name, expected="metric|predictor|protocol|n=…") from None


@dataclass
class ImageTable:
    """One row an image. columns: values by quantity, NaN where undefined; raters: how many read the image.

    stratum: "all_marked" (every rater who read it marked something), "some_empty", "none" (nobody did).
    seconds: by steps and n, the mean time to draw n samples of an image.
    """

    split: str
    cases: list[str]
    patients: list[str]
    strata: list[str]
    raters: list[int]
    columns: dict[Quantity, NDArray[np.float64]] = field(default_factory=dict)
    seconds: dict[tuple[int | None, int], float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cases)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images and patients of each stratum, whether or not a metric is defined on them."""
        found = {}
        for stratum in STRATA:
            rows = self.rows(stratum)
            found[stratum] = {
                "images": int(rows.sum()),
                "patients": len({self.patients[i] for i in np.flatnonzero(rows)}),
            }
        return found

    def rows(self, stratum: str) -> NDArray[np.bool_]:
        """(images,) which rows belong to the stratum."""
        return np.array([stratum in ("all", own) for own in self.strata], dtype=bool)


def strata_of(marked: Tensor, read: Tensor) -> list[str]:
    """The stratum of each of B images from (B,R) bool: who marked something, and who read the image.

    An image that nobody read is "unread" and belongs to no stratum.
    """
    names = []
    for marks, readers in zip((marked & read).sum(1).tolist(), read.sum(1).tolist(), strict=True):
        if not readers:
            names.append(UNREAD)
        elif not marks:
            names.append("none")
        else:
            names.append("all_marked" if marks == readers else "some_empty")
    return names


def records_of(table: ImageTable, *, seed: int = 0, resamples: int = RESAMPLES) -> list[Record]:
    """The records of every quantity and stratum, and of the paired differences from what stands beside the model.

    The i.i.d. reference describes images that were not chosen by their marks: it has the stratum "all" only.
    """
    together = {
        replace(quantity, metric=metric): error
        for quantity, errors in _by_sample_set(table).items()
        for metric, error in pooled(errors).items()
    }
    table = _with_differences(table)
    means = {quantity: values for quantity, values in table.columns.items() if not quantity.metric.startswith(GAP)}
    records = []
    for quantity in sorted([*means, *together], key=_reading_order):
        reference = quantity.predictor == REFERENCE or quantity.metric.endswith(DIFFERENCE + REFERENCE)
        for stratum in ("all",) if reference else STRATA:
            rows = table.rows(stratum)
            if not rows.any():
                continue
            patients = [table.patients[i] for i in np.flatnonzero(rows)]
            if quantity in means:
                interval = mean_interval(means[quantity][rows], patients, seed=seed, resamples=resamples)
            else:
                error = together[quantity]
                interval = pooled_error_interval(
                    error.gaps[rows], patients, classes=error.classes, seed=seed, resamples=resamples
                )
            records.append(_record(table, quantity, stratum, interval))
    return records


def _by_sample_set(table: ImageTable) -> dict[Quantity, dict[str, NDArray[np.float64]]]:
    """Columns by metric, of each set of samples and way to make masks of it (a quantity without a metric)."""
    found: dict[Quantity, dict[str, NDArray[np.float64]]] = {}
    for quantity, values in table.columns.items():
        found.setdefault(replace(quantity, metric=""), {})[quantity.metric] = values
    return found


def _record(table: ImageTable, quantity: Quantity, stratum: str, interval: Interval) -> Record:
    drawn = quantity.predictor == "model" and DIFFERENCE not in quantity.metric
    return Record(
        metric=quantity.metric,
        predictor=quantity.predictor,
        protocol=quantity.protocol,
        n=quantity.n,
        steps=quantity.steps,
        threshold=quantity.threshold,
        split=table.split,
        stratum=stratum,
        images=interval.images,
        patients=interval.patients,
        value=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        seconds_per_image=table.seconds.get((quantity.steps, quantity.n)) if drawn else None,
    )


def _with_differences(table: ImageTable) -> ImageTable:
    """The table with a column for each difference of a predictor that draws samples from those that do not."""
    columns = dict(table.columns)
    for quantity, values in table.columns.items():
        if quantity.predictor in (BASELINE, ONE_RATER, REFERENCE) or NAMES.get(quantity.metric, ("", None))[1] is None:
            continue
        for other in (BASELINE, REFERENCE):
            beside = Quantity(quantity.protocol, quantity.threshold, quantity.n, None, other, quantity.metric)
            if beside in table.columns:
                metric = f"{quantity.metric}{DIFFERENCE}{other}"
                difference = Quantity(
                    quantity.protocol, quantity.threshold, quantity.n, quantity.steps, quantity.predictor, metric
                )
                columns[difference] = values - table.columns[beside]
    return ImageTable(table.split, table.cases, table.patients, table.strata, table.raters, columns, table.seconds)


_PREDICTOR_ORDER = {"model": 0, "shuffled": 1, BASELINE: 2, ONE_RATER: 3, REFERENCE: 4}


def _reading_order(quantity: Quantity) -> tuple[object, ...]:
    """Standard before paper; within it by threshold, n and metric, what stands beside the model right below it."""
    predictor = _PREDICTOR_ORDER.get(quantity.predictor, 0)
    metric, difference, _ = quantity.metric.partition(DIFFERENCE)
    steps = -1 if quantity.steps is None else quantity.steps
    protocol = (quantity.protocol != "standard", quantity.protocol)
    return (protocol, quantity.threshold, quantity.n, bool(difference), rank(metric), quantity.metric, predictor, steps)


_FIXED = ("case", "patient", "stratum", "raters")


def write_csv(table: ImageTable, path: str | Path) -> Path:
    """Writes a row an image: case, patient, stratum, raters, and a column a quantity; undefined values are empty."""
    quantities = sorted(table.columns, key=_reading_order)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIXED, *(quantity.name for quantity in quantities)])
    for i, case in enumerate(table.cases):
        values = (float(table.columns[quantity][i]) for quantity in quantities)
        cells = ("" if math.isnan(value) else repr(value) for value in values)
        writer.writerow([case, table.patients[i], table.strata[i], table.raters[i], *cells])
    return write_text(path, text.getvalue())


def read_csv(path: str | Path, split: str) -> ImageTable:
    """Reads what `write_csv` wrote.

    Raises:
        DataError: not such a table.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError("not a table of images", path=path, found=error) from None
    if tuple(header[: len(_FIXED)]) != _FIXED:
        raise DataError("not a table of images", path=path, found=header[:4], expected=", ".join(_FIXED))
    quantities = [Quantity.parse(name) for name in header[len(_FIXED) :]]
    if any(len(row) != len(header) for row in rows):
        raise DataError("a row that does not fit its header", path=path, expected=f"{len(header)} cells")
    try:
        values = np.array([[float(cell or "nan") for cell in row[len(_FIXED) :]] for row in rows], dtype=np.float64)
        raters = [int(row[3]) for row in rows]
    except (ValueError, IndexError) as error:
        raise DataError("a row that does not fit its header", path=path, found=error) from None
    columns = {quantity: values[:, i].copy() for i, quantity in enumerate(quantities)} if rows else {}
    return ImageTable(
        split, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], raters, columns
    )


def assemble(split: str, rows: Iterable[Mapping[str, object]], extra: Mapping[str, Mapping[str, float]]) -> ImageTable:
    """A table from rows {"case", "patient", "stratum", "raters", "values": {column name: value or None}}.

    extra: by case, further values that were found while another case was worked on. Images that nobody read have
    nothing to be scored against and are left out.
    """
    rows = [row for row in rows if row["stratum"] != UNREAD]
    names = sorted(
        {name for row in rows for name in _values(row)} | {name for values in extra.values() for name in values}
    )
    columns = {Quantity.parse(name): np.full(len(rows), np.nan) for name in names}
    for i, row in enumerate(rows):
        found = {**_values(row), **extra.get(str(row["case"]), {})}
        for name, value in found.items():
            columns[Quantity.parse(name)][i] = math.nan if value is None else value
    text = {key: [str(row[key]) for row in rows] for key in ("case", "patient", "stratum")}
    raters = [int(str(row["raters"])) for row in rows]
    return ImageTable(split, text["case"], text["patient"], text["stratum"], raters, columns)


def _values(row: Mapping[str, object]) -> dict[str, float | None]:
    values = row["values"]
    assert isinstance(values, dict)
    return values
