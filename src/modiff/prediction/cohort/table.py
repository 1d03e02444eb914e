"""What a cohort's folder says of all its lesions: the rows of cohort.csv, from the summaries that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from modiff.errors import DataError
from modiff.io.text import read_json_text
from modiff.prediction.cohort.run import KEY, answers, failure, finished
from modiff.prediction.cohort.scans import Lesion, Scan

DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"
_UNITS = {"volume_mm3": "mm³", "area_mm2": "mm²", "area_px": "px"}


@dataclass(frozen=True)
class Sizes:
    """Of one class, in `unit`. median, low, high: of the samples that mark it, 5 % and 95 %; None where none does.
    all_samples: what all samples mark. any_sample: what any of them marks."""

    name: str
    unit: str
    median: float | None
    low: float | None
    high: float | None
    all_samples: float
    any_sample: float


@dataclass(frozen=True)
class Entry:
    """A lesion of a cohort. status: done, failed or unfinished. disagreement: 1 − mean IoU of two samples. rank: for a
    second reading, 1 where samples disagree most."""

    scan: Scan
    lesion: Lesion
    status: str
    at: tuple[int, ...] = ()
    presence: float | None = None
    disagreement: float | None = None
    hypotheses: int = 0
    sizes: tuple[Sizes, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str = ""
    rank: int | None = None

    def shown(self, *, identify: bool) -> str:
        """The scan's path where it may be told."""
        return "DICOM" if self.scan.confidential and not identify else self.scan.shown


def entries(scans: Sequence[Scan], output: Path, requests: Mapping[str, str] | None = None) -> list[Entry]:
    """All lesions, in the order of the cohort, with their ranks. requests: `Cohort.requests`, of which older results
    count as unfinished."""
    found = [
        _entry(scan, lesion, output, (requests or {}).get(lesion.name)) for scan in scans for lesion in scan.lesions
    ]
    known = [entry.disagreement for entry in found if entry.disagreement is not None]
    ranks = {value: 1 + sum(other > value for other in known) for value in set(known)}
    return [entry if entry.disagreement is None else replace(entry, rank=ranks[entry.disagreement]) for entry in found]


def _entry(scan: Scan, lesion: Lesion, output: Path, request: str | None) -> Entry:
    record = failure(output, lesion)
    if record.is_file():
        content = read_json_text(record, kind="record of a failure")
        error = content.get("error") if isinstance(content, dict) else None
        return Entry(scan, lesion, FAILED, error=str(error))
    try:
        content = finished(output / lesion.name)
        if content is None or (request is not None and not answers(content, request)):
            return Entry(scan, lesion, UNFINISHED)
        return _done(scan, lesion, content)
    except DataError as error:
        return Entry(scan, lesion, FAILED, error=str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Entry(scan, lesion, FAILED, error=f"the summary lacks what a table needs: {type(error).__name__}")


def _done(scan: Scan, lesion: Lesion, content: Mapping[str, Any]) -> Entry:
    agreement = content["agreement_iou"]
    return Entry(
        scan,
        lesion,
        DONE,
        at=tuple(content["at"] or ()),
        presence=float(content["presence"]["probability"]),
        disagreement=None if agreement is None else 1 - float(agreement),
        hypotheses=len(content["hypotheses"]),
        sizes=tuple(_sizes(name, about, content[KEY]) for name, about in content["classes"].items()),
        warnings=tuple(map(str, content["warnings"])),
    )


def _sizes(name: str, about: Mapping[str, Any], own: Mapping[str, Any]) -> Sizes:
    """Of one class, in the best unit that is known."""
    unit = next((unit for unit in _UNITS if own["any_sample"].get(unit) is not None), "area_px")
    quantiles = about[unit.replace("_", "_where_marked_")] or {}
    median, low, high = (quantiles.get(key) for key in ("q50", "q05", "q95"))
    ends = (own[key][unit][name] for key in ("all_samples", "any_sample"))
    return Sizes(name, _UNITS[unit], median, low, high, *ends)


def frame_of(found: Sequence[Entry], *, identify: bool) -> pd.DataFrame:
    """cohort.csv: a row per lesion, and class where there are several."""
    rows = []
    for entry in found:
        x, y, z = (*entry.at, None, None, None)[:3]
        for sizes in entry.sizes or (None,):
            rows.append(
                {
                    "row": entry.lesion.row.removeprefix("line "),
                    "scan": entry.shown(identify=identify),
                    "folder": entry.lesion.name,
                    "lesion": entry.lesion.label,
                    "x": x,
                    "y": y,
                    "z": z,
                    "status": entry.status,
                    "rank": entry.rank,
                    "presence": entry.presence,
                    "disagreement": entry.disagreement,
                    "hypotheses": entry.hypotheses or None,
                    "class": sizes and sizes.name,
                    "unit": sizes and sizes.unit,
                    "median": sizes and sizes.median,
                    "q05": sizes and sizes.low,
                    "q95": sizes and sizes.high,
                    "all_samples": sizes and sizes.all_samples,
                    "any_sample": sizes and sizes.any_sample,
                    "warnings": " | ".join(entry.warnings),
                    "error": entry.error,
                }
            )
    return pd.DataFrame(rows, dtype=object)
