"""The importers of LIDC-IDRI's nodule crops: PNG files, arrays in a pickle, or the HDF5 that others make of it."""

from __future__ import annotations

import argparse
import io
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from modiff.data.importers.base import Case, Importer, check_whole
from modiff.data.importers.sources import MAX_FILES, Source, free_name
from modiff.data.importers.unpickle import as_array, read_pickle
from modiff.data.splits import SplitRule
from modiff.data.store_format import StoreInfo, dataset, filters
from modiff.errors import DataError
from modiff.io.files import Limits, guarded, located, natural, sha256_of
from modiff.io.hdf5 import open_hdf5, rows
from modiff.io.image import picture

_PNG_SOURCE = "LIDC-IDRI nodule crops (PNG); Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX"
_PNG_INTENSITY = "minmax-slice:8 bits, each slice scaled on its own by whoever made the crops"
# The extremes that a slice was stretched by may lie outside the square: its values cannot be made again from it alone.
_PNG_CUT_INTENSITY = "source:each slice scaled on its own by whoever made the crops, before its centre was cut out"
_MAX_SIDE = 4096

_PNG_LAYOUT = re.compile(
    r"(?:.*/)?(?P<patient>[^/]+)/(?P<nodule>nodule-\d{1,9})/(?:images|mask-(?P<rater>\d{1,3}))/(?P<slice>slice-\d{1,9})\.png"
)
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"

_ARRAYS_SOURCE = "LIDC-IDRI nodule crops; Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX"
_ARRAYS_INTENSITY = "source:values in [0,1], as distributed in data_lidc.pickle"
_SLACK = 1e-6  # by which rounded values may leave their range
_FIELDS = ("image", "masks", "series_uid")
_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_UNFIT = re.compile(r"[^\w.+-]+")
_GROUPS = ("train", "val", "test")
_BLOCK = 64
_MAX_ROW_BYTES, _MAX_CHUNK_BYTES = 64 << 20, 256 << 20
_FILTERS = (1, 2, 3)  # deflate, shuffle, checksum: what HDF5 itself brings; others load foreign code


def lidc_info(
    source: Importer, words: str, raters: int, intensity: str, read: Mapping[str, str], spacing: float | None = None
) -> StoreInfo:
    """What a store of LIDC-IDRI's nodule crops says of itself, whatever form they came in."""
    return StoreInfo(
        channels=("CT",),
        classes=("nodule",),
        raters=tuple(f"radiologist {slot}" for slot in range(1, raters + 1)),
        exchangeable_raters=True,
        intensity=intensity,
        prompt="centre",
        spacing=None if spacing is None else (spacing, spacing),
        source=words,
        licence="CC BY 3.0",
        importer=source.version,
        provenance=read,
        modality="CT",
        region="LUNG",
    )


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
        self.sources = [self.enter_context(Source(path)) for path in args.paths]
        self.items, self.raters = find_crops(self.sources)

    def describe(self) -> StoreInfo:
        """As the crops' makers left them; --centre changes what can be said of their values."""
        centre, known = self.args.centre, dict[str, str]()
        for source in self.sources:
            known[free_name(source.path.resolve().name, known)] = source.sha256()
        words = _PNG_SOURCE + (f"; central {centre}×{centre} pixels" if centre else "")
        return lidc_info(self, words, self.raters, _PNG_CUT_INTENSITY if centre else _PNG_INTENSITY, known)

    def read(self, item: Crop) -> list[Case]:
        """One slice with every rater's mask, or its central square."""
        files = item.files.items()
        pixels = {rater: decode_png(source.read(name), source.where(name)) for rater, (source, name) in files}
        image = pixels.pop(None)
        for rater, mask in pixels.items():
            source, name = item.files[rater]
            if mask.shape != image.shape:
                found, expected = mask.shape, image.shape
                raise DataError(
                    "mask and image differ in size", path=source.where(name), found=found, expected=expected
                )
            # In uint8, 255 + 1 is 0 and 0 + 1 is 1: anything else exceeds 1.
            if (mask + np.uint8(1)).max() > 1:
                other = sorted(set(np.unique(mask).tolist()) - {0, 255})
                raise DataError(
                    "unexpected mask values", path=source.where(name), found=other[:5], expected="0 and 255 only"
                )
        planes = np.stack([image, *(pixels[rater] & 1 for rater in range(len(pixels)))])
        side, (height, width) = self.args.centre, image.shape
        if side is not None:
            if side > min(height, width):
                small, least = f"{height}×{width}", f"at least {side}"
                raise DataError("smaller than --centre", path=item.name, found=small, expected=least)
            top, left = (height - side) // 2, (width - side) // 2
            before = planes[1:].sum((1, 2), dtype=np.int64)
            planes = planes[:, top : top + side, left : left + side]
            self.cut.add(before, planes[1:].sum((1, 2), dtype=np.int64))
        # The slice's number counts within the nodule, not within the scan: it is in the name and nowhere else.
        return [Case(item.name, item.patient, planes[:1], planes[1:])]


