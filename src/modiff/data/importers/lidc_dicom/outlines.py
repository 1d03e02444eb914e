"""What LIDC's raters outlined: parsed from XML within bounds and without entities, filled, and grouped into nodules.

Layout (LIDC-IDRI's XML documentation): one `readingSession` per radiologist; in it an `unblindedReadNodule` for each
nodule, with a `roi` for each region on each slice: `imageSOP_UID`, `inclusion` (FALSE for a hole) and the points
`edgeMap/xCoord, yCoord`, column and row from 0 in the upper left corner. A nodule below 3 mm has one point in place of
an outline, and a `nonNodule` is not a nodule: both are left out here.

An outline's points are the first pixels *outside* the nodule, not part of it. The XML does not say which outlines mean
the same physical nodule. The rule of grouping: two raters' outlines may mean one nodule if their filled voxels
overlap, or if the centres of their nearest voxels are no further apart than one slice step. Pairs are joined from the
best to the worst (overlaps by falling Dice, then gaps by rising distance), and a pair is passed over where joining
would put two outlines of one rater into one nodule. So each nodule holds at most one outline per rater, and a chain of
touching outlines is one nodule.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.spatial import cKDTree

from modiff.data.importers.sources import Source, read_bytes
from modiff.errors import DataError
from modiff.io.files import guarding

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_ROOTS = ("LidcReadMessage", "IdriReadMessage")
NAMESPACES = ("http://www.nih.gov", "http://www.nih.gov/idri", "")
# The largest of TCIA's 1,018 files for CT is below 8 MiB; an element takes about 100 bytes of memory.
MAX_BYTES = 32 << 20
MAX_ELEMENTS = 500_000
MAX_DEPTH = 16
MAX_PIECE = 256 << 10  # bytes from one element to the next: a tag's attributes are read as one
MAX_SESSIONS = 16
MAX_OUTLINES = 256  # per session; LIDC's raters outlined a few dozen at most
MAX_COORDINATE = 65_535
_LEAST_POINTS = 3  # fewer enclose nothing: the mark of a nodule below 3 mm
_HEAD_BYTES = 16 << 10
_SERIES = re.compile(rb"<(?:\w+:)?SeriesInstanceU(?:id|ID)>\s*([0-9.]{1,64})\s*<")
_UID = re.compile(r"[0-9.]{1,64}")
_COORDINATE = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True)
class XmlFile:
    """An XML file, or one inside a zip archive."""

    path: Path
    inside: str | None = None

    @property
    def name(self) -> str:
        """How errors name it."""
        return str(self.path) if self.inside is None else f"{self.path}!{self.inside}"

    def read(self) -> bytes:
        """Its content; raises DataError where it is too large or cannot be read."""
        if self.inside is not None:
            with Source(self.path) as source:
                return source.read(self.inside)
        return read_bytes(self.path)


@dataclass(frozen=True)
class Region:
    """A closed curve on one slice. points: (n,2) int32 (column, row). inclusion: False cuts a hole."""

    sop_uid: str
    points: np.ndarray
    inclusion: bool


Outline = tuple[Region, ...]  # of a nodule of 3 mm or more: its regions on all slices
Session = tuple[Outline, ...]  # one radiologist's reading of a series; none: nothing of 3 mm or more was found
Marked = tuple[int, np.ndarray]  # a rater's number and what the outline fills: (n,3) slice in its series, row, column
Nodule = dict[int, np.ndarray]  # one physical nodule: rater -> voxels, as above, n ≥ 1


def series_uid_of(data: bytes) -> str:
    """The series UID in the first 16 KiB of an XML file, or nothing: cheap, for sorting thousands of files."""
    found = _SERIES.search(data[:_HEAD_BYTES])
    return found[1].decode() if found else ""


def parse(data: bytes, where: str) -> list[Session]:
    """The sessions of an LIDC XML file; a radiograph's has none. `where` names it in errors.

    Raises DataError for what is not well-formed, not an LIDC message, has a DTD or entities, or is beyond the bounds.
    """
    from defusedxml import ElementTree

    if len(data) > MAX_BYTES:
        raise DataError("too large for an LIDC XML", path=where, found=f"{len(data)} bytes", expected=f"≤ {MAX_BYTES}")
    with guarding(where, "is not well-formed XML, or has a DTD"):  # the parser, or what it was told to forbid
        pieces = _Pieces(data)
        root = _root(ElementTree.iterparse(pieces, ("start", "end"), forbid_dtd=True), pieces)
        sessions = [_session(session) for session in root.iter("readingSession")]
        most = max(map(len, sessions), default=0)
        if most > MAX_OUTLINES or len(sessions) > MAX_SESSIONS:
            what = "nodules" if most > MAX_OUTLINES else "sessions"
            expected = f"at most {MAX_SESSIONS}, and {MAX_OUTLINES} nodules in each"
            raise DataError(f"too many {what}", expected=expected)
        return sessions


def merge(files: Iterable[Sequence[Session]]) -> list[Session]:
    """The sessions of all XML files about one series, each once.

    Sessions with the same outlines are one, in one file or in several: two people never draw the same points. Sessions
    without outlines look alike, so as many are kept as the file with most of them has.
    """
    kept: dict[frozenset[tuple[str, bytes, bool]] | int, Session] = {}
    for sessions in files:
        empty = 0
        for session in sessions:
            empty += not session
            regions = [region for outline in session for region in outline]
            drawn = frozenset((region.sop_uid, region.points.tobytes(), region.inclusion) for region in regions)
            kept.setdefault(drawn or empty, session)
    return list(kept.values())


class _Pieces(io.BytesIO):
    """A file that ends in an error where no element follows for too long. begun: where the last event was seen."""

    begun = 0

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes; raises DataError where MAX_PIECE were read since the last event."""
        if self.tell() - self.begun > MAX_PIECE:
            what, found = (
                "is not an LIDC XML: too much text without an element",
                f"{self.tell() - self.begun} bytes without an element",
            )
            raise DataError(what, found=found, expected=f"at most {MAX_PIECE}")
        return super().read(size)


