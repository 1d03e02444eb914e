"""What is wrong or suspicious in a data set, in words and with the case: a store, a folder, or any source."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from modiff.data.check.against import against
from modiff.data.check.findings import ContentChecks, Finding, Level, Report, View
from modiff.data.context import own_slice
from modiff.data.importers.base import Case, Importer, run_import
from modiff.data.importers.catalogue import IMPORTERS, import_parser
from modiff.data.importers.fitting import Place
from modiff.data.importers.folder import Folder
from modiff.data.importers.layout import Item, two_splits
from modiff.data.importers.sources import Source, as_folder, walk
from modiff.data.intensity import DARK, check_unit, little_contrast, used_range
from modiff.data.splits import lacking
from modiff.data.store import SIGNATURE, Store
from modiff.errors import ConfigError, DataError, ModiffError, counted
from modiff.io.files import Limits, regular
from modiff.io.hdf5 import open_hdf5
from modiff.io.image import JPEG, SUFFIXES
from modiff.io.output import scratch
from modiff.io.progress import tracked
from modiff.io.volume import Volume, turn
from modiff.types import DataSpec

_LOOK_AT = 5000  # names of a folder that are looked at to tell what it is
_KEPT = 12  # thumbnails of a kind of finding that are kept of a temporary store
_SPACING = 4.0  # ratio of pixel sizes within one data set from which a unit or a header is suspected
# What `Folder` says of a case as a whole; anything else is about a file that cannot be read.
_OWN = {"masks without an image", "channels on different grids", "several channels in the file of one channel"}


def check(
    path: str | Path,
    *,
    kind: str | None = None,
    words: Sequence[str] = (),
    quiet: bool = True,
    model: DataSpec | None = None,
) -> Report:
    """Checks what lies at `path`. kind: `store`, `folder` or an importer's name, told from the content where None.

    words: options of the importer (patterns of a folder, say). A source other than a folder is imported into a
    temporary store first, and what its importer refuses is an error in the report. quiet: no progress on standard
    error. model: what a model was trained on, which a store is compared with. Raises DataError where there is nothing
    at `path`, ConfigError for options that cannot be.
    """
    path = Path(path)
    if not path.exists():
        raise DataError("no such file or folder", path=path)
    try:
        kind = kind or detect(path)
    except DataError as error:
        if path.is_dir():
            return Report(str(path), "a folder", [Finding("error", "a folder that cannot be read", str(error))])
        return Report(str(path), "a file", [Finding("error", error.message, error.details)])
    if model is not None and kind != "store":
        raise ConfigError(
            "compares a store", field="--model", found=kind, expected="a store; `modiff import` makes one"
        )
    if kind == "store":
        return check_store(path, quiet=quiet, model=model)
    if kind == "folder":
        return check_folder(path, words, quiet=quiet)
    return _check_imported(path, kind, words, quiet=quiet)


def detect(path: Path) -> str:
    """`store`, `folder` or the importer that reads such a file or folder; DataError for another file."""
    if path.is_dir():
        return _kind_of(
            f"/{(there / name).relative_to(path).as_posix()}" for there, _, names in walk(path) for name in names
        )
    regular(path)
    with path.open("rb") as handle:
        start = handle.read(8)
    if start.startswith(b"PK"):
        with Source(path) as archive:
            return _kind_of(f"/{name}" for name in archive.names)
    if start == SIGNATURE:
        with suppress(Exception), open_hdf5(path) as file:  # Store.open says what is wrong with a damaged one
            return "store" if "format" in file.attrs or "train" not in file else "lidc-hdf5"
    kinds = {".h5": "store", ".hdf5": "store", ".pickle": "lidc-pickle", ".pkl": "lidc-pickle"}
    if start != SIGNATURE and path.suffix.lower() not in kinds:
        hint = "Give the folder that holds images and masks" if path.name.lower().endswith(SUFFIXES + JPEG) else None
        expected = "a store, a folder, or a file of `modiff import`"
        raise DataError("not a data set", path=path, found=path.suffix or "no suffix", expected=expected, hint=hint)
    return "store" if start == SIGNATURE else kinds[path.suffix.lower()]


def _kind_of(files: Iterable[str]) -> str:
    """The importer whose signs the names of files fit."""
    names = list(islice(files, _LOOK_AT))
    for kind, entry in IMPORTERS.items():
        if entry.signs and all(any(re.search(sign, name) for name in names) for sign in entry.signs):
            return kind
    return "folder"


def check_store(
    path: str | Path, *, called: str | None = None, quiet: bool = True, model: DataSpec | None = None
) -> Report:
    """Checks a store: its integrity, and all that its content shows. called: what the report calls the data. model:
    what a model was trained on, which it is compared with."""
    path = Path(path)
    try:
        with Store.open(path) as store:
            patients, raters = len(set(store.patients.tolist())), len(store.info.raters)
            images = f"{counted(len(store), 'image')} of {counted(patients, 'patient')}"
            report = Report(called or str(path), f"{images}, {counted(raters, 'rater')}")
            if called is None:  # else it has just been written
                store.verify()
            report.findings += [] if model is None else against(store, model)
            report.findings += _content(store, quiet=quiet)
            report.findings += [Finding("note", "decided in reading", note) for note in store.info.notes]
            splits = dict(zip(store.patients.tolist(), store.splits.tolist(), strict=True))
            if called is None and (text := lacking(splits)):  # else nobody asked for these splits
                report.findings.append(Finding("note", "an empty split", text))
            report.view = partial(_view, path)
    except ModiffError as error:
        what, found = "a store that cannot be read", Finding("error", "damaged store", str(error))
        return Report(called or str(path), what, [found])
    return report


def _content(store: Store, *, quiet: bool) -> Iterator[Finding]:
    info = store.info
    checks = ContentChecks(info.raters, exchangeable=info.exchangeable_raters, classes=info.classes)
    brightest = 0.0
    for row, (image, mask) in enumerate(tracked(store.each(), "checking", len(store), "images", quiet=quiet)):
        brightest = max(brightest, float(image.max()))
        name, patient, split = (str(names[row]) for names in (store.cases, store.patients, store.splits))
        own = own_slice(image, info.context)
        yield from checks.add(name, patient, split, own[:, None], mask[:, None], store.read[row])
        if (valid := store.geometry(row).valid) is not None:
            inside = mask[:, valid[0] : valid[2], valid[1] : valid[3]]
            if np.count_nonzero(mask) > np.count_nonzero(inside):  # the outline reached beyond, or lies wrong
                yield Finding("warning", "marks on padding", "a rater marks where the image is padding", name)
    yield from checks.finish()
    yield from _hard_to_see(brightest / _full(store.dtype), little_contrast(used_range(store.some_images())))
    if len(store.info.raters) == 1:
        yield Finding("note", "one rater", "a single rater's masks say nothing about how raters differ")


def _full(dtype: np.dtype) -> float:
    """The largest value of images of a type."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def _hard_to_see(brightest: float, flat: str | None) -> Iterator[Finding]:
    """Images whose values a model hardly sees. brightest: the largest, as a fraction of full scale."""
    if brightest < DARK:
        text = f"no value exceeds {brightest:.2g} of full scale: another intensity rule?"
        yield Finding("warning", "dark images", text)
    elif flat:
        what, _, detail = flat.partition(": ")
        yield Finding("warning", what, detail)


