"""Which scans a cohort has: the rows of a table, or what lies in a folder; and how their results are called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modiff.data.importers.sources import digest_of, walk
from modiff.errors import DataError, ModiffError
from modiff.io.dicom.header import is_dicom
from modiff.io.dicom.pick import Series, series_below
from modiff.io.dicom.series import read_dicom_series
from modiff.io.dicom.web import digest, url_of
from modiff.io.files import Limits, located, sha256_of
from modiff.io.image import SUFFIXES, named_file, without_suffix
from modiff.io.output import MANIFEST
from modiff.io.text import is_litter, read_table
from modiff.io.volume import Volume
from modiff.prediction.cohort.places import Place, check_columns, objects_of, place_in, points_of
from modiff.prediction.inputs import Named, read_scan

TABLES = (".csv", ".tsv")
_IMAGES = tuple(suffix for suffix in SUFFIXES if suffix != ".dcm")
_RESERVED = ("failures", "cohort.csv", "cohort.html", "cohort.json")
_MOST = 100_000  # scans


@dataclass(frozen=True)
class Lesion:
    """What one folder of results is about. row: where the table has it, or its number in a folder. name: of the folder.
    place: None for all of the scan. slices: neighbours on either side, None as the command says. error: why it cannot
    be drawn at all."""

    row: str
    name: str = ""
    label: str = ""
    place: Place | None = None
    slices: int | None = None
    error: ModiffError | None = None


@dataclass(frozen=True)
class Scan:
    """A scan of a cohort. shown: its path, as given. confidential: the path may name a patient. series: which of a
    folder's. members: the files of a series that was found in a folder."""

    shown: str
    files: tuple[Named, ...]
    lesions: tuple[Lesion, ...]
    confidential: bool = False
    series: str | None = None
    members: tuple[Path, ...] = ()

    def read(self, limits: Limits) -> Volume:
        """Raises DataError."""
        if self.members:
            return read_dicom_series(self.members, limits=limits)
        return read_scan(self.files, limits=limits, series=self.series)

    def digest(self) -> str:
        """Of all bytes that it may be read from, of a server's by the UIDs of its slices; raises DataError."""
        if url := url_of(self.files[0][1]):
            return digest(url, self.series)
        paths = [path for _, path in self.files] if not self.members else []
        files = [file for path in paths for file in (_all(path) if path.is_dir() else [path])] or [*self.members]
        return digest_of((str(place), sha256_of(file)) for place, file in enumerate(files))


def _all(folder: Path) -> list[Path]:
    return [file for _, _, files in walk(folder) for file in files]


def is_cohort(path: Path, *, series: str | None = None) -> bool:
    """Whether a path is a table of scans, or a folder of several: of images, or of DICOM series of several patients.

    A folder with slices in it is a series; one with a single patient's is one scan, of which `series` may be told.
    """
    table = path.suffix.lower() in TABLES and not path.is_dir() and not url_of(path)
    if table or series is not None or not path.is_dir() or _has_slices(path):
        return table
    images, found = _contents(path, None, Limits(skip_broken=True))
    return bool(images) or len({one.patient for one in found}) > 1


def _has_slices(folder: Path) -> bool:
    files = (file for file in folder.iterdir() if file.is_file() and not is_litter(file.name))
    return any(is_dicom(file) for file in files if file.name.upper() != "DICOMDIR")


def _contents(folder: Path, output: Path | None, limits: Limits) -> tuple[list[Path], list[Series]]:
    """Images and series below a folder, without the results of `modiff sample`."""
    images = []
    for place, folders, files in walk(folder):
        if (place / MANIFEST).is_file() or (output is not None and place.resolve() == output.resolve()):
            folders[:] = []
            continue
        images += [file for file in files if file.name.lower().endswith(_IMAGES)]
    return images, series_below(folder, limits)


def scans_of(path: Path, output: Path, limits: Limits) -> list[Scan]:
    """The scans of a table or a folder, each with at least one lesion; what is wrong with one is its lesion's error.

    Raises DataError for a table or a folder that cannot be used as a whole.
    """
    scans = _of_folder(path, output, limits) if path.is_dir() else _of_table(path, limits)
    if not 1 <= len(scans) <= _MOST:
        raise DataError("has no scans" if not scans else "has too many scans", path=path, found=len(scans))
    return _named(scans)


