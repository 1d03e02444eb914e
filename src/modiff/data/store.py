"""The multi-rater store: one HDF5 file per data set. `Store` reads what `StoreWriter` makes, by `store_format`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from modiff.data import store_format as layout
from modiff.data.splits import USUAL, fold_of, fold_split, fold_splits
from modiff.errors import DataError
from modiff.io.files import Limits, guarded, located, workers

SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Geometry:
    """Where one image lies; None where unknown.

    affine: (4,4) pixel (column, row, slice) to mm. slice_index: within its volume. valid: (top, left, bottom, right),
    half-open, the part that is not padding. spacing: mm per pixel (row, column).
    """

    affine: np.ndarray | None
    slice_index: int | None
    valid: tuple[int, int, int, int] | None
    spacing: tuple[float, float] | None


class Store(AbstractContextManager["Store"]):
    """A store opened for reading; a context manager. Open it with `Store.open`.

    info: what it says of itself. shape: (C,H,W). dtype: of its images. cases, patients, splits: (n,) of str.
    read: (n,R) bool, the rater read this image.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file
        self.info = layout.read_info(file)
        count = layout.dataset(file, "case").size
        self.cases, self.patients, self.splits = (
            np.char.decode(layout.table_of(file, name, "S", (count,)), "utf-8") for name in layout.NAMES
        )
        raters, channels = len(self.info.raters), len(self.info.channels)
        self.read = layout.table_of(file, "read", "u", (count, raters)).astype(bool)
        self._image = layout.checked_slices(file, "image", count, "iuf")
        self._masks = layout.checked_slices(file, "masks", count, "u")
        self.shape: tuple[int, int, int] = self._image.shape[1:]
        self.dtype: np.dtype = self._image.dtype
        if self.shape[0] != channels or self._masks.shape[1:] != (raters, *self.shape[1:]):
            raise DataError("image and masks do not fit", found=f"{self._image.shape}, {self._masks.shape}")
        if self._masks.dtype != np.uint8:
            raise DataError("another type", field="masks", found=self._masks.dtype, expected="uint8")
        declared = self._image.size * self.dtype.itemsize + self._masks.size
        Limits(option=None).check_ratio(path, declared, os.path.getsize(path))
        self._fingerprint = bytes(layout.attribute(file, "fingerprint", "S", 0)).decode()
        self._folds: dict[str, int] = {}
        if "fold" in file:
            folds = layout.table_of(file, "fold", "i", (None,))
            patients = layout.table_of(file, "fold_patient", "S", folds.shape)
            self._folds = dict(zip(np.char.decode(patients, "utf-8").tolist(), folds.tolist(), strict=True))
        self._geometry = []
        for name, blank in layout.GEOMETRY.items():
            table = np.broadcast_to(blank, (count, *blank.shape))  # known of no case
            if name in file:
                table = layout.table_of(file, name, table.dtype.kind, table.shape)
            self._geometry.append(table)
        self._check_names()

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Opens and checks a store; raises DataError when it is missing, no HDF5 file, truncated, damaged or forged."""
        path = Path(path)
        if not path.is_file():
            raise DataError("no such file", path=path, hint="`modiff import --help` says how a store is made.")
        try:
            with path.open("rb") as handle:
                start = handle.read(len(SIGNATURE))
        except OSError as error:
            raise DataError("cannot be read", path=path, found=error.strerror) from error
        if start != SIGNATURE:
            raise DataError("not an HDF5 file", path=path, expected="a store written by `modiff import`")
        file = guarded(path, lambda: h5py.File(path, "r", locking="best-effort"))
        try:
            return guarded(path, lambda: cls(path, file))
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Closes the file; names and info stay readable."""
        self._file.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[Path], Store], tuple[Path]]:
        return Store.open, (self.path,)

    def __len__(self) -> int:
        return len(self.cases)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} images {self.shape}, {len(self.info.raters)} raters)"

    def split_names(self) -> tuple[str, ...]:
        """The splits there are: train, val and test first, others in the order of the alphabet."""
        there = set(self.splits.tolist())
        return (*(name for name in USUAL if name in there), *sorted(there - {*USUAL}))

    def rows(self, split: str | None = None) -> np.ndarray:
        """(m,) int64: rows of a split, of a fold's split such as "fold0-test" (`splits.fold_splits`), or all.

        Raises DataError that names the splits or folds there are.
        """
        if split is None:
            return np.arange(len(self))
        fold, part = fold_of(split)
        if fold is not None:
            if (name := fold_split(fold, part)) in self.splits:
                raise DataError("a split is named like a fold", path=self.path, field="split", found=name)
            self.fold_numbers()  # raises where there are none
            patients = self.patients.tolist()
            with located(self.path):
                places = fold_splits({patient: self._folds[patient] for patient in patients}, fold)
            return np.flatnonzero([places[patient] == part for patient in patients])
        if split not in self.splits:
            there = ", ".join(self.split_names())
            hint = "Patients are dealt at import: --val, --test, --split-seed or --splits" if split in USUAL else None
            raise DataError(f"no such split: {split}", path=self.path, field="split", expected=there, hint=hint)
        return np.flatnonzero(self.splits == split)

    def image(self, row: int) -> np.ndarray:
        """(C,H,W) in the store's own type."""
        return self._slice(self._image, row)

    def masks(self, row: int) -> np.ndarray:
        """(R,H,W) uint8 class index, 0 is background."""
        return self._slice(self._masks, row)

    def blocks(self, rows: Sequence[int] | np.ndarray, size: int = 128) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images (b,C,H,W) and masks (b,R,H,W) of many rows in order, `size` at a time, inflated by several threads."""
        numbers = [int(row) for row in rows]
        with ThreadPoolExecutor(workers()) as pool:
            for start in range(0, len(numbers), size):
                part = numbers[start : start + size]
                slices = [pool.map(partial(self._slice, data), part) for data in (self._image, self._masks)]
                images, masks = (np.stack([*found]) for found in slices)
                yield images, masks

    def geometry(self, row: int) -> Geometry:
        """Where image `row` lies."""
        affine, index, valid, spacing = self._known(row)
        spacing = self.info.spacing if spacing is None else tuple(spacing)
        return Geometry(None if affine is None else np.array(affine), index, valid and tuple(valid), spacing)

    def _known(self, row: int) -> list[Any]:
        """The row of each table of geometry, in their order, as plain numbers; None where nothing is known."""
        rows = [table[row] for table in self._geometry]
        blank = [np.isnan(one).any() if one.dtype.kind == "f" else np.min(one) < 0 for one in rows]
        return [None if unknown else one.tolist() for one, unknown in zip(rows, blank, strict=True)]

    def folds(self) -> dict[str, int]:
        """Patient -> fold, for cross-validation; empty where the store has no folds."""
        return dict(self._folds)

    def fold_numbers(self) -> list[int]:
        """The folds there are, in order; raises DataError where the store has none."""
        if not self._folds:
            hint = "Import again with --folds K"
            raise DataError("has no folds", path=self.path, expected="patients dealt into folds", hint=hint)
        return sorted({self._folds[patient] for patient in self.patients.tolist()})

    def fingerprint(self) -> str:
        """SHA-256 of the content as it was written: the same wherever the file lies and however it is compressed."""
        return self._fingerprint

    def verify(self) -> None:
        """Reads everything and raises DataError unless the content is what the fingerprint says."""
        digest, row = layout.fingerprint(self.info, self._folds), 0
        for images, masks in self.blocks(self.rows()):
            for image, mask in zip(images, masks, strict=True):
                names = [str(names[row]) for names in (self.cases, self.patients, self.splits)]
                described = [*names, self.read[row].tolist(), *self._known(row)]
                digest.update(layout.item_digest(image, mask, described))
                row += 1
        if digest.hexdigest() != self._fingerprint:
            raise DataError("content was changed", path=self.path, found=digest.hexdigest(), expected=self._fingerprint)

    def _slice(self, data: h5py.Dataset, row: int) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        with located(self.path, str(self.cases[row])):
            skipped, chunk = guarded(self.path, lambda: data.id.read_direct_chunk((row, 0, 0, 0)))
            if skipped:
                raise DataError("a slice stored without its filters")
            found = layout.inflate(chunk, data.shape[1:], data.dtype)
            layout.check_floats(found)
            if data is self._masks and found.max() > (classes := len(self.info.classes)):
                raise DataError("a class that there is not", found=found.max(), expected=f"0 to {classes}")
            return found

    def _check_names(self) -> None:
        for case in self.cases.tolist():
            layout.check_case(case)
        for what, names in (("patient", self.patients), ("split", self.splits)):
            for name in set(names.tolist()):
                layout.check_name(name, what)
        pairs = set(zip(self.patients.tolist(), self.splits.tolist(), strict=True))
        counted = Counter(patient for patient, _ in pairs)
        if twice := [patient for patient, count in counted.items() if count > 1]:
            raise DataError("a patient in two splits", field="split", found=", ".join(sorted(twice)[:5]))
        if len(set(self.cases.tolist())) != len(self):
            raise DataError("a case twice", field="case")
        if self._folds and (missing := set(self.patients.tolist()) - set(self._folds)):
            raise DataError("patients without a fold", field="fold", found=", ".join(sorted(missing)[:5]))