def _view(path: Path, case: str) -> View | None:
    """A case's thumbnail, read when it is asked for."""
    with Store.open(path) as store:
        rows = np.flatnonzero(store.cases == case)
        if not rows.size:
            return None
        return View(store.image(rows[0])[store.info.context], store.masks(rows[0]), store.info.raters)


def _check_imported(path: Path, kind: str, words: Sequence[str], *, quiet: bool) -> Report:
    """By way of a temporary store, whose thumbnails are kept for what was found."""
    if kind not in IMPORTERS:
        expected = ", ".join(["store", *IMPORTERS])
        raise ConfigError("no such source", field="--as", found=kind, expected=expected)
    with scratch() as folder:
        store = folder / "checked.h5"
        if refused := _refused(kind, _options(kind, path, store, words, quiet=quiet)):
            return Report(str(path), f"{kind} data", [refused])
        report = check_store(store, called=str(path), quiet=quiet)
        report.what = f"{kind} data, {report.what}"
        wanted = {finding.case for _, _, found in report.groups() for finding in found[:_KEPT] if finding.case}
        report.view = {case: report.view(case) for case in wanted}.get  # read now: the store goes
    return report


def _options(kind: str, path: Path, store: Path | str, words: Sequence[str], *, quiet: bool) -> argparse.Namespace:
    args = import_parser(kind, f"modiff import {kind}").parse_args([str(path), "-o", str(store), *words])
    args.quiet |= quiet
    return args


def _refused(kind: str, args: argparse.Namespace, make: Callable[..., Importer] | None = None) -> Finding | None:
    """What the import refuses, None where it succeeds."""
    store = Path(args.output)
    try:
        run_import(kind, args, make)
    except DataError as error:
        text = str(error)
        if error.path is not None and Path(error.path).is_relative_to(store.parent):
            if isinstance(error.__cause__, OSError):  # the disk's fault, not the data's
                raise
            text = ": ".join(filter(None, (error.field, error.message, error.details)))
        return Finding("error", "cannot be imported", text)
    return None


