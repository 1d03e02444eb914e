"""One patient's files -> that patient's crops and masks: the work that runs in parallel.

Which slice is where, and who it is, is told from the headers alone. A crop is a window of a slice around a nodule:
image by linear, masks by nearest sampling.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage

from modiff.config.data import CropRule
from modiff.data.importers.grids import moved
from modiff.data.importers.lidc_dicom.outlines import Marked, Nodule, fill, group
from modiff.data.importers.lidc_dicom.xml import Session, XmlFile, merge, parse, series_uid_of, slices_named
from modiff.errors import DataError
from modiff.io.dicom.header import kind_of, text
from modiff.io.dicom.series import MAX_FILES, Plane, affine_of, in_order, read_headers, read_slice, slices_among
from modiff.io.files import LIMITS, Limits, located, sha256_of

_CT = "1.2.840.10008.5.1.4.1.1.2"
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


def read_series(
    files: Iterable[Path], where: Path, limits: Limits = LIMITS, notes: list[str] | None = None
) -> list[CtSeries]:
    """The CT series among files, ordered by their UIDs; other objects and radiographs are left out.

    notes: takes up the files that `limits.skip_broken` leaves out. Raises DataError for damaged files, slices of one
    series that differ in size, direction or pixel spacing, two files that claim to be one slice, and more than 4,096
    files in a series.
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
            planes = in_order(series)
        shapes = sorted({(int(header.Rows), int(header.Columns)) for header in series.values()})
        if len(shapes) > 1:
            raise DataError("slices differ in size", path=where, found=shapes[:5], expected="one size in a series")
        sop_uids = [text(series[path], "SOPInstanceUID") for path in planes]
        made.append(CtSeries(uid, shapes[0], list(planes), sop_uids, list(planes.values())))
    return made


