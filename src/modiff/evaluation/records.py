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


def read_json(path: Path, parts: Mapping[str, type], *, what: str, hint: str) -> dict[str, Any]:
    """A JSON object of this schema with these parts, objects or lists; DataError where it is missing or is not `what`.

    hint: how one is made.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError:
        raise DataError("no such file", path=path, expected=what, hint=hint) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"not {what}", path=path, found=error) from None
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
    """Reads and checks an evaluation's JSON.

    Raises:
        DataError: not JSON, keys that are missing or unknown, values of the wrong type.
    """
    path = Path(path)
    parts = {"made": dict, "strata": dict, "results": list}
    content = read_json(path, parts, what="an evaluation", hint="`modiff evaluate` makes one.")
    made, strata, results = (content[part] for part in parts)
    for name in ("versions", "store", "model", "settings"):
        group = made.get(name, {})
        if not isinstance(group, dict):
            raise DataError("not an object", path=path, field=f"made.{name}", found=type(group).__name__)
    for stratum, counts in strata.items():
        good = isinstance(counts, dict) and all(type(count) is int and count >= 0 for count in counts.values())
        if not good:
            raise DataError("not counts of a stratum", path=path, field=f"strata.{stratum}", found=counts)
    records = []
    for i, row in enumerate(results):
        record = typed(Record, row, "not a record", path=path, field=f"results[{i}]")
        for name in ("n", "images", "patients"):
            if (count := getattr(record, name)) < 0:
                raise DataError("is negative", path=path, field=f"results[{i}].{name}", found=count)
        if record.stratum not in STRATA:
            where, expected = f"results[{i}].stratum", ", ".join(STRATA)
            raise DataError("unknown stratum", path=path, field=where, found=record.stratum, expected=expected)
        records.append(record)
    return Result(made, strata, records)


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """The records whose fields equal what is wanted, or are among it where a list, tuple or set is given."""
    unknown = set(wanted) - set(KEYS)
    if unknown:
        raise TypeError(f"a record has no {', '.join(sorted(unknown))}")
    asked = {key: value if isinstance(value, list | tuple | set) else (value,) for key, value in wanted.items()}
    return [record for record in records if all(getattr(record, key) in among for key, among in asked.items())]