def check_folder(root: Path, words: Sequence[str] = (), *, quiet: bool = True) -> Report:
    """Checks a folder, or a zip archive of one, case by case: all that `modiff import folder` refuses, and more.

    words: its options. The import has the last word: there is an error where it refuses the folder, and none where it
    does not. Each file is read once, for both.
    """
    with scratch() as folder:
        args = _options("folder", root, folder / "checked.h5", words, quiet=quiet)
        try:
            with as_folder(root, args.max_bytes) as place:
                args.root, args.archive = place.path, place
                report = _check_folder(args)
        except DataError as error:  # an archive that cannot be unpacked
            return Report(str(root), "a file", [Finding("error", "cannot be imported", str(error))])
    report.path = str(root)
    report.findings = [replace(one, text=place.called(one.text)) for one in report.findings]
    return report


def _check_folder(args: argparse.Namespace) -> Report:
    files = _Files()
    try:
        reader = _Reader(args, SUFFIXES + JPEG, files=files)
    except DataError as error:
        refused = _refused("folder", args)
        return Report("", "a folder", [refused or Finding("warning", "cannot be read", str(error))])
    checked = _FolderCheck(reader)
    refused = _refused("folder", args, partial(_Reader, files=files, heard=checked.until))
    checked.finish()
    what = f"a folder, {counted(len(reader.items), 'case')}, {counted(len(reader.raters), 'rater')}"
    if refused is None:
        checked.found = [replace(one, level="warning") if one.level == "error" else one for one in checked.found]
    elif not any(
        one.level == "error" and (one.kind in refused.text or one.text in refused.text) for one in checked.found
    ):
        checked.found.append(refused)
    return Report("", what, checked.found, checked.views.get)


@dataclass
class _Files:
    """The files of the case at hand."""

    case: str = ""
    volumes: dict[tuple[Path, bool], Volume] = field(default_factory=dict)


class _Reader(Folder):
    """Reads each file of a case once for all that share `files`. heard: is told of each case that the import read."""

    def __init__(
        self,
        args: argparse.Namespace,
        suffixes: tuple[str, ...] = SUFFIXES,
        *,
        files: _Files,
        heard: Callable[[str], None] = lambda case: None,
    ) -> None:
        super().__init__(args, suffixes)
        self._files, self._heard = files, heard

    def opened(self, item: Item, path: Path, limits: Limits, *, mask: bool = False) -> Volume:
        """One of a case's files as it is, kept until another case is read."""
        if self._files.case != item.case:
            self._files.case = item.case
            self._files.volumes.clear()
        if (path, mask) not in self._files.volumes:
            self._files.volumes[path, mask] = super().opened(item, path, limits, mask=mask)
        return self._files.volumes[path, mask]

    def read(self, item: Item) -> Iterator[Case]:
        """The slices of a case; then it is told of."""
        yield from super().read(item)
        self._heard(item.case)