def _root(events: Iterable[tuple[str, Element]], pieces: _Pieces) -> Element:
    """The whole message, once it is known to be one within the bounds; tags lose their namespace."""
    count = 0
    path: list[Element] = []
    for event, element in events:
        pieces.begun = pieces.tell()
        if event == "end":
            root = path.pop()
            continue
        space, _, element.tag = element.tag.rpartition("}")
        count += 1
        path.append(element)
        if space.removeprefix("{") not in NAMESPACES:
            raise DataError("is not an LIDC XML", field="namespace", expected=" or ".join(NAMESPACES[:2]))
        if path[0].tag not in _ROOTS:
            raise DataError("is not an LIDC XML", field="root", found=element.tag[:40], expected=" or ".join(_ROOTS))
        if count > MAX_ELEMENTS or len(path) > MAX_DEPTH:
            expected = f"at most {MAX_ELEMENTS} elements, {MAX_DEPTH} deep"
            raise DataError("too many elements for an LIDC XML", expected=expected)
    return root


def _session(session: Element) -> Session:
    nodules = [tuple(map(_region, nodule.findall("roi"))) for nodule in session.iter("unblindedReadNodule")]
    return tuple(regions for regions in nodules if any(len(region.points) >= _LEAST_POINTS for region in regions))


def _region(roi: Element) -> Region:
    uid, inclusion = roi.findtext("imageSOP_UID", "").strip(), roi.findtext("inclusion", "").strip().upper()
    if not _UID.fullmatch(uid):
        raise DataError("an outline without a slice", field="imageSOP_UID", expected="a UID")
    if inclusion not in ("TRUE", "FALSE"):
        raise DataError("is neither an inclusion nor an exclusion", field="inclusion", expected="TRUE or FALSE")
    points: list[tuple[int, int]] = []
    for edge in roi.findall("edgeMap"):
        x, y = edge.findtext("xCoord", "").strip(), edge.findtext("yCoord", "").strip()
        if not (_COORDINATE.fullmatch(x) and _COORDINATE.fullmatch(y) and max(int(x), int(y)) <= MAX_COORDINATE):
            expected = f"whole numbers, at most {MAX_COORDINATE}"
            raise DataError("not the place of a pixel", field="edgeMap", expected=expected)
        points.append((int(x), int(y)))
    return Region(uid, np.array(points, np.int32).reshape(-1, 2), inclusion == "TRUE")


