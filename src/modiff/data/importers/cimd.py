"""The importer of slices in the layout of CIMD's code."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from modiff.data.importers.base import Case, Importer
from modiff.data.importers.layout import Item, apply_table, find, two_splits
from modiff.data.importers.sources import digest_below
from modiff.data.splits import SplitRule, deal
from modiff.data.store_format import StoreInfo
from modiff.errors import DataError
from modiff.io.files import Limits
from modiff.io.image import JPEG, read_jpeg

INTENSITY = "source:8-bit JPEG, as distributed"
_CUT = 128
_SPLITS = {"training": "train", "testing": "test"}
_IMAGES, _MASKS = ("{case}/image_*.jpg", "{case}/image-{channel}_*.jpg"), ("{case}/label{rater}_.jpg",)


class Cimd(Importer[Item]):
    """LIDC-IDRI or MS slices in the layout of CIMD's code: JPEG images and JPEG masks of every rater."""

    version = "cimd-folder 1"
    threads = True

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.root = Path(args.root)
        self.items, _ = find(self.root, _IMAGES, _MASKS, JPEG, "`modiff import cimd-folder --help` shows the layout.")
        for item in self.items:
            item.patient = item.case
        if args.table:
            apply_table(self.items, Path(args.table))
        self.raters = sorted({name for item in self.items for name in item.masks}, key=lambda name: (len(name), name))
        self.channels = sorted(self.items[0].channels)
        for item in self.items:
            where, channels = self.root / item.case, sorted(item.channels)
            if not channels:
                raise DataError("masks without an image", path=where)
            if channels != self.channels:
                found, expected = ", ".join(channels), ", ".join(self.channels)
                raise DataError("other channels than the first case", path=where, found=found, expected=expected)
            if missing := [f"label{name}_.jpg" for name in self.raters or "0" if name not in item.masks]:
                raise DataError("masks are missing", path=where, found=f"no {', '.join(missing)}")

    def describe(self) -> StoreInfo:
        """Channels and raters as the files number them, the rest as the options say."""
        return StoreInfo(
            channels=tuple(name or "image" for name in self.channels),
            classes=(self.args.class_name,),
            raters=tuple(f"rater {name}" for name in self.raters),
            exchangeable_raters=not self.args.identifiable,
            intensity=INTENSITY,
            prompt=self.args.prompt,
            source=self.args.source,
            licence=self.args.licence,
            importer=self.version,
            provenance=digest_below(self.root, [path for item in self.items for path in item.files], Limits()),
        )

    def splits(self, rule: Mapping[str, str] | SplitRule) -> Mapping[str, str]:
        """The table's; else testing is test, and training is dealt into train and val."""
        training = {item.patient for item in self.items if not item.split and item.case.startswith("training/")}
        dealt = deal(SplitRule(self.args.val, 0.0, self.args.split_seed), training)
        for item in self.items:
            split = item.split or _SPLITS.get(item.case.split("/")[0])
            if split is None:
                expected = "training/<id> or testing/<id>, or a split in the --table"
                raise DataError(
                    "is in neither training nor testing", path=self.root, found=item.case, expected=expected
                )
            item.split = dealt[item.patient] if item.split is None and split == "train" else split
        for fault in two_splits(self.items, self.root):
            raise fault
        return {item.patient: item.split for item in self.items if item.split}

    def read(self, item: Item) -> list[Case]:
        """One slice: its channels, and every rater's mask cut at half of full scale, which must be white somewhere."""
        image = np.stack([read_jpeg(item.channels[name]) for name in self.channels])
        masks = np.empty((len(self.raters), *image.shape[1:]), np.uint8)
        for slot, name in enumerate(self.raters):
            path, mask = item.masks[name], read_jpeg(item.masks[name])
            if mask.shape != image.shape[1:]:
                raise DataError("mask and image differ in size", path=path, found=mask.shape, expected=image.shape[1:])
            if 0 < mask.max() < _CUT:
                hint = "Masks of 0 and 1 do not survive JPEG: write them again from the source as 0 and 255."
                found, expected = f"values up to {mask.max()}", "about 255"
                raise DataError(
                    "a mask without a pixel near white", path=path, found=found, expected=expected, hint=hint
                )
            masks[slot] = mask >= _CUT
        return [Case(item.case, item.patient, image, masks)]
