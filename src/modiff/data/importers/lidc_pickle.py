"""LIDC-IDRI nodule crops in data_lidc.pickle, as distributed with the PyTorch version of the Probabilistic U-Net.

The file is a pickled dictionary with an entry a slice (15,096 of them):

  name -> {"image": (H,W) in [0,1], "masks": four arrays (H,W) of 0 and 1, "series_uid": text}

It is read without running anything in it: NumPy arrays in plain containers and nothing else, protocol 2 to 5. It takes
about as much memory as the file is large. An empty mask is a radiologist who read the slice and outlined nothing; the
four slots are exchangeable.

A patient is the series, or LIDC-IDRI-xxxx where the entry's name begins with that. Splits are by patient: from --splits
(JSON), or by a hash. LIDC-IDRI is CC BY 3.0: Armato et al., doi 10.7937/K9/TCIA.2015.LO9QL9SX.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from modiff.data.importers.base import add_output
from modiff.data.importers.patients import add_split_arguments
from modiff.errors import DataError

VERSION = "lidc-pickle 1"
INTENSITY = "source:values in [0,1], as distributed in data_lidc.pickle"
_FIELDS = ("image", "masks", "series_uid")
_MAX_BYTES = 16 << 30
_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_UNFIT = re.compile(r"[^\w.+-]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `modiff import lidc-pickle` takes."""
    parser.add_argument("file", metavar="PICKLE", help="data_lidc.pickle")
    add_output(parser)
    parser.add_argument(
        "--max-bytes", type=int, default=_MAX_BYTES, metavar="N", help="largest file that is read (default 16 GiB)"
    )
    add_split_arguments(parser)


def run(args: argparse.Namespace) -> Path:
    """Writes the store that `args` describe and returns its path."""
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from modiff.data.importers import lidc_crops
    from modiff.data.importers.grids import digest
    from modiff.data.importers.patients import place
    from modiff.data.importers.unpickle import as_array, read_pickle
    from modiff.data.store_writer import StoreWriter

    path = Path(args.file)
    entries = _entries(path, read_pickle(path, args.max_bytes))
    patients = {name: _patient(name, entry["series_uid"]) for name, entry in entries.items()}
    splits, folds = place(args, patients.values())
    raters = len(entries[next(iter(entries))]["masks"])
    read = {path.name: digest(path)} | ({Path(args.splits).name: digest(Path(args.splits))} if args.splits else {})
    info = lidc_crops.info(VERSION, raters, INTENSITY, read)
    everyone = np.ones(raters, bool)
    with StoreWriter(args.output, info, overwrite=args.overwrite, folds=folds) as writer:
        for name, entry in track(entries.items(), "importing", console=Console(stderr=True)):
            try:
                image = lidc_crops.pixels(as_array(entry["image"]), 0.0)
                masks = lidc_crops.binary(as_array(entry["masks"]), image.shape[1:])
            except DataError as error:
                raise DataError(str(error), path=path, field=name) from error
            patient = patients[name]
            case = f"{patient}/{_UNFIT.sub('-', name)}"
            writer.add(image, masks, everyone, case=case, patient=patient, split=splits[patient])
    return Path(args.output)


def _entries(path: Path, found: Any) -> dict[str, dict[str, Any]]:
    """The dictionary, once it is known to have the layout."""
    expected = 'name -> {"image", "masks", "series_uid"}'
    if not isinstance(found, dict) or not found:
        raise DataError("another layout", path=path, found=type(found).__name__.strip("_"), expected=expected)
    for name, entry in found.items():
        if not isinstance(entry, dict) or any(field not in entry for field in _FIELDS):
            raise DataError("another layout", path=path, field=repr(name)[:80], expected=expected)
        if not isinstance(entry["series_uid"], str) or not entry["series_uid"].strip():
            raise DataError("a slice without a series", path=path, field=repr(name)[:80])
        if not isinstance(entry["masks"], list | tuple) or not entry["masks"]:
            raise DataError("masks are no list", path=path, field=repr(name)[:80], expected="one array a radiologist")
    return found


def _patient(name: str, series: str) -> str:
    found = _PATIENT.match(name)
    return found[0] if found else series
