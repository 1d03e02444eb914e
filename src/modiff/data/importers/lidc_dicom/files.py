"""Which files belong to which patient: the folders that TCIA's downloads make, and XML from elsewhere."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modiff.config.data import CropRule
from modiff.data.importers.lidc_dicom.xml import MAX_BYTES, series_uid_of
from modiff.data.importers.sources import Source, read_bytes
from modiff.data.store_format import check_case
from modiff.errors import DataError
from modiff.io.dicom.header import is_dicom, read_header, text
from modiff.io.limits import Limits

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
            source = Source(self.path)
            try:
                return source.read(self.inside)
            finally:
                source.close()
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
            for uid in _series_of(files[patient]):
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
        source = Source(place)
        try:
            for name in source.names:
                if name.lower().endswith(".xml"):
                    folder = source.path.is_dir()
                    file = XmlFile(source.path / name) if folder else XmlFile(source.path, name)
                    found[series_uid_of(source.read(name))].append(file)
        finally:
            source.close()
    return found


def _series_of(files: Sequence[Path]) -> list[str]:
    """Series UIDs of the first DICOM file in each folder."""
    uids: dict[Path, str] = {}
    for path in files:
        if path.parent not in uids and is_dicom(path):
            uids[path.parent] = text(read_header(path), "SeriesInstanceUID")
    return [uid for uid in dict.fromkeys(uids.values()) if uid]
