"""The importer of the ISBI 2015 challenge of longitudinal MS lesions."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from modiff.data.importers.base import Case, Importer
from modiff.data.importers.grids import Labels, cut, difference, parse_size, read_grid, turn
from modiff.data.importers.sources import digest_below
from modiff.data.intensity import IntensityRule
from modiff.data.store_format import StoreInfo
from modiff.errors import DataError

SOURCE = "ISBI 2015 longitudinal MS lesion segmentation challenge; Carass et al. 2017, NeuroImage 148"
MODALITIES = ("flair", "mprage", "pd", "t2")
RATERS = ("rater 1", "rater 2")
_FILE = re.compile(
    r"(?P<patient>training\d{2})_(?P<scan>\d{2})_(?P<what>(?:flair|mprage|pd|t2)_pp|mask[12])\.nii(?:\.gz)?"
)
_IMAGES, _MASKS = [f"{name}_pp" for name in MODALITIES], ["mask1", "mask2"]


@dataclass
class Scan:
    """One time point of one person. files: such as flair_pp or mask1 -> where it is."""

    patient: str
    scan: str
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.patient}/{self.scan}"


class IsbiMs(Importer[Scan]):
    """MS lesions in longitudinal MRI, ISBI 2015 challenge: two raters, four modalities, five people's 4 or 5 scans."""

    version = "isbi-ms 1"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.size, self.rule = parse_size(args.size), IntensityRule.for_import(f"percentiles:{args.percentiles}")
        self.items = find_scans(Path(args.root))

    def describe(self) -> StoreInfo:
        """Modalities as channels, two raters who keep their names."""
        return StoreInfo(
            channels=tuple(name.upper() for name in MODALITIES),
            classes=("lesion",),
            raters=RATERS,
            exchangeable_raters=False,
            intensity=self.rule.text,
            prompt="none",
            source=SOURCE,
            licence="the challenge's terms of use",
            importer=f"{self.version} --fit {self.args.fit} --size {self.args.size}",
            provenance=digest_below(
                Path(self.args.root), [path for scan in self.items for path in scan.files.values()]
            ),
        )

    def read(self, item: Scan) -> Iterator[Case]:
        """The axial slices of a scan, its modalities as channels."""
        grids = [read_grid(item.files[name]) for name in _IMAGES]
        masks = [read_grid(item.files[name], mask=True) for name in _MASKS]
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
            yield Case(f"{item.name}/slice-{index:03d}", item.patient, values, outlines, place=place)


def find_scans(root: Path) -> list[Scan]:
    """All scans in order; raises DataError unless each has four modalities and two masks."""
    if not root.is_dir():
        raise DataError("no such folder", path=root)
    scans: dict[tuple[str, str], Scan] = {}
    for folder, _, files in os.walk(root):
        for file in files:
            if found := _FILE.fullmatch(file):
                key, path = (found["patient"], found["scan"]), Path(folder, file)
                before = scans.setdefault(key, Scan(*key)).files.setdefault(found["what"], path)
                if before is not path:
                    raise DataError("a file twice", path=path, found=before)
    if not scans:
        expected = "training01/preprocessed/training01_01_flair_pp.nii and so on"
        raise DataError("no scan in the layout", path=root, expected=expected)
    for scan in scans.values():
        if missing := [name for name in (*_IMAGES, *_MASKS) if name not in scan.files]:
            raise DataError("files are missing", path=root, field=scan.name, found=f"no {', '.join(missing)}")
    return [scans[key] for key in sorted(scans)]
