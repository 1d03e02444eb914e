"""MS lesions in longitudinal MRI, ISBI 2015 challenge: two raters, four modalities, five people with 4 or 5 scans each.

  ROOT/training<ss>/preprocessed/training<ss>_<tt>_<modality>_pp.nii     modality flair, mprage, pd or t2
  ROOT/training<ss>/masks/training<ss>_<tt>_mask1.nii                    and mask2; .nii.gz will do too

The raters are two persons and keep their names. Modalities are channels, each scaled between two percentiles of its
volume (--percentiles). Slices are axial; only those that a rater marked, unless --all-slices. How a slice of 181×217
becomes one of --size is a choice that has to be made: --fit crop, which keeps the pixels of 1 mm and cuts about the
centre, or --fit resize, which keeps the whole slice and changes the pixels' size.

Splits and folds are by person (training01 … training05), never by slice: the same five people would be in training and
test. With --folds 5, training holds one out at a time. The data needs registration at
https://smart-stats-tools.org/lesion-challenge (Carass et al., NeuroImage 148, 2017).

Refused, with the file's name: a scan without one of its six files, modalities or masks on different grids, mask values
other than 0 and 1, damaged files.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from modiff.data.importers.base import add_output
from modiff.data.importers.patients import add_split_arguments
from modiff.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from modiff.data.importers.grids import Grid
    from modiff.data.intensity import IntensityRule
    from modiff.data.store_format import StoreInfo

VERSION = "isbi-ms 1"
SOURCE = "ISBI 2015 longitudinal MS lesion segmentation challenge; Carass et al. 2017, NeuroImage 148"
MODALITIES = ("flair", "mprage", "pd", "t2")
RATERS = ("rater 1", "rater 2")
_FILE = re.compile(
    r"(?P<patient>training\d{2})_(?P<scan>\d{2})_(?:(?P<modality>flair|mprage|pd|t2)_pp|mask(?P<rater>[12]))\.nii(\.gz)?"
)


@dataclass
class Scan:
    """One time point of one person: files of its modalities and of its raters' masks."""

    patient: str
    scan: str
    images: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.patient}/{self.scan}"

    @property
    def files(self) -> list[Path]:
        return [*self.images.values(), *self.masks.values()]


