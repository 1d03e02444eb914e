"""One patient's files -> that patient's crops and masks: the work that runs in parallel.

A crop is a window of a slice around a nodule: image by linear, masks by nearest sampling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from modiff.data.importers.lidc_dicom.files import CtSeries, Job, read_series
from modiff.data.importers.lidc_dicom.outlines import Marked, Nodule, fill, group
from modiff.data.importers.lidc_dicom.xml import Reading, Session, merge, parse, slices_named
from modiff.errors import DataError
from modiff.io.dicom.series import Plane, affine_of, read_slice
from modiff.io.files import sha256_of

_COLUMNS = ("case", "image", "masks", "sessions", "affine", "slice_index", "valid", "spacing")
_NOTHING = {name: np.empty(0) for name in _COLUMNS} | {"masks": np.empty((0, 0), bool)}  # packed as bits
MAX_VOXELS = 20_000_000  # of all outlines in a series; LIDC's largest nodules have 100,000


def import_patient(job: Job) -> dict[str, np.ndarray]:
    """All crops of a patient: n slices of nodules. R: the most reading sessions of one of the patient's series.

    case: (n,) names. image: (n,H,W) uint8. masks: (n,R,H,W) bool, one per session. sessions: (n,), of each crop's
    series, whose masks come first. affine: (n,4,4). slice_index: (n,). valid: (n,4). spacing: (n,2). notes: what a
    person who reads the log should know. sha256: of the files that were used. Raises DataError for anything in the
    patient's files that cannot be trusted.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    all_series = read_series(job.files, job.folder)
    readings, digests = _readings(job, all_series, notes)
    number = 0
    for series in all_series:
        sessions = merge(readings.get(series.uid, []))
        notes += _notes(series, sessions, series.uid in readings)
        for nodule in nodules_of(series, sessions, job.folder):
            rows += _crops(job, series, len(sessions), nodule, number)
            digests += [sha256_of(series.slices[place].path) for place in nodule.slices]
            number += 1
    if not all_series:
        notes.append("no CT series")
    raters = max((row["sessions"] for row in rows), default=0)
    for row in rows:
        row["masks"] = np.pad(row["masks"], ((0, raters - row["sessions"]), (0, 0), (0, 0)))
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else _NOTHING
    used = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return columns | {"notes": np.array(notes, dtype=np.str_), "sha256": np.array(used)}


def _readings(job: Job, all_series: Sequence[CtSeries], notes: list[str]) -> tuple[dict[str, list[Reading]], list[str]]:
    """Series UID -> what the XML files say of it, and the SHA-256 of those files.

    A file that names no series that is here is about the series whose slices it names. A radiograph's has no sessions.
    """
    named = {series.uid: {one.sop_uid for one in series.slices} for series in all_series}
    found: dict[str, list[Reading]] = {}
    digests = []
    for file in job.xml:
        data = file.read()
        reading = parse(data, file.name)
        uid = reading.series_uid
        if uid not in named:
            slices = slices_named(reading.sessions)
            uid = next((name for name, uids in named.items() if uids & slices), "")
        if uid:
            found.setdefault(uid, []).append(reading)
            digests.append(hashlib.sha256(data).hexdigest())
        elif reading.sessions:
            notes.append("an XML is about no series that is here")
    return found, digests


def nodules_of(series: CtSeries, sessions: Sequence[Session], where: Path) -> list[Nodule]:
    """Physical nodules of a series from what its raters outlined on the slices that are there."""
    place_of = {one.sop_uid: place for place, one in enumerate(series.slices)}
    marked: list[Marked] = []
    for reader, session in enumerate(sessions):
        for outline in session.outlines:
            masks: dict[int, np.ndarray] = {}
            for uid in {region.sop_uid for region in outline} & place_of.keys():
                place = place_of[uid]
                regions = [region for region in outline if region.sop_uid == uid]
                masks[place] = fill(regions, series.slices[place].shape, str(where))
            if one := Marked.of(reader, masks):
                marked.append(one)
            if sum(len(one.voxels) for one in marked) > MAX_VOXELS:
                raise DataError("outlines fill more than a chest", path=where, expected=f"at most {MAX_VOXELS} voxels")
    return group(marked, series.steps)


def _crops(job: Job, series: CtSeries, readers: int, nodule: Nodule, number: int) -> list[dict[str, Any]]:
    """A nodule's slices, each with what `import_patient` says of it."""
    rule = job.rule
    spacing = series.slices[0].plane.spacing
    window = Window.around(nodule.centre, rule.size, spacing, rule.spacing)
    crops = []
    for index, place in enumerate(nodule.slices):
        one = series.slices[place]
        values = read_slice(one.path)
        if values.shape != one.shape:
            raise DataError("changed while it was read", path=one.path)
        masks = np.zeros((readers, rule.size, rule.size), bool)
        for reader, marked in nodule.outlines.items():
            masks[reader] = window.mask(marked.mask(place, one.shape))
        crops.append(
            {
                "case": f"{job.patient}/nodule-{number}/slice-{index}",
                "image": windowed(window.image(values, rule.window[0]), *rule.window),
                "masks": masks,
                "sessions": readers,
                "affine": window.affine(one.plane),
                "slice_index": place,
                "valid": window.valid(one.shape),
                "spacing": (spacing[0] * window.scale[0], spacing[1] * window.scale[1]),
            }
        )
    return crops


