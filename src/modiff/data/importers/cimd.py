"""The importer of slices in the layout of CIMD's code."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from modiff.data.importers.base import Arguments, Case, Importer
from modiff.data.importers.grids import JPEG, read_jpeg
from modiff.data.importers.layout import Item, apply_table, find, two_splits
from modiff.data.importers.sources import digest_below
from modiff.data.splits import SplitRule
from modiff.data.store_format import StoreInfo
from modiff.errors import DataError

SOURCE = "slices in CIMD's JPEG layout (Rahman et al., CVPR 2023)"
INTENSITY = "source:8-bit JPEG, as distributed"
_CUT = 128
_SPLITS = {"training": "train", "testing": "test"}
_IMAGES, _MASKS = ("{case}/image_*.jpg", "{case}/image-{channel}_*.jpg"), ("{case}/label{rater}_.jpg",)


class Cimd(Importer[Item]):
    """LIDC-IDRI or MS slices in the layout of CIMD's code: JPEG images and JPEG masks of every rater.

      ROOT/training/<id>/image_<n>.jpg        grey; or image-<channel>_<n>.jpg for each channel
      ROOT/training/<id>/label<r>_.jpg        the mask of rater r = 0, 1, …
      ROOT/testing/<id>/…                     the same

    JPEG smears a mask's 0 and 255 into values around them: masks are cut at 128. A mask that holds something, but
    nothing above 127, was written from 0 and 1 and is lost to the compression: it is refused.

    The layout names no patients. Each <id> counts as a patient of its own, so neighbouring slices of one nodule can be
    in two splits, unless --table, a CSV with the columns case (such as training/0), patient and perhaps split, says
    whose they are. Without splits in the table, training is dealt into train and val by hash (--val), and testing is
    test.

    Refused, with the file's name: missing masks, sizes that differ, colours, damaged files, a patient in two splits.
    """

    version = "cimd-folder 1"
    split_options = ("val", "split-seed")
    dealt = "training"
    threads = True

    arguments: ClassVar[Arguments] = {
        "root": {"metavar": "ROOT", "help": "the folder that holds training and testing"},
        "--table": {"metavar": "CSV", "help": "columns case, patient and perhaps split"},
        "--class-name": {"default": "lesion", "metavar": "NAME", "help": "what is marked (default %(default)s)"},
        "--identifiable": {"action": "store_true", "help": "label<r> is the same person everywhere (MS data)"},
        "--prompt": {
            "choices": ("centre", "none"),
            "default": "centre",
            "help": "whether an image's centre says which lesion is meant (default %(default)s, as in LIDC's crops)",
        },
        "--source": {"default": SOURCE, "metavar": "WORDS", "help": "what the data is, for the store's record"},
        "--licence": {"default": "unknown", "metavar": "WORDS", "help": "its licence"},
    }

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.root = Path(args.root)
        self.items, _ = find(self.root, _IMAGES, _MASKS, JPEG)
        for item in self.items:
            item.patient = item.case
        if args.table:
            apply_table(self.items, Path(args.table))
        self.raters = sorted({name for item in self.items for name in item.masks}, key=lambda name: (len(name), name))
        self.channels = sorted(self.items[0].channels)
        for item in self.items:
            where = self.root / item.case
            if not item.channels:
                raise DataError("masks without an image", path=where)
            if sorted(item.channels) != self.channels:
                found, expected = ", ".join(sorted(item.channels)), ", ".join(self.channels)
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
            provenance=digest_below(self.root, [path for item in self.items for path in item.files]),
        )

    def splits(self, rule: Mapping[str, str] | SplitRule) -> Mapping[str, str]:
        """The table's; else testing is test, and training is dealt into train and val."""
        dealt = SplitRule(self.args.val, 0.0, self.args.split_seed)
        placed = []
        for item in self.items:
            split = item.split or _SPLITS.get(item.case.split("/")[0])
            if split is None:
                expected = "training/<id> or testing/<id>, or a split in the --table"
                raise DataError("neither training nor testing", path=self.root, found=item.case, expected=expected)
            if item.split is None and split == "train":
                split = dealt.split_of(item.patient)
            placed.append(replace(item, split=split))
        for fault in two_splits(placed, self.root):
            raise fault
        return {item.patient: item.split for item in placed if item.split}

    def read(self, item: Item) -> list[Case]:
        """One slice: its channels, and every rater's mask cut at half of full scale, which must be white somewhere."""
        image = np.stack([read_jpeg(item.channels[name]) for name in self.channels])
        masks = np.empty((len(self.raters), *image.shape[1:]), np.uint8)
        for slot, name in enumerate(self.raters):
            path, mask = item.masks[name], read_jpeg(item.masks[name])
            if mask.shape != image.shape[1:]:
                raise DataError("a mask of another size", path=path, found=mask.shape, expected=image.shape[1:])
            if 0 < mask.max() < _CUT:
                hint = "Masks of 0 and 1 do not survive JPEG: write them again from the source as 0 and 255."
                found, expected = f"values up to {mask.max()}", "about 255"
                raise DataError("a mask without white", path=path, found=found, expected=expected, hint=hint)
            masks[slot] = mask >= _CUT
        return [Case(item.case, item.patient, image, masks)]
