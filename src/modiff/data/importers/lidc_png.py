"""LIDC-IDRI nodule crops in the widely distributed PNG layout, each outlined by four radiologists.

Sources are zip archives or folders; several make one store. In each, anywhere below the top:

  <patient>/nodule-<k>/images/slice-<i>.png      8-bit grey, all of one size
  <patient>/nodule-<k>/mask-<r>/slice-<i>.png    8-bit grey, 0 or 255, r = 0, 1, …: one a radiologist

An empty mask is a radiologist who read the slice and outlined nothing there. The slots are exchangeable: mask-0 of two
nodules may be two people. A case is named <patient>/<nodule>/<slice>, e.g. LIDC-IDRI-0011/nodule-0/slice-3.
--centre 64 keeps the central square of 64 pixels, for quick comparisons: large nodules lose their rim. Where one of the
two sides is odd and the other even, the centre moves by half a pixel.

Splits are by patient: from --splits, a JSON file {"train": [patients], "val": [patients], "test": [patients]}, or by a
hash of the patient's name, which anyone can repeat (--val, --test, --split-seed).

Refused, with the file's name: missing masks, sizes that differ, mask values other than 0 and 255, a patient in two
splits or in none, the same case twice, damaged archives and PNG files, names that lead out of the archive, archives
that inflate beyond reason. LIDC-IDRI is CC BY 3.0: Armato et al., doi 10.7937/K9/TCIA.2015.LO9QL9SX.
"""

from __future__ import annotations

import argparse
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from modiff.data.importers.base import add_output
from modiff.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from modiff.data.importers.sources import Source
    from modiff.data.store_format import StoreInfo

VERSION = "lidc-slices 1"
SOURCE = "LIDC-IDRI nodule crops (PNG); Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX"
LICENCE = "CC BY 3.0"
INTENSITY = "minmax-slice:8 bits, each slice scaled on its own by whoever made the crops"
# The extremes that a slice was stretched by may lie outside the square: its values cannot be made again from it alone.
CUT_INTENSITY = "source:each slice scaled on its own by whoever made the crops, before its centre was cut out"
MAX_SIDE = 4096
_BLOCK = 64

_LAYOUT = re.compile(
    r"(?:.*/)?(?P<patient>[^/]+)/(?P<nodule>nodule-\d{1,9})/(?:images|mask-(?P<rater>\d{1,3}))/(?P<slice>slice-\d{1,9})\.png"
)
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `modiff import lidc-slices` takes."""
    from modiff.data.splits import SplitRule

    rule = SplitRule()
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="zip archives or folders in the layout above")
    add_output(parser)
    parser.add_argument(
        "--centre", type=int, metavar="SIDE", help="keep only the central square of so many pixels (the whole image)"
    )
    parser.add_argument("--splits", metavar="JSON", help="patients of each split; without it they are drawn by hash")
    parser.add_argument("--val", type=float, default=rule.val, help="share of patients for val (default %(default)s)")
    parser.add_argument(
        "--test", type=float, default=rule.test, help="share of patients for test (default %(default)s)"
    )
    parser.add_argument("--split-seed", type=int, default=rule.seed, help="seed of the hash (default %(default)s)")
    parser.add_argument("--folds", type=int, metavar="K", help="also deal patients into K folds for cross-validation")


@dataclass
class Case:
    """One slice: where its image and its raters' masks lie."""

    patient: str
    nodule: str
    slice: str
    image: tuple[Source, str] | None = None
    masks: dict[int, tuple[Source, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.patient}/{self.nodule}/{self.slice}"

    @property
    def order(self) -> tuple[str, int, int]:
        return self.patient, int(self.nodule.split("-")[1]), int(self.slice.split("-")[1])


def run(args: argparse.Namespace) -> Path:
    """Writes the store that `args` describe and returns its path."""
    from modiff.data.importers.sources import open_source
    from modiff.data.splits import SplitRule, assign, make_folds, read_splits

    if args.centre is not None and args.centre < 1:
        raise ConfigError("is no side", field="--centre", found=args.centre, expected="1 or more")
    places = read_splits(args.splits) if args.splits else SplitRule(args.val, args.test, args.split_seed)
    with ExitStack() as stack:
        sources = []
        for path in args.sources:
            sources.append(open_source(path))
            stack.callback(sources[-1].close)
        cases, raters = find_cases(sources)
        patients = {case.patient for case in cases}
        splits = assign(patients, places, args.splits)
        folds = make_folds(patients, args.folds, args.split_seed) if args.folds else None
        return _write(args, _info(sources, args, raters), cases, splits, folds)


def find_cases(sources: Sequence[Source]) -> tuple[list[Case], int]:
    """All cases in natural order and the number of raters; raises DataError unless all have an image and every mask."""
    cases: dict[str, Case] = {}
    for source in sources:
        for name in source.names:
            if _is_clutter(name):
                continue
            found = _LAYOUT.fullmatch(name)
            if found is None:
                expected = "<patient>/nodule-<k>/images or mask-<r>/slice-<i>.png"
                raise DataError("a PNG outside the layout", path=source.where(name), expected=expected)
            new = Case(found["patient"], found["nodule"], found["slice"])
            _place(cases.setdefault(new.name, new), found["rater"], source, name)
    if not cases:
        paths = ", ".join(str(source.path) for source in sources)
        raise DataError("no PNG in the layout", path=paths, hint="`modiff import lidc-slices --help` shows it.")
    raters = 1 + max((rater for case in cases.values() for rater in case.masks), default=-1)
    for case in cases.values():
        _check_complete(case, raters)
    return sorted(cases.values(), key=lambda case: case.order), raters


def _is_clutter(name: str) -> bool:
    """Readmes, and what macOS puts beside every file."""
    path = PurePosixPath(name)
    return path.suffix.lower() != ".png" or path.name.startswith("._") or "__MACOSX" in path.parts


def _place(case: Case, rater: str | None, source: Source, name: str) -> None:
    before = case.image if rater is None else case.masks.get(int(rater))
    if before is not None:
        same = "the same" if before[0].read(before[1]) == source.read(name) else "another"
        what = f"{same} content as {before[0].where(before[1])}"
        raise DataError("a case twice", path=source.where(name), found=what, hint="Give each file once.")
    if rater is None:
        case.image = (source, name)
    else:
        case.masks[int(rater)] = (source, name)


def _check_complete(case: Case, raters: int) -> None:
    if case.image is None:
        source, name = next(iter(case.masks.values()))
        raise DataError("a mask without an image", path=source.where(name), expected=f"images/{case.slice}.png")
    missing = [f"mask-{rater}" for rater in range(max(raters, 1)) if rater not in case.masks]
    if missing:
        source, name = case.image
        raise DataError("masks are missing", path=source.where(name), found=f"no {', '.join(missing)}")


def decode_png(data: bytes, where: str) -> np.ndarray:
    """(H,W) uint8 of an 8-bit grey PNG; size and type are checked in its header before Pillow sees it."""
    import io

    import numpy as np
    from PIL import Image

    if len(data) < 33 or not data.startswith(_PNG_START):
        raise DataError("not a PNG", path=where, found=repr(data[:8]))
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise DataError("size beyond reason", path=where, found=f"{height}×{width}", expected=f"at most {MAX_SIDE}")
    if (depth, colour) != (8, 0):
        kind = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}.get(colour, "unknown")
        raise DataError("another type of PNG", path=where, found=f"{depth}-bit {kind}", expected="8-bit grey")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return np.asarray(image)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, zlib.error, struct.error and more
        raise DataError("damaged PNG", path=where, found=str(error)[:200] or repr(error)) from error


