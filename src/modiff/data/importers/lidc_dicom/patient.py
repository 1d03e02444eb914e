"""One patient's files -> that patient's crops and masks: the work that runs in parallel.

Which slice is where, and who it is, is told from the headers alone. A crop is a window of a slice around a nodule:
image by linear, masks by nearest sampling.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage

from modiff.config.data import CropRule
from modiff.data.importers.lidc_dicom import outlines
from modiff.data.importers.lidc_dicom.outlines import Nodule, Session, XmlFile, slices_of
from modiff.data.intensity import stretch
from modiff.errors import DataError
from modiff.io.dicom.header import kind_of, text
from modiff.io.dicom.pick import slices_among
from modiff.io.dicom.series import MAX_FILES, Plane, affine_of, check_alike, in_order, read_headers, read_slice
from modiff.io.files import LIMITS, Limits, located, sha256_of
from modiff.io.volume import Note, moved, nearest

_CT = "1.2.840.10008.5.1.4.1.1.2"
_GAP = 1.5  # slice steps from which slices are missing between two
MAX_VOXELS = 20_000_000  # of all outlines in a series; LIDC's largest nodules have 100,000


@dataclass(frozen=True)
class Job:
    """A patient's files: slices and whatever else lies beside them, and the XML that may be about them."""

    patient: str
    folder: Path
    files: tuple[Path, ...]
    xml: tuple[XmlFile, ...]
    rule: CropRule
    skip_broken: bool = False  # slices that cannot be read are left out


@dataclass(frozen=True)
class CtSeries:
    """One CT series of slices of a shape (H,W), from the lowest to the highest along their normal; gaps are allowed.

    A crop is of one slice, so LIDC's few series with gaps or with two slices in one place are of use here, unlike for
    a volume.
    """

    uid: str
    shape: tuple[int, int]
    paths: list[Path]
    sop_uids: list[str]
    planes: list[Plane]

    @property
    def steps(self) -> tuple[float, float, float]:
        """mm between (slices, rows, columns); of slices the median, or the stated thickness where there is one."""
        steps = np.diff([plane.height for plane in self.planes])
        steps = steps[steps > 1e-3]
        return float(np.median(steps)) if steps.size else self.planes[0].thickness, *self.planes[0].spacing

    def around(self, place: int, context: int) -> list[int]:
        """Places of a slice and its neighbours; where the series ends or slices are missing, the last one again."""
        gaps = np.diff([plane.height for plane in self.planes]) > _GAP * self.steps[0]  # after each slice but the last
        low = high = place
        found = [place]
        for _ in range(context):
            low -= bool(low > 0 and not gaps[low - 1])
            high += bool(high < len(gaps) and not gaps[high])
            found = [low, *found, high]
        return found


def read_series(
    files: Iterable[Path], where: Path, limits: Limits = LIMITS, notes: list[Note] | None = None
) -> list[CtSeries]:
    """The CT series among files, ordered by their UIDs; other objects and radiographs are left out.

    notes: takes up the files that `limits.skip_broken` leaves out. Raises DataError for damaged files, slices of one
    series that differ in size, direction, pixel spacing or patient, two files that claim to be one slice, and more than
    4,096 files in a series.
    """
    found: dict[str, dict[Path, Dataset]] = defaultdict(dict)
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        folders[path.parent].append(path)
    slices = [path for together in folders.values() for path in slices_among(together) if kind_of(path) in (_CT, "")]
    headers, skipped = read_headers(slices, limits)
    if notes is not None:
        notes += skipped
    for path, header in headers.items():
        if text(header, "SOPClassUID") != _CT:
            continue
        series = found[text(header, "SeriesInstanceUID")]
        series[path] = header
        if len(series) > MAX_FILES:
            raise DataError("too many files for one series", path=where, expected=f"at most {MAX_FILES}")
    made = []
    for uid, series in sorted(found.items()):
        with located(where):
            check_alike(series.values())
            planes = in_order(series)
        sop_uids = [text(series[path], "SOPInstanceUID") for path in planes]
        first = next(iter(series.values()))
        made.append(CtSeries(uid, (int(first.Rows), int(first.Columns)), list(planes), sop_uids, list(planes.values())))
    return made


