"""The table of images, one row each, and its way into CSV and into records.

Nothing here knows models: whoever scores samples (a trained model, or files that another program made) fills an
`ImageTable` and gets the same CSV, strata, intervals and records.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from modiff.config.evaluation import RESAMPLES
from modiff.errors import DataError
from modiff.evaluation.bootstrap import mean_interval, pooled_error_interval
from modiff.evaluation.records import BASELINE, BESIDE, DIFFERENCE, REFERENCE, STRATA, Record
from modiff.io.files import write_text
from modiff.metrics.registry import GAP, NAMES, PooledError, pooled, rank

UNREAD = "unread"
_IMAGE = ("patient", "stratum", "raters")  # what a row says of its image, before its values


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


@dataclass(eq=False)
class ImageTable:
    """One row per image, which nobody changes.

    frame: indexed by case; patient, stratum, raters (how many read the image), then a column of float64 per `Quantity`,
    NaN where undefined. stratum: "all_marked" (every rater who read it marked something), "some_empty", "none" (nobody
    did). seconds: by steps and n, the mean time to draw n samples of an image.
    """

    split: str
    frame: pd.DataFrame
    seconds: dict[tuple[int | None, int], float] = field(default_factory=dict)

    @classmethod
    def of(cls, split: str, images: Mapping[str, Iterable[object]], values: pd.DataFrame) -> ImageTable:
        """A table from case, patient, stratum and raters of each image, and values, a column per quantity or its name.

        Raises DataError for two images or columns of one name and for a column's name that is not a quantity's.
        """
        index = pd.Index(list(images["case"]), dtype=object, name="case")
        columns = values.columns.map(lambda name: Quantity.parse(name) if isinstance(name, str) else name)
        for kind, names in (("image", index), ("column", columns)):
            if not names.is_unique:
                raise DataError(f"two {kind}s of one name", found=names[names.duplicated()][0])
        frame = pd.DataFrame({name: list(images[name]) for name in _IMAGE}, index=index).astype({"raters": int})
        return cls(split, pd.concat([frame, values.set_axis(index).set_axis(columns, axis=1)], axis=1))

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def columns(self) -> dict[Quantity, NDArray[np.float64]]:
        """The values alone: (images,) of each quantity."""
        return {label: self.frame[label].to_numpy() for label in self.frame if isinstance(label, Quantity)}

    @cached_property
    def measured(self) -> dict[Quantity, NDArray[np.float64] | PooledError]:
        """The values, where a calibration error stands in place of the columns that it is pooled from."""
        sets: dict[Quantity, dict[str, NDArray[np.float64]]] = {}  # columns by metric of each set of samples
        for quantity, values in self.columns.items():
            sets.setdefault(replace(quantity, metric=""), {})[quantity.metric] = values
        own = {quantity: one for quantity, one in self.columns.items() if not quantity.metric.startswith(GAP)}
        return own | {
            replace(of, metric=name): one for of, found in sets.items() for name, one in pooled(found).items()
        }

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


def strata_of(marked: Tensor, read: Tensor) -> list[str]:
    """The stratum of each of B images from (B,R) bool: who marked something, and who read the image.

    An image that nobody read is "unread" and belongs to no stratum.
    """
    counts = zip((marked & read).sum(1).tolist(), read.sum(1).tolist(), strict=True)
    return [
        UNREAD if not raters else "none" if not marks else "all_marked" if marks == raters else "some_empty"
        for marks, raters in counts
    ]


def records_of(table: ImageTable, *, seed: int = 0, resamples: int = RESAMPLES) -> list[Record]:
    """The records of every quantity and stratum, and of the paired differences from the references.

    The i.i.d. reference describes images that were not chosen by their marks: it has the stratum "all" only.
    """
    measured = table.measured | _differences(table)
    strata = {name: rows for name in STRATA if (rows := table.rows(name)).any()}
    owners = {name: table.frame["patient"][rows].tolist() for name, rows in strata.items()}
    how, records = {"seed": seed, "resamples": resamples}, []
    for quantity in sorted(measured, key=_reading_order):
        one = measured[quantity]
        reference = quantity.predictor == REFERENCE or quantity.metric.endswith(DIFFERENCE + REFERENCE)
        drawn = quantity.predictor == "model" and DIFFERENCE not in quantity.metric
        seconds = table.seconds.get((quantity.steps, quantity.n)) if drawn else None
        for name, rows in strata.items():
            if reference and name != "all":
                continue
            if isinstance(one, PooledError):
                interval = pooled_error_interval(one.gaps[rows], owners[name], classes=one.classes, **how)
            else:
                interval = mean_interval(one[rows], owners[name], **how)
            about = asdict(quantity) | {"split": table.split, "stratum": name, "seconds_per_image": seconds}
            about |= {"images": interval.images, "patients": interval.patients}
            records.append(Record(**about, value=interval.value, ci_low=interval.low, ci_high=interval.high))
    return records


def _differences(table: ImageTable) -> dict[Quantity, NDArray[np.float64] | PooledError]:
    """A column for each difference of a predictor that draws samples from those that do not."""
    found: dict[Quantity, NDArray[np.float64] | PooledError] = {}
    for quantity, values in table.columns.items():
        if quantity.predictor in BESIDE or NAMES.get(quantity.metric, ("", None))[1] is None:
            continue
        for other in (BASELINE, REFERENCE):
            beside = table.columns.get(replace(quantity, steps=None, predictor=other))
            if beside is not None:
                found[replace(quantity, metric=f"{quantity.metric}{DIFFERENCE}{other}")] = values - beside
    return found


def _reading_order(quantity: Quantity) -> tuple[object, ...]:
    """Standard before paper; within it by threshold, n and metric, references right below the model."""
    order = ("model", "shuffled", *BESIDE)
    predictor = order.index(quantity.predictor) if quantity.predictor in order else 0
    metric, difference, _ = quantity.metric.partition(DIFFERENCE)
    steps = -1 if quantity.steps is None else quantity.steps
    protocol = (quantity.protocol != "standard", quantity.protocol)
    return (protocol, quantity.threshold, quantity.n, bool(difference), rank(metric), quantity.metric, predictor, steps)


def write_csv(table: ImageTable, path: str | Path) -> Path:
    """Writes case, patient, stratum, raters and a column per quantity, a row per image; undefined values are empty."""
    quantities = sorted(table.columns, key=_reading_order)
    header = [*_IMAGE, *(quantity.name for quantity in quantities)]
    frame = table.frame[[*_IMAGE, *quantities]].set_axis(header, axis=1)
    return write_text(path, frame.to_csv(lineterminator="\n"))


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
    fixed, names = header[:4], header[4:]
    if fixed != ["case", *_IMAGE]:
        raise DataError("not a table of images", path=path, found=fixed, expected=", ".join(["case", *_IMAGE]))
    if any(len(row) != len(header) for row in rows):
        raise DataError("a row that does not fit its header", path=path, expected=f"{len(header)} cells")
    try:
        values = np.array([[float(cell or "nan") for cell in row[4:]] for row in rows], dtype=np.float64)
        images = {name: [row[i] for row in rows] for i, name in enumerate(fixed)}
        return ImageTable.of(split, images, pd.DataFrame(values.reshape(len(rows), len(names)), columns=names))
    except DataError as error:
        raise DataError("not a table of images", path=path, found=error) from None
    except ValueError as error:
        raise DataError("a row that does not fit its header", path=path, found=error) from None


def assemble(split: str, rows: Sequence[Mapping[str, Any]]) -> ImageTable:
    """A table from rows {"case", "patient", "stratum", "raters", "values": {column name: value or None}}.

    "control": {"case", "values"}: further values of another case, found while this one was worked on. Images that
    nobody read have nothing to be scored against and are left out.
    """
    extra = {row["control"]["case"]: row["control"]["values"] for row in rows if "control" in row}
    rows = [row for row in rows if row["stratum"] != UNREAD]
    names = {name for row in (*(row["values"] for row in rows), *extra.values()) for name in row}
    found = [{**row["values"], **extra.get(row["case"], {})} for row in rows]
    images = {key: [row[key] for row in rows] for key in ("case", *_IMAGE)}
    values = pd.DataFrame(found, index=range(len(rows)), columns=sorted(names), dtype=np.float64)
    return ImageTable.of(split, images, values)