def find_crops(sources: Sequence[Source]) -> tuple[list[Crop], int]:
    """All crops in natural order and the number of raters; raises DataError unless all have an image and every mask."""
    crops: dict[str, Crop] = {}
    for source in sources:
        for name in source.names:
            path = PurePosixPath(name)
            if path.suffix.lower() != ".png":
                continue  # readmes
            found = _PNG_LAYOUT.fullmatch(name)
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
                raise DataError("a case occurs twice", path=source.where(name), found=what, hint=hint)
    if not crops:
        paths = ", ".join(str(source.path) for source in sources)
        raise DataError("no PNG in the layout", path=paths, hint="`modiff import lidc-slices --help` shows it.")
    raters = 1 + max(max((rater for rater in crop.files if rater is not None), default=0) for crop in crops.values())
    for crop in crops.values():
        source, name = next(iter(crop.files.values()))
        if None not in crop.files:
            expected = f"images/{crop.name.split('/')[-1]}.png"
            raise DataError("a mask without an image", path=source.where(name), expected=expected)
        if missing := [f"mask-{rater}" for rater in range(raters) if rater not in crop.files]:
            source, name = crop.files[None]
            raise DataError("masks are missing", path=source.where(name), found=f"no {', '.join(missing)}")
    return sorted(crops.values(), key=lambda crop: (crop.patient, natural(crop.name))), raters


def decode_png(data: bytes, where: str) -> np.ndarray:
    """(H,W) uint8 of an 8-bit grey PNG; size and type are checked in its header before Pillow sees it."""
    if len(data) < 33 or not data.startswith(_PNG_START):
        raise DataError("not a PNG", path=where, found=repr(data[:8]))
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise DataError("size is out of range", path=where, found=f"{height}×{width}", expected=f"at most {_MAX_SIDE}")
    if (depth, colour) != (8, 0):
        kind = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}.get(colour, "unknown")
        raise DataError("unsupported type of PNG", path=where, found=f"{depth}-bit {kind}", expected="8-bit grey")
    with picture(where, "PNG", io.BytesIO(data)) as image:
        return np.asarray(image)