def import_patient(job: Job) -> dict[str, np.ndarray]:
    """All crops of a patient: n slices of nodules. R: the most reading sessions of one of the patient's series.

    case: (n,) names. image: (n,2K+1,H,W) uint8, K being the rule's context. masks: (n,R,H,W) bool, one per session.
    outlined: (n,2,R) pixels of the slice that a session marked, and of these in the crop. sessions: (n,), of each
    crop's series, whose masks come first. affine: (n,4,4). slice_index: (n,). valid: (n,4). spacing: (n,2). notes:
    (m,2) `Note`s, what a person should know. sha256: of the files that were used. Raises DataError for anything in
    the patient's files that cannot be trusted.
    """
    rows: list[dict[str, Any]] = []
    notes: list[Note] = []
    all_series = read_series(job.files, job.folder, Limits(option=None, skip_broken=job.skip_broken), notes)
    readings, digests = _readings(job, all_series, notes)
    number = 0
    for series in all_series:
        sessions = outlines.merge(readings.get(series.uid, []))
        notes += map(Note, _notes(series, sessions, series.uid in readings))
        for nodule in nodules_of(series, sessions, job.folder):
            rows += _crops(job, series, len(sessions), nodule, number)
            seen = {place for one in slices_of(nodule) for place in series.around(one, job.rule.context)}
            digests += [sha256_of(series.paths[place]) for place in sorted(seen)]
            number += 1
    if not all_series:
        notes.append(Note("no CT series"))
    raters = max((row["sessions"] for row in rows), default=0)
    for row in rows:
        absent = (0, raters - row["sessions"])
        row["masks"] = np.pad(row["masks"], (absent, (0, 0), (0, 0)))
        row["outlined"] = np.pad(row["outlined"], ((0, 0), absent))
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {"case": np.empty(0)}
    used = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return columns | {"notes": np.array(notes, dtype=np.str_).reshape(-1, 2), "sha256": np.array(used)}


def _readings(
    job: Job, all_series: Sequence[CtSeries], notes: list[Note]
) -> tuple[dict[str, list[list[Session]]], list[str]]:
    """Series UID -> the sessions of each XML file about it, and the SHA-256 of those files.

    A file that names no series that is here is about the series whose slices it names. A radiograph's has no sessions.
    """
    named = {series.uid: set(series.sop_uids) for series in all_series}
    found: dict[str, list[list[Session]]] = {}
    digests = []
    for file in job.xml:
        data = file.read()
        sessions, uid = outlines.parse(data, file.name), outlines.series_uid_of(data)
        if uid not in named:
            slices = {region.sop_uid for session in sessions for outline in session for region in outline}
            uid = next((name for name, uids in named.items() if uids & slices), "")
        if uid:
            found.setdefault(uid, []).append(sessions)
            digests.append(hashlib.sha256(data).hexdigest())
        elif sessions:
            notes.append(Note("an XML is about no series that is here"))
    return found, digests


def nodules_of(series: CtSeries, sessions: Sequence[Session], where: Path) -> list[Nodule]:
    """Physical nodules of a series from what its raters outlined on the slices that are there."""
    marked: list[outlines.Marked] = []
    for rater, session in enumerate(sessions):
        for outline in session:
            parts = [np.empty((0, 3), np.int32)]
            for place, uid in enumerate(series.sop_uids):
                if regions := [region for region in outline if region.sop_uid == uid]:
                    filled = outlines.fill(regions, series.shape, str(where))
                    parts.append(np.insert(np.argwhere(filled), 0, place, axis=1).astype(np.int32))
            marked += [(rater, voxels)] if len(voxels := np.concatenate(parts)) else []
            if sum(len(voxels) for _, voxels in marked) > MAX_VOXELS:
                raise DataError("outlines enclose too many voxels", path=where, expected=f"at most {MAX_VOXELS} voxels")
    return outlines.group(marked, series.steps)


def _crops(job: Job, series: CtSeries, sessions: int, nodule: Nodule, number: int) -> Iterator[dict[str, Any]]:
    """A nodule's slices, each with what `import_patient` says of it."""
    rule = job.rule
    spacing = series.planes[0].spacing
    window = Window.around(outlines.centre_of(nodule), rule, spacing, series.shape)
    top, left = (float(places[0]) for places in window.places)
    cut: dict[int, np.ndarray] = {}  # place -> what the window shows of that slice
    for index, place in enumerate(slices_of(nodule)):
        plane, around = series.planes[place], series.around(place, rule.context)
        # A slice's own thickness is not how far its neighbours are.
        apart = series.steps[0] / plane.thickness if rule.context else 1.0
        cut = {here: cut[here] if here in cut else _seen(series, here, window, rule) for here in around}
        masks = np.zeros((sessions, rule.size, rule.size), bool)
        outlined = np.zeros((2, sessions), np.int64)
        for rater, voxels in nodule.items():
            drawn = np.zeros(series.shape, bool)
            drawn[tuple(voxels[voxels[:, 0] == place, 1:].T)] = True
            masks[rater] = window.mask(drawn)
            outlined[:, rater] = np.count_nonzero(drawn), np.count_nonzero(drawn & window.shown(series.shape))
        yield {
            "case": f"{job.patient}/nodule-{number}/slice-{index}",
            "image": np.stack([cut[here] for here in around]),
            "masks": masks,
            "outlined": outlined,
            "sessions": sessions,
            "affine": moved(affine_of([plane]) * [1.0, 1.0, apart, 1.0], top, left, window.scale),
            "slice_index": place,
            "valid": window.valid,
            "spacing": (spacing[0] * window.scale[0], spacing[1] * window.scale[1]),
        }