def read_case(case: Case, centre: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Image (1,H,W) uint8 and masks (R,H,W) uint8, 0 or 1; raises DataError for other sizes and values.

    centre: the side of the central square that is kept, None for all.
    """
    import numpy as np

    assert case.image is not None
    source, name = case.image
    image = decode_png(source.read(name), source.where(name))
    masks = np.empty((len(case.masks), *image.shape), np.uint8)
    for rater, (source, name) in sorted(case.masks.items()):
        mask = decode_png(source.read(name), source.where(name))
        if mask.shape != image.shape:
            raise DataError("a mask of another size", path=source.where(name), found=mask.shape, expected=image.shape)
        # In uint8, 255 + 1 is 0 and 0 + 1 is 1: anything else exceeds 1.
        if (mask + np.uint8(1)).max() > 1:
            other = sorted(set(np.unique(mask).tolist()) - {0, 255})
            raise DataError("mask values", path=source.where(name), found=other[:5], expected="0 and 255 only")
        masks[rater] = mask & 1
    if centre is None:
        return image[None], masks
    return centre_square(image[None], centre, case.name), centre_square(masks, centre, case.name)


def centre_square(pixels: np.ndarray, side: int, where: str) -> np.ndarray:
    """The central (…,side,side) of (…,H,W), a view; raises DataError where the image is smaller."""
    height, width = pixels.shape[-2:]
    if side > min(height, width):
        raise DataError("smaller than --centre", path=where, found=f"{height}×{width}", expected=f"at least {side}")
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[..., top : top + side, left : left + side]


def _info(sources: Sequence[Source], args: argparse.Namespace, raters: int) -> StoreInfo:
    from modiff._version import __version__
    from modiff.data.importers.sources import provenance
    from modiff.data.store_format import StoreInfo

    return StoreInfo(
        channels=("CT",),
        classes=("nodule",),
        raters=tuple(f"radiologist {slot}" for slot in range(1, raters + 1)),
        exchangeable_raters=True,
        intensity=INTENSITY if args.centre is None else CUT_INTENSITY,
        prompt="centre",
        spacing=None,
        source=SOURCE + (f"; central {args.centre}×{args.centre} pixels" if args.centre else ""),
        licence=LICENCE,
        importer=f"{VERSION} (modiff {__version__})",
        provenance=provenance(sources, [args.splits] if args.splits else []),
    )


def _write(
    args: argparse.Namespace,
    info: StoreInfo,
    cases: Sequence[Case],
    splits: dict[str, str],
    folds: dict[str, int] | None,
) -> Path:
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from modiff.data.store_writer import StoreWriter

    everyone = np.ones(len(info.raters), dtype=bool)
    with StoreWriter(args.output, info, overwrite=args.overwrite, folds=folds) as writer:
        pairs = zip(cases, _read_all(cases, args.centre), strict=True)
        for case, (image, masks) in track(pairs, "importing", len(cases), console=Console(stderr=True)):
            # The slice's number counts within the nodule, not within the scan: it is in the name and nowhere else.
            writer.add(image, masks, everyone, case=case.name, patient=case.patient, split=splits[case.patient])
    return Path(args.output)


def _read_all(cases: Sequence[Case], centre: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Reads ahead by a few dozen cases with several threads: Pillow and zlib work without Python's lock."""
    from concurrent.futures import ThreadPoolExecutor

    from modiff.io.files import workers

    with ThreadPoolExecutor(workers()) as pool:
        try:
            ahead = [pool.submit(read_case, case, centre) for case in cases[:_BLOCK]]
            for place in range(len(cases)):
                yield ahead[place % _BLOCK].result()
                if place + _BLOCK < len(cases):
                    ahead[place % _BLOCK] = pool.submit(read_case, cases[place + _BLOCK], centre)
        finally:
            pool.shutdown(cancel_futures=True)
