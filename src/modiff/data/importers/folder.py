"""The importer of own data: a folder of images and of every rater's masks; and what is a folder with a known layout.

`modiff check` reads it alike.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np

from modiff.data.context import near
from modiff.data.importers.base import Case, Importer
from modiff.data.importers.fitting import Fitting, Place
from modiff.data.importers.layout import IMAGES, MASKS, Item, apply_table, find, two_names, two_splits
from modiff.data.importers.sources import digest_below
from modiff.data.intensity import IntensityRule, check_unit, has_units, store_values, stretch
from modiff.data.masks import Labels
from modiff.data.splits import SplitRule
from modiff.data.store_format import StoreInfo
from modiff.errors import ConfigError, DataError
from modiff.io.files import Limits
from modiff.io.image import SUFFIXES, read_image
from modiff.io.volume import Volume, difference, joined, remark, resample, sides, turn

_MODALITIES = ("flair", "mprage", "pd", "t2")
_ISBI_RATERS = ("1", "2")
_ISBI_MS = {  # the ISBI 2015 challenge: what `modiff import folder` would be told
    "image": ["**/{patient}_{slice}_{channel}_pp"],
    "mask": ["**/{patient}_{slice}_mask{rater}"],
    "plane": "axial",
    "foreground": "lesion",
    "label": (),
    "missing": "refuse",
    "skip_broken": False,
    "exchangeable": False,
    "prompt": "none",
    "source": "ISBI 2015 longitudinal MS lesion segmentation challenge; Carass et al. 2017, NeuroImage 148",
    "licence": "the challenge's terms of use",
} | dict.fromkeys(("table", "resample", "max_bytes", "crop"))


class Folder(Importer[Item]):
    """Your own data: a folder of images, and of every rater's masks, in any common format."""

    version = "folder 1"
    resample_hint: ClassVar[str | None] = "--resample nearest moves it onto the image's grid"
    layout_hint = "--image and --mask say what yours are called, such as --mask 'masks/{case}_{rater}.png'."

    def __init__(self, args: argparse.Namespace, suffixes: tuple[str, ...] = SUFFIXES) -> None:
        """suffixes: of the files that may be images. What is wrong with one case is told when it is asked for.

        raters: their names.
        """
        super().__init__(args)
        self.root = Path(args.root)
        self.fitting, self.rule = Fitting(args), IntensityRule.for_import(args.intensity)
        self.labels = Labels(args.label, args.foreground)
        self.limits = Limits.asked(args.max_bytes, skip_broken=args.skip_broken)
        patterns = args.image or IMAGES, args.mask or MASKS
        self.items, strange = find(self.root, *patterns, suffixes, self.layout_hint)
        for name in strange:
            self.said.add(["fits no pattern and is left out"], name)
        if args.table:
            apply_table(self.items, Path(args.table))
        self.raters = tuple(sorted({name for item in self.items for name in (*item.masks, *(item.readers or ()))}))
        self.names = tuple(two_names(self.items))  # that may be one rater's
        self._resampled: dict[Path, tuple[int, int]] = {}  # mask -> marked voxels before and after
        self._first: tuple[Item, Volume] | None = None

    def describe(self) -> StoreInfo:
        """Channels, classes and raters as files and --label name them, the rest as the options say."""
        if not self.raters:
            raise DataError("images, but no mask of any rater", path=self.root)
        for item in self.items:  # known before any image is read
            self.readers(item)
        self.fitting.check_cases([item.case for item in self.items], self.args.crop)
        if self.fitting.measuring:
            for item in self.items:
                self.fitting.measure(self._volume(item)[2])
        first = self.items[0]
        stored = self.stored(first)
        return StoreInfo(
            channels=self.channels(first, len(stored.array)),
            classes=self.labels.classes,
            raters=self.raters,
            exchangeable_raters=self.args.exchangeable,
            intensity=self.args.intensity,
            prompt=self.args.prompt or ("centre" if self.fitting.lesions else "none"),
            source=self.args.source,
            licence=self.args.licence,
            importer=self.version + self.fitting.text,
            provenance=digest_below(self.root, [path for item in self.items for path in item.files], self.limits),
            fit=self.fitting.kind,
            modality=stored.modality,
            region=stored.region,
        )

    def splits(self, rule: Mapping[str, str] | SplitRule) -> Mapping[str, str]:
        """The table's, or as for other sources."""
        for fault in two_splits(self.items, self.args.table):
            raise fault
        own = {item.patient: item.split for item in self.items if item.split is not None}
        if own and self.args.splits:
            found = "the table's column split too"
            raise ConfigError("splits are given twice", field="--splits", found=found, expected="one of them")
        return own or super().splits(rule)

    def _volume(self, item: Item) -> tuple[Volume, Volume, np.ndarray]:
        """A case's image as stored and turned, and every rater's mask (R,Z,H,W); raises the first fault."""
        stored = self.stored(item)
        image = turn(stored, self.args.plane)
        for fault in self.differences(item, image):
            raise fault
        masks = np.zeros((len(self.raters), *image.shape), np.uint8)
        for slot, name in enumerate(self.raters):
            if name in item.masks:
                wrong, mask = self.mask(item, name, stored)
                if wrong is not None:
                    raise wrong
                masks[slot] = self.placed(mask, image).array[0]
        return stored, image, masks

    def read(self, item: Item) -> Iterator[Case]:
        """The slices of a case's image or volume, or windows of them, with every rater's mask."""
        read = self.readers(item)
        stored, image, masks = self._volume(item)
        places = self.places(item, masks, image, stored)
        ends = self.ends(image)
        flat = image.shape[0] == 1
        for place, index in product(places, range(image.shape[0])):
            if place.part not in (None, index) or not (flat or self.args.all_slices or masks[:, index].any()):
                continue
            marked, valid = self.fitting.fit(replace(image.part(index), array=masks[:, index, None]), place, mask=True)
            if not (flat or self.args.all_slices or marked.array.any()):  # what is cut off is told at the end
                continue
            seen = self.seen(image, index, place, ends)
            case = "/".join(filter(None, (item.case, place.name, "" if flat else f"slice-{index:03d}")))
            pixel = seen.spacing and seen.spacing[1:]
            where = {"affine": seen.affine, "slice_index": None if flat else index, "spacing": pixel, "valid": valid}
            yield Case(case, item.patient, seen.array[:, 0], marked.array[:, 0], read, where)

    def ends(self, image: Volume) -> tuple[np.ndarray, np.ndarray] | None:
        """What becomes 0 and 1 of an image's values; None where they are taken as they are."""
        return None if self.rule.kind == "unit" or self._windowed(image) else self.rule.bounds(image.array)

    def seen(self, image: Volume, index: int, place: Place, ends: tuple[np.ndarray, np.ndarray] | None) -> Volume:
        """A slice with its neighbours, or a window of it, as a store has them. ends: of `ends`."""
        around = near(index, image.shape[0], self.context)
        values = image.array[:, around]
        values = store_values(values if ends is None else stretch(values, *(end[:, around] for end in ends)))
        values = values.reshape(-1, 1, *image.shape[1:])
        return self.fitting.fit(replace(image.part(index), array=values), place, mask=False)[0]

    def _windowed(self, image: Volume) -> bool:
        """A picture under a window of units that it cannot have, such as HU, is windowed already: prediction's rule."""
        return self.rule.kind == "window" and not has_units(image.array.dtype, self.rule, scan=not image.is_picture)

    def places(self, item: Item, masks: np.ndarray, image: Volume, stored: Volume) -> list[Place]:
        """The windows of a case (`Fitting.places`); takes note of what they cut off, and of a case that has none."""
        places = self.fitting.places(item.case, masks, image, stored)
        self.fitting.count(self.cut, masks, places)
        if not places:
            self.left_out.add(["is marked by nobody, has no place to crop and is left out"], item.case)
        return places

    def _note(self, volume: Volume) -> None:
        """Takes note of what is to be known of a file, or of the files of a series."""
        name = volume.path.relative_to(self.root).as_posix()
        for text, file in volume.notes:
            (self.left_out if file else self.said).add([text], f"{name}/{file}".rstrip("/"))

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the files read, their places and their values."""
        count, (before, after) = len(self._resampled), np.sum([*self._resampled.values()] or [(0, 0)], axis=0)
        words = f"resampling made {before} marked voxels of {count} masks into {after} of their images"
        return (*super().notes, *self.names, *self.labels.foreground.notes, *([words] if count else []))

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
            hint = "Masks are named rater-NAME, or --mask says how, such as --mask '{case}/mask_{rater}'."
            raise DataError("no masks", path=self.root, field=item.case, hint=hint)
        return np.array([name in readers for name in self.raters])

    def stored(self, item: Item) -> Volume:
        """All channels on one grid, as the files have them."""
        if not item.channels:
            mask, found = next(iter(item.masks.values())), f"only masks of {', '.join(item.masks)}"
            hint = "Images are named image, or --image says how; what fits --mask too is a mask."
            raise DataError("masks without an image", path=mask, field=item.case, found=found, hint=hint)
        parts = {name: self.opened(item, path, self.limits) for name, path in sorted(item.channels.items())}
        first = next(iter(parts.values()))
        for name, grid in parts.items():
            self._note(grid)
            if name and len(grid.array) != 1:
                raise DataError("several channels in the file of one channel", path=grid.path, found=len(grid.array))
            if what := difference(first, grid):
                found, hint = f"channel {name}: {what}", "Channels must be registered to one grid."
                raise DataError("channels on different grids", path=grid.path, found=found, hint=hint)
            if known := remark(first, grid):
                self.said.add([f"channels with {known}: read voxel by voxel"], grid.path.relative_to(self.root))
        made = replace(first, array=joined([*parts.values()]))
        if self._windowed(made):
            words = f"{made.array.dtype} of a picture has no units: taken as windowed already"
            self.said.add([words], made.path.relative_to(self.root))
        return made

    def opened(self, item: Item, path: Path, limits: Limits, *, mask: bool = False) -> Volume:
        """One of a case's files as it is."""
        return read_image(path, limits=limits, mask=mask, jpeg=True)

    def differences(self, item: Item, image: Volume) -> Iterator[DataError]:
        """How an image differs from the first case's, like which all others must be, and what no rule makes [0,1]."""
        self._first = self._first or (item, image)
        first = self._first[1]
        if self.context and image.shape[0] == 1:
            hint = "Leave out --context, or import volumes."
            yield DataError(
                "has no neighbouring slices", path=image.path, field="--context", found="one slice", hint=hint
            )
        if image.shape[1:] != first.shape[1:] and self.fitting.kind == "none":
            found, expected = ("×".join(map(str, grid.shape[1:])) for grid in (image, first))
            size = "x".join(map(str, first.shape[1:]))
            hint = f"--size {size}, or another, crops or pads all to one, --resize scales them."
            yield _unlike("images of different sizes", image, f"{found} pixels", expected, hint)
        known = self.channels(self._first[0], len(first.array))
        if (names := self.channels(item, len(image.array))) != known:
            yield _unlike("different channels", image, ", ".join(names), ", ".join(known))
        if image.shape[0] > 1 and sides(image) != sides(first) and self.args.plane == "native":
            turns = "--plane axial, coronal or sagittal turns them alike." if sides(image) and sides(first) else None
            found = f"columns, rows and slices towards {sides(image) or 'no known side'}"
            yield _unlike("axes that run differently", image, found, str(sides(first)), turns)
        if self.rule.kind == "unit":
            try:
                check_unit(image.array, image.path)
            except DataError as fault:
                yield fault
            bits, usual = (8 if grid.array.dtype == np.uint8 else 16 for grid in (image, first))  # in a store
            if bits != usual:
                hint = "--intensity minmax-slice, window:LOW:HIGH or percentiles:LOW:HIGH makes all alike."
                yield _unlike("values of different types", image, image.array.dtype.name, first.array.dtype.name, hint)

    def mask(self, item: Item, name: str, stored: Volume) -> tuple[DataError | None, Volume]:
        """A rater's mask as class indices, turned as its image is, and what is wrong with its values.

        stored: that image as it was read. Raises DataError for a mask that cannot be read.
        """
        path = item.masks[name]
        file = path.relative_to(self.root)
        mask = self.opened(item, path, mask_limits(stored, self.limits), mask=True)
        self._note(mask)
        wrong, classes = self.labels.judge(mask, file)
        mask = replace(mask, array=classes[None])
        if difference(stored, mask) is None:  # it is on the voxels of its image, wherever they lie
            if known := remark(stored, mask):
                self.said.add([f"masks with {known}: read voxel by voxel"], file)
            mask = replace(mask, affine=stored.affine, stated=stored.stated, forms=stored.forms)
        return wrong, mask if mask.affine is None else turn(mask, self.args.plane)

    def placed(self, mask: Volume, image: Volume) -> Volume:
        """A mask on the grid of its image, resampled where asked; DataError where it is on another."""
        if not (what := difference(image, mask)):
            return mask
        hint: str | None = self.resample_hint
        try:
            moved = resample(mask, image)
        except DataError as error:
            if self.args.resample:
                raise
            hint = hint and f"--resample is refused: {error.message}; {error.details}"
        else:
            before, after = (int(np.count_nonzero(one.array)) for one in (mask, moved))
            if self.args.resample:
                self._resampled[mask.path] = before, after
                return moved
            hint = hint and f"{hint}: {before} marked voxels become {after}."
        if image.shape == (mask.shape[0], *mask.shape[:0:-1]) and image.shape != mask.shape:
            what += ", rows and columns swapped?"
        raise DataError("a mask on another grid than its image", path=mask.path, found=what, hint=hint)