def _notes(series: CtSeries, sessions: Sequence[Session], has_xml: bool) -> list[str]:
    """What is unusual about a series, in words without identifiers."""
    if not sessions:
        return ["a CT series whose XML has no reading session" if has_xml else "a CT series without an XML"]
    notes = []
    there = {one.sop_uid for one in series.slices}
    regions = [region for session in sessions for outline in session.outlines for region in outline]
    if absent := sum(region.sop_uid not in there for region in regions):
        notes.append(f"{absent} of {len(regions)} outlined regions lie on slices that are not in the folder")
    if len(sessions) != 4:
        notes.append(f"{len(sessions)} reading sessions in place of four")
    if not regions:
        notes.append("no nodule of 3 mm or more")
    heights = [one.plane.height for one in series.slices]
    steps = np.diff(heights)
    if steps.size and (steps < 1e-3).any():
        notes.append("several slices in one place")
    if steps.size and (steps > 1.5 * series.step).any():
        notes.append("slices are missing between others")
    return notes


@dataclass(frozen=True)
class Window:
    """A square of size×size pixels. top, left: where its first pixel's centre lies in the slice, in the slice's pixels.

    scale: (rows, columns) of the slice a pixel of the window; 1 is native.
    """

    top: float
    left: float
    size: int
    scale: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def around(
        cls, centre: tuple[float, float], size: int, spacing: tuple[float, float], wanted: float | None
    ) -> Window:
        """Centred on a place (row, column) of a slice with `spacing`; wanted: mm per pixel, None for native.

        At native spacing the window lies on the slice's pixels, at most half a pixel off the centre.
        """
        if wanted is None:
            first = [float(round(place - (size - 1) / 2)) for place in centre]
            return cls(first[0], first[1], size)
        scale = wanted / spacing[0], wanted / spacing[1]
        first = [place - (size - 1) / 2 * step for place, step in zip(centre, scale, strict=True)]
        return cls(first[0], first[1], size, scale)

    @property
    def native(self) -> bool:
        """Whether the window's pixels are the slice's."""
        return self.scale == (1.0, 1.0)

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        steps = np.arange(self.size)
        return self.top + steps * self.scale[0], self.left + steps * self.scale[1]

    def image(self, values: np.ndarray, outside: float) -> np.ndarray:
        """(size,size) float32 of a slice (H,W); `outside` where the slice ends.

        Where the window is coarser than the slice, the slice is smoothed first, so that no detail aliases.
        """
        rows, columns = self._places()
        if self.native:
            return _take(values, rows, columns, outside).astype(np.float32)
        sigma = [max(step * step - 1, 0) ** 0.5 / 2 for step in self.scale]
        smooth = ndimage.gaussian_filter(values.astype(np.float32), sigma, mode="nearest")
        at = np.meshgrid(rows, columns, indexing="ij")
        made = ndimage.map_coordinates(smooth, at, order=1, mode="nearest")
        return np.where(_inside(rows, values.shape[0])[:, None] & _inside(columns, values.shape[1]), made, outside)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """(size,size) bool of a mask (H,W): the pixel nearest to each place."""
        return _take(mask, *self._places(), False)

    def valid(self, shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, left, bottom, right), half-open: the part of the window that is slice and not padding."""
        spans = []
        for places, length in zip(self._places(), shape, strict=True):
            inside = np.flatnonzero(_inside(places, length))
            spans.append((int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0))
        return spans[0][0], spans[1][0], spans[0][1], spans[1][1]

    def affine(self, plane: Plane) -> np.ndarray:
        """(4,4) pixel (column, row, slice) of the window to RAS+ mm."""
        affine = affine_of([plane])
        affine[:3, 3] += self.left * affine[:3, 0] + self.top * affine[:3, 1]
        affine[:3, 0] *= self.scale[1]
        affine[:3, 1] *= self.scale[0]
        return affine


def _inside(places: np.ndarray, length: int) -> np.ndarray:
    return (places > -0.5) & (places < length - 0.5)


def _take(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, outside: float) -> np.ndarray:
    made = np.full((len(rows), len(columns)), outside, dtype=values.dtype)
    in_rows, in_columns = _inside(rows, values.shape[0]), _inside(columns, values.shape[1])
    picked = values[np.ix_(np.rint(rows[in_rows]).astype(int), np.rint(columns[in_columns]).astype(int))]
    made[np.ix_(in_rows, in_columns)] = picked
    return made


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """HU -> uint8: `low` and below 0, `high` and above 255, rounded between."""
    return np.rint((np.clip(values.astype(np.float64), low, high) - low) * (255 / (high - low))).astype(np.uint8)
