"""Your own data: a folder of images, and of every rater's masks, in any common format.

By default, anywhere below ROOT:

  <case>/image.EXT              or one file a channel: <case>/image-<channel>.EXT
  <case>/rater-<name>.EXT       the mask of each rater

EXT is png, tif, npy, nii, nii.gz or dcm; <case>/image/ may be a folder with a DICOM series. An array (npy) is (H,W), an
image's may be (channels,H,W), a mask's (slices,H,W). <case> may span folders; its first folder is the patient. Other
layouts by patterns, e.g.

  --image 'scans/{case}.nii.gz' --mask 'readings/{rater}/{case}.nii.gz'
  --image '{patient}/{case}/{channel}.nii.gz' --mask '{patient}/{case}/mask_{rater}.nii.gz'

A CSV (--table) with the column case, and any of patient, split and readers (names separated by semicolons), says what
names cannot: a reader named there whose mask is absent marked nothing, a rater who is not named did not read the case.
Without it every rater's mask must be there, or --missing says what its absence means.

Volumes are cut into slices that keep their place: affine, slice index and spacing. Only slices that a rater marked are
kept, unless --all-slices. Pictures of 8 or 16 bits keep their values; others need --intensity.

Refused, with the file's name: masks on another grid than the image (--resample nearest moves them), channels that are
not registered, mask values without a meaning, values that are not finite, volumes whose axes run differently (--plane
turns them), images of different sizes (--size), a patient in two splits, links that lead out of the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from modiff.data.importers.base import add_output
from modiff.data.importers.patients import add_split_arguments
from modiff.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from modiff.data.importers.folder_layout import Item
    from modiff.data.importers.grids import Grid
    from modiff.data.importers.labels import Labels
    from modiff.data.intensity import IntensityRule
    from modiff.data.store_format import StoreInfo
    from modiff.io.limits import Limits

VERSION = "folder 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `modiff import folder` takes."""
    parser.add_argument("root", metavar="ROOT", help="the folder")
    add_output(parser)
    add_layout_arguments(parser)

    def add(name: str, help: str, **more: Any) -> None:
        parser.add_argument(f"--{name}", help=help, **more)

    add("table", "patient, split and readers of each case", metavar="CSV")
    absent = "what an absent mask means: an error (default), that the rater marked nothing, or did not read the case"
    add("missing", absent, choices=("refuse", "empty", "unread"), default="refuse")
    value = "the class that a mask's value stands for; again for each value; without it 0 and 1, or 0 and 255"
    add("label", value, action="append", default=[], metavar="VALUE=CLASS")
    one = "name of the one class where no --label is given (default %(default)s)"
    add("foreground", one, default="foreground", metavar="NAME")
    rules = (
        "unit (8 or 16 bits, or floats in [0,1], as they are; the default), minmax-slice, window:LOW:HIGH, or "
        "percentiles:LOW:HIGH of the volume"
    )
    add("intensity", rules, default="unit", metavar="RULE")
    add("resample", "move masks on other grids onto the image's", choices=("nearest",))
    planes = "how volumes are cut: as stored (default), or turned to a plane of the patient"
    add("plane", planes, choices=("native", "axial", "coronal", "sagittal"), default="native")
    add("all-slices", "also keep slices of volumes that nobody marked", action="store_true")
    add("size", "crop or pad every slice about its centre, e.g. 128x128", metavar="HxW")
    prompt = "centre: an image's centre says which lesion the raters judged (default %(default)s)"
    add("prompt", prompt, choices=("none", "centre"), default="none")
    add("exchangeable", "rater names are slots, not persons", action="store_true")
    add("max-bytes", "largest file or volume that is read (default 2 GiB)", type=int, metavar="N")
    add("source", "what the data is, for the store's record", default="own data", metavar="WORDS")
    add("licence", "its licence", default="unknown", metavar="WORDS")
    add_split_arguments(parser)


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    """--image and --mask."""
    image = "where images lie, with {case} and perhaps {patient}, {slice}, {channel} and *; may be given again"
    parser.add_argument("--image", action="append", metavar="PATTERN", help=image)
    mask = "where masks lie, with {case} and {rater}; may be given again"
    parser.add_argument("--mask", action="append", metavar="PATTERN", help=mask)


class Slice(NamedTuple):
    """One image that goes into the store; image (C,H,W), masks (R,H,W)."""

    case: str
    image: np.ndarray
    masks: np.ndarray
    read: np.ndarray
    place: dict[str, Any]


