"""Who is in which split: always whole patients, from a file or by a rule that anyone can repeat."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from modiff.config.data import SplitRule
from modiff.errors import ConfigError, DataError
from modiff.io.text import one_spelling, read_json_text

USUAL = ("train", "val", "test")
_FOLD_SPLIT = re.compile(r"fold([0-9]{1,6})-(train|val|test)")


def split_of(rule: SplitRule, patient: str) -> str:
    """`train`, `val` or `test`, where no file says who is where."""
    place = _uniform("split", rule.seed, patient)
    return "test" if place < rule.test else "val" if place < rule.test + rule.val else "train"


def deal(rule: SplitRule, patients: Iterable[str]) -> dict[str, str]:
    """Patient -> split; nothing is empty of which a fraction is wanted, as far as the patients reach.

    Two patients are train and val: a model can be trained then. One is where the hash puts it.
    """
    names = _shuffled(set(patients), "split", rule.seed)  # those of test come first, then val, then train
    dealt = {name: split_of(rule, name) for name in names}
    wanted = {"test": rule.test > 0, "val": rule.val > 0, "train": True}
    if len(names) == 2 < sum(wanted.values()):
        wanted["test"] = False
    absent = [split for split, want in wanted.items() if want and split not in dealt.values()]
    if not absent or len(names) < sum(wanted.values()):
        return dealt
    counts = {split: list(dealt.values()).count(split) for split in wanted}
    for split, want in wanted.items():
        if not want:
            counts[split], counts["train"] = 0, counts["train"] + counts[split]
    for split in absent:
        if not counts[split]:
            counts[max(counts, key=lambda name: counts[name])] -= 1
            counts[split] = 1
    places = [split for split, count in counts.items() for _ in range(count)]
    return dict(zip(names, places, strict=True))


def lacking(splits: Mapping[str, str]) -> str | None:
    """Which of the usual splits no patient is in, and what to do, in words; None where none is empty."""
    there = set(splits.values())
    absent = [name for name in USUAL if name not in there]
    if not absent:
        return None
    said = f"nothing is in {' or '.join(absent)}: training needs train and val, scoring test"
    if len(splits) > 2:
        return f"{said}; --splits names who is where, --folds K deals patients for cross-validation"
    few = "one patient is" if len(splits) == 1 else "two patients are"
    how = "a --table may name smaller units (scans, regions) in its column patient, and scores then say less"
    return f"{said}; {few} too few for cross-validation too: {how}"


def _uniform(*parts: object) -> float:
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _shuffled(patients: Iterable[str], *parts: object) -> list[str]:
    return sorted(patients, key=lambda patient: (_uniform(*parts, patient), patient))


def make_folds(patients: Iterable[str], count: int, seed: int = 0) -> dict[str, int]:
    """Patient -> fold in 0..count-1, sizes equal to within one; the order of patients does not matter."""
    names = _shuffled(set(patients), "fold", seed)
    if not 2 <= count <= len(names):
        raise ConfigError(
            "number of folds is out of range", found=count, expected=f"2 to {len(names)}, the number of patients"
        )
    return {patient: place % count for place, patient in enumerate(names)}


def fold_splits(folds: Mapping[str, int], fold: int, val: float = SplitRule.val) -> dict[str, str]:
    """Patient -> "test" for those of the fold, "val" for a fraction of the others, "train" for the rest.

    Of the others those with the lowest hash of (fold, patient) are val: `val` of them, rounded, and at least one.
    Raises DataError for a fold that there is not, and where nobody would be left to train on.
    """
    if fold not in folds.values():
        there = ", ".join(map(str, sorted(set(folds.values())))) or "none"
        raise DataError("no such fold", field="fold", found=fold, expected=there)
    others = _shuffled((patient for patient, own in folds.items() if own != fold), "fold-val", fold)
    if len(others) < 2:
        expected = "2 or more: one to train on, one to validate on"
        raise DataError("too few patients outside the fold", field="fold", found=len(others), expected=expected)
    places = dict.fromkeys(folds, "test") | dict.fromkeys(others, "train")
    return places | dict.fromkeys(others[: max(1, round(val * len(others)))], "val")


def fold_split(fold: int | None, split: str) -> str:
    """The name of a fold's own split, "fold0-test"; without a fold the split of the store itself."""
    return split if fold is None else f"fold{fold}-{split}"


def fold_of(split: str) -> tuple[int | None, str]:
    """The fold and the split within it of such a name; None and the name for a split of the store itself."""
    match = _FOLD_SPLIT.fullmatch(split)
    return (int(match[1]), match[2]) if match else (None, split)


def read_splits(path: str | Path) -> dict[str, str]:
    """Patient -> split from a JSON file {"train": [patient, …], "val": […], "test": […]}; any split names will do.

    Raises DataError for another layout, and for a patient named twice.
    """
    table = read_json_text(path, kind="list of patients")
    if not isinstance(table, dict) or not table:
        raise DataError("unexpected layout", path=path, expected='{"train": [patients], "val": [patients], …}')
    places: dict[str, str] = {}
    for split, patients in table.items():
        if not isinstance(patients, list) or not all(isinstance(patient, str) for patient in patients):
            raise DataError("unexpected layout", path=path, field=split, expected="a list of patients' names")
        for patient in map(one_spelling, patients):
            if patient in places:
                found = f"{patient} in {places[patient]} and {split}"
                raise DataError("a patient named twice", path=path, field=split, found=found)
            places[patient] = split
    return places


def assign(patients: Iterable[str], places: Mapping[str, str] | SplitRule, path: str | Path | None) -> dict[str, str]:
    """Patient -> split for the patients that are there; raises DataError for any whom `places` does not know."""
    there = sorted(set(patients))
    if isinstance(places, SplitRule):
        dealt = deal(places, there)
        return {patient: dealt[patient] for patient in there}
    if missing := [patient for patient in there if one_spelling(patient) not in places]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError("patients in no split", path=path, found=", ".join(missing[:3]) + more)
    return {patient: places[one_spelling(patient)] for patient in there}
