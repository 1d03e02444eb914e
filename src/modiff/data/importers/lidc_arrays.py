"""The importers of LIDC-IDRI's nodule crops as arrays in one file: a pickle, or the HDF5 that others make of it."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from modiff.data.importers.base import Case, Importer, lidc_info
from modiff.data.importers.unpickle import as_array, read_pickle
from modiff.data.splits import SplitRule
from modiff.data.store_format import StoreInfo, dataset, filters
from modiff.errors import DataError
from modiff.io.files import Limits, guarded, located, sha256_of

SOURCE = "LIDC-IDRI nodule crops; Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX"
INTENSITY = "source:values in [0,1], as distributed in data_lidc.pickle"
_SLACK = 1e-6  # by which rounded values may leave their range
_FIELDS = ("image", "masks", "series_uid")
_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_UNFIT = re.compile(r"[^\w.+-]+")
_GROUPS = ("train", "val", "test")
_BLOCK = 64
_MAX_ROW_BYTES, _MAX_CHUNK_BYTES = 64 << 20, 256 << 20
_FILTERS = (1, 2, 3)  # deflate, shuffle, checksum: what HDF5 itself brings; others load foreign code


class LidcPickle(Importer[str]):
    """LIDC-IDRI nodule crops in data_lidc.pickle, as distributed with the Probabilistic U-Net's PyTorch version."""

    version = "lidc-pickle 1"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.path = Path(args.file)
        self.entries = _entries(self.path, read_pickle(self.path, args.max_bytes))
        self.items = list(self.entries)
        named = {name: _PATIENT.match(name) for name in self.items}
        self.patient_of = {
            name: found[0] if found else self.entries[name]["series_uid"] for name, found in named.items()
        }

    def describe(self) -> StoreInfo:
        """With as many raters as the first slice has masks."""
        raters = len(self.entries[self.items[0]]["masks"])
        return lidc_info(self, SOURCE, raters, INTENSITY, {self.path.name: sha256_of(self.path)})

    def patients(self) -> set[str]:
        """The series, or who the names begin with."""
        return set(self.patient_of.values())

    def read(self, item: str) -> list[Case]:
        """One entry, its values checked."""
        with located(self.path, item):
            image = _image(as_array(self.entries[item]["image"]), 0.0)
            masks = _masks(as_array(self.entries[item]["masks"]), image.shape[1:])
        patient = self.patient_of[item]
        return [Case(f"{patient}/{_UNFIT.sub('-', item)}", patient, image, masks)]


def _entries(path: Path, found: Any) -> dict[str, dict[str, Any]]:
    """The dictionary, once it is known to have the layout."""
    expected = 'name -> {"image", "masks", "series_uid"}'
    if not isinstance(found, dict) or not found:
        raise DataError("another layout", path=path, found=type(found).__name__.strip("_"), expected=expected)
    for name, entry in found.items():
        where = repr(name)[:80]
        if not isinstance(entry, dict) or any(field not in entry for field in _FIELDS):
            raise DataError("another layout", path=path, field=where, expected=expected)
        if not isinstance(entry["series_uid"], str) or not entry["series_uid"].strip():
            raise DataError("a slice without a series", path=path, field=where)
        if not isinstance(entry["masks"], list | tuple) or not entry["masks"]:
            raise DataError("masks are not a list", path=path, field=where, expected="one array per radiologist")
    return found


class LidcHdf5(Importer[tuple[str, int]]):
    """LIDC-IDRI nodule crops in data_lidc.hdf5, the form that CCDM, PHiSeg and others make of data_lidc.pickle."""

    version = "lidc-hdf5 1"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.path = Path(args.file)
        if not self.path.is_file():
            raise DataError("no such file", path=self.path)
        file = self._file = guarded(self.path, lambda: h5py.File(self.path, "r", locking="best-effort"))
        self.groups = guarded(self.path, lambda: {split: _group(file, split) for split in _GROUPS if split in file})
        if not self.groups:
            raise DataError("another layout", path=self.path, expected="groups train, val and test")
        # A block of rows is read at a time.
        groups = self.groups.items()
        self.items = [(split, start) for split, group in groups for start in range(0, len(group[2]), _BLOCK)]

    def describe(self) -> StoreInfo:
        """With as many raters as all groups have."""
        raters = {labels.shape[axis] for _, labels, _, axis in self.groups.values()}
        if len(raters) != 1:
            raise DataError("groups with different numbers of raters", path=self.path, found=sorted(raters))
        return lidc_info(self, SOURCE, raters.pop(), INTENSITY, {self.path.name: sha256_of(self.path)})

    def splits(self, rule: Mapping[str, str] | SplitRule) -> Mapping[str, str]:
        """The file's groups; raises DataError for a series in two of them."""
        places: dict[str, str] = {}
        for split, (_, _, uids, _) in self.groups.items():
            for uid in set(uids.tolist()):
                if (before := places.setdefault(_series(uid), split)) != split:
                    found = f"{uid}, also in {before}"
                    raise DataError("a series in two splits", path=self.path, field=f"{split}/uids", found=found)
        return places

    def read(self, item: tuple[str, int]) -> Iterator[Case]:
        """A block of rows of a group, from the row that the item names."""
        split, start = item
        *tables, uids, axis = self.groups[split]
        images, labels = guarded(self.path, lambda: [table[start : start + _BLOCK] for table in tables])
        for row, (image, label) in enumerate(zip(images, np.moveaxis(labels, axis, 1), strict=True), start):
            with located(self.path, f"{split} {row}"):
                made = _image(image, -0.5)
                masks = _masks(label, made.shape[1:])
            patient = _series(uids[row])
            yield Case(f"{patient}/{split}-{row:05d}", patient, made, masks)

    def close(self, *, done: bool) -> None:
        """Closes the file."""
        self._file.close()