def run(args: argparse.Namespace) -> Path:
    """Writes the store that `args` describe and returns its path."""
    from rich.console import Console
    from rich.progress import track

    from modiff.data.importers.folder_layout import IMAGES, MASKS, apply_table, find
    from modiff.data.importers.labels import Labels
    from modiff.data.intensity import IntensityRule
    from modiff.data.store_writer import StoreWriter

    rule = IntensityRule.for_import(args.intensity)
    labels, size = Labels(args.label, args.foreground), parse_size(args.size)
    root = Path(args.root)
    items, _ = find(root, args.image or IMAGES, args.mask or MASKS)
    if args.table:
        apply_table(items, Path(args.table))
    raters = tuple(sorted({name for item in items for name in (*item.masks, *(item.readers or ()))}))
    for item in items:
        _check_complete(item, raters, args.missing, root)
    splits, folds = _splits(args, items)
    reader = _Reader(args, raters, rule, labels, size)
    first = reader.slices(items[0])
    info = _info(args, items, raters, labels, reader)
    with StoreWriter(args.output, info, overwrite=args.overwrite, folds=folds) as writer:
        for item in track(items, "importing", console=Console(stderr=True)):
            for made in first if item is items[0] else reader.slices(item):
                writer.add(
                    made.image,
                    made.masks,
                    made.read,
                    case=made.case,
                    patient=item.patient,
                    split=splits[item.patient],
                    **made.place,
                )
    return Path(args.output)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(H,W) from 128x128; ConfigError for another form."""
    if text is None:
        return None
    height, x, width = text.lower().partition("x")
    if not (x and height.isdecimal() and width.isdecimal() and min(int(height), int(width)) > 0):
        raise ConfigError("no size", field="--size", found=repr(text), expected="HxW, such as 128x128")
    return int(height), int(width)


def limits_of(args: argparse.Namespace) -> Limits:
    """The bounds on what is read, with --max-bytes where it was given."""
    from modiff.io.limits import Limits

    if args.max_bytes is None:
        return Limits()
    if args.max_bytes < 1:
        raise ConfigError("no size", field="--max-bytes", found=args.max_bytes, expected="a number of bytes")
    return Limits(max_bytes=args.max_bytes)


def _check_complete(item: Item, raters: Sequence[str], missing: str, root: Path) -> None:
    """Settles who read the case; raises DataError where that is not known, or contradicts a mask that is there."""
    if not item.channels:
        mask = next(iter(item.masks.values()))
        raise DataError("a mask without an image", path=mask, field=item.case)
    if not raters:
        raise DataError("images, but no mask of any rater", path=root)
    if item.readers is not None:
        if stray := sorted(set(item.masks) - set(item.readers)):
            path = item.masks[stray[0]]
            raise DataError("the mask of a rater who did not read the case, says the table", path=path, found=stray[0])
        return
    absent = [name for name in raters if name not in item.masks]
    if absent and missing == "refuse":
        hint = "A --table says who read what, or --missing empty or unread what an absent mask means."
        raise DataError(
            "masks are missing", path=root, field=item.case, found=f"none of {', '.join(absent)}", hint=hint
        )
    item.readers = tuple(raters) if missing == "empty" else tuple(item.masks)
    if not item.readers:
        raise DataError("a case that nobody read", path=root, field=item.case)


def _splits(args: argparse.Namespace, items: Sequence[Item]) -> tuple[dict[str, str], dict[str, int] | None]:
    from modiff.data.importers.patients import folds, place

    patients = {item.patient for item in items}
    if items[0].split is None:
        return place(args, patients)
    if args.splits:
        raise ConfigError("splits from two places", field="--splits", found="also the table's column", expected="one")
    places: dict[str, str] = {}
    for item in items:
        assert item.split is not None
        if (before := places.setdefault(item.patient, item.split)) != item.split:
            found = f"patient {item.patient} in {before} and {item.split}"
            raise DataError("a patient in two splits", path=args.table, field=item.case, found=found)
    return places, folds(args, patients)


class _Reader:
    """Cases into slices; remembers what must be the same for all."""

    def __init__(
        self,
        args: argparse.Namespace,
        raters: Sequence[str],
        rule: IntensityRule,
        labels: Labels,
        size: tuple[int, int] | None,
    ) -> None:
        self.args, self.raters, self.rule, self.labels, self.size = args, raters, rule, labels, size
        self.limits = limits_of(args)
        self.channels: tuple[str, ...] | None = None
        self._sides: str | None = None
        self._shape: tuple[int, ...] | None = None

    def slices(self, item: Item) -> Iterator[Slice]:
        """One case. Its first slice is made at once: what is wrong with it shows before a store is begun."""
        made = self._slices(item)
        first = next(made, None)
        return iter(()) if first is None else chain([first], made)

    def _slices(self, item: Item) -> Iterator[Slice]:
        from modiff.data.importers.grids import centre_fit
        from modiff.data.intensity import check_unit, store_values, stretch

        stored = self._stored(item)
        image = self._turned(stored)
        masks, read = self._masks(item, stored, image)
        if self.rule.kind == "unit":
            check_unit(image.array, image.path)
        ends = None if self.rule.kind == "unit" else self.rule.bounds(image.array)
        flat = image.shape[0] == 1
        for index in range(image.shape[0]):
            if not (flat or self.args.all_slices or masks[:, index].any()):
                continue
            part = _part(image, index)
            values = part.array[:, 0]
            if ends is not None:
                values = stretch(values, ends[0][:, index], ends[1][:, index])
            seen, marked, valid = with_array(part, store_values(values)), with_array(part, masks[:, index]), None
            if self.size is not None:
                (seen, valid), (marked, _) = centre_fit(seen, self.size), centre_fit(marked, self.size)
            self._check_size(seen.shape[1:], image)
            place: dict[str, Any] = {"affine": seen.affine, "spacing": image.spacing, "valid": valid}
            place["slice_index"] = None if flat else index
            case = item.case if flat else f"{item.case}/slice-{index:03d}"
            yield Slice(case, seen.array[:, 0], marked.array[:, 0], read, place)

    def _stored(self, item: Item) -> Grid:
        """All channels on one grid, as the files have them; settles what the channels are called."""
        import numpy as np

        from modiff.data.importers.grids import difference, read_grid

        names = sorted(item.channels)
        grids = [read_grid(item.channels[name], self.limits) for name in names]
        for grid in grids[1:]:
            if what := difference(grids[0], grid):
                hint = "Channels must be registered to one grid."
                raise DataError("a channel on another grid", path=grid.path, found=what, hint=hint)
        image = with_array(grids[0], np.concatenate([grid.array for grid in grids]))
        channels = tuple(names) if names != [""] else tuple(f"channel {i + 1}" for i in range(len(image.array)))
        channels = ("image",) if channels == ("channel 1",) else channels
        self.channels = self.channels or channels
        if channels != self.channels or len(image.array) != len(channels):
            raise DataError("other channels than the first case", path=image.path, found=", ".join(channels))
        return image

    def _turned(self, image: Grid) -> Grid:
        """In the plane that was asked for; raises DataError where axes run otherwise than the first case's."""
        from modiff.data.importers.grids import sides, turn

        if self.args.plane != "native":
            return turn(image, self.args.plane)
        self._sides = self._sides or sides(image)
        if image.shape[0] > 1 and sides(image) != self._sides:
            hint = "--plane axial, coronal or sagittal turns them alike."
            found = f"columns, rows and slices towards {sides(image)}"
            raise DataError(
                "axes run otherwise than the first case's",
                path=image.path,
                found=found,
                expected=self._sides,
                hint=hint,
            )
        return image

    def _masks(self, item: Item, stored: Grid, image: Grid) -> tuple[np.ndarray, np.ndarray]:
        """(R,Z,H,W) class indices on the image's grid, and (R,) who read it."""
        import numpy as np

        from modiff.data.importers.grids import difference, mask_limits, read_grid, resample, turn_mask

        limits = mask_limits(image, self.limits)
        assert item.readers is not None
        read = np.array([name in item.readers for name in self.raters])
        masks = np.zeros((len(self.raters), *image.shape), np.uint8)
        for slot, name in enumerate(self.raters):
            if name not in item.masks:
                continue
            mask = turn_mask(read_grid(item.masks[name], limits, mask=True), stored, self.args.plane)
            if what := difference(image, mask):
                if self.args.resample is None:
                    hint = "--resample nearest moves it onto the image's grid."
                    raise DataError("a mask on another grid than the image", path=mask.path, found=what, hint=hint)
                mask = resample(mask, image)
            masks[slot] = self.labels.apply(mask)
        return masks, read

    def _check_size(self, shape: tuple[int, ...], image: Grid) -> None:
        self._shape = self._shape or shape
        if shape != self._shape:
            found, expected = "×".join(map(str, shape)), "×".join(map(str, self._shape))
            hint = f"--size {self._shape[0]}x{self._shape[1]}, or another, crops or pads all to one."
            raise DataError(
                "another size than the first image", path=image.path, found=found, expected=expected, hint=hint
            )


