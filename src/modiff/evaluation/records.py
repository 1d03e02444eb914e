"""Tidy records: one measured number each, with everything that is needed to read it; and the JSON file that holds them.

Whatever prints, plots or compares results reads these records and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from modiff.errors import DataError
from modiff.io.files import write_text

SCHEMA = 1
PREDICTORS = ("model", "majority_vote", "one_rater", "iid_reference", "shuffled")
STRATA = ("all", "all_marked", "some_empty", "none")
DIFFERENCE = "_minus_"  # "ged_minus_majority_vote": the predictor's GED less the other's, image by image


@dataclass(frozen=True, slots=True)
class Record:
    """One number: a metric's mean over the images of a stratum, with its 95 % interval.

    metric: "ged", "hm_iou", …; "<metric>_minus_<other>" is the mean paired difference predictor − other on the same
    images. n: samples an image. steps: of the sampler, None where the predictor takes none. threshold: at which
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
_TEXT = ("metric", "predictor", "protocol", "split", "stratum")
_COUNT = ("n", "images", "patients")
_OBJECTS = ("versions", "store", "model", "settings")  # of made


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


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def write_result(result: Result, path: str | Path) -> Path:
    """Writes an evaluation as JSON, a record a line; the file is there whole or not at all."""
    rows = ",\n  ".join(json.dumps(_finite(asdict(record)), allow_nan=False) for record in result.results)
    made = json.dumps(_finite(result.made), indent=1, allow_nan=False, ensure_ascii=False).replace("\n", "\n ")
    strata = json.dumps(result.strata)
    body = f'{{\n "schema": {SCHEMA},\n "made": {made},\n "strata": {strata},\n "results": [\n  {rows}\n ]\n}}\n'
    return write_text(path, body)


def read_result(path: str | Path) -> Result:
    """Reads and checks an evaluation's JSON.

    Raises:
        DataError: not JSON, keys that are missing or unknown, values of the wrong type.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise DataError("there is no such evaluation", path=path, hint="`modiff evaluate` makes one.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("not an evaluation's JSON", path=path, found=error) from None
    if not isinstance(content, dict) or not {"schema", "made", "strata", "results"} <= content.keys():
        raise DataError("not an evaluation", path=path, expected="an object with schema, made, strata and results")
    if content["schema"] != SCHEMA:
        raise DataError("unknown schema", path=path, field="schema", found=content["schema"], expected=SCHEMA)
    made, strata, results = content["made"], content["strata"], content["results"]
    for name, value in (
        ("made", made),
        *((f"made.{key}", made.get(key, {})) for key in _OBJECTS if isinstance(made, dict)),
    ):
        if not isinstance(value, dict):
            raise DataError("not an object", path=path, field=name, found=type(value).__name__)
    if not isinstance(strata, dict) or not all(
        isinstance(c, dict) and all(map(_is_count, c.values())) for c in strata.values()
    ):
        raise DataError("not an object of counts", path=path, field="strata")
    if not isinstance(results, list):
        raise DataError("not a list", path=path, field="results", found=type(results).__name__)
    return Result(made, strata, [_record(row, path, f"results[{i}]") for i, row in enumerate(results)])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _record(row: Any, path: Path, field: str) -> Record:
    if not isinstance(row, dict) or set(row) != set(KEYS):
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise DataError("not a record", path=path, field=field, found=found, expected=", ".join(KEYS))
    for key, value in row.items():
        if key in _TEXT:
            good, expected = isinstance(value, str), "text"
        elif key in _COUNT:
            good, expected = _is_count(value), "a whole number of 0 or more"
        elif key == "steps":
            good, expected = value is None or _is_count(value), "a whole number or null"
        else:
            good, expected = value is None or _is_number(value), "a number or null"
        if not good or (key == "threshold" and value is None):
            raise DataError("wrong value", path=path, field=f"{field}.{key}", found=repr(value), expected=expected)
    if row["stratum"] not in STRATA:
        expected = ", ".join(STRATA)
        raise DataError("unknown stratum", path=path, field=f"{field}.stratum", found=row["stratum"], expected=expected)
    return Record(**row)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """The records whose fields equal what is wanted, or are among it where a list, tuple or set is given."""
    unknown = set(wanted) - set(KEYS)
    if unknown:
        raise TypeError(f"a record has no {', '.join(sorted(unknown))}")

    def matches(record: Record) -> bool:
        return all(
            getattr(record, key) in value
            if isinstance(value, Sequence | set) and not isinstance(value, str)
            else getattr(record, key) == value
            for key, value in wanted.items()
        )

    return [record for record in records if matches(record)]