class LidcPickle(Importer[str]):
    """LIDC-IDRI nodule crops in data_lidc.pickle, as distributed with the Probabilistic U-Net's PyTorch version."""

    version = "lidc-pickle 1"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.path = Path(args.file)
        self.entries = _entries(self.path, read_pickle(self.path, args.max_bytes))
        self.items = list(self.entries)
        series = {name: entry["series_uid"] for name, entry in self.entries.items()}
        self.patient_of = series | {name: found[0] for name in series if (found := _PATIENT.match(name))}

    def describe(self) -> StoreInfo:
        """With as many raters as the first slice has masks."""
        raters = len(self.entries[self.items[0]]["masks"])
        return lidc_info(self, _ARRAYS_SOURCE, raters, _ARRAYS_INTENSITY, {self.path.name: sha256_of(self.path)})

    def patients(self) -> set[str]:
        """The series, or who the names begin with."""
        return set(self.patient_of.values())

    def read(self, item: str) -> list[Case]:
        """One entry, its values checked."""
        with located(self.path, item):
            image = _image(as_array(self.entries[item]["image"]), 0.0)
            masks = _masks(as_array(self.entries[item]["masks"]), image.shape[1:])
        patient = self.patient_of[item]
        return [Case(f"{patient}/{_UNFIT.sub('-', item)}", patient, image, masks)]


def _entries(path: Path, found: Any) -> dict[str, dict[str, Any]]:
    """The dictionary, once it is known to have the layout."""
    expected = 'name -> {"image", "masks", "series_uid"}'
    if not isinstance(found, dict) or not found:
        raise DataError("unexpected layout", path=path, found=type(found).__name__.strip("_"), expected=expected)
    for name, entry in found.items():
        where = repr(name)[:80]
        if not isinstance(entry, dict) or any(field not in entry for field in _FIELDS):
            raise DataError("unexpected layout", path=path, field=where, expected=expected)
        if not isinstance(entry["series_uid"], str) or not entry["series_uid"].strip():
            raise DataError("a slice without a series", path=path, field=where)
        if not isinstance(entry["masks"], list | tuple) or not entry["masks"]:
            raise DataError("masks are not a list", path=path, field=where, expected="one array per radiologist")
    return found


class LidcHdf5(Importer[tuple[str, int]]):
    """LIDC-IDRI nodule crops in data_lidc.hdf5, the form that CCDM, PHiSeg and others make of data_lidc.pickle."""

    version = "lidc-hdf5 1"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.path = Path(args.file)
        if not self.path.is_file():
            raise DataError("no such file", path=self.path)
        file = self.enter_context(guarded(self.path, lambda: open_hdf5(self.path)))
        self.groups = guarded(self.path, lambda: {split: _group(file, split) for split in _GROUPS if split in file})
        if not self.groups:
            raise DataError("unexpected layout", path=self.path, expected="groups train, val and test")
        # A block of rows is read at a time.
        groups = self.groups.items()
        self.items = [(split, start) for split, group in groups for start in range(0, len(group[2]), _BLOCK)]

    def describe(self) -> StoreInfo:
        """With as many raters as all groups have."""
        raters = {labels.shape[axis] for _, labels, _, axis in self.groups.values()}
        if len(raters) != 1:
            raise DataError("groups with different numbers of raters", path=self.path, found=sorted(raters))
        return lidc_info(self, _ARRAYS_SOURCE, raters.pop(), _ARRAYS_INTENSITY, {self.path.name: sha256_of(self.path)})

    def splits(self, rule: Mapping[str, str] | SplitRule) -> Mapping[str, str]:
        """The file's groups; raises DataError for a series in two of them."""
        places: dict[str, str] = {}
        for split, (_, _, uids, _) in self.groups.items():
            for uid in set(uids.tolist()):
                if (before := places.setdefault(_series(uid), split)) != split:
                    found = f"{uid}, also in {before}"
                    raise DataError("a series in two splits", path=self.path, field=f"{split}/uids", found=found)
        return places

    def read(self, item: tuple[str, int]) -> Iterator[Case]:
        """A block of rows of a group, from the row that the item names."""
        split, start = item
        *tables, uids, axis = self.groups[split]
        images, labels = guarded(
            self.path, lambda: [rows(table, start, min(start + _BLOCK, len(uids))) for table in tables]
        )
        for row, (image, label) in enumerate(zip(images, np.moveaxis(labels, axis, 1), strict=True), start):
            with located(self.path, f"{split} {row}"):
                made = _image(image, -0.5)
                masks = _masks(label, made.shape[1:])
            patient = _series(uids[row])
            yield Case(f"{patient}/{split}-{row:05d}", patient, made, masks)