class _Slice(NamedTuple):
    number: int
    image: np.ndarray
    masks: np.ndarray
    place: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `modiff import isbi-ms` takes."""
    parser.add_argument("root", metavar="ROOT", help="the folder that holds training01 to training05")
    add_output(parser)
    fit = "crop about the centre, or resize the whole slice"
    parser.add_argument("--fit", choices=("crop", "resize"), required=True, help=fit)
    parser.add_argument(
        "--size", default="128x128", metavar="HxW", help="of the slices (default %(default)s, the paper's)"
    )
    percentiles = "of each volume, that become 0 and 1 (default %(default)s)"
    parser.add_argument("--percentiles", default="1:99", metavar="LOW:HIGH", help=percentiles)
    parser.add_argument("--all-slices", action="store_true", help="also slices that neither rater marked")
    add_split_arguments(parser)


def run(args: argparse.Namespace) -> Path:
    """Writes the store that `args` describe and returns its path."""
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from modiff.data.importers.folder import parse_size
    from modiff.data.importers.patients import place
    from modiff.data.intensity import IntensityRule
    from modiff.data.store_writer import StoreWriter

    size = parse_size(args.size)
    assert size is not None
    rule = IntensityRule.for_import(f"percentiles:{args.percentiles}")
    scans = find_scans(Path(args.root))
    splits, folds = place(args, {scan.patient for scan in scans})
    everyone = np.ones(len(RATERS), bool)
    with StoreWriter(args.output, _info(args, scans, rule), overwrite=args.overwrite, folds=folds) as writer:
        for scan in track(scans, "importing", console=Console(stderr=True)):
            for made in _slices(scan, rule, size, args.fit, all_slices=args.all_slices):
                writer.add(made.image, made.masks, everyone, case=f"{scan.name}/slice-{made.number:03d}",
                           patient=scan.patient, split=splits[scan.patient], **made.place)  # fmt: skip
    return Path(args.output)


def find_scans(root: Path) -> list[Scan]:
    """All scans in order; raises DataError unless each has four modalities and two masks."""
    if not root.is_dir():
        raise DataError("no such folder", path=root)
    scans: dict[tuple[str, str], Scan] = {}
    for folder, _, files in os.walk(root):
        for file in files:
            found = _FILE.fullmatch(file)
            if found is None:
                continue
            path = Path(folder, file)
            scan = scans.setdefault((found["patient"], found["scan"]), Scan(found["patient"], found["scan"]))
            table, key = (scan.images, found["modality"]) if found["modality"] else (scan.masks, found["rater"])
            if key in table:
                raise DataError("a file twice", path=path, found=table[key])
            table[key] = path
    if not scans:
        expected = "training01/preprocessed/training01_01_flair_pp.nii and so on"
        raise DataError("no scan in the layout", path=root, expected=expected)
    for scan in scans.values():
        missing = [f"{name}_pp" for name in MODALITIES if name not in scan.images]
        missing += [f"mask{name}" for name in "12" if name not in scan.masks]
        if missing:
            raise DataError("files are missing", path=root, field=scan.name, found=f"no {', '.join(missing)}")
    return [scans[key] for key in sorted(scans)]


def _slices(scan: Scan, rule: IntensityRule, size: tuple[int, int], fit: str, *, all_slices: bool) -> Iterator[_Slice]:
    from dataclasses import replace

    import numpy as np

    from modiff.data.importers.grids import centre_fit, resize
    from modiff.data.intensity import store_values, stretch

    image, masks = _volume(scan)
    low, high = rule.bounds(image.array)
    for index in range(image.shape[0]):
        if not (all_slices or masks[:, index].any()):
            continue
        affine = image.slice_affine(index)
        values = store_values(stretch(image.array[:, index], low[:, index], high[:, index]))
        seen, marked = (replace(image, array=a[:, None], affine=affine) for a in (values, masks[:, index]))
        valid = None
        if fit == "crop":
            (seen, valid), (marked, _) = centre_fit(seen, size), centre_fit(marked, size)
        else:
            seen, marked = resize(seen, size, mask=False), resize(marked, size, mask=True)
        place = {"affine": seen.affine, "slice_index": index, "spacing": seen.spacing, "valid": valid}
        pixels = seen.array if seen.array.dtype == np.uint16 else np.rint(seen.array.clip(0, 65535)).astype(np.uint16)
        yield _Slice(index, pixels[:, 0], marked.array[:, 0], place)


def _volume(scan: Scan) -> tuple[Grid, np.ndarray]:
    """Modalities as channels (4,Z,H,W), and masks (2,Z,H,W) of 0 and 1, in axial slices."""
    from dataclasses import replace

    import numpy as np

    from modiff.data.importers.grids import difference, read_grid, turn
    from modiff.data.importers.labels import Labels

    grids = [read_grid(scan.images[name]) for name in MODALITIES]
    masks = [read_grid(scan.masks[name], mask=True) for name in "12"]
    for grid in (*grids, *masks):
        if len(grid.array) != 1:
            raise DataError("several volumes in one file", path=grid.path, found=len(grid.array), expected=1)
        if what := difference(grids[0], grid):
            raise DataError("another grid than the FLAIR's", path=grid.path, found=what)
    image = turn(replace(grids[0], array=np.concatenate([grid.array for grid in grids])), "axial")
    labels = Labels(foreground="lesion")
    return image, np.stack([labels.apply(turn(mask, "axial")) for mask in masks])


def _info(args: argparse.Namespace, scans: Sequence[Scan], rule: IntensityRule) -> StoreInfo:
    from modiff._version import __version__
    from modiff.data.importers.grids import digest, digest_all
    from modiff.data.store_format import StoreInfo

    root = Path(args.root)
    read = {root.resolve().name: digest_all(root, [path for scan in scans for path in scan.files])}
    if args.splits:
        read[Path(args.splits).name] = digest(Path(args.splits))
    return StoreInfo(
        channels=tuple(name.upper() for name in MODALITIES),
        classes=("lesion",),
        raters=RATERS,
        exchangeable_raters=False,
        intensity=rule.text,
        prompt="none",
        source=SOURCE,
        licence="the challenge's terms of use",
        importer=f"{VERSION} --fit {args.fit} --size {args.size} (modiff {__version__})",
        provenance=read,
    )