class _FolderCheck:
    """Goes through the cases once; keeps thumbnails of those that something was found in."""

    def __init__(self, reader: Folder) -> None:
        self.reader, self.found = reader, list[Finding]()
        self.views: dict[str, View] = {}
        self._spacings: dict[str, tuple[float, float]] = {}
        exchangeable, classes = reader.args.exchangeable, reader.labels.classes
        self._checks = ContentChecks(reader.raters, exchangeable=exchangeable, classes=classes)
        self._left = list(reader.items)
        self._used, self._brightest = list[float](), 0.0
        for fault in two_splits(reader.items, reader.args.table or reader.root):
            self._add(fault, str(fault.field))

    def until(self, case: str) -> None:
        """Checks the cases up to one."""
        places = (place for place, item in enumerate(self._left) if item.case == case)
        self._each(next(places, -1) + 1)

    def finish(self) -> None:
        """Checks the other cases, and all together."""
        self._each(len(self._left))
        self.found += self._checks.finish()
        self.found += [
            Finding("warning", "marks that are cut off", line) for line in self.reader.cut.told(self.reader.raters)
        ]
        self.found += self._together()
        self.found += [Finding("warning", "left out", line) for line in self.reader.left_out.lines]
        self.found += [Finding("warning", "two names alike", line) for line in self.reader.names]

    def _each(self, count: int) -> None:
        some, self._left = self._left[:count], self._left[count:]
        for item in tracked(some, "checking", count, "cases", quiet=self.reader.args.quiet or bool(self._left)):
            before = len(self.found)
            self._case(item)
            if len(self.found) == before:
                self.views.pop(item.case, None)

    def _add(self, fault: ModiffError, case: str, *, level: Level = "error", who: str = "") -> None:
        """What the importer would refuse, in its words; the report names the case in place of the file."""
        text = fault.details.removeprefix("found ")
        self.found.append(Finding(level, fault.message, f"{who}: {text}" if who else text, case))

    @contextmanager
    def _told(self, item: Item, unreadable: str = "") -> Iterator[None]:
        """An error ends the block and becomes a finding."""
        try:
            yield
        except ModiffError as error:
            if unreadable and error.message not in _OWN:
                self.found.append(Finding("error", unreadable, str(error), item.case))
            else:
                self._add(error, item.case)

    def _case(self, item: Item) -> None:
        reader = self.reader
        image = read = None
        with self._told(item, "an image that cannot be read"):
            stored = reader.stored(item)
            with self._told(item):
                image = turn(stored, reader.args.plane)
                if image.spacing is not None:
                    self._spacings[item.case] = image.spacing[1:]
                for fault in reader.differences(item, image):
                    self._add(fault, item.case)
        with self._told(item):
            read = reader.readers(item)
        if image is None:
            return
        if read is None:  # who is not known: those whose masks are there
            read = np.array([name in item.masks for name in reader.raters])
        masks = np.zeros((len(reader.raters), *image.shape), np.uint8)
        for slot, name in enumerate(reader.raters):
            if name in item.masks:
                mask = self._mask(item, name, stored, image)
                if mask is None:
                    read[slot] = False
                else:
                    masks[slot] = mask
        busiest = int(masks.any(0).sum((1, 2)).argmax())
        with self._told(item):
            places = reader.places(item, masks, image, stored)
            self._values(image, busiest, places)
        if read.any():
            self.found += self._checks.add(item.case, item.patient, item.split, image.array, masks, read)
        self.views[item.case] = View(_small(image.array[0, busiest]), _small(masks[:, busiest]), reader.raters)

    def _values(self, image: Volume, index: int, places: Sequence[Place]) -> None:
        """Measures a slice as a store would have it."""
        with suppress(DataError):  # of values that no rule makes, or sizes that do not fit: told elsewhere
            if not places:
                return
            if (ends := self.reader.ends(image)) is None:
                check_unit(image.array)
            values = self.reader.seen(image, index, places[0], ends).array
            self._used.append(float(used_range(values[None])[0]))
            self._brightest = max(self._brightest, float(values.max()) / _full(values.dtype))

    def _mask(self, item: Item, name: str, stored: Volume, image: Volume) -> np.ndarray | None:
        """(Z,H,W) class indices, as they are most likely meant; None where a mask cannot be compared with its image."""
        with self._told(item, "a mask that cannot be read"):
            wrong, mask = self.reader.mask(item, name, stored)
            if wrong is not None:
                self._add(wrong, item.case, who=name)
            try:
                placed = self.reader.placed(mask, image).array[0]
                return placed if wrong is None or placed.any() else None  # a refused mask is not an empty one
            except DataError as fault:
                self._add(fault, item.case, who=name)
        return None

    def _together(self) -> Iterator[Finding]:
        files = [path for item in self.reader.items for path in item.files]
        if jpeg := [path for path in files if path.suffix.lower() in JPEG]:
            why = "its compression changes values, and import takes none"
            text = f"{counted(len(jpeg), 'file')}, such as {jpeg[0].name}: {why}"
            yield Finding("warning", "JPEG files", text)
        foreground = self.reader.labels.foreground
        if foreground.mixed:
            yield Finding("warning", "mask values of two kinds", foreground.mixed)
        elif foreground.only == 255 and not foreground.guessed:
            yield Finding("note", "mask values 0 and 255", "255 is read as foreground")
        for note in self.reader.notes:
            if note not in (foreground.mixed, *self.reader.left_out.lines, *self.reader.names):
                yield Finding("note", "decided in reading", note)
        if self._used:
            yield from _hard_to_see(self._brightest, little_contrast(self._used))
        typical = np.median(list(self._spacings.values()) or [(1.0, 1.0)], axis=0)
        for case, spacing in self._spacings.items():
            ratio = max(max(a / b, b / a) for a, b in zip(spacing, typical.tolist(), strict=True))
            if ratio >= _SPACING:
                found, usual = (f"{pair[0]:.3g} × {pair[1]:.3g}" for pair in (spacing, typical))
                text = f"{found} mm per pixel, typical is {usual}"
                yield Finding("warning", "a pixel size far off", text, case)


def _small(array: np.ndarray, side: int = 256) -> np.ndarray:
    """Every n-th pixel, so that thumbnails of many large images fit into memory."""
    step = -(-max(array.shape[-2:]) // side)
    return array[..., ::step, ::step].copy()
