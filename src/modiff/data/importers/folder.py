"""The importer of own data: a folder of images and of every rater's masks. `modiff check` reads it alike."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from rich.console import Console

from modiff.data.importers import grids
from modiff.data.importers.base import Case, Importer
from modiff.data.importers.grids import Grid
from modiff.data.importers.layout import IMAGES, MASKS, Item, apply_table, find, two_splits
from modiff.data.importers.sources import digest_below
from modiff.data.intensity import IntensityRule, check_unit, store_values, stretch
from modiff.data.splits import SplitRule
from modiff.data.store_format import StoreInfo
from modiff.errors import ConfigError, DataError
from modiff.io.files import Limits


class Folder(Importer[Item]):
    """Your own data: a folder of images, and of every rater's masks, in any common format."""

    version = "folder 1"
    resample_hint: ClassVar[str | None] = "--resample nearest moves it onto the image's grid."

    def __init__(self, args: argparse.Namespace, suffixes: tuple[str, ...] = grids.SUFFIXES) -> None:
        """suffixes: of the files that may be images. What is wrong with one case is told when it is asked for.

        strange: images that fit no pattern. raters: their names. placeless: a mask has no geometry, its image has.
        resized: slices are resized to --size, neither cropped nor padded. skipped: files of series left out so far.
        """
        super().__init__(args)
        self.root = Path(args.root)
        self.size, self.rule = grids.parse_size(args.size), IntensityRule.for_import(args.intensity)
        self.labels = grids.Labels(args.label, args.foreground)
        self.limits = Limits.asked(args.max_bytes, skip_broken=args.skip_broken)
        self.items, self.strange = find(self.root, args.image or IMAGES, args.mask or MASKS, suffixes)
        if args.table:
            apply_table(self.items, Path(args.table))
        self.raters = tuple(sorted({name for item in self.items for name in (*item.masks, *(item.readers or ()))}))
        self.placeless = self.resized = False
        self.skipped: dict[str, None] = {}
        self._first: tuple[Item, Grid] | None = None

    def describe(self) -> StoreInfo:
        """Channels, classes and raters as files and --label name them, the rest as the options say."""
        if not self.raters:
            raise DataError("images, but no mask of any rater", path=self.root)
        for item in self.items:  # known before any image is read
            self.readers(item)
        first = self.items[0]
        return StoreInfo(
            channels=self.channels(first, len(self.stored(first).array)),
            classes=self.labels.classes,
            raters=self.raters,
            exchangeable_raters=self.args.exchangeable,
            intensity=self.args.intensity,
            prompt=self.args.prompt,
            source=self.args.source,
            licence=self.args.licence,
            importer=self.version,
            provenance=digest_below(self.root, [path for item in self.items for path in item.files]),
        )

    def splits(self, rule: Mapping[str, str] | SplitRule) -> Mapping[str, str]:
        """The table's, or as for other sources."""
        for fault in two_splits(self.items, self.args.table):
            raise fault
        own = {item.patient: item.split for item in self.items if item.split is not None}
        if own and self.args.splits:
            found = "also the table's column"
            raise ConfigError("splits from two places", field="--splits", found=found, expected="one")
        return own or super().splits(rule)

    def read(self, item: Item) -> Iterator[Case]:
        """The slices of a case's image or volume, with every rater's mask; raises the first fault."""
        read, stored = self.readers(item), self.stored(item)
        image = grids.turn(stored, self.args.plane)
        for fault in self.differences(item, image):
            raise fault
        masks = np.zeros((len(self.raters), *image.shape), np.uint8)
        for slot, name in enumerate(self.raters):
            if name in item.masks:
                mask = self.mask(item, name, stored, image)
                if misplaced := self.misplaced(mask, image):
                    if self.args.resample is None:
                        raise misplaced
                    mask = grids.resample(mask, image)
                wrong, masks[slot] = self.labels.judge(mask)
                if wrong is not None:
                    raise wrong
        if self.rule.kind == "unit":
            check_unit(image.array, image.path)
        ends = None if self.rule.kind == "unit" else self.rule.bounds(image.array)
        flat = image.shape[0] == 1
        for index in range(image.shape[0]):
            if not (flat or self.args.all_slices or masks[:, index].any()):
                continue
            values = image.array[:, index]
            if ends is not None:
                values = stretch(values, ends[0][:, index], ends[1][:, index])
            seen = replace(image, array=store_values(values)[:, None], affine=image.slice_affine(index))
            seen, marked, valid = self._fitted(seen, replace(seen, array=masks[:, index, None]))
            case, place = (item.case, None) if flat else (f"{item.case}/slice-{index:03d}", index)
            where = {"affine": seen.affine, "slice_index": place, "spacing": seen.spacing, "valid": valid}
            yield Case(case, item.patient, seen.array[:, 0], marked.array[:, 0], read, where)

    def close(self, *, done: bool) -> None:
        """Says which files of series were left out."""
        for text in self.skipped:
            Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)

    def _fitted(self, image: Grid, marked: Grid) -> tuple[Grid, Grid, tuple[int, int, int, int] | None]:
        """A slice and its masks in --size, cropped or padded about the centre or resized; and what is not padding."""
        if self.size is None:
            return image, marked, None
        if self.resized:
            image = grids.resize(image, self.size, mask=False)
            image = replace(image, array=np.rint(image.array.clip(0, 65535)).astype(np.uint16))
            return image, grids.resize(marked, self.size, mask=True), None
        image, valid = grids.centre_fit(image, self.size)
        return image, grids.centre_fit(marked, self.size)[0], valid

    def channels(self, item: Item, count: int) -> tuple[str, ...]:
        """Names of `count` channels in a case's files."""
        names = tuple(sorted(item.channels))
        if names != ("",):
            return names
        return ("image",) if count == 1 else tuple(f"channel {number + 1}" for number in range(count))

    def readers(self, item: Item) -> np.ndarray:
        """(R,) who read the case, as the table, the files and --missing say; DataError where they disagree."""
        absent = [name for name in self.raters if name not in item.masks]
        readers = item.readers or (self.raters if self.args.missing == "empty" else tuple(item.masks))
        if stray := sorted(set(item.masks) - set(readers)):
            found = f"{', '.join(stray)}, who did not read the case, says the table"
            path = item.masks[stray[0]]
            raise DataError("a mask of a rater who did not read", path=path, field=item.case, found=found)
        if item.readers is None and absent and self.args.missing == "refuse":
            hint = "A --table says who read what, or --missing empty or unread what an absent mask means."
            found = f"no mask of {', '.join(absent)}"
            raise DataError("missing masks", path=self.root, field=item.case, found=found, hint=hint)
        if not readers:
            raise DataError("a case that nobody read", path=self.root, field=item.case)
        return np.array([name in readers for name in self.raters])

    def stored(self, item: Item) -> Grid:
        """All channels on one grid, as the files have them."""
        if not item.channels:
            mask, found = next(iter(item.masks.values())), f"only masks of {', '.join(item.masks)}"
            raise DataError("masks without an image", path=mask, field=item.case, found=found)
        parts = {name: grids.read_grid(path, self.limits) for name, path in sorted(item.channels.items())}
        first = next(iter(parts.values()))
        self.skipped |= dict.fromkeys(f"{item.case}: {text}" for grid in parts.values() for text in grid.skipped)
        for name, grid in parts.items():
            if name and len(grid.array) != 1:
                raise DataError("several channels in the file of one", path=grid.path, found=len(grid.array))
            if what := grids.difference(first, grid):
                found, hint = f"channel {name}: {what}", "Channels must be registered to one grid."
                raise DataError("channels on different grids", path=grid.path, found=found, hint=hint)
        return replace(first, array=np.concatenate([grid.array for grid in parts.values()]))

    def differences(self, item: Item, image: Grid) -> Iterator[DataError]:
        """How an image differs from the first case's, like which all others must be."""
        self._first = self._first or (item, image)
        first = self._first[1]
        if image.shape[1:] != first.shape[1:] and self.size is None:
            found, expected = ("×".join(map(str, grid.shape[1:])) for grid in (image, first))
            hint = f"--size {first.shape[1]}x{first.shape[2]}, or another, crops or pads all to one."
            yield _unlike("images of different sizes", image, f"{found} pixels", expected, hint)
        known = self.channels(self._first[0], len(first.array))
        if (names := self.channels(item, len(image.array))) != known:
            yield _unlike("different channels", image, ", ".join(names), ", ".join(known))
        if image.shape[0] > 1 and grids.sides(image) != grids.sides(first) and self.args.plane == "native":
            hint = "--plane axial, coronal or sagittal turns them alike."
            found = f"columns, rows and slices towards {grids.sides(image)}"
            yield _unlike("axes that run differently", image, found, str(grids.sides(first)), hint)

    def mask(self, item: Item, name: str, stored: Grid, image: Grid) -> Grid:
        """A rater's mask, turned as its image is; `stored`: that image as it was read."""
        mask = grids.read_grid(item.masks[name], grids.mask_limits(image, self.limits), mask=True)
        self.skipped |= dict.fromkeys(f"{item.case}: {text}" for text in mask.skipped)
        self.placeless |= mask.affine is None and stored.affine is not None
        if mask.affine is None and mask.shape == stored.shape:  # it shares the place of its image
            mask = replace(mask, affine=stored.affine)
        return mask if mask.affine is None else grids.turn(mask, self.args.plane)

    def misplaced(self, mask: Grid, image: Grid) -> DataError | None:
        """What is wrong where a mask is not on its image's grid."""
        if not (what := grids.difference(image, mask)):
            return None
        if image.shape == (mask.shape[0], *mask.shape[:0:-1]) and image.shape != mask.shape:
            what += ", rows and columns swapped?"
        kind = "a mask on another grid than its image"
        return DataError(kind, path=mask.path, found=what, hint=self.resample_hint)


def _unlike(kind: str, image: Grid, found: str, first: str, hint: str | None = None) -> DataError:
    return DataError(kind, path=image.path, found=found, expected=f"{first}, as the first case", hint=hint)
