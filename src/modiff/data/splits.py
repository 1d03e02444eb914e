"""Who is in which split: always whole patients, from a file or by a rule that anyone can repeat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modiff.config.data import SplitConfig
from modiff.errors import ConfigError, DataError

USUAL = ("train", "val", "test")
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class SplitRule(SplitConfig):
    """Who is where when no file says so.

    A patient's place is a hash of (seed, patient), so it does not move when other patients come or go; fractions are
    therefore met on average, not exactly.
    """

    def split_of(self, patient: str) -> str:
        """`train`, `val` or `test`."""
        place = _uniform("split", self.seed, patient)
        return "test" if place < self.test else "val" if place < self.test + self.val else "train"


def lacking(splits: Iterable[str]) -> str | None:
    """Which of the usual splits is not among `splits`, and what needs it, in words; None where all are."""
    there = set(splits)
    absent = [name for name in USUAL if name not in there]
    return f"nothing is in {' or '.join(absent)}: training needs train and val, scoring test" if absent else None


def _uniform(*parts: object) -> float:
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def make_folds(patients: Iterable[str], count: int, seed: int = 0) -> dict[str, int]:
    """Patient -> fold in 0..count-1, sizes equal to within one; the order of patients does not matter."""
    names = sorted(set(patients), key=lambda patient: (_uniform("fold", seed, patient), patient))
    if not 2 <= count <= len(names):
        raise ConfigError("number of folds", found=count, expected=f"2 to {len(names)}, the number of patients")
    return {patient: place % count for place, patient in enumerate(names)}


def read_splits(path: str | Path) -> dict[str, str]:
    """Patient -> split from a JSON file {"train": [patient, …], "val": […], "test": […]}; any split names will do.

    Raises DataError for another layout, and for a patient named twice.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError("too large for a list of patients", path=path, found=f"{path.stat().st_size} bytes")
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("cannot be read as JSON", path=path, found=error) from error
    if not isinstance(table, dict) or not table:
        raise DataError("another layout", path=path, expected='{"train": [patients], "val": [patients], …}')
    places: dict[str, str] = {}
    for split, patients in table.items():
        if not isinstance(patients, list) or not all(isinstance(patient, str) for patient in patients):
            raise DataError("another layout", path=path, field=split, expected="a list of patients' names")
        for patient in patients:
            if patient in places:
                found = f"{patient} in {places[patient]} and {split}"
                raise DataError("a patient named twice", path=path, field=split, found=found)
            places[patient] = split
    return places


def assign(patients: Iterable[str], places: Mapping[str, str] | SplitRule, path: str | Path | None) -> dict[str, str]:
    """Patient -> split for the patients that are there; raises DataError for any whom `places` does not know."""
    there = sorted(set(patients))
    if isinstance(places, SplitRule):
        return {patient: places.split_of(patient) for patient in there}
    if missing := [patient for patient in there if patient not in places]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError("patients in no split", path=path, found=", ".join(missing[:3]) + more)
    return {patient: places[patient] for patient in there}
