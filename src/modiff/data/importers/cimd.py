"""LIDC-IDRI or MS slices in the layout of CIMD's code: JPEG images and JPEG masks of every rater.

  ROOT/training/<id>/image_<n>.jpg        grey; or image-<channel>_<n>.jpg for each channel
  ROOT/training/<id>/label<r>_.jpg        the mask of rater r = 0, 1, …
  ROOT/testing/<id>/…                     the same

JPEG smears a mask's 0 and 255 into values around them: masks are cut at 128. A mask that holds something, but nothing
above 127, was written from 0 and 1 and is lost to the compression: it is refused.

The layout names no patients. Each <id> counts as a patient of its own, so neighbouring slices of one nodule can be in
two splits, unless --table, a CSV with the columns case (such as training/0), patient and perhaps split, says whose they
are. Without splits in the table, training is dealt into train and val by hash (--val), and testing is test.

Refused, with the file's name: missing masks, sizes that differ, colours, damaged files, a patient in two splits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modiff.data.importers.base import add_output
from modiff.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from modiff.data.importers.folder_layout import Item
    from modiff.data.store_format import StoreInfo

VERSION = "cimd-folder 1"
SOURCE = "slices in CIMD's JPEG layout (Rahman et al., CVPR 2023)"
INTENSITY = "source:8-bit JPEG, as distributed"
MAX_SIDE = 8192
_CUT = 128
_COLOUR = 24  # grey levels by which JPEG's colour planes of a grey picture may differ
_SPLITS = {"training": "train", "testing": "test"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `modiff import cimd-folder` takes."""
    from modiff.data.splits import SplitRule

    rule = SplitRule()
    parser.add_argument("root", metavar="ROOT", help="the folder that holds training and testing")
    add_output(parser)
    parser.add_argument("--table", metavar="CSV", help="columns case, patient and perhaps split")
    parser.add_argument("--val", type=float, default=rule.val, help="share of training for val (default %(default)s)")
    parser.add_argument("--split-seed", type=int, default=rule.seed, help="seed of the hash (default %(default)s)")
    parser.add_argument("--class-name", default="lesion", metavar="NAME", help="what is marked (default %(default)s)")
    parser.add_argument("--identifiable", action="store_true", help="label<r> is the same person everywhere (MS data)")
    prompt = "whether an image's centre says which lesion is meant (default %(default)s, as in LIDC's crops)"
    parser.add_argument("--prompt", choices=("centre", "none"), default="centre", help=prompt)
    parser.add_argument("--source", default=SOURCE, metavar="WORDS", help="what the data is, for the store's record")
    parser.add_argument("--licence", default="unknown", metavar="WORDS", help="its licence")


def run(args: argparse.Namespace) -> Path:
    """Writes the store that `args` describe and returns its path."""
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from modiff.data.importers.folder_layout import apply_table, find
    from modiff.data.store_writer import StoreWriter

    root = Path(args.root)
    images, masks = ("{case}/image_*.jpg", "{case}/image-{channel}_*.jpg"), ("{case}/label{rater}_.jpg",)
    items, _ = find(root, images, masks, (".jpg", ".jpeg"))
    for item in items:
        item.patient = item.case
    if args.table:
        apply_table(items, Path(args.table))
    raters = sorted({name for item in items for name in item.masks}, key=lambda name: (len(name), name))
    channels = sorted(items[0].channels)
    for item in items:
        _check(item, root, raters, channels)
    splits = _splits(args, items)
    everyone = np.ones(len(raters), bool)
    with StoreWriter(args.output, _info(args, items, raters, channels), overwrite=args.overwrite) as writer:
        for item in track(items, "importing", console=Console(stderr=True)):
            image = np.stack([read_jpeg(_bytes(item.channels[name]), str(item.channels[name])) for name in channels])
            made = np.stack([read_mask(item.masks[name], image.shape[1:]) for name in raters])
            writer.add(image, made, everyone, case=item.case, patient=item.patient, split=splits[item.patient])
    return Path(args.output)


