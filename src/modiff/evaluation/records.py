"""Tidy records: one measured number each, with everything that is needed to read it; and the JSON file that holds them.

Whatever prints, plots or compares results reads these records and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from modiff.config.fields import typed
from modiff.errors import DataError
from modiff.io.files import write_text

SCHEMA = 1
BESIDE = BASELINE, ONE_RATER, REFERENCE = "majority_vote", "one_rater", "iid_reference"
STRATA = ("all", "all_marked", "some_empty", "none")
DIFFERENCE = "_minus_"  # "ged_minus_majority_vote": the predictor's GED less the other's, image by image


@dataclass(frozen=True, slots=True)
class Record:
    """One number: a metric's mean over the images of a stratum, with its 95 % interval.

    metric: "ged", "hm_iou", …; "<metric>_minus_<other>" is the mean paired difference predictor − other on the same
    images. n: samples per image. steps: of the sampler, None where the predictor takes none. threshold: at which
    probabilities became masks (0.5: the most probable class, ties to the background). images, patients: those on which
    the metric is defined, which the value is a mean over. value: None where it is defined on no image.
    ci_low, ci_high: bootstrap over patients, None under five of them. seconds_per_image: to draw the n samples.
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


KEYS = tuple(field.name for field in fields(Record))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: str | Path, made: Mapping[str, Any], strata: object, name: str, rows: Iterable[Any]) -> Path:
    """Writes made, strata (unless None) and, as `name`, dataclasses, one a line; the file is there whole or not at all.

    Numbers that are not finite become null.
    """
    lines = ",\n  ".join(json.dumps(_finite(asdict(row)), allow_nan=False) for row in rows)
    how = json.dumps(_finite(made), indent=1, allow_nan=False, ensure_ascii=False).replace("\n", "\n ")
    counts = "" if strata is None else f' "strata": {json.dumps(strata)},\n'
    return write_text(path, f'{{\n "schema": {SCHEMA},\n "made": {how},\n{counts} "{name}": [\n  {lines}\n ]\n}}\n')


def write_result(result: Result, path: str | Path) -> Path:
    """Writes an evaluation as JSON, one record per line; the file is there whole or not at all."""
    return write_json(path, result.made, result.strata, "results", result.results)


def read_result(path: str | Path) -> Result:
    """Reads and checks an evaluation's JSON.

    Raises:
        DataError: not JSON, keys that are missing or unknown, values of the wrong type.
    """
    path = Path(path)

    def need(
        good: bool, message: str, field: str | None = None, *, found: object = None, expected: object = None
    ) -> None:
        if not good:
            raise DataError(message, path=path, field=field, found=found, expected=expected)

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise DataError("there is no such evaluation", path=path, hint="`modiff evaluate` makes one.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("not an evaluation's JSON", path=path, found=error) from None
    parts = ("schema", "made", "strata", "results")
    good = isinstance(content, dict) and set(parts) <= content.keys()
    need(good, "not an evaluation", expected="an object with schema, made, strata and results")
    schema, made, strata, results = (content[part] for part in parts)
    need(schema == SCHEMA, "unknown schema", "schema", found=schema, expected=SCHEMA)
    need(isinstance(made, dict), "not an object", "made", found=type(made).__name__)
    for name in ("versions", "store", "model", "settings"):
        group = made.get(name, {})
        need(isinstance(group, dict), "not an object", f"made.{name}", found=type(group).__name__)
    counts = strata.values() if isinstance(strata, dict) else [None]
    good = all(isinstance(found, dict) and all(map(_is_count, found.values())) for found in counts)
    need(good, "not an object of counts", "strata")
    need(isinstance(results, list), "not a list", "results", found=type(results).__name__)
    records = []
    for i, row in enumerate(results):
        record = typed(Record, row, "not a record", path=path, field=f"results[{i}]")
        for name in ("n", "images", "patients"):
            need(getattr(record, name) >= 0, "is negative", f"results[{i}].{name}", found=getattr(record, name))
        stratum, where = record.stratum, f"results[{i}].stratum"
        need(stratum in STRATA, "unknown stratum", where, found=stratum, expected=", ".join(STRATA))
        records.append(record)
    return Result(made, strata, records)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """The records whose fields equal what is wanted, or are among it where a list, tuple or set is given."""
    unknown = set(wanted) - set(KEYS)
    if unknown:
        raise TypeError(f"a record has no {', '.join(sorted(unknown))}")
    asked = {key: value if isinstance(value, list | tuple | set) else (value,) for key, value in wanted.items()}
    return [record for record in records if all(getattr(record, key) in among for key, among in asked.items())]
