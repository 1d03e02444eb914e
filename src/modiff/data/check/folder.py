"""A folder of images and masks looked at file by file: what cannot be read, does not fit, or holds odd values."""

from __future__ import annotations

import argparse
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np

from modiff.data.check.content import Case, ContentChecks
from modiff.data.check.findings import Finding, Level, Report, View
from modiff.data.importers import folder, folder_layout
from modiff.data.importers.cimd import read_jpeg
from modiff.data.importers.folder_layout import Item
from modiff.data.importers.grids import SUFFIXES, Grid, difference, mask_limits, read_grid, sides, turn, turn_mask
from modiff.data.importers.labels import Labels, plain
from modiff.errors import ModiffError
from modiff.io.limits import Limits

_JPEG = (".jpg", ".jpeg")
_NEAR = 0.15  # of full scale: how far from black and white JPEG and interpolation leave most values of a mask
_MOST = 0.97  # share of values that must lie so near
_FEW = 16  # distinct whole values up to which they are labels, not grey values
_SPACING = 4.0  # ratio of pixel sizes within one data set from which a unit or a header is suspected


def check_folder(root: Path, words: Sequence[str] = ()) -> Report:
    """Checks a folder in the layout of `modiff import folder`; words are that command's options."""
    parser = argparse.ArgumentParser(prog="modiff import folder")
    folder.add_arguments(parser)
    args = parser.parse_args([str(root), "-o", "-", *words])
    report = Report(str(root), "a folder")
    try:
        suffixes = SUFFIXES + _JPEG
        items, strange = folder_layout.find(
            root, args.image or folder_layout.IMAGES, args.mask or folder_layout.MASKS, suffixes
        )
        if args.table:
            folder_layout.apply_table(items, Path(args.table))
    except ModiffError as error:
        report.findings.append(Finding("error", "cannot be read", str(error)))
        return report
    check = _FolderCheck(args, items)
    report.findings += check.run()
    if strange:
        text = f"{len(strange)} image{'s' * (len(strange) != 1)} left out, fitting no pattern, such as {strange[0]}"
        report.findings.append(Finding("note", "files left out", text))
    cases, raters = len(items), len(check.raters)
    report.what = f"a folder, {cases} case{'s' * (cases != 1)}, {raters} rater{'s' * (raters != 1)}"
    report.view = check.views.get
    return report


