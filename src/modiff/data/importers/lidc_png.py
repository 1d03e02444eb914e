"""The importer of LIDC-IDRI's nodule crops as PNG files."""

from __future__ import annotations

import argparse
import io
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from modiff.data.importers.base import Case, Importer, check_whole, lidc_info
from modiff.data.importers.sources import Source, free_name
from modiff.data.store_format import StoreInfo
from modiff.errors import DataError
from modiff.io.files import natural
from modiff.io.image import picture

SOURCE = "LIDC-IDRI nodule crops (PNG); Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX"
INTENSITY = "minmax-slice:8 bits, each slice scaled on its own by whoever made the crops"
# The extremes that a slice was stretched by may lie outside the square: its values cannot be made again from it alone.
CUT_INTENSITY = "source:each slice scaled on its own by whoever made the crops, before its centre was cut out"
MAX_SIDE = 4096

_LAYOUT = re.compile(
    r"(?:.*/)?(?P<patient>[^/]+)/(?P<nodule>nodule-\d{1,9})/(?:images|mask-(?P<rater>\d{1,3}))/(?P<slice>slice-\d{1,9})\.png"
)
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass
class Crop:
    """One slice of a nodule. files: where its image (None) and its raters' masks (0, 1, …) lie."""

    name: str
    patient: str
    files: dict[int | None, tuple[Source, str]] = field(default_factory=dict)


class LidcPng(Importer[Crop]):
    """LIDC-IDRI nodule crops in the widely distributed PNG layout, each outlined by four radiologists."""

    version = "lidc-slices 1"
    threads = True

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        check_whole(args.centre, "--centre", "a side")
        self.sources = [Source(path) for path in args.paths]
        self.items, self.raters = find_crops(self.sources)

    def describe(self) -> StoreInfo:
        """As whoever made the crops left them; --centre changes what can be said of their values."""
        centre, known = self.args.centre, dict[str, str]()
        for source in self.sources:
            known[free_name(source.path.resolve().name, known)] = source.sha256()
        words = SOURCE + (f"; central {centre}×{centre} pixels" if centre else "")
        return lidc_info(self, words, self.raters, CUT_INTENSITY if centre else INTENSITY, known)

    def read(self, item: Crop) -> list[Case]:
        """One slice with every rater's mask, or its central square."""
        files = item.files.items()
        pixels = {rater: decode_png(source.read(name), source.where(name)) for rater, (source, name) in files}
        image = pixels.pop(None)
        for rater, mask in pixels.items():
            source, name = item.files[rater]
            if mask.shape != image.shape:
                found, expected = mask.shape, image.shape
                raise DataError("a mask of another size", path=source.where(name), found=found, expected=expected)
            # In uint8, 255 + 1 is 0 and 0 + 1 is 1: anything else exceeds 1.
            if (mask + np.uint8(1)).max() > 1:
                other = sorted(set(np.unique(mask).tolist()) - {0, 255})
                raise DataError("mask values", path=source.where(name), found=other[:5], expected="0 and 255 only")
        planes = np.stack([image, *(pixels[rater] & 1 for rater in range(len(pixels)))])
        side, (height, width) = self.args.centre, image.shape
        if side is not None:
            if side > min(height, width):
                small, least = f"{height}×{width}", f"at least {side}"
                raise DataError("smaller than --centre", path=item.name, found=small, expected=least)
            top, left = (height - side) // 2, (width - side) // 2
            planes = planes[:, top : top + side, left : left + side]
        # The slice's number counts within the nodule, not within the scan: it is in the name and nowhere else.
        return [Case(item.name, item.patient, planes[:1], planes[1:])]

    def __exit__(self, *failure: object) -> None:
        """Closes the archives."""
        for source in self.sources:
            source.close()


def find_crops(sources: Sequence[Source]) -> tuple[list[Crop], int]:
    """All crops in natural order and the number of raters; raises DataError unless all have an image and every mask."""
    crops: dict[str, Crop] = {}
    for source in sources:
        for name in source.names:
            path = PurePosixPath(name)
            if path.suffix.lower() != ".png" or path.name.startswith("._") or "__MACOSX" in path.parts:
                continue  # readmes, and what macOS puts beside every file
            found = _LAYOUT.fullmatch(name)
            if found is None:
                expected = "<patient>/nodule-<k>/images or mask-<r>/slice-<i>.png"
                raise DataError("a PNG outside the layout", path=source.where(name), expected=expected)
            new = Crop("/".join(found.group("patient", "nodule", "slice")), found["patient"])
            rater = None if found["rater"] is None else int(found["rater"])
            own = (source, name)
            before = crops.setdefault(new.name, new).files.setdefault(rater, own)
            if before is not own:
                same = "the same" if before[0].read(before[1]) == source.read(name) else "another"
                what, hint = f"{same} content as {before[0].where(before[1])}", "Give each file once."
                raise DataError("a case twice", path=source.where(name), found=what, hint=hint)
    if not crops:
        paths = ", ".join(str(source.path) for source in sources)
        raise DataError("no PNG in the layout", path=paths, hint="`modiff import lidc-slices --help` shows it.")
    raters = 1 + max(max((rater for rater in crop.files if rater is not None), default=0) for crop in crops.values())
    for crop in crops.values():
        source, name = next(iter(crop.files.values()))
        if None not in crop.files:
            raise DataError(
                "a mask without an image", path=source.where(name), expected=f"images/{crop.name.split('/')[-1]}.png"
            )
        if missing := [f"mask-{rater}" for rater in range(raters) if rater not in crop.files]:
            source, name = crop.files[None]
            raise DataError("masks are missing", path=source.where(name), found=f"no {', '.join(missing)}")
    return sorted(crops.values(), key=lambda crop: (crop.patient, natural(crop.name))), raters


def decode_png(data: bytes, where: str) -> np.ndarray:
    """(H,W) uint8 of an 8-bit grey PNG; size and type are checked in its header before Pillow sees it."""
    if len(data) < 33 or not data.startswith(_PNG_START):
        raise DataError("not a PNG", path=where, found=repr(data[:8]))
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise DataError("size beyond reason", path=where, found=f"{height}×{width}", expected=f"at most {MAX_SIDE}")
    if (depth, colour) != (8, 0):
        kind = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}.get(colour, "unknown")
        raise DataError("another type of PNG", path=where, found=f"{depth}-bit {kind}", expected="8-bit grey")
    with picture(where, "PNG", io.BytesIO(data)) as image:
        return np.asarray(image)
