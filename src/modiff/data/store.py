"""The multi-rater store: one HDF5 file per data set. `Store` reads what `StoreWriter` makes, by `store_format`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from modiff import notebook
from modiff.data import store_format as layout
from modiff.data.splits import USUAL, fold_of, fold_split, fold_splits
from modiff.data.store_format import StoreInfo
from modiff.errors import DataError
from modiff.io.files import Limits, guarded, guarding, located, told, workers
from modiff.io.hdf5 import open_hdf5
from modiff.io.output import check_file_output, replacing, sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHANGED = "damaged, or changed since it was written"
_BLOCK = 128  # images that are read at once
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


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most so many of the numbers from 0 to count − 1, int64."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


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
        self._image = layout.checked_slices(file, "image", "iuf", (count, channels, None, None))
        self.shape: tuple[int, int, int] = self._image.shape[1:]
        self.dtype: np.dtype = self._image.dtype
        self._masks = layout.checked_slices(file, "masks", "u", (count, raters, *self.shape[1:]))
        if self._masks.dtype != np.uint8:
            raise DataError("unexpected type", field="masks", found=self._masks.dtype, expected="uint8")
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
        self._adler = layout.table_of(file, layout.ADLER, "u", (count, 2)) if layout.ADLER in file else None
        self._check_names()
        if layout.CHECKSUM in file.attrs:
            expected = bytes(layout.attribute(file, layout.CHECKSUM, "S", 0)).decode()
            if (found := layout.checksum(file)) != expected:
                raise DataError(_CHANGED, field="tables", found=found, expected=expected, hint="Import the data again.")

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Opens and checks a store; raises DataError where it is missing, not HDF5, truncated, damaged or forged."""
        path = Path(path)
        if not path.is_file():
            what = "is a folder, not a store" if path.is_dir() else "no such file"
            raise DataError(what, path=path, hint="`modiff import --help` says how a store is made.")
        with told(path, "cannot be read"), path.open("rb") as handle:
            start = handle.read(len(SIGNATURE))
        if start != SIGNATURE:
            raise DataError("not an HDF5 file", path=path, expected="a store written by `modiff import`")
        with guarding(path), ExitStack() as opened:
            store = cls(path, opened.enter_context(open_hdf5(path)))
            opened.pop_all()
            return store

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

    def _repr_html_(self) -> str:
        info = self.info
        facts = {
            "images": f"{len(self)} of {len(set(self.patients.tolist()))} patients, {'×'.join(map(str, self.shape))}",
            "splits": ", ".join(f"{name} {int((self.splits == name).sum())}" for name in self.split_names()),
            "raters": ", ".join(info.raters),
            "classes": ", ".join(info.classes),
            "licence": info.licence,
        }
        return notebook.card(f"Store {self.path.name}", facts, self.plot(range(min(4, len(self)))))

    def plot(self, rows: int | Sequence[int] = 0) -> Figure:
        """Images with every rater's outlines, the whole and close by what is marked: one line per row of the store."""
        from modiff.viz.figures import contact_sheet, everyones_outlines

        numbers = [rows] if isinstance(rows, int | np.integer) else [*rows]
        cells = [
            everyones_outlines(self.image(row)[self.info.context], self.masks(row), (str(self.cases[row]), "close-up"))
            for row in map(int, numbers)
        ]
        return notebook.displayed(contact_sheet(cells, inches=1.6))

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
            hint = "Patients are dealt at import: --val, --test, --splits, or --folds" if split in USUAL else None
            raise DataError(f"no such split: {split}", path=self.path, field="split", expected=there, hint=hint)
        return np.flatnonzero(self.splits == split)

    def image(self, row: int) -> np.ndarray:
        """(C,H,W) in the store's own type."""
        return self._slice(self._image, row)

    def masks(self, row: int) -> np.ndarray:
        """(R,H,W) uint8 class index, 0 is background."""
        return self._slice(self._masks, row)

    def blocks(self, rows: Sequence[int] | np.ndarray, size: int = _BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images (b,C,H,W) and masks (b,R,H,W) of many rows in order, `size` at a time, inflated by several threads."""
        numbers = [int(row) for row in rows]
        with ThreadPoolExecutor(workers()) as pool:
            for start in range(0, len(numbers), size):
                part = numbers[start : start + size]
                slices = [pool.map(partial(self._slice, data), part) for data in (self._image, self._masks)]
                images, masks = (np.stack([*found]) for found in slices)
                yield images, masks

    def some_images(self) -> np.ndarray:
        """(n,C,H,W) a block of images, evenly spaced."""
        return next(self.blocks(evenly_spaced(len(self), _BLOCK)))[0]

    def each(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Image (C,H,W) and masks (R,H,W) of every row in order."""
        return (pair for images, masks in self.blocks(self.rows()) for pair in zip(images, masks, strict=True))

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
        digest = layout.fingerprint(self.info, self._folds)
        for row, (image, mask) in enumerate(self.each()):
            names = [str(names[row]) for names in (self.cases, self.patients, self.splits)]
            described = [*names, self.read[row].tolist(), *self._known(row)]
            digest.update(layout.item_digest(image, mask, described))
        if digest.hexdigest() != self._fingerprint:
            raise DataError("content was changed", path=self.path, found=digest.hexdigest(), expected=self._fingerprint)

    def _slice(self, data: h5py.Dataset, row: int) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        with located(self.path, str(self.cases[row])):
            skipped, chunk = guarded(self.path, lambda: data.id.read_direct_chunk((row, 0, 0, 0)))
            if skipped:
                raise DataError("a slice is stored without its compression")
            found = layout.inflate(chunk, data.shape[1:], data.dtype)
            layout.check_floats(found)
            if data is self._masks and found.max() > (classes := len(self.info.classes)):
                raise DataError("a mask holds a value without a class", found=found.max(), expected=f"0 to {classes}")
            if self._adler is not None:  # of the slice, at the end of its zlib stream
                own, expected = int.from_bytes(chunk[-4:]), int(self._adler[row, int(data is self._masks)])
                if own != expected:
                    raise DataError(_CHANGED, found=f"Adler-32 {own:08x}", expected=f"{expected:08x}")
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
            raise DataError("a case occurs twice", field="case")
        if self._folds and (missing := set(self.patients.tolist()) - set(self._folds)):
            raise DataError("patients without a fold", field="fold", found=", ".join(sorted(missing)[:5]))


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raises DataError where no store can be written, or one is not to be replaced: known before any work is done."""
    check_file_output(path)
    if path.exists() and not overwrite:
        sweep(path)
        raise DataError("exists already", path=path, hint="Give another name, or --overwrite.")


def _encode(image: np.ndarray, masks: np.ndarray, described: list[Any]) -> tuple[bytes, bytes, bytes]:
    return layout.deflate(image), layout.deflate(masks), layout.item_digest(image, masks, described)


class StoreWriter:
    """Context manager that makes a store at `path`; on an exception nothing stays there.

    folds: patient -> fold number, for cross-validation. place: where the file is made, from `replacing(path)` where the
    caller has entered it. Raises DataError when `path` exists and `overwrite` is false, for cases that do not fit
    together, for a case twice and for a patient in two splits.
    """

    def __init__(
        self,
        path: str | Path,
        info: StoreInfo,
        *,
        overwrite: bool = False,
        folds: Mapping[str, int] | None = None,
        place: Path | None = None,
    ) -> None:
        self.path, self.info, self._place = Path(path), info, place
        self._overwrite, self._folds = overwrite, dict(folds or {})
        self._file: h5py.File = None  # until the block begins
        self._tables: dict[str, list[Any]] = {name: [] for name in (*layout.NAMES, "read", *layout.GEOMETRY)}
        self._cases, self._splits = set[str](), dict[str, str]()
        self._fingerprint = layout.fingerprint(info, self._folds)
        self._pending: list[Future[tuple[bytes, bytes, bytes]]] = []
        self._adler: list[tuple[int, int]] = []
        self._stored = 0

    def __enter__(self) -> StoreWriter:
        check_free(self.path, overwrite=self._overwrite)
        with ExitStack() as opened:
            self._temporary = self._place or opened.enter_context(replacing(self.path))
            # Since 1.10 HDF5 can checksum its own metadata, which is how a damaged file is noticed.
            self._file = opened.enter_context(open_hdf5(self._temporary, "w", libver=("v110", "v110")))
            self._pool = opened.enter_context(ThreadPoolExecutor(workers()))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        if failure[1] is not None:
            with told(self.path, "cannot be written"):
                self._opened.__exit__(*failure)  # the new file does not take its place
            return
        with told(self.path, "cannot be written"), self._opened:
            self._finish()

    def add(
        self,
        image: np.ndarray,
        masks: np.ndarray,
        read: np.ndarray,
        *,
        case: str,
        patient: str,
        split: str,
        affine: np.ndarray | None = None,
        slice_index: int | None = None,
        valid: tuple[int, int, int, int] | None = None,
        spacing: tuple[float, float] | None = None,
    ) -> None:
        """Adds one case; copies what it is given.

        image: (C,H,W) integer, or float in [0,1]. masks: (R,H,W) class index, 0 is background; empty for a rater who
        did not read. read: (R,) bool. affine: (4,4) pixel (column, row, slice) to mm. slice_index: within its volume.
        valid: (top, left, bottom, right), half-open, where the image is not padding. spacing: mm per pixel.
        """
        if not self._file:
            raise DataError("the writer is not open", path=self.path, hint="Use `with StoreWriter(…) as writer`.")
        with located(self.path, str(case)):
            layout.check_case(case)
            layout.check_name(patient, "patient")
            layout.check_name(split, "split")
            if case in self._cases:
                raise DataError("a case of this name was added before")
            if (before := self._splits.get(patient, split)) != split:
                raise DataError("a patient in two splits", found=f"patient {patient} in {before} and {split}")
            image, masks, read = self._checked(np.asarray(image), np.asarray(masks), np.asarray(read))
            self._make_like(image)
        given = zip(layout.GEOMETRY.items(), (affine, slice_index, valid, spacing), strict=True)
        place = {
            name: None if value is None else np.array(value, dtype=blank.dtype).reshape(blank.shape)
            for (name, blank), value in given
        }
        for name, value in {"case": case, "patient": patient, "split": split, "read": read, **place}.items():
            self._tables[name].append(value)
        known = [None if value is None else value.tolist() for value in place.values()]
        described = [case, patient, split, read.tolist(), *known]
        self._cases.add(case)
        self._splits[patient] = split
        self._pending.append(self._pool.submit(_encode, image, masks, described))
        if len(self._pending) >= 256:
            with told(self.path, "cannot be written"):
                self._store(keep=128)

    def _checked(self, image: np.ndarray, masks: np.ndarray, read: np.ndarray) -> tuple[np.ndarray, ...]:
        """A contiguous little-endian copy of an image that the store may hold, and of its masks and `read`."""
        channels, raters, classes = (len(names) for names in (self.info.channels, self.info.raters, self.info.classes))
        if image.ndim != 3 or image.shape[0] != channels or min(image.shape) < 1:
            raise DataError("image does not fit", found=image.shape, expected=f"({channels}, height, width)")
        if image.dtype.itemsize > layout.MAX_ITEM_BYTES.get(image.dtype.kind, 0):
            expected = "integers of at most 32 bits, or floats"
            raise DataError("unexpected type of image", found=image.dtype, expected=expected)
        layout.check_floats(image)
        image = np.array(image, dtype=image.dtype.newbyteorder("<"), order="C", copy=True)
        if masks.dtype not in (np.uint8, np.bool_) or masks.shape != (raters, *image.shape[1:]):
            expected = f"uint8 {(raters, *image.shape[1:])}"
            raise DataError("masks do not fit", found=f"{masks.dtype} {masks.shape}", expected=expected)
        if read.dtype != np.bool_ or read.shape != (raters,) or not read.any():
            raise DataError("`read` does not fit", found=f"{read}", expected=f"{raters} bools, one of them true")
        masks = masks.astype(np.uint8)
        if masks.max() > classes:
            raise DataError("a mask holds a value without a class", found=masks.max(), expected=f"0 to {classes}")
        if not read.all() and masks[~read].any():
            raise DataError("a rater who did not read the image marked something in it")
        return image, masks, read.copy()

    def _make_like(self, image: np.ndarray) -> None:
        """Makes the file's two large tables for the first case's image; any other must be like it."""
        if "image" not in self._file:
            for name, dtype, count in (("image", image.dtype, len(image)), ("masks", np.uint8, len(self.info.raters))):
                shape = (count, *image.shape[1:])
                form = {"shape": (0, *shape), "maxshape": (None, *shape), "chunks": (1, *shape), "dtype": dtype}
                packed = {"compression": "gzip", "compression_opts": layout.LEVEL}
                self._file.create_dataset(name, **form, **packed, shuffle=np.dtype(dtype).itemsize > 1)
        first = self._file["image"]
        found, expected = (
            f"{dtype} {'×'.join(map(str, shape))}"
            for dtype, shape in ((image.dtype, image.shape), (first.dtype, first.shape[1:]))
        )
        if found != expected:
            raise DataError("differs from the first case", found=found, expected=expected)

    def _store(self, keep: int) -> None:
        """Writes out what is encoded, but for the last `keep`, which the threads may still be at."""
        done = len(self._pending) - keep
        ready, self._pending = self._pending[:done], self._pending[done:]
        for name in ("image", "masks"):
            self._file[name].resize(self._stored + len(ready), axis=0)
        for future in ready:
            image, masks, digest = future.result()
            self._file["image"].id.write_direct_chunk((self._stored, 0, 0, 0), image)
            self._file["masks"].id.write_direct_chunk((self._stored, 0, 0, 0), masks)
            self._fingerprint.update(digest)
            self._adler.append((int.from_bytes(image[-4:]), int.from_bytes(masks[-4:])))
            self._stored += 1

    def _finish(self) -> None:
        if not self._cases:
            raise DataError("no case was added", path=self.path)
        self._store(keep=0)
        file = self._file
        layout.write_info(file, self.info)
        for name in layout.NAMES:
            file.create_dataset(name, data=layout.text_array(self._tables[name]))
        file.create_dataset("read", data=np.stack(self._tables["read"]).astype(np.uint8))
        for name, blank in layout.GEOMETRY.items():  # a table that nobody filled is left out
            column = self._tables[name]
            if any(value is not None for value in column):
                file.create_dataset(name, data=np.stack([blank if value is None else value for value in column]))
        if self._folds:
            if missing := [patient for patient in self._splits if patient not in self._folds]:
                raise DataError("patients without a fold", path=self.path, field="folds", found=", ".join(missing[:5]))
            file.create_dataset("fold_patient", data=layout.text_array(list(self._folds)))
            file.create_dataset("fold", data=np.array(list(self._folds.values()), dtype=np.int64))
        file.create_dataset(layout.ADLER, data=np.array(self._adler, dtype=np.uint32))
        file.attrs["fingerprint"] = np.bytes_(self._fingerprint.hexdigest())
        file.attrs[layout.CHECKSUM] = np.bytes_(layout.checksum(file))
        file.close()
        Store.open(self._temporary).close()
        with open(self._temporary, "rb") as handle:
            os.fsync(handle.fileno())
        if self.path.exists() and not self._overwrite:
            raise DataError("was written by another process meanwhile", path=self.path)