class _FolderCheck:
    """Goes through the cases once; keeps thumbnails of those that something was found in."""

    def __init__(self, args: argparse.Namespace, items: Sequence[Item]) -> None:
        self.args, self.items = args, items
        self.raters = tuple(sorted({name for item in items for name in (*item.masks, *(item.readers or ()))}))
        self.labels, self.limits = Labels(args.label, args.foreground), folder.limits_of(args)
        self.views: dict[str, View] = {}
        self._conventions: dict[str, str] = {}
        self._first: Grid | None = None
        self._without_place = False
        self._spacings: dict[str, tuple[float, float]] = {}

    def run(self) -> Iterator[Finding]:
        checks = ContentChecks(self.raters, exchangeable=self.args.exchangeable, classes=self.labels.classes)
        yield from self._splits()
        for item in self.items:
            found = list(self._case(item, checks))
            yield from found
            if not found:
                self.views.pop(item.case, None)
        yield from checks.finish()
        yield from self._together()

    def _splits(self) -> Iterator[Finding]:
        places: dict[str, str | None] = {}
        for item in self.items:
            if (before := places.setdefault(item.patient, item.split)) != item.split:
                text = f"patient {item.patient} is in {before} and in {item.split}"
                yield Finding("error", "a patient in two splits", text, item.case)

    def _case(self, item: Item, checks: ContentChecks) -> Iterator[Finding]:
        stored = yield from self._image(item)
        image = yield from self._turned(item, stored)
        read = yield from self._readers(item)
        if stored is None or image is None:
            return
        masks = np.zeros((len(self.raters), *image.shape), np.uint8)
        for slot, name in enumerate(self.raters):
            if name in item.masks:
                mask = yield from self._mask(item, name, stored, image)
                if mask is None:
                    read[slot] = False
                else:
                    masks[slot] = mask
        if read.any():
            yield from checks.add(Case(item.case, item.patient, item.split, image.array, masks, read))
        busiest = int(masks.any(0).sum((1, 2)).argmax())
        self.views[item.case] = View(_small(image.array[0, busiest]), _small(masks[:, busiest]), self.raters)

    def _readers(self, item: Item) -> Generator[Finding, None, np.ndarray]:
        """Returns (R,) who read the case, as the table, the files and --missing say."""
        readers = item.readers if item.readers is not None else tuple(item.masks)
        absent = [name for name in self.raters if name not in item.masks]
        if item.readers is None and self.args.missing == "empty":
            readers = self.raters
        elif item.readers is None and absent and self.args.missing == "refuse":
            yield Finding("error", "missing masks", f"there is no mask of {', '.join(absent)}", item.case)
        if stray := sorted(set(item.masks) - set(readers)):
            text = f"there is a mask of {', '.join(stray)}, who did not read the case, says the table"
            yield Finding("error", "a mask of a rater who did not read", text, item.case)
        return np.array([name in readers for name in self.raters])

    def _turned(self, item: Item, stored: Grid | None) -> Generator[Finding, None, Grid | None]:
        """Returns the image in the plane that was asked for, compared with the first case's."""
        image = stored
        if stored is not None and self.args.plane != "native":
            if stored.affine is None:
                text = f"the image has no geometry, so it cannot be turned to {self.args.plane} slices"
                yield Finding("error", "no geometry", text, item.case)
                return None
            image = turn(stored, self.args.plane)
        if image is not None:
            yield from self._compare(item, image)
        return image

    def _image(self, item: Item) -> Generator[Finding, None, Grid | None]:
        """Returns the image with all channels, or None where it cannot be used."""
        if not item.channels:
            yield Finding("error", "masks without an image", f"only masks of {', '.join(item.masks)}", item.case)
            return None
        grids = []
        for name in sorted(item.channels):
            try:
                grids.append(_read(item.channels[name], self.limits, mask=False))
            except ModiffError as error:
                yield Finding("error", "an image that cannot be read", str(error), item.case)
                return None
        for name, grid in zip(sorted(item.channels), grids, strict=True):
            if what := difference(grids[0], grid):
                yield Finding("error", "channels on different grids", f"channel {name}: {what}", item.case)
                return None
        return folder.with_array(grids[0], np.concatenate([grid.array for grid in grids]))

    def _compare(self, item: Item, image: Grid) -> Iterator[Finding]:
        """With the first case, which all others must be like."""
        first = self._first = self._first or image
        if image.spacing is not None:
            self._spacings[item.case] = image.spacing
        if image.shape[1:] != first.shape[1:] and self.args.size is None:
            found, other = (f"{grid.shape[1]}×{grid.shape[2]}" for grid in (image, first))
            text = f"{found} pixels, the first case has {other}: import needs --size"
            yield Finding("error", "images of different sizes", text, item.case)
        if len(image.array) != len(first.array):
            text = f"{len(image.array)} channels, the first case has {len(first.array)}"
            yield Finding("error", "different channels", text, item.case)
        if image.shape[0] > 1 and sides(image) != sides(first) and self.args.plane == "native":
            text = f"axes run towards {sides(image)}, the first case's towards {sides(first)}: import needs --plane"
            yield Finding("error", "axes that run differently", text, item.case)

    def _mask(self, item: Item, name: str, stored: Grid, image: Grid) -> Generator[Finding, None, np.ndarray | None]:
        """Returns (Z,H,W) class indices, or None where the mask cannot be compared with the image."""
        try:
            grid = _read(item.masks[name], mask_limits(image, self.limits), mask=True)
            self._without_place |= grid.affine is None and stored.affine is not None
            grid = turn_mask(grid, stored, self.args.plane)
            values = plain(grid)
        except ModiffError as error:
            yield Finding("error", "a mask that cannot be read", str(error), item.case)
            return None
        if what := difference(image, grid):
            turned = image.shape == (grid.shape[0], *grid.shape[:0:-1]) and image.shape != grid.shape
            what += ", rows and columns swapped?" if turned else ""
            level: Level = "warning" if self.args.resample else "error"
            yield Finding(level, "a mask on another grid than its image", f"{name}: {what}", item.case)
            return None
        finding, marked = self._values(name, values)
        if finding is not None:
            yield Finding("error", *finding, item.case)
        return marked

    def _values(self, name: str, values: np.ndarray) -> tuple[tuple[str, str] | None, np.ndarray]:
        """Kind and text of what is wrong with the values, and (Z,H,W) what they most likely mean."""
        present = np.unique(values)
        top = max(float(present[-1]), 1.0)
        if self.labels.values:
            known = np.isin(present, [0, *self.labels.values])
            text = f"{name} holds {_few(present[~known])}, which no --label names"
            finding = None if known.all() else ("mask values without a meaning", text)
            return finding, _mapped(values, self.labels)
        if set(present.tolist()) <= {0, 1} or set(present.tolist()) <= {0, 255}:
            if present[-1] > 0:
                self._conventions[name] = _join(self._conventions.get(name), f"0 and {present[-1]:g}")
            return None, (values > 0).astype(np.uint8)
        marked = (values > top / 2).astype(np.uint8)
        near = np.minimum(np.abs(values - 0.0), np.abs(top - values)) <= _NEAR * top
        whole = np.array_equal(present, np.rint(present))
        if whole and len(present) > 2 and near.mean() >= _MOST and top > _FEW:
            text = f"{name} holds {len(present)} values about 0 and {top:g}, as JPEG or interpolation leaves them"
            return ("smeared mask values", text), marked
        if not whole:
            text = f"{name} holds values that are not whole, such as {_few(present[present % 1 != 0])}"
            return ("mask values that are not whole", text), marked
        if len(present) <= _FEW:
            text = f"{name} holds {_few(present)}: --label VALUE=CLASS says what they mean"
            return ("mask values without a meaning", text), (values != 0).astype(np.uint8)
        text = f"{name} holds {len(present)} values from {present[0]:g} to {top:g}: is it a mask?"
        return ("mask values like those of an image", text), marked

    def _together(self) -> Iterator[Finding]:
        files = [path for item in self.items for path in (*item.channels.values(), *item.masks.values())]
        if jpeg := [path for path in files if path.suffix.lower() in _JPEG]:
            text = f"{len(jpeg)} files, such as {jpeg[0].name}: its compression changes values, and import takes none"
            yield Finding("error", "JPEG files", text)
        kinds = set(self._conventions.values())
        if len(kinds) > 1 or any(" in some" in kind for kind in kinds):
            words = "; ".join(f"{name}: {kind}" for name, kind in sorted(self._conventions.items()))
            yield Finding(
                "warning", "mask values of two kinds", f"both are read as foreground, but why differ? {words}"
            )
        elif kinds == {"0 and 255"}:
            yield Finding("note", "mask values 0 and 255", "255 is read as foreground")
        if self._without_place:
            text = "some masks have no geometry and are taken to lie on their image's grid, row for row"
            yield Finding("note", "masks without geometry", text)
        if not self._spacings:
            return
        typical = np.median(list(self._spacings.values()), axis=0)
        for case, spacing in self._spacings.items():
            ratio = max(max(a / b, b / a) for a, b in zip(spacing, typical.tolist(), strict=True))
            if ratio >= _SPACING:
                text = f"{spacing[0]:.3g} × {spacing[1]:.3g} mm a pixel, typical is {typical[0]:.3g} × {typical[1]:.3g}"
                yield Finding("warning", "a pixel size far off", text, case)


def _read(path: Path, limits: Limits, *, mask: bool) -> Grid:
    if path.suffix.lower() in _JPEG:
        limits.check_file(path)
        return Grid(read_jpeg(path.read_bytes(), str(path))[None, None], path)
    return read_grid(path, limits, mask=mask)


def _mapped(values: np.ndarray, labels: Labels) -> np.ndarray:
    made = np.zeros(values.shape, np.uint8)
    for value, index in labels.values.items():
        made[values == value] = index
    return made


def _small(array: np.ndarray, side: int = 256) -> np.ndarray:
    """Every n-th pixel, so that thumbnails of many large images fit into memory."""
    step = -(-max(array.shape[-2:]) // side)
    return array[..., ::step, ::step].copy()


def _join(before: str | None, now: str) -> str:
    return now if before in (None, now) else "0 and 1 in some, 0 and 255 in others"


def _few(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values[:5]) + (" …" if len(values) > 5 else "")
