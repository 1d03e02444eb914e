"""LIDC-IDRI nodule crops in data_lidc.hdf5, the form that CCDM, PHiSeg and others make of data_lidc.pickle.

The file has the groups train, val and test, each with

  images   (n,H,W) floats from −0.5 to 0.5
  labels   (n,4,H,W) as CCDM writes it, or (n,H,W,4) as PHiSeg does: 0 and 1, a radiologist each
  uids     (n,) a whole number that stands for the CT series

Splits are the file's groups. A patient is the series, by its number: the file knows no more, and LIDC-IDRI has a few
patients with two series, who may be in two of its splits. An empty mask is a radiologist who read the slice and
outlined nothing; the four slots are exchangeable.

Refused: a series in two groups, other values, links, data stored elsewhere or through foreign filters, files that
would inflate beyond reason. LIDC-IDRI is CC BY 3.0: Armato et al., doi 10.7937/K9/TCIA.2015.LO9QL9SX.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from modiff.data.importers.base import add_output
from modiff.errors import DataError

if TYPE_CHECKING:
    import h5py
    import numpy as np

VERSION = "lidc-hdf5 1"
INTENSITY = "source:values in [0,1], as distributed in data_lidc.pickle"
SPLITS = ("train", "val", "test")
_BLOCK = 64
_MAX_ROW_BYTES = 64 << 20
_MAX_CHUNK_BYTES = 256 << 20
_FILTERS = (1, 2, 3)  # deflate, shuffle, checksum: what HDF5 itself brings; others load foreign code


class _Group(NamedTuple):
    images: h5py.Dataset
    labels: h5py.Dataset
    uids: np.ndarray
    last: bool  # raters are the labels' last axis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `modiff import lidc-hdf5` takes."""
    parser.add_argument("file", metavar="HDF5", help="data_lidc.hdf5")
    add_output(parser)


def run(args: argparse.Namespace) -> Path:
    """Writes the store that `args` describe and returns its path."""
    import h5py

    path = Path(args.file)
    if not path.is_file():
        raise DataError("no such file", path=path)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            groups = {split: _group(file, split) for split in SPLITS if split in file}
            if not groups:
                raise DataError("another layout", expected="groups train, val and test")
            _check_series(groups)
            return _write(args, path, groups)
    except DataError as error:
        if error.path is not None:
            raise
        raise DataError(str(error), path=path) from error
    except Exception as error:  # a damaged file makes HDF5 raise nearly anything
        raise DataError("not an HDF5 file, or a damaged one", path=path, found=str(error)[:200]) from error


def _group(file: h5py.File, split: str) -> _Group:
    """One split, once its tables are known to fit together and to lie in this file."""
    import h5py

    if not isinstance(file.get(split, getlink=True), h5py.HardLink):
        raise DataError("links are not followed", field=split)
    images, labels, uids = (_dataset(file, f"{split}/{name}") for name in ("images", "labels", "uids"))
    if images.ndim != 3 or images.dtype.kind != "f":
        found = f"{images.dtype} {images.shape}"
        raise DataError("another layout", field=f"{split}/images", found=found, expected="floats (n, height, width)")
    count, height, width = images.shape
    last = labels.ndim == 4 and labels.shape[1:3] == (height, width)
    first = labels.ndim == 4 and labels.shape[2:] == (height, width)
    if not (first or last) or labels.shape[0] != count or labels.dtype.kind not in "iufb":
        expected = f"({count}, 4, {height}, {width}) or ({count}, {height}, {width}, 4)"
        raise DataError("another layout", field=f"{split}/labels", found=labels.shape, expected=expected)
    if uids.shape != (count,) or uids.dtype.kind not in "iu":
        raise DataError("another layout", field=f"{split}/uids", found=f"{uids.dtype} {uids.shape}", expected=count)
    return _Group(images, labels, uids[...], last and not first)


def _check_series(groups: dict[str, _Group]) -> None:
    places: dict[int, str] = {}
    for split, group in groups.items():
        for uid in set(group.uids.tolist()):
            if (before := places.setdefault(uid, split)) != split:
                raise DataError("a series in two splits", field=f"{split}/uids", found=f"{uid}, also in {before}")


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A table in this very file, whose declared size agrees with the file's."""
    import math

    from modiff.data import store_format as layout

    found = layout.dataset(file, name)
    plist = found.id.get_create_plist()
    if any(plist.get_filter(index)[0] not in _FILTERS for index in range(plist.get_nfilters())):
        raise DataError("stored through a foreign filter", field=name, expected="gzip or none")
    size = found.dtype.itemsize
    chunk = math.prod(found.chunks) * size if found.chunks else 0
    if math.prod(found.shape[1:]) * size > _MAX_ROW_BYTES or chunk > _MAX_CHUNK_BYTES:
        raise DataError("slices too large", field=name, found=found.shape)
    layout.check_ratio(Path(file.filename), math.prod(found.shape) * size, max(found.id.get_storage_size(), 1))
    return found


def _write(args: argparse.Namespace, path: Path, groups: dict[str, _Group]) -> Path:
    import numpy as np
    from rich.console import Console
    from rich.progress import Progress

    from modiff.data.importers import lidc_crops
    from modiff.data.importers.grids import digest
    from modiff.data.store_writer import StoreWriter

    raters = {group.labels.shape[3 if group.last else 1] for group in groups.values()}
    if len(raters) != 1:
        raise DataError("groups with different numbers of raters", found=sorted(raters))
    info = lidc_crops.info(VERSION, raters.pop(), INTENSITY, {path.name: digest(path)})
    everyone = np.ones(len(info.raters), bool)
    with (
        StoreWriter(args.output, info, overwrite=args.overwrite) as writer,
        Progress(console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("importing", total=sum(len(group.uids) for group in groups.values()))
        for split, group in groups.items():
            for row, image, labels in _rows(group):
                # The number is a Python hash, often negative; without its sign it names a patient just as well.
                patient = f"series-{int(group.uids[row]) & (2**64 - 1):016x}"
                try:
                    made = lidc_crops.pixels(image, -0.5)
                    masks = lidc_crops.binary(labels, made.shape[1:])
                except DataError as error:
                    raise DataError(str(error), path=path, field=f"{split} {row}") from error
                case = f"{patient}/{split}-{row:05d}"
                writer.add(made, masks, everyone, case=case, patient=patient, split=split)
                bar.advance(task)
    return Path(args.output)


def _rows(group: _Group) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Row, image (H,W) and labels (R,H,W), read a block at a time."""
    import numpy as np

    for start in range(0, len(group.uids), _BLOCK):
        images, labels = (data[start : start + _BLOCK] for data in (group.images, group.labels))
        if group.last:
            labels = np.moveaxis(labels, 3, 1)
        for offset, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield start + offset, image, label