def _series(uid: int) -> str:
    """The number is a Python hash, often negative; without its sign it names a patient just as well."""
    return f"series-{int(uid) & (2**64 - 1):016x}"


def _group(file: h5py.File, split: str) -> tuple[h5py.Dataset, h5py.Dataset, np.ndarray, int]:
    """Images, labels and series of one split, known to fit together and to lie in this file; and the raters' axis."""
    if not isinstance(file.get(split, getlink=True), h5py.HardLink):
        raise DataError("links are not followed", field=split)
    images, labels, uids = (_dataset(file, f"{split}/{name}") for name in ("images", "labels", "uids"))
    if images.ndim != 3 or images.dtype.kind != "f":
        found = f"{images.dtype} {images.shape}"
        raise DataError("unexpected layout", field=f"{split}/images", found=found, expected="floats (n, height, width)")
    count, height, width = images.shape
    axes = [axis for axis in (1, 3) if labels.shape[:axis] + labels.shape[axis + 1 :] == images.shape]
    if not axes or labels.ndim != 4 or labels.dtype.kind not in "iufb":
        expected = f"({count}, 4, {height}, {width}) or ({count}, {height}, {width}, 4)"
        raise DataError("unexpected layout", field=f"{split}/labels", found=labels.shape, expected=expected)
    if count > MAX_FILES:
        raise DataError("too many slices", field=f"{split}/images", found=count, expected=f"at most {MAX_FILES}")
    if uids.shape != (count,) or uids.dtype.kind not in "iu":
        raise DataError("unexpected layout", field=f"{split}/uids", found=f"{uids.dtype} {uids.shape}", expected=count)
    return images, labels, rows(uids), axes[0]


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A table in this very file, whose declared size agrees with the file's."""
    found = dataset(file, name)
    if any(number not in _FILTERS for number in filters(found)):
        raise DataError("compressed by an unsupported filter", field=name, expected="gzip or none")
    size = found.dtype.itemsize
    chunk = math.prod(found.chunks) * size if found.chunks else 0
    if math.prod(found.shape[1:]) * size > _MAX_ROW_BYTES or chunk > _MAX_CHUNK_BYTES:
        raise DataError("slices too large", field=name, found=found.shape)
    stored = min(found.id.get_storage_size(), Path(file.filename).stat().st_size)
    Limits(option=None).check_ratio(Path(file.filename), math.prod(found.shape) * size, stored)
    return found


def _image(values: np.ndarray, low: float) -> np.ndarray:
    """(H,W) values from `low` to `low` + 1 -> (1,H,W) uint16; 8-bit values in [0,1] stay exact, as 65535 = 257·255."""
    if values.ndim != 2 or values.size == 0:
        raise DataError("unexpected shape of an image", found=values.shape, expected="(height, width)")
    unit = values.astype(np.float64) - low
    if not (unit.min() >= -_SLACK and unit.max() <= 1 + _SLACK):  # NaN fails both
        found = f"{values.min():g} to {values.max():g}"
        raise DataError("values are out of the layout's range", found=found, expected=f"{low:g} to {low + 1:g}")
    return np.rint(unit.clip(0, 1) * 65535).astype(np.uint16)[None]


def _masks(masks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(R,H,W) uint8, 0 or 1; raises DataError for other shapes and values."""
    if masks.ndim != 3 or masks.shape[1:] != shape:
        raise DataError("unexpected shape of masks", found=masks.shape, expected=f"(raters, {shape[0]}, {shape[1]})")
    if (other := np.unique(masks[~np.isin(masks, (0, 1))])).size:
        raise DataError("unexpected mask values", found=other[:5].tolist(), expected="0 and 1 only")
    return masks.astype(np.uint8)