def _unlike(kind: str, image: Volume, found: str, first: str, hint: str | None = None) -> DataError:
    return DataError(kind, path=image.path, found=found, expected=f"{first}, as the first case", hint=hint)


class IsbiMs(Folder):
    """MS lesions in longitudinal MRI, ISBI 2015 challenge: two raters, four modalities, five people's 4 or 5 scans."""

    version = "isbi-ms 1"
    resample_hint = None
    layout_hint = "`modiff import isbi-ms --help` shows the layout."

    def __init__(self, args: argparse.Namespace) -> None:
        known = {**vars(args), **_ISBI_MS, "intensity": f"percentiles:{args.percentiles}"}
        known |= {"size": None, "resize": None, {"crop": "size"}.get(args.fit, "resize"): args.size}
        super().__init__(argparse.Namespace(**known), (".nii", ".nii.gz"))
        self.raters, self._fit = _ISBI_RATERS, f" --fit {args.fit} --size {args.size}"
        for item in self.items:
            missing = [f"{name}_pp" for name in _MODALITIES if name not in item.channels]
            missing += [f"mask{rater}" for rater in _ISBI_RATERS if rater not in item.masks]
            if missing:
                raise DataError("files are missing", path=self.root, field=item.case, found=f"no {', '.join(missing)}")
            item.channels = {name: item.channels[name] for name in _MODALITIES}
            item.masks = {rater: item.masks[rater] for rater in _ISBI_RATERS}

    def describe(self) -> StoreInfo:
        """Modalities as channels, two raters who keep their names."""
        importer = f"{self.version}{self._fit}"
        channels, raters = tuple(map(str.upper, _MODALITIES)), tuple(f"rater {rater}" for rater in _ISBI_RATERS)
        return replace(super().describe(), channels=channels, raters=raters, importer=importer)


def mask_limits(image: Volume, limits: Limits) -> Limits:
    """For a mask of this image: no larger than what was judged already, it may compress as well as it likes."""
    return replace(limits, ratio_free=max(limits.ratio_free, 16 * math.prod(image.shape)))
