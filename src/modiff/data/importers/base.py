"""Importers: one module a source of multi-rater data.

A module has `add_arguments(parser)`, which adds what `modiff import NAME` takes, and `run(args) -> Path`, which writes
a store and returns where it is. Its docstring is what `modiff import NAME --help` prints: what the source is, its
layout on disk, what is refused. Modules import heavy libraries inside functions.
"""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType

# Name -> (module of this package, one line for `modiff import --help`).
IMPORTERS: dict[str, tuple[str, str]] = {
    "lidc-dicom": ("lidc_dicom.run", "LIDC-IDRI as TCIA distributes it: DICOM slices and the radiologists' XML"),
    "lidc-slices": ("lidc_png", "LIDC-IDRI nodule crops as PNG files, four radiologists; zips or folders"),
    "lidc-pickle": ("lidc_pickle", "LIDC-IDRI nodule crops in data_lidc.pickle, read without running it"),
    "lidc-hdf5": ("lidc_hdf5", "LIDC-IDRI nodule crops in data_lidc.hdf5, as CCDM and PHiSeg make it"),
    "cimd-folder": ("cimd", "slices in the layout of CIMD's code: JPEG images and masks"),
    "isbi-ms": ("isbi_ms", "MS lesions of the ISBI 2015 challenge: NIfTI, two raters, four modalities"),
    "folder": ("folder", "your own images and masks of several raters: png, tif, npy, NIfTI or DICOM in folders"),
    "phantom": ("phantom", "simulated nodules with simulated raters whose true distribution is known"),
}


def importer(name: str) -> ModuleType:
    """The module of an importer in the table."""
    return importlib.import_module(f"modiff.data.importers.{IMPORTERS[name][0]}")


def add_output(parser: argparse.ArgumentParser) -> None:
    """The two options that every importer has: -o and --overwrite."""
    parser.add_argument("-o", "--output", required=True, metavar="STORE", help="the store to write, e.g. data.h5")
    parser.add_argument("--overwrite", action="store_true", help="replace the store if it exists")
