"""The importer of the ISBI 2015 challenge of longitudinal MS lesions."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from modiff.data.importers.base import Case, Importer
from modiff.data.importers.grids import Labels, cut, difference, parse_size, read_grid, turn
from modiff.data.importers.layout import Item, find
from modiff.data.importers.sources import digest_below
from modiff.data.intensity import IntensityRule
from modiff.data.store_format import StoreInfo
from modiff.errors import DataError

SOURCE = "ISBI 2015 longitudinal MS lesion segmentation challenge; Carass et al. 2017, NeuroImage 148"
MODALITIES = ("flair", "mprage", "pd", "t2")
_RATERS = ("1", "2")
_IMAGES, _MASKS = (
    ["training*/preprocessed/{patient}_{case}_{channel}_pp"],
    ["training*/masks/{patient}_{case}_mask{rater}"],
)


class IsbiMs(Importer[Item]):
    """MS lesions in longitudinal MRI, ISBI 2015 challenge: two raters, four modalities, five people's 4 or 5 scans."""

    version = "isbi-ms 1"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.size, self.rule = parse_size(args.size), IntensityRule.for_import(f"percentiles:{args.percentiles}")
        self.root = Path(args.root)
        self.items, _ = find(self.root, _IMAGES, _MASKS, (".nii", ".nii.gz"))
        for item in self.items:
            missing = [f"{name}_pp" for name in MODALITIES if name not in item.channels]
            missing += [f"mask{rater}" for rater in _RATERS if rater not in item.masks]
            if missing:
                raise DataError("files are missing", path=self.root, field=item.case, found=f"no {', '.join(missing)}")

    def _files(self, item: Item) -> list[Path]:
        """Images in the order of channels, then masks in that of raters."""
        return [item.channels[name] for name in MODALITIES] + [item.masks[rater] for rater in _RATERS]

    def describe(self) -> StoreInfo:
        """Modalities as channels, two raters who keep their names."""
        return StoreInfo(
            channels=tuple(name.upper() for name in MODALITIES),
            classes=("lesion",),
            raters=tuple(f"rater {rater}" for rater in _RATERS),
            exchangeable_raters=False,
            intensity=self.rule.text,
            prompt="none",
            source=SOURCE,
            licence="the challenge's terms of use",
            importer=f"{self.version} --fit {self.args.fit} --size {self.args.size}",
            provenance=digest_below(self.root, [path for item in self.items for path in self._files(item)]),
        )

    def read(self, item: Item) -> Iterator[Case]:
        """The axial slices of a scan, its modalities as channels."""
        files, many = self._files(item), len(MODALITIES)
        grids, masks = [read_grid(path) for path in files[:many]], [read_grid(path, mask=True) for path in files[many:]]
        for grid in (*grids, *masks):
            if len(grid.array) != 1:
                raise DataError("several volumes in one file", path=grid.path, found=len(grid.array), expected=1)
            if what := difference(grids[0], grid):
                raise DataError("another grid than the FLAIR's", path=grid.path, found=what)
        image = turn(replace(grids[0], array=np.concatenate([grid.array for grid in grids])), "axial")
        labels, resized = Labels(foreground="lesion"), self.args.fit == "resize"
        marked = np.stack([labels.apply(turn(mask, "axial")) for mask in masks])
        slices = cut(image, marked, self.rule, size=self.size, resized=resized, everything=self.args.all_slices)
        for index, values, outlines, place in slices:
            yield Case(f"{item.case}/slice-{index:03d}", item.patient, values, outlines, place=place)