def read_jpeg(data: bytes, where: str) -> np.ndarray:
    """(H,W) uint8 of a grey JPEG, or of one whose colours are grey; its size is checked before it is decoded."""
    import io
    import warnings

    import numpy as np
    from PIL import Image

    if not data.startswith(b"\xff\xd8\xff"):
        raise DataError("not a JPEG", path=where, found=repr(data[:4]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                if max(image.size) > MAX_SIDE:
                    found = f"{image.size[1]}×{image.size[0]}"
                    raise DataError(
                        "size beyond reason", path=where, found=found, expected=f"at most {MAX_SIDE} a side"
                    )
                mode, array = image.mode, np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        raise DataError("damaged JPEG", path=where, found=str(error)[:200] or repr(error)) from error
    if mode == "RGB" and int((array.max(2) - array.min(2)).max()) <= _COLOUR:
        return np.rint(array.mean(2)).astype(np.uint8)
    if mode != "L":
        raise DataError("a JPEG in colour", path=where, found=mode, expected="grey")
    return array


def read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """(H,W) uint8, 0 or 1, cut at half of full scale; raises DataError for a mask that is grey and nowhere white."""
    import numpy as np

    mask = read_jpeg(_bytes(path), str(path))
    if mask.shape != shape:
        raise DataError("a mask of another size", path=path, found=mask.shape, expected=shape)
    top = int(mask.max())
    if 0 < top < _CUT:
        hint = "Masks of 0 and 1 do not survive JPEG: write them again from the source as 0 and 255."
        raise DataError("a mask without white", path=path, found=f"values up to {top}", expected="about 255", hint=hint)
    return (mask >= _CUT).astype(np.uint8)


def _bytes(path: Path) -> bytes:
    from modiff.io.limits import Limits

    try:
        Limits().check_file(path)
        return path.read_bytes()
    except OSError as error:
        raise DataError("cannot be read", path=path, found=error.strerror) from error


def _check(item: Item, root: Path, raters: Sequence[str], channels: Sequence[str]) -> None:
    if not item.channels:
        raise DataError("masks without an image", path=root / item.case)
    if sorted(item.channels) != list(channels):
        found, expected = ", ".join(sorted(item.channels)), ", ".join(channels)
        raise DataError("other channels than the first case", path=root / item.case, found=found, expected=expected)
    if missing := [f"label{name}_.jpg" for name in raters if name not in item.masks] or (
        [] if raters else ["label0_.jpg"]
    ):
        raise DataError("masks are missing", path=root / item.case, found=f"no {', '.join(missing)}")


def _splits(args: argparse.Namespace, items: Sequence[Item]) -> dict[str, str]:
    from modiff.data.splits import SplitRule

    rule = SplitRule(args.val, 0.0, args.split_seed)
    splits: dict[str, str] = {}
    for item in items:
        split = item.split or _SPLITS.get(item.case.split("/")[0])
        if split is None:
            expected = "training/<id> or testing/<id>, or a split in the --table"
            raise DataError("neither training nor testing", path=args.root, found=item.case, expected=expected)
        if item.split is None and split == "train":
            split = rule.split_of(item.patient)
        if (before := splits.setdefault(item.patient, split)) != split:
            found = f"patient {item.patient} in {before} and {split}"
            raise DataError("a patient in two splits", path=args.root, field=item.case, found=found)
    return splits


def _info(args: argparse.Namespace, items: Sequence[Item], raters: Sequence[str], channels: Sequence[str]) -> StoreInfo:
    from modiff._version import __version__
    from modiff.data.importers.grids import digest, digest_all
    from modiff.data.store_format import StoreInfo

    root = Path(args.root)
    files = [path for item in items for path in (*item.channels.values(), *item.masks.values())]
    read = {root.resolve().name: digest_all(root, files)}
    if args.table:
        read[Path(args.table).name] = digest(Path(args.table))
    return StoreInfo(
        channels=tuple(name or "image" for name in channels),
        classes=(args.class_name,),
        raters=tuple(f"rater {name}" for name in raters),
        exchangeable_raters=not args.identifiable,
        intensity=INTENSITY,
        prompt=args.prompt,
        source=args.source,
        licence=args.licence,
        importer=f"{VERSION} (modiff {__version__})",
        provenance=read,
    )