def interior(points: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Pixels strictly inside a closed curve of straight lines between points (n,2) int (column, row).

    Returns the mask (h,w) bool of the curve's bounding box and the box's top row and left column. Inside is what an odd
    number of crossings separates from the outside; pixels whose centre lies on a line are outside. Exact, in whole
    numbers only (scikit-image's grid_points_in_poly is not). Empty for fewer than three points.
    """
    left, top = points.min(0).tolist()
    width, height = (points.max(0) - (left, top) + 1).tolist()
    toggles = np.zeros((height, width + 1), np.int32)
    on_line = np.zeros((height, width), bool)
    ends = np.roll(points, -1, axis=0)
    for (x0, y0), (x1, y1) in zip((points - (left, top)).tolist(), (ends - (left, top)).tolist(), strict=True):
        # The pixels whose centre lies on the line: its ends and the whole-number points between.
        steps = max(math.gcd(x1 - x0, y1 - y0), 1)
        k = np.arange(steps + 1)
        on_line[y0 + k * ((y1 - y0) // steps), x0 + k * ((x1 - x0) // steps)] = True
        if y0 != y1:  # in each row of the line but its last, pixels right of the crossing change sides
            (first, start), (last, end) = sorted([(y0, x0), (y1, x1)])
            rows = np.arange(first, last)
            crossing = start + ((rows - first) * (end - start)) // (last - first)  # rounded down: not right of it
            toggles[rows, crossing + 1] += 1
    inside = (np.cumsum(toggles, axis=1)[:, :width] & 1).astype(bool)
    return inside & ~on_line, top, left


def fill(regions: Iterable[Region], shape: tuple[int, int], where: str) -> np.ndarray:
    """One rater's outline of one nodule on one slice, (H,W) bool: what its inclusions enclose, less its holes.

    Raises DataError where a region leaves the slice.
    """
    mask = np.zeros(shape, bool)
    for region in sorted(regions, key=lambda region: not region.inclusion):
        if not len(region.points):
            continue
        if (region.points.max(0) >= (shape[1], shape[0])).any():
            found = f"column {region.points[:, 0].max()}, row {region.points[:, 1].max()}"
            raise DataError("an outline leaves the slice", path=where, found=found, expected=f"{shape[1]}×{shape[0]}")
        inside, top, left = interior(region.points)
        box = mask[top : top + inside.shape[0], left : left + inside.shape[1]]
        box[inside] = region.inclusion
    return mask


def slices_of(nodule: Nodule) -> list[int]:
    """Places of the slices on which anybody outlined it, ascending."""
    return np.unique(np.concatenate([*nodule.values()])[:, 0]).tolist()


def centre_of(nodule: Nodule) -> tuple[float, float]:
    """(row, column): the centre of mass of each rater's outline, averaged over the raters who outlined it."""
    row, column = np.mean([voxels[:, 1:].mean(0) for voxels in nodule.values()], axis=0).tolist()
    return row, column


def group(marked: Sequence[Marked], steps: tuple[float, float, float]) -> list[Nodule]:
    """Nodules in order of their lowest slice, then of their centre. steps: mm between (slices, rows, columns)."""
    pairs = []
    for a, b in combinations(range(len(marked)), 2):
        (rater, voxels), (other, others) = marked[a], marked[b]
        if rater != other and (rank := _closeness(voxels, others, steps)) is not None:
            pairs.append((rank, a, b))
    nodules = DisjointSet(range(len(marked)))
    for _, a, b in sorted(pairs):
        joined = nodules.subset(a) | nodules.subset(b)
        if len({marked[place][0] for place in joined}) == len(joined):
            nodules.merge(a, b)
    made = [dict(sorted(marked[place] for place in places)) for places in nodules.subsets()]
    return sorted(made, key=lambda nodule: (slices_of(nodule)[0], *centre_of(nodule)))


def _closeness(a: np.ndarray, b: np.ndarray, steps: tuple[float, float, float]) -> tuple[int, float] | None:
    """Smaller is closer: (0, −Dice) where voxels overlap, (1, mm) within a slice step, None beyond."""
    place_a, place_b = a * np.array(steps), b * np.array(steps)
    gap = np.maximum(place_a.min(0) - place_b.max(0), place_b.min(0) - place_a.max(0))
    if np.linalg.norm(np.maximum(gap, 0)) > steps[0]:
        return None
    distance = cKDTree(place_a).query(place_b, distance_upper_bound=steps[0] * (1 + 1e-9))[0]
    if shared := np.count_nonzero(distance == 0):
        return 0, -2 * shared / (len(a) + len(b))
    return (1, float(distance.min())) if np.isfinite(distance.min()) else None
