"""The results of a cohort as a table and as a page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from modiff.errors import InUse
from modiff.io.output import alone, write_text
from modiff.io.text import csv_text
from modiff.prediction.cohort.run import FAILURES, THUMBNAIL
from modiff.prediction.cohort.scans import Scan
from modiff.prediction.cohort.table import DONE, FAILED, UNFINISHED, Entry, Sizes, entries, frame_of
from modiff.prediction.summary import ML, percent, size_number
from modiff.viz.html import render

TABLE, PAGE = "cohort.csv", "cohort.html"
_PATIENCE = 60.0  # seconds to wait for another process that writes the table
_LARGEST = 1 << 20  # bytes of a thumbnail


def write_cohort(
    scans: Sequence[Scan],
    output: Path,
    *,
    title: str,
    identify: bool = False,
    requests: Mapping[str, str] | None = None,
) -> list[Entry]:
    """Writes cohort.csv and cohort.html of what is finished so far; returns all lesions. requests: as `entries` takes
    them.

    Processes that end at the same time wait for one another: the last one sees all. Raises DataError.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with alone(output):
                return _write(scans, output, title, identify, requests)
        except InUse:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _write(
    scans: Sequence[Scan], output: Path, title: str, identify: bool, requests: Mapping[str, str] | None
) -> list[Entry]:
    found = entries(scans, output, requests)
    write_text(output / TABLE, csv_text(frame_of(found, identify=identify)))
    done = sorted(
        (entry for entry in found if entry.status == DONE), key=lambda e: (e.rank or len(found), e.lesion.name)
    )
    page = render(
        "cohort.html.j2",
        title=title,
        counts={status: sum(entry.status == status for entry in found) for status in (DONE, FAILED, UNFINISHED)},
        done=[(entry, _thumbnail(output, entry), list(map(sizes_text, entry.sizes))) for entry in done],
        failed=[entry for entry in found if entry.status == FAILED],
        unfinished=[entry for entry in found if entry.status == UNFINISHED],
        identify=identify,
        percent=percent,
        table=TABLE,
    )
    write_text(output / PAGE, page)
    if (output / FAILURES).is_dir() and not any((output / FAILURES).iterdir()):
        (output / FAILURES).rmdir()
    return found


def _thumbnail(output: Path, entry: Entry) -> bytes | None:
    path = output / entry.lesion.name / THUMBNAIL
    try:
        return path.read_bytes() if path.stat().st_size <= _LARGEST else None
    except OSError:
        return None


def sizes_text(sizes: Sizes) -> tuple[str, str, str, str]:
    """The class; its median (5 %–95 %) where marked; what all samples mark, and any of them, with the unit."""
    unit, factor = sizes.unit, 1.0
    if unit == "mm³" and sizes.any_sample >= ML:
        unit, factor = "ml", 1 / ML

    def shown(value: float | None) -> str:
        return "–" if value is None else size_number(value * factor, unit)

    spread = (
        "nothing" if sizes.median is None else f"{shown(sizes.median)} ({shown(sizes.low)}–{shown(sizes.high)}) {unit}"
    )
    return sizes.name, spread, f"{shown(sizes.all_samples)} {unit}", f"{shown(sizes.any_sample)} {unit}"