def with_array(grid: Grid, array: np.ndarray) -> Grid:
    """Other values (C,Z,H,W), or (C,H,W) of one slice, at the same place."""
    from dataclasses import replace

    return replace(grid, array=array if array.ndim == 4 else array[:, None])


def _part(grid: Grid, index: int) -> Grid:
    """One slice with its own affine."""
    from dataclasses import replace

    return replace(grid, array=grid.array[:, index : index + 1], affine=grid.slice_affine(index))


def _info(
    args: argparse.Namespace, items: Sequence[Item], raters: Sequence[str], labels: Labels, reader: _Reader
) -> StoreInfo:
    from modiff._version import __version__
    from modiff.data.importers.grids import digest, digest_all
    from modiff.data.store_format import StoreInfo

    assert reader.channels is not None
    root = Path(args.root)
    files = [path for item in items for path in (*item.channels.values(), *item.masks.values())]
    read = {root.resolve().name: digest_all(root, files)}
    read |= {Path(path).name: digest(Path(path)) for path in (args.table, args.splits) if path}
    return StoreInfo(
        channels=reader.channels,
        classes=labels.classes,
        raters=tuple(raters),
        exchangeable_raters=args.exchangeable,
        intensity=args.intensity,
        prompt=args.prompt,
        spacing=None,
        source=args.source,
        licence=args.licence,
        importer=f"{VERSION} (modiff {__version__})",
        provenance=read,
    )
