"""LIDC's XML: who read a series and what each rater outlined, parsed within bounds and without entities.

Layout (LIDC-IDRI's XML documentation): one `readingSession` a radiologist; in it an `unblindedReadNodule` for each
nodule, with a `roi` for each region on each slice: `imageSOP_UID`, `inclusion` (FALSE for a hole) and the points
`edgeMap/xCoord, yCoord`, column and row from 0 in the upper left corner. A nodule below 3 mm has one point in place of
an outline, and a `nonNodule` is no nodule: both are left out here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modiff.data.importers.sources import Source, read_bytes
from modiff.errors import DataError
from modiff.io.files import located

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_ROOTS = ("LidcReadMessage", "IdriReadMessage")
NAMESPACES = ("http://www.nih.gov", "http://www.nih.gov/idri", "")
# The largest of TCIA's 1,018 files for CT is below 8 MiB; an element takes about 100 bytes of memory.
MAX_BYTES = 32 << 20
MAX_ELEMENTS = 2_000_000
MAX_DEPTH = 16
MAX_SESSIONS = 16
MAX_OUTLINES = 256  # a session; LIDC's raters outlined a few dozen at most
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
            with closing(Source(self.path)) as source:
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


def series_uid_of(data: bytes) -> str:
    """The series UID in the first 16 KiB of an XML file, or nothing: cheap, for sorting thousands of files."""
    found = _SERIES.search(data[:_HEAD_BYTES])
    return found[1].decode() if found else ""


def parse(data: bytes, where: str) -> list[Session]:
    """The sessions of an LIDC XML file; a radiograph's has none. `where` names it in errors.

    Raises DataError for what is not well-formed, has a DTD or entities, is no LIDC message, or is beyond the bounds.
    """
    from defusedxml import ElementTree

    if len(data) > MAX_BYTES:
        raise DataError("too large for an LIDC XML", path=where, found=f"{len(data)} bytes", expected=f"≤ {MAX_BYTES}")
    try:
        with located(where):
            root = _root(ElementTree.iterparse(io.BytesIO(data), ("start", "end"), forbid_dtd=True))
            sessions = [_session(session) for session in root.iter("readingSession")]
            most = max(map(len, sessions), default=0)
            if most > MAX_OUTLINES or len(sessions) > MAX_SESSIONS:
                what = "nodules" if most > MAX_OUTLINES else "sessions"
                expected = f"at most {MAX_SESSIONS}, and {MAX_OUTLINES} nodules in each"
                raise DataError(f"too many {what}", expected=expected)
            return sessions
    except DataError:
        raise
    except Exception as error:  # the parser, or what it was told to forbid
        kind = type(error).__name__
        raise DataError("is no well-formed XML, or has a DTD", path=where, found=kind) from None


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


def _root(events: Iterable[tuple[str, Element]]) -> Element:
    """The whole message, once it is known to be one within the bounds; tags lose their namespace."""
    count = 0
    path: list[Element] = []
    for event, element in events:
        if event == "end":
            root = path.pop()
            continue
        space, _, element.tag = element.tag.rpartition("}")
        count += 1
        path.append(element)
        if space.removeprefix("{") not in NAMESPACES:
            raise DataError("is no LIDC XML", field="namespace", expected=" or ".join(NAMESPACES[:2]))
        if path[0].tag not in _ROOTS:
            raise DataError("is no LIDC XML", field="root", found=element.tag[:40], expected=" or ".join(_ROOTS))
        if count > MAX_ELEMENTS or len(path) > MAX_DEPTH:
            expected = f"at most {MAX_ELEMENTS} elements, {MAX_DEPTH} deep"
            raise DataError("too much for an LIDC XML", expected=expected)
    return root


def _session(session: Element) -> Session:
    nodules = [tuple(map(_region, nodule.findall("roi"))) for nodule in session.iter("unblindedReadNodule")]
    return tuple(regions for regions in nodules if any(len(region.points) >= _LEAST_POINTS for region in regions))


def _region(roi: Element) -> Region:
    uid, inclusion = roi.findtext("imageSOP_UID", "").strip(), roi.findtext("inclusion", "").strip().upper()
    if not _UID.fullmatch(uid):
        raise DataError("a region on no slice", field="imageSOP_UID", expected="a UID")
    if inclusion not in ("TRUE", "FALSE"):
        raise DataError("neither in nor out", field="inclusion", expected="TRUE or FALSE")
    points: list[tuple[int, int]] = []
    for edge in roi.findall("edgeMap"):
        x, y = edge.findtext("xCoord", "").strip(), edge.findtext("yCoord", "").strip()
        if not (_COORDINATE.fullmatch(x) and _COORDINATE.fullmatch(y) and max(int(x), int(y)) <= MAX_COORDINATE):
            found, expected = f"{x[:12]}, {y[:12]}", f"whole numbers, at most {MAX_COORDINATE}"
            raise DataError("no place of a pixel", field="edgeMap", found=found, expected=expected)
        points.append((int(x), int(y)))
    return Region(uid, np.array(points, np.int32).reshape(-1, 2), inclusion == "TRUE")


def slices_named(sessions: Sequence[Session]) -> set[str]:
    """SOP instance UIDs of all slices on which somebody outlined something."""
    return {region.sop_uid for session in sessions for outline in session for region in outline}
