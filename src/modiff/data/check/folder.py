"""A folder of images and masks looked at case by case: all that `modiff import folder` refuses, and more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from modiff.data.check.content import Case, ContentChecks
from modiff.data.check.findings import Finding, Level, Report, View
from modiff.data.importers.catalogue import import_parser
from modiff.data.importers.folder import Folder
from modiff.data.importers.grids import JPEG, SUFFIXES, Grid, turn
from modiff.data.importers.layout import Item, two_splits
from modiff.errors import DataError, ModiffError

_SPACING = 4.0  # ratio of pixel sizes within one data set from which a unit or a header is suspected
T = TypeVar("T")


def check_folder(root: Path, words: Sequence[str] = ()) -> Report:
    """Checks a folder in the layout of `modiff import folder`; words are that command's options."""
    parser = import_parser("folder", "modiff import folder")
    report = Report(str(root), "a folder")
    try:
        reader = Folder(parser.parse_args([str(root), "-o", "-", *words]), SUFFIXES + JPEG)
    except DataError as error:
        report.findings.append(Finding("error", "cannot be read", str(error)))
        return report
    checked = _FolderCheck(reader)
    report.findings += checked.found
    if strange := reader.strange:
        text = f"{len(strange)} image{'s' * (len(strange) != 1)} left out, fitting no pattern, such as {strange[0]}"
        report.findings.append(Finding("note", "files left out", text))
    cases, raters = len(reader.items), len(reader.raters)
    report.what = f"a folder, {cases} case{'s' * (cases != 1)}, {raters} rater{'s' * (raters != 1)}"
    report.view = checked.views.get
    return report


class _FolderCheck:
    """Goes through the cases once; keeps thumbnails of those that something was found in."""

    def __init__(self, reader: Folder) -> None:
        self.reader, self.found = reader, list[Finding]()
        self.views: dict[str, View] = {}
        self._conventions: dict[str, str] = {}
        self._spacings: dict[str, tuple[float, float]] = {}
        exchangeable, classes = reader.args.exchangeable, reader.labels.classes
        checks = ContentChecks(reader.raters, exchangeable=exchangeable, classes=classes)
        for fault in two_splits(reader.items, reader.args.table or reader.root):
            self._add(fault, str(fault.field))
        for item in reader.items:
            before = len(self.found)
            self._case(item, checks)
            if len(self.found) == before:
                self.views.pop(item.case, None)
        self.found += checks.finish()
        self.found += self._together()

    def _add(self, fault: ModiffError, case: str, *, level: Level = "error", who: str = "") -> None:
        """What the importer would refuse, in its words; the report names the case in place of the file."""
        text = fault.details.removeprefix("found ")
        self.found.append(Finding(level, fault.message, f"{who}: {text}" if who else text, case))

    def _try(self, item: Item, step: Callable[[], T], unreadable: str = "") -> T | None:
        """The step's result, or None and a finding."""
        try:
            return step()
        except ModiffError as error:
            if unreadable and error.message not in _OWN:
                self.found.append(Finding("error", unreadable, str(error), item.case))
            else:
                self._add(error, item.case)
        return None

    def _case(self, item: Item, checks: ContentChecks) -> None:
        reader = self.reader
        stored = self._try(item, lambda: reader.stored(item), "an image that cannot be read")
        image = None if stored is None else self._try(item, lambda: turn(stored, reader.args.plane))
        if image is not None:
            if image.spacing is not None:
                self._spacings[item.case] = image.spacing
            for fault in reader.differences(item, image):
                self._add(fault, item.case)
        read = self._try(item, lambda: reader.readers(item))
        if stored is None or image is None:
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
        if read.any():
            self.found += checks.add(Case(item.case, item.patient, item.split, image.array, masks, read))
        busiest = int(masks.any(0).sum((1, 2)).argmax())
        self.views[item.case] = View(_small(image.array[0, busiest]), _small(masks[:, busiest]), reader.raters)

    def _mask(self, item: Item, name: str, stored: Grid, image: Grid) -> np.ndarray | None:
        """(Z,H,W) class indices, as they are most likely meant; None where a mask cannot be compared with its image."""
        reader, unreadable = self.reader, "a mask that cannot be read"
        mask = self._try(item, lambda: reader.mask(item, name, stored, image), unreadable)
        if mask is None:
            return None
        if fault := reader.misplaced(mask, image):
            self._add(fault, item.case, level="warning" if reader.args.resample else "error", who=name)
            return None
        judged = self._try(item, lambda: reader.labels.judge(mask), unreadable)
        if judged is None:
            return None
        wrong, classes = judged
        if wrong is not None:
            self._add(wrong, item.case, who=name)
        elif not reader.labels.values and (top := mask.array.max()) > 0:
            now = f"0 and {top:g}"
            before = self._conventions.setdefault(name, now)
            self._conventions[name] = now if before == now else "0 and 1 in some, 0 and 255 in others"
        return classes

    def _together(self) -> Iterator[Finding]:
        files = [path for item in self.reader.items for path in item.files]
        if jpeg := [path for path in files if path.suffix.lower() in JPEG]:
            text = f"{len(jpeg)} files, such as {jpeg[0].name}: its compression changes values, and import takes none"
            yield Finding("error", "JPEG files", text)
        kinds = set(self._conventions.values())
        if len(kinds) > 1 or any(" in some" in kind for kind in kinds):
            words = "; ".join(f"{name}: {kind}" for name, kind in sorted(self._conventions.items()))
            text = f"both are read as foreground, but why differ? {words}"
            yield Finding("warning", "mask values of two kinds", text)
        elif kinds == {"0 and 255"}:
            yield Finding("note", "mask values 0 and 255", "255 is read as foreground")
        if self.reader.placeless:
            text = "some masks have no geometry and are taken to lie on their image's grid, row for row"
            yield Finding("note", "masks without geometry", text)
        typical = np.median(list(self._spacings.values()) or [(1.0, 1.0)], axis=0)
        for case, spacing in self._spacings.items():
            ratio = max(max(a / b, b / a) for a, b in zip(spacing, typical.tolist(), strict=True))
            if ratio >= _SPACING:
                text = (
                    f"{spacing[0]:.3g} × {spacing[1]:.3g} mm per pixel, typical is {typical[0]:.3g} × {typical[1]:.3g}"
                )
                yield Finding("warning", "a pixel size far off", text, case)


# What `Folder` says of a case as a whole; anything else is about a file that cannot be read.
_OWN = {"masks without an image", "channels on different grids", "several channels in the file of one"}


def _small(array: np.ndarray, side: int = 256) -> np.ndarray:
    """Every n-th pixel, so that thumbnails of many large images fit into memory."""
    step = -(-max(array.shape[-2:]) // side)
    return array[..., ::step, ::step].copy()