def _series(uid: int) -> str:
    """The number is a Python hash, often negative; without its sign it names a patient just as well."""
    return f"series-{int(uid) & (2**64 - 1):016x}"


def _group(file: h5py.File, split: str) -> tuple[h5py.Dataset, h5py.Dataset, np.ndarray, int]:
    """Images, labels and series of one split, known to fit together and to lie in this file; and the raters' axis."""
    if not isinstance(file.get(split, getlink=True), h5py.HardLink):
        raise DataError("links are not followed", field=split)
    images, labels, uids = (_dataset(file, f"{split}/{name}") for name in ("images", "labels", "uids"))
    if images.ndim != 3 or images.dtype.kind != "f":
        found = f"{images.dtype} {images.shape}"
        raise DataError("another layout", field=f"{split}/images", found=found, expected="floats (n, height, width)")
    count, height, width = images.shape
    axes = [axis for axis in (1, 3) if labels.shape[:axis] + labels.shape[axis + 1 :] == images.shape]
    if not axes or labels.ndim != 4 or labels.dtype.kind not in "iufb":
        expected = f"({count}, 4, {height}, {width}) or ({count}, {height}, {width}, 4)"
        raise DataError("another layout", field=f"{split}/labels", found=labels.shape, expected=expected)
    if uids.shape != (count,) or uids.dtype.kind not in "iu":
        raise DataError("another layout", field=f"{split}/uids", found=f"{uids.dtype} {uids.shape}", expected=count)
    return images, labels, uids[...], axes[0]


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A table in this very file, whose declared size agrees with the file's."""
    found = dataset(file, name)
    if any(number not in _FILTERS for number in filters(found)):
        raise DataError("stored through a foreign filter", field=name, expected="gzip or none")
    size = found.dtype.itemsize
    chunk = math.prod(found.chunks) * size if found.chunks else 0
    if math.prod(found.shape[1:]) * size > _MAX_ROW_BYTES or chunk > _MAX_CHUNK_BYTES:
        raise DataError("slices too large", field=name, found=found.shape)
    stored = min(found.id.get_storage_size(), Path(file.filename).stat().st_size)
    Limits(option=None).check_ratio(Path(file.filename), math.prod(found.shape) * size, stored)
    return found


def _image(values: np.ndarray, low: float) -> np.ndarray:
    """(H,W) values from `low` to `low` + 1 -> (1,H,W) uint16; 8-bit values in [0,1] stay exact, as 65535 = 257·255."""
    if values.ndim != 2 or values.size == 0:
        raise DataError("an image of another shape", found=values.shape, expected="(height, width)")
    unit = values.astype(np.float64) - low
    if not (unit.min() >= -_SLACK and unit.max() <= 1 + _SLACK):  # NaN fails both
        found = f"{values.min():g} to {values.max():g}"
        raise DataError("values beyond the layout's", found=found, expected=f"{low:g} to {low + 1:g}")
    return np.rint(unit.clip(0, 1) * 65535).astype(np.uint16)[None]


def _masks(masks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(R,H,W) uint8, 0 or 1; raises DataError for other shapes and values."""
    if masks.ndim != 3 or masks.shape[1:] != shape:
        raise DataError("masks of another shape", found=masks.shape, expected=f"(raters, {shape[0]}, {shape[1]})")
    if not np.isin(masks, (0, 1)).all():
        other = np.unique(masks[~np.isin(masks, (0, 1))])[:5].tolist()
        raise DataError("mask values", found=other, expected="0 and 1 only")
    return masks.astype(np.uint8)
