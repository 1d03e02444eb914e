"""Writes a store: case by case, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from modiff.data import store_format as layout
from modiff.data.store import Store
from modiff.data.store_format import StoreInfo, check_case, check_name
from modiff.errors import DataError
from modiff.io.files import check_file_output, located, replacing, told, workers


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raises DataError where no store can be written, or one is not to be replaced: known before any work is done."""
    check_file_output(path)
    if path.exists() and not overwrite:
        raise DataError("exists already", path=path, hint="Give another name, or --overwrite.")


def _encode(image: np.ndarray, masks: np.ndarray, described: list[Any]) -> tuple[bytes, bytes, bytes]:
    return layout.deflate(image), layout.deflate(masks), layout.item_digest(image, masks, described)


class StoreWriter:
    """Context manager that makes a store at `path`; on an exception nothing stays there.

    folds: patient -> fold number, for cross-validation. Raises DataError when `path` exists and `overwrite` is false,
    for cases that do not fit together, for a case twice and for a patient in two splits.
    """

    def __init__(
        self, path: str | Path, info: StoreInfo, *, overwrite: bool = False, folds: Mapping[str, int] | None = None
    ) -> None:
        self.path, self.info = Path(path), info
        self._overwrite, self._folds = overwrite, dict(folds or {})
        self._file: h5py.File = None  # until the block begins
        self._tables: dict[str, list[Any]] = {name: [] for name in (*layout.NAMES, "read", *layout.GEOMETRY)}
        self._cases, self._splits = set[str](), dict[str, str]()
        self._fingerprint = layout.fingerprint(info, self._folds)
        self._pending: list[Future[tuple[bytes, bytes, bytes]]] = []
        self._stored = 0

    def __enter__(self) -> StoreWriter:
        check_free(self.path, overwrite=self._overwrite)
        with ExitStack() as opened:
            self._temporary = opened.enter_context(replacing(self.path))
            # Since 1.10 HDF5 can checksum its own metadata, which is how a damaged file is noticed.
            self._file = opened.enter_context(h5py.File(self._temporary, "w", libver=("v110", "v110")))
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

    def __len__(self) -> int:
        return len(self._tables["read"])

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
            check_case(case)
            check_name(patient, "patient")
            check_name(split, "split")
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
            raise DataError("image of another type", found=image.dtype, expected=expected)
        layout.check_floats(image)
        image = np.array(image, dtype=image.dtype.newbyteorder("<"), order="C", copy=True)
        if masks.dtype not in (np.uint8, np.bool_) or masks.shape != (raters, *image.shape[1:]):
            expected = f"uint8 {(raters, *image.shape[1:])}"
            raise DataError("masks do not fit", found=f"{masks.dtype} {masks.shape}", expected=expected)
        if read.dtype != np.bool_ or read.shape != (raters,) or not read.any():
            raise DataError("`read` does not fit", found=f"{read}", expected=f"{raters} bools, one of them true")
        masks = masks.astype(np.uint8)
        if masks.max() > classes:
            raise DataError("a mask holds a class that there is not", found=masks.max(), expected=f"0 to {classes}")
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
            self._stored += 1

    def _finish(self) -> None:
        if not len(self):
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
        file.attrs["fingerprint"] = np.bytes_(self._fingerprint.hexdigest())
        file.close()
        Store.open(self._temporary).close()
        with open(self._temporary, "rb") as handle:
            os.fsync(handle.fileno())
        if self.path.exists() and not self._overwrite:
            raise DataError("was made by someone else meanwhile", path=self.path)