def _seen(series: CtSeries, place: int, window: Window, rule: CropRule) -> np.ndarray:
    """(size,size) uint8 of a slice in a window."""
    values = read_slice(series.paths[place])
    if values.shape != series.shape:
        raise DataError("changed while it was read", path=series.paths[place])
    return np.rint(255 * stretch(window.image(values, rule.window[0]), *rule.window)).astype(np.uint8)


def _notes(series: CtSeries, sessions: Sequence[Session], has_xml: bool) -> list[str]:
    """What is unusual about a series, in words without identifiers."""
    if not sessions:
        return ["a CT series whose XML has no reading session" if has_xml else "a CT series without an XML"]
    regions = [region for session in sessions for outline in session for region in outline]
    absent = sum(region.sop_uid not in series.sop_uids for region in regions)
    steps = np.diff([plane.height for plane in series.planes])
    unusual = {
        f"{absent} of {len(regions)} outlined regions lie on slices that are not in the folder": absent,
        f"{len(sessions)} reading sessions in place of four": len(sessions) != 4,
        "no nodule of 3 mm or more": not regions,
        "several slices in one place": (steps < 1e-3).any(),
        "slices are missing between others": (steps > _GAP * series.steps[0]).any(),
    }
    return [note for note, found in unusual.items() if found]


@dataclass(frozen=True)
class Window:
    """A square of pixels on a slice. places: where its rows and its columns lie, in the slice's pixels.

    inside: which of them the slice has. scale: (rows, columns) of the slice per pixel of the window; 1 is native.
    """

    places: Sequence[np.ndarray]
    inside: Sequence[np.ndarray]
    scale: tuple[float, float]

    @classmethod
    def around(
        cls, centre: tuple[float, float], rule: CropRule, spacing: tuple[float, float], shape: tuple[int, int]
    ) -> Window:
        """Centred on a place (row, column) of a slice with `spacing` and `shape`.

        At native spacing the window lies on the slice's pixels, at most half a pixel off the centre.
        """
        scale = (1.0, 1.0) if rule.spacing is None else (rule.spacing / spacing[0], rule.spacing / spacing[1])
        first = [place - (rule.size - 1) / 2 * step for place, step in zip(centre, scale, strict=True)]
        if rule.spacing is None:
            first = [float(round(place)) for place in first]
        places = [start + np.arange(rule.size) * step for start, step in zip(first, scale, strict=True)]
        inside = [(at > -0.5) & (at < length - 0.5) for at, length in zip(places, shape, strict=True)]
        return cls(places, inside, scale)

    def image(self, values: np.ndarray, outside: float) -> np.ndarray:
        """(size,size) float32 of a slice (H,W); `outside` where the slice ends.

        Where the window is coarser than the slice, the slice is smoothed first, so that no detail aliases.
        """
        sigma = [max(step * step - 1, 0) ** 0.5 / 2 for step in self.scale]
        smooth = ndimage.gaussian_filter(values.astype(np.float32), sigma, mode="nearest")
        made = ndimage.map_coordinates(smooth, np.meshgrid(*self.places, indexing="ij"), order=1, mode="nearest")
        return np.where(np.logical_and.outer(*self.inside), made, outside)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """(size,size) bool of a mask (H,W): the pixel nearest to each place."""
        pixels = [nearest(at).clip(0, side - 1) for at, side in zip(self.places, mask.shape, strict=True)]
        return mask[np.ix_(*pixels)] & np.logical_and.outer(*self.inside)

    def shown(self, shape: tuple[int, int]) -> np.ndarray:
        """(H,W) bool: pixels of a slice whose middle lies in the window."""
        rows, columns = (
            (np.arange(side) > at[0] - step / 2) & (np.arange(side) < at[-1] + step / 2)
            for side, at, step in zip(shape, self.places, self.scale, strict=True)
        )
        return np.logical_and.outer(rows, columns)

    @property
    def valid(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right), half-open: the part of the window that is slice and not padding."""
        rows, columns = (np.flatnonzero(inside).tolist() or [0, -1] for inside in self.inside)
        return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
