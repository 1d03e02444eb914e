"""The raters' masks that samples are scored against: a store's split, or files of the same kinds as predictions."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modiff.data.store import Store
from modiff.errors import ConfigError, DataError
from modiff.evaluation.predictions import open_maps
from modiff.evaluation.predictions.base import Closing, MapSource
from modiff.evaluation.predictions.values import Meaning, Values

FOLDER_SPLIT = "all"  # what a folder's one split is called


@dataclass(frozen=True, eq=False)
class TruthCase:
    """The raters of one case. masks: (Z,R,K,H,W) bool; read: (Z,R) bool; affine: (4,4) where known."""

    masks: np.ndarray
    read: np.ndarray
    affine: np.ndarray | None = None


class Truth(Closing, ABC):
    """Raters' masks case by case.

    path: where they are. split. classes: K. cases: names. patients: one per case. notes: what is to be known of them.
    """

    path: Path
    split: str
    classes: int
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @abstractmethod
    def read(self, row: int) -> TruthCase:
        """The raters of a case."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content; of a folder, of the cases that were read."""


class StoreTruth(Truth):
    """A split of a store."""

    def __init__(self, path: str | Path, split: str) -> None:
        self.path, self.split, self._store = Path(path), split, Store.open(path)
        try:
            self._rows = self._store.rows(split)
        except DataError:
            self._store.close()
            raise
        self.classes = len(self._store.info.classes)
        self.cases, self.patients = (
            tuple(names[self._rows].tolist()) for names in (self._store.cases, self._store.patients)
        )

    def read(self, row: int) -> TruthCase:
        """The raters of an image, Z = 1."""
        number = int(self._rows[row])
        kinds = np.arange(1, self.classes + 1, dtype=np.uint8)[:, None, None]
        masks = self._store.masks(number)[:, None] == kinds
        return TruthCase(masks[None], self._store.read[number][None], self._store.geometry(number).affine)

    def fingerprint(self) -> str:
        """The store's own."""
        return self._store.fingerprint()

    def close(self) -> None:
        """Closes the store."""
        self._store.close()


class FileTruth(Truth):
    """Files with one map per rater.

    patients: of each case; without it the first part of the case's name, or the case itself where names have one part.
    unread_missing: a case with fewer raters than others was not read by the rest; else it is refused.
    """

    def __init__(
        self,
        source: MapSource,
        classes: int,
        *,
        values: Values,
        patients: dict[str, str] | None = None,
        unread_missing: bool = False,
    ) -> None:
        self.path, self.split, self.classes, self.cases = source.path, FOLDER_SPLIT, classes, source.cases
        self._source, self._values, self._digest = source, values, hashlib.sha256()
        counts = {case: source.count(case) for case in self.cases}
        self._raters = max(counts.values())
        few = [case for case, count in counts.items() if count < self._raters]
        if few and not unread_missing:
            found = f"{counts[few[0]]} raters" + (f", and {len(few) - 1} more cases with too few" if few[1:] else "")
            hint = "--unread-missing takes them for raters who did not read the case."
            raise DataError(
                "missing raters", path=self.path, field=few[0], hint=hint, found=found, expected=self._raters
            )
        if patients is not None:
            unknown = [case for case in self.cases if case not in patients]
            if unknown:
                raise DataError(f"{len(unknown)} cases without a patient", path=self.path, field=unknown[0])
            self.patients = tuple(patients[case] for case in self.cases)
        elif all("/" in case for case in self.cases):
            self.patients = tuple(case.partition("/")[0] for case in self.cases)
            self.notes = ("patients are the first parts of the cases' names",)
        else:
            self.patients = self.cases
            note = "each case counts as a patient: give --patients if one has several, or intervals are too narrow"
            self.notes = (note,)

    def read(self, row: int) -> TruthCase:
        """The raters of a case, slots without a file not read."""
        raw = self._source.read(self.cases[row])
        given = self._values.read(raw)
        if given.dtype != bool:
            raise DataError("raters' files hold masks", path=raw.where, field=raw.case, found="probabilities")
        slices, count, *rest = given.shape
        masks = np.zeros((slices, self._raters, *rest), bool)
        masks[:, :count] = given
        read = np.broadcast_to(np.arange(self._raters) < count, (slices, self._raters)).copy()
        self._digest.update(f"{raw.case}\x1f{masks.shape}\x1f{count}\x1f".encode() + np.packbits(masks).tobytes())
        return TruthCase(masks, read, raw.affine)

    def fingerprint(self) -> str:
        """Of the masks that were read so far, in order."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Closes the source."""
        self._source.close()


def read_patients(path: str | Path) -> dict[str, str]:
    """Case -> patient from a CSV file with these two columns; raises DataError."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=["case", "patient"], index_col=False)
    except (OSError, ValueError) as error:
        found = str(error).splitlines()[0]
        raise DataError("is not a table of patients", path=path, found=found, expected="case, patient") from None
    incomplete = table[table.isna().any(axis=1) | (table["patient"] == "")]
    if len(incomplete):
        raise DataError("a case without a patient", path=path, field=str(incomplete["case"].iloc[0]))
    table = table.drop_duplicates()
    several = table["case"][table["case"].duplicated()]
    if len(several):
        raise DataError("a case of two patients", path=path, field=several.iloc[0])
    return dict(zip(table["case"], table["patient"], strict=True))


def open_truth(
    path: str | Path,
    split: str,
    *,
    classes: int = 1,
    truth_values: Meaning = "masks",
    patients: Path | None = None,
    unread_missing: bool = False,
) -> Truth:
    """A split of a store, or files with `classes` foreground classes and a table of patients; see `FileTruth`."""
    if _is_store(Path(path)):
        if patients is not None:
            raise ConfigError("a store says whose its images are", field="--patients", found=patients)
        return StoreTruth(path, split)
    if not 1 <= classes <= 255:
        raise ConfigError("number of classes", field="--classes", found=classes, expected="1 to 255")
    known = None if patients is None else read_patients(patients)
    values = Values(truth_values, classes)
    return FileTruth(open_maps(path), classes, values=values, patients=known, unread_missing=unread_missing)


def _is_store(path: Path) -> bool:
    """Whether a file says of itself that it is a store."""
    import h5py

    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            return "format" in file.attrs and "image" in file
    except OSError:
        return False
