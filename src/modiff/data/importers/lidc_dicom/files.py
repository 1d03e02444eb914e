"""A patient's files: who has which, in the folders that TCIA's downloads make, and the CT series among them.

Which slice is where, and who it is, is told from the headers alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from pydicom.dataset import Dataset

from modiff.config.data import CropRule
from modiff.data.importers.lidc_dicom.xml import MAX_BYTES, series_uid_of
from modiff.data.importers.sources import Source, read_bytes
from modiff.data.store_format import check_case
from modiff.errors import DataError
from modiff.io.dicom.header import check_image, is_dicom, read_header, read_meta, text
from modiff.io.dicom.series import MAX_FILES, Plane, in_order
from modiff.io.files import LIMITS, Limits, located

_CT = "1.2.840.10008.5.1.4.1.1.2"
_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")


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
        return read_bytes(self.path, Limits(max_bytes=MAX_BYTES))


@dataclass(frozen=True)
class Job:
    """A patient's files: slices and whatever else lies beside them, and the XML that may be about them."""

    patient: str
    folder: Path
    files: tuple[Path, ...]
    xml: tuple[XmlFile, ...]
    rule: CropRule


def find_jobs(folders: Sequence[Path], xml: Sequence[str | Path], rule: CropRule) -> tuple[list[Job], int]:
    """One job per patient, in order of their names, and how many XML files of `xml` are about no series that is here.

    An XML in a patient's folder goes to that patient. One of `xml` (folders or zip archives) goes to the patient who
    has the series that it names; for that, each folder's first slice is asked which series it is of. Raises DataError.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    own: dict[str, list[XmlFile]] = defaultdict(list)
    roots: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError("no such folder", path=folder, expected="a folder with patients' folders")
        for name, patient in patients_of(folder, Source(folder).names).items():
            path = folder / name
            roots.setdefault(patient, folder)
            if path.suffix.lower() == ".xml":
                own[patient].append(XmlFile(path))
            else:
                files[patient].append(path)
    if not files:
        expected = "folders such as LIDC-IDRI-0001 with slices below"
        raise DataError("no patient's folder", path=", ".join(map(str, folders)), expected=expected)
    elsewhere = _by_series(xml)
    jobs = []
    for patient in sorted(files):
        check_case(patient)
        found = list(own[patient])
        if elsewhere:
            uids: dict[Path, str] = {}  # of the first DICOM file in each folder
            for path in files[patient]:
                if path.parent not in uids and is_dicom(path):
                    uids[path.parent] = text(read_header(path), "SeriesInstanceUID")
            for uid in filter(None, uids.values()):
                found += elsewhere.pop(uid, [])
        jobs.append(Job(patient, roots[patient], tuple(files[patient]), tuple(found), rule))
    return jobs, sum(map(len, elsewhere.values()))


def patients_of(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """File (relative, forward slashes) -> patient: the part of its path like LIDC-IDRI-0001; the rest is left out.

    Where no path has such a part, the first folders below `folder` are the patients.
    """
    above = next((part for part in reversed(folder.resolve().parts) if _PATIENT.fullmatch(part)), None)
    named = {}
    for name in names:
        parts = PurePosixPath(name).parts[:-1]
        if patient := next((part for part in parts if _PATIENT.fullmatch(part)), above):
            named[name] = patient
    return named or {name: PurePosixPath(name).parts[0] for name in names if "/" in name}


def _by_series(places: Sequence[str | Path]) -> dict[str, list[XmlFile]]:
    """Series UID -> the XML files that name it."""
    found: dict[str, list[XmlFile]] = defaultdict(list)
    for place in places:
        with Source(place) as source:
            for name in source.names:
                if name.lower().endswith(".xml"):
                    file = XmlFile(source.path / name) if source.path.is_dir() else XmlFile(source.path, name)
                    found[series_uid_of(source.read(name))].append(file)
    return found


@dataclass(frozen=True)
class CtSlice:
    """One slice: its file, SOP instance UID, place and size (rows, columns)."""

    path: Path
    sop_uid: str
    plane: Plane
    shape: tuple[int, int]


@dataclass(frozen=True)
class CtSeries:
    """One CT series, slices from the lowest to the highest along their normal; gaps are allowed.

    A crop is of one slice, so LIDC's few series with gaps or with two slices in one place are of use here, unlike for
    a volume.
    """

    uid: str
    slices: tuple[CtSlice, ...]

    @property
    def step(self) -> float:
        """mm between neighbouring slices: the median, or the stated thickness where there is one slice."""
        heights = np.diff([one.plane.height for one in self.slices])
        heights = heights[heights > 1e-3]
        return float(np.median(heights)) if heights.size else self.slices[0].plane.thickness

    @property
    def steps(self) -> tuple[float, float, float]:
        """mm between (slices, rows, columns)."""
        return self.step, *self.slices[0].plane.spacing


def read_series(files: Iterable[Path], where: Path) -> list[CtSeries]:
    """The CT series among files, ordered by their UIDs; other objects and radiographs are left out.

    Raises DataError for damaged files, slices of one series that differ in size, direction or pixel spacing, two files
    that claim to be one slice, and more than 4,096 files in a series.
    """
    found: dict[str, dict[Path, Dataset]] = defaultdict(dict)
    for path in files:
        if not is_dicom(path) or text(read_meta(path), "MediaStorageSOPClassUID") not in (_CT, ""):
            continue
        header = read_header(path)
        if text(header, "SOPClassUID") != _CT:
            continue
        check_image(path, header, LIMITS)
        series = found[text(header, "SeriesInstanceUID")]
        series[path] = header
        if len(series) > MAX_FILES:
            raise DataError("too many files for one series", path=where, expected=f"at most {MAX_FILES}")
    made = []
    for uid, series in sorted(found.items()):
        with located(where):
            places = in_order(series)
        shapes = {path: (int(header.Rows), int(header.Columns)) for path, header in series.items()}
        sizes = sorted(set(shapes.values()))
        if len(sizes) > 1:
            raise DataError("slices differ in size", path=where, found=sizes[:5], expected="one size in a series")
        uids = {path: text(header, "SOPInstanceUID") for path, header in series.items()}
        made.append(
            CtSeries(uid, tuple(CtSlice(path, uids[path], plane, shapes[path]) for path, plane in places.items()))
        )
    return made