def import_patient(job: Job) -> dict[str, np.ndarray]:
    """All crops of a patient: n slices of nodules. R: the most reading sessions of one of the patient's series.

    case: (n,) names. image: (n,H,W) uint8. masks: (n,R,H,W) bool, one per session. sessions: (n,), of each crop's
    series, whose masks come first. affine: (n,4,4). slice_index: (n,). valid: (n,4). spacing: (n,2). notes: what a
    person who reads the log should know. sha256: of the files that were used. Raises DataError for anything in the
    patient's files that cannot be trusted.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    all_series = read_series(job.files, job.folder, Limits(option=None, skip_broken=job.skip_broken), notes)
    readings, digests = _readings(job, all_series, notes)
    number = 0
    for series in all_series:
        sessions = merge(readings.get(series.uid, []))
        notes += _notes(series, sessions, series.uid in readings)
        for nodule in nodules_of(series, sessions, job.folder):
            rows += _crops(job, series, len(sessions), nodule, number)
            digests += [sha256_of(series.paths[place]) for place in nodule.slices]
            number += 1
    if not all_series:
        notes.append("no CT series")
    raters = max((row["sessions"] for row in rows), default=0)
    for row in rows:
        row["masks"] = np.pad(row["masks"], ((0, raters - row["sessions"]), (0, 0), (0, 0)))
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {"case": np.empty(0)}
    used = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return columns | {"notes": np.array(notes, dtype=np.str_), "sha256": np.array(used)}


def _readings(
    job: Job, all_series: Sequence[CtSeries], notes: list[str]
) -> tuple[dict[str, list[list[Session]]], list[str]]:
    """Series UID -> the sessions of each XML file about it, and the SHA-256 of those files.

    A file that names no series that is here is about the series whose slices it names. A radiograph's has no sessions.
    """
    named = {series.uid: set(series.sop_uids) for series in all_series}
    found: dict[str, list[list[Session]]] = {}
    digests = []
    for file in job.xml:
        data = file.read()
        sessions, uid = parse(data, file.name), series_uid_of(data)
        if uid not in named:
            slices = slices_named(sessions)
            uid = next((name for name, uids in named.items() if uids & slices), "")
        if uid:
            found.setdefault(uid, []).append(sessions)
            digests.append(hashlib.sha256(data).hexdigest())
        elif sessions:
            notes.append("an XML is about no series that is here")
    return found, digests


def nodules_of(series: CtSeries, sessions: Sequence[Session], where: Path) -> list[Nodule]:
    """Physical nodules of a series from what its raters outlined on the slices that are there."""
    place_of = {uid: place for place, uid in enumerate(series.sop_uids)}
    marked: list[Marked] = []
    for reader, session in enumerate(sessions):
        for outline in session:
            masks = {}
            for uid in {region.sop_uid for region in outline} & place_of.keys():
                regions = [region for region in outline if region.sop_uid == uid]
                masks[place_of[uid]] = fill(regions, series.shape, str(where))
            if one := Marked.of(reader, masks):
                marked.append(one)
            if sum(len(one.voxels) for one in marked) > MAX_VOXELS:
                raise DataError("outlines fill more than a chest", path=where, expected=f"at most {MAX_VOXELS} voxels")
    return group(marked, series.steps)


def _crops(job: Job, series: CtSeries, readers: int, nodule: Nodule, number: int) -> list[dict[str, Any]]:
    """A nodule's slices, each with what `import_patient` says of it."""
    rule = job.rule
    spacing = series.planes[0].spacing
    window = Window.around(nodule.centre, rule.size, spacing, rule.spacing)
    crops = []
    for index, place in enumerate(nodule.slices):
        values = read_slice(series.paths[place])
        if values.shape != series.shape:
            raise DataError("changed while it was read", path=series.paths[place])
        masks = np.zeros((readers, rule.size, rule.size), bool)
        for reader, marked in nodule.outlines.items():
            masks[reader] = window.mask(marked.mask(place, series.shape))
        crops.append(
            {
                "case": f"{job.patient}/nodule-{number}/slice-{index}",
                "image": windowed(window.image(values, rule.window[0]), *rule.window),
                "masks": masks,
                "sessions": readers,
                "affine": moved(affine_of([series.planes[place]]), window.top, window.left, window.scale),
                "slice_index": place,
                "valid": window.valid(series.shape),
                "spacing": (spacing[0] * window.scale[0], spacing[1] * window.scale[1]),
            }
        )
    return crops


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
        "slices are missing between others": (steps > 1.5 * series.steps[0]).any(),
    }
    return [note for note, found in unusual.items() if found]


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
        scale = (1.0, 1.0) if wanted is None else (wanted / spacing[0], wanted / spacing[1])
        top, left = (place - (size - 1) / 2 * step for place, step in zip(centre, scale, strict=True))
        return cls(float(round(top)), float(round(left)), size) if wanted is None else cls(top, left, size, scale)

    def _places(self, shape: tuple[int, ...]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Where the window's rows and columns lie in a slice (H,W), and which of them are inside."""
        steps = np.arange(self.size)
        places = [self.top + steps * self.scale[0], self.left + steps * self.scale[1]]
        return places, [(at > -0.5) & (at < length - 0.5) for at, length in zip(places, shape, strict=True)]

    def image(self, values: np.ndarray, outside: float) -> np.ndarray:
        """(size,size) float32 of a slice (H,W); `outside` where the slice ends.

        Where the window is coarser than the slice, the slice is smoothed first, so that no detail aliases.
        """
        places, inside = self._places(values.shape)
        sigma = [max(step * step - 1, 0) ** 0.5 / 2 for step in self.scale]
        smooth = ndimage.gaussian_filter(values.astype(np.float32), sigma, mode="nearest")
        made = ndimage.map_coordinates(smooth, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
        return np.where(np.logical_and.outer(*inside), made, outside)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """(size,size) bool of a mask (H,W): the pixel nearest to each place."""
        places, inside = self._places(mask.shape)
        nearest = [np.rint(at).astype(int).clip(0, length - 1) for at, length in zip(places, mask.shape, strict=True)]
        return mask[np.ix_(*nearest)] & np.logical_and.outer(*inside)

    def valid(self, shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, left, bottom, right), half-open: the part of the window that is slice and not padding."""
        rows, columns = (np.flatnonzero(inside).tolist() or [0, -1] for inside in self._places(shape)[1])
        return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """HU -> uint8: `low` and below 0, `high` and above 255, rounded between."""
    return np.rint((np.clip(values.astype(np.float64), low, high) - low) * (255 / (high - low))).astype(np.uint8)
