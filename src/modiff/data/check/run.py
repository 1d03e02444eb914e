"""What is wrong or suspicious in a data set, in words and with the case: a store, a folder, or any source."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import h5py
import numpy as np

from modiff.data.check.content import Case, ContentChecks
from modiff.data.check.findings import Finding, Report, View
from modiff.data.check.folder import check_folder
from modiff.data.importers.base import run_import
from modiff.data.importers.catalogue import IMPORTERS, import_parser
from modiff.data.splits import lacking
from modiff.data.store import SIGNATURE, Store
from modiff.errors import ConfigError, DataError, ModiffError

_LOOK_AT = 5000  # names of a folder that are looked at to tell what it is
_KEPT = 12  # thumbnails of a kind of finding that are kept of a temporary store
_DARK = 1 / 8  # of full scale: prediction calls an image dark below it
# What tells a source: files with such names, one of each; a folder like none of them holds images and masks.
_SIGNS = {
    "lidc-slices": (r"nodule-\d+/mask-\d+/slice-\d+\.png$",),
    "cimd-folder": (r"label\d+_\.jpe?g$", r"image[^/]*\.jpe?g$"),
    "isbi-ms": (r"training\d+_\d+_flair_pp\.nii(\.gz)?$", r"training\d+_\d+_mask\d\.nii(\.gz)?$"),
    "lidc-dicom": (r"\.xml$", r"\.dcm$"),
}


def check(path: str | Path, *, kind: str | None = None, words: Sequence[str] = ()) -> Report:
    """Checks what lies at `path`. kind: `store`, `folder` or an importer's name, told from the content where None.

    words: options of the importer (patterns of a folder, say). A source other than a folder is imported into a
    temporary store first, and what its importer refuses is an error in the report. Raises DataError where there is
    nothing at `path`, ConfigError for options that cannot be.
    """
    path = Path(path)
    if not path.exists():
        raise DataError("no such file or folder", path=path)
    kind = kind or detect(path)
    if kind == "store":
        return check_store(path)
    if kind == "folder":
        return check_folder(path, words)
    return _check_imported(path, kind, words)


def detect(path: Path) -> str:
    """`store`, `folder` or the importer that reads such a file or folder."""
    if path.is_dir():
        names = [file.as_posix() for file in islice(path.rglob("*"), _LOOK_AT)]
        for kind, signs in _SIGNS.items():
            if all(any(re.search(sign, name) for name in names) for sign in signs):
                return kind
        return "folder"
    with path.open("rb") as handle:
        start = handle.read(8)
    if start.startswith(b"PK"):
        return "lidc-slices"
    if start == SIGNATURE:
        with suppress(Exception), h5py.File(path, "r") as file:  # Store.open says what is wrong with a damaged one
            return "store" if "format" in file.attrs or "train" not in file else "lidc-hdf5"
    return "lidc-pickle" if start != SIGNATURE and path.suffix in (".pickle", ".pkl") else "store"


def check_store(path: str | Path, *, called: str | None = None) -> Report:
    """Checks a store: its integrity, and all that its content shows. called: what the report calls the data."""
    path = Path(path)
    try:
        with Store.open(path) as store:
            patients, raters = len(set(store.patients.tolist())), len(store.info.raters)
            what = f"{len(store)} images of {patients} patients, {raters} rater{'s' * (raters != 1)}"
            report = Report(called or str(path), what)
            store.verify()
            report.findings += _content(store)
            if called is None and (text := lacking(store.split_names())):  # else nobody asked for these splits
                report.findings.append(Finding("note", "an empty split", text))
            report.view = partial(_view, path)
    except ModiffError as error:
        what, found = "a store that cannot be read", Finding("error", "damaged store", str(error))
        return Report(called or str(path), what, [found])
    return report


def _content(store: Store) -> Iterator[Finding]:
    info = store.info
    checks = ContentChecks(info.raters, exchangeable=info.exchangeable_raters, classes=info.classes)
    brightest, row = 0.0, 0
    for images, masks in store.blocks(store.rows()):
        brightest = max(brightest, float(images.max()))
        for image, mask in zip(images, masks, strict=True):
            name, patient, split = (str(names[row]) for names in (store.cases, store.patients, store.splits))
            yield from checks.add(Case(name, patient, split, image[:, None], mask[:, None], store.read[row]))
            if (valid := store.geometry(row).valid) is not None:
                inside = mask[:, valid[0] : valid[2], valid[1] : valid[3]]
                if np.count_nonzero(mask) > np.count_nonzero(inside):  # the outline reached beyond, or lies wrong
                    yield Finding("warning", "marks on padding", "a rater marks where the image is padding", name)
            row += 1
    yield from checks.finish()
    full = float(np.iinfo(store.dtype).max) if store.dtype.kind in "iu" else 1.0
    if brightest < _DARK * full:
        yield Finding("warning", "dark images", f"no value exceeds {brightest:g} of {full:g}: another intensity rule?")
    if len(store.info.raters) == 1:
        yield Finding("note", "one rater", "a single rater's masks say nothing about how raters differ")


def _view(path: Path, case: str) -> View | None:
    """A case's thumbnail, read when it is asked for."""
    with Store.open(path) as store:
        rows = np.flatnonzero(store.cases == case)
        return View(store.image(rows[0])[0], store.masks(rows[0]), store.info.raters) if rows.size else None


def _check_imported(path: Path, kind: str, words: Sequence[str]) -> Report:
    """By way of a temporary store, whose thumbnails are kept for what was found."""
    if kind not in IMPORTERS:
        expected = ", ".join(["store", *IMPORTERS])
        raise ConfigError("no such source", field="--as", found=kind, expected=expected)
    with tempfile.TemporaryDirectory(prefix="modiff-check-") as folder:
        store = Path(folder, "checked.h5")
        args = import_parser(kind, f"modiff import {kind}").parse_args([str(path), "-o", str(store), *words])
        try:
            run_import(kind, args)
        except DataError as error:
            return Report(str(path), f"{kind} data", [Finding("error", "cannot be imported", str(error))])
        report = check_store(store, called=str(path))
        report.what = f"{kind} data, {report.what}"
        wanted = {finding.case for _, _, found in report.groups() for finding in found[:_KEPT] if finding.case}
        report.view = {case: report.view(case) for case in wanted}.get  # read now: the store goes
    return report