def _of_folder(folder: Path, output: Path, limits: Limits) -> list[Scan]:
    """A series that has a folder for itself is that folder: a file of it that cannot be read is its error alone."""
    images, found = _contents(folder, output, replace(limits, skip_broken=True))
    holds = Counter(parent for one in found for parent in {file.parent for file in one.files})
    made: list[tuple[Path, Path, tuple[Path, ...]]] = [(path, path, ()) for path in images]
    for one in found:
        parents = {file.parent for file in one.files}
        alone = len(parents) == 1 and holds[one.files[0].parent] == 1
        if not alone and not limits.skip_broken:
            for parent in parents:
                series_below(parent, limits)  # whose file cannot be read is not known
        made.append((one.files[0], one.files[0].parent, () if alone else one.files))
    scans = []
    for number, (_, path, members) in enumerate(sorted(made, key=lambda it: it[0]), 1):
        shown, confidential = path.relative_to(folder).as_posix(), path.is_dir()
        scans.append(Scan(shown, ((None, path),), (Lesion(str(number)),), confidential, members=members))
    return scans


def _of_table(path: Path, limits: Limits) -> list[Scan]:
    """Rows of the same scan and series are lesions of one."""
    made: dict[tuple[str, str], Scan] = {}
    for place, row in read_table(path, ["scan"], None, kind="table of scans, with the column scan"):
        with located(path, place):
            check_columns(list(row))
            if not row["scan"]:
                raise DataError("names no scan", expected="a file or a folder")
            lesions = tuple(_lesions(path, place, row, limits))
            key = row["scan"], row.get("series", "")
            if key in made:
                made[key] = replace(made[key], lesions=(*made[key].lesions, *lesions))
                continue
            named = [named_file(part.strip()) for part in row["scan"].split("|")]
            files = tuple((channel, file if url_of(file) else path.parent / file) for channel, file in named)
            confidential = any(_may_name(file) for _, file in files)
            made[key] = Scan(row["scan"], files, lesions, confidential, row.get("series") or None)
    return list(made.values())


def _may_name(path: Path) -> bool:
    """Whether it may be DICOM, whose paths often name the patient; also where it is not there."""
    return not path.name.lower().endswith(_IMAGES) or path.is_dir() or (path.is_file() and is_dicom(path))


def _lesions(path: Path, place: str, row: Mapping[str, str], limits: Limits) -> list[Lesion]:
    """What a row asks for; a mask or a file of points that cannot be read is the lesion's error."""
    own = Lesion(place, row.get("name", ""), row.get("lesion", ""))
    try:
        with located(path, place):
            point = place_in(row)
            given = [name for name in ("mask", "points") if row.get(name)]
            if len(given) + (point is not None) > 1:
                expected = "columns of a point, mask or points"
                raise DataError("a place given twice", found=", ".join(given), expected=expected)
            text = row.get("slices", "")
            if text and not (text.isdecimal() and (given or point)):
                raise DataError("is not a number of slices about a place", field="slices", found=text)
            slices = int(text) if text else None
            if not given:
                return [replace(own, place=point, slices=slices)]
            file = path.parent / row[given[0]]
            found = objects_of(file, limits) if given == ["mask"] else points_of(file)
    except ModiffError as error:
        return [replace(own, error=error)]
    prefix = f"{own.label}-" if own.label else ""
    return [replace(own, label=f"{prefix}{one.label}", place=one, slices=slices) for one in found]


def _named(scans: Sequence[Scan]) -> list[Scan]:
    """Names for the folders of results: as the table says, or as the file; of what may name a patient, by its row."""
    taken: set[str] = set()
    stems = [_stem(scan) for scan in scans]
    many = {stem for stem, count in Counter(stems).items() if count > 1}  # the same name in several folders
    made = []
    for scan, short in zip(scans, stems, strict=True):
        longer = _plain(re.sub(r"\.[A-Za-z.]+$", "", scan.shown).replace("/", "-"))
        stem = longer or short if short in many and not scan.confidential else short
        lesions = []
        for number, lesion in enumerate(scan.lesions, 1):
            base, label = _plain(lesion.name) or stem, _plain(lesion.label)
            several = len(scan.lesions) > 1
            wanted = f"{base}-{label or number}" if label or (several and not lesion.name) else base
            lesions.append(
                replace(lesion, name=_free(wanted, taken), label=lesion.label or (str(number) if several else ""))
            )
        made.append(replace(scan, lesions=tuple(lesions)))
    return made


def _stem(scan: Scan) -> str:
    if scan.confidential:
        return f"scan-{scan.lesions[0].row.removeprefix('line ')}"
    return _plain(without_suffix(scan.files[0][1].name)) or "scan"


def _plain(name: str) -> str:
    """Fit for the name of a folder, and for a link."""
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip("-.")[:80]


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken, in capitals or not."""
    free, number = name, 2
    while free.casefold() in taken or free in _RESERVED:
        free, number = f"{name}-{number}", number + 1
    taken.add(free.casefold())
    return free
