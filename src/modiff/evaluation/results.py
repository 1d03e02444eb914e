"""The two files of an evaluation read together: the JSON with the means, and beside it the CSV with every image."""

from __future__ import annotations

import math
from pathlib import Path

from modiff.errors import DataError
from modiff.evaluation.records import Record, Result, read_result
from modiff.evaluation.table import ImageTable, read_csv, records_of


def read_results(path: str | Path) -> tuple[Result, ImageTable]:
    """The result in `path`, a JSON, and its table of images; raises DataError where they do not say the same."""
    path = Path(path)
    result, beside = read_result(path), path.with_suffix(".csv")
    table = read_csv(beside, str(result.made.get("split", "")))
    known = result.strata.get("all", {}).get("images")
    if known != len(table):
        found, expected = f"{len(table)} images", f"{known} as {path.name} says"
        raise DataError("not of this result", path=beside, found=found, expected=expected)
    told = {_which(record): record.value for record in result.results}
    for record in records_of(table, resamples=1):
        expected_value = told.get(_which(record), record.value)
        if not _equal(record.value, expected_value):
            raise DataError(
                "not of this result",
                path=beside,
                field=f"{record.metric} of {record.predictor}, {record.protocol}, n={record.n}, {record.stratum}",
                found=f"a mean of {_text(record.value)}",
                expected=f"{_text(expected_value)} as {path.name} says",
            )
    return result, table


def _which(record: Record) -> tuple[object, ...]:
    return record.metric, record.predictor, record.protocol, record.threshold, record.n, record.steps, record.stratum


def _equal(a: float | None, b: float | None) -> bool:
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def _text(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"
