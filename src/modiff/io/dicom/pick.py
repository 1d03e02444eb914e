"""Which series of several is meant: what an archive's export, a DICOMDIR's disk or a folder of many files holds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from modiff.errors import DataError, counted
from modiff.io.dicom import header as dicom
from modiff.io.files import Limits, check_inside, regular, told, unreadable
from modiff.io.text import is_litter

MAX_BELOW = 65_536  # files of a folder with all that lie in it
# The terms of PS3.3 C.7.3.1.1.1 whose objects are images; another value may be anything, a name too.
_MODALITIES = {"BI", "BMD", "CR", "CT", "DG", "DX", "ES", "GM", "HC", "IO", "IVOCT", "IVUS", "LS", "MG", "MR", "NM"}
_MODALITIES |= {"OCT", "OP", "OPM", "OPT", "OT", "PT", "PX", "RF", "RG", "SM", "TG", "US", "XA", "XC"}
_LISTED = 20
_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class Series:
    """Files of one series, in order of their names. size: (rows, columns) of the first.

    patient: who it is of; it tells patients apart and is never shown.
    """

    uid: str
    number: int
    modality: str | None
    size: tuple[int, int]
    files: tuple[Path, ...]
    patient: str = field(repr=False)

    def __str__(self) -> str:
        """What may be shown of it: no description, which may name the patient, and no identifier."""
        slices, size = counted(len(self.files), "slice"), "×".join(map(str, self.size[::-1]))
        slices += f" of {size}" if all(self.size) else ""  # not every server lists it
        return f"{self.modality or 'unknown modality'}, {slices}, series number {self.number}"


def modality_of(header: Dataset) -> str | None:
    """DICOM's word for how an image was made, where it is one."""
    found = dicom.text(header, "Modality")
    return found if found in _MODALITIES else None


def grouped(headers: Iterable[tuple[Path, Dataset]]) -> list[Series]:
    """The series that files belong to, by series number and UID; their place in it, from 1, is what people name."""
    found: dict[str, list[Path]] = {}
    first: dict[str, tuple[int, str | None, tuple[int, int], str]] = {}
    for file, header in headers:
        uid = dicom.text(header, "SeriesInstanceUID")
        found.setdefault(uid, []).append(file)
        if uid not in first:
            number, rows, columns = (_whole(header, name) for name in ("SeriesNumber", "Rows", "Columns"))
            first[uid] = number, modality_of(header), (rows, columns), dicom.text(header, "PatientID")
    made = [Series(uid, *first[uid][:3], tuple(sorted(files)), first[uid][3]) for uid, files in found.items()]
    return sorted(made, key=lambda series: (series.number, series.uid))


def _whole(header: Dataset, field: str) -> int:
    try:
        return dicom.integer(header, field, 0)
    except DataError:
        return 0


def series_below(folder: Path, limits: Limits) -> list[Series]:
    """The series of all images in a folder and in the folders below it.

    What is not DICOM, and reports, plans and the like, is left out, but not what is named like a slice; with
    `limits.skip_broken` also what cannot be read. Raises DataError for that otherwise, for too many files and for links
    that lead out of the folder.
    """

    def headers() -> Iterator[tuple[Path, Dataset]]:
        for files in _files_below(folder):
            for file in slices_among(files):
                try:
                    with one_of_many(2):
                        if dicom.other_kind(dicom.kind_of(file)):
                            continue
                        header = dicom.read_header(file, limits)
                        if "Rows" not in header or "Columns" not in header:  # cut off before them
                            raise DataError("holds no image", path=file, expected="a slice with pixels")
                        yield file, header
                except DataError:
                    if not limits.skip_broken:
                        raise

    with told(folder, "cannot be read"):
        return grouped(headers())


def _files_below(folder: Path) -> Iterator[list[Path]]:
    """The files of each folder."""
    inside, seen = folder.resolve(), 0
    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not is_litter(name))
        seen += len(names)
        if seen > MAX_BELOW:
            raise DataError("too many files", path=folder, expected=f"at most {MAX_BELOW}")
        files = [Path(place, name) for name in sorted(names) if not is_litter(name)]
        for file in files:
            if file.is_symlink():
                check_inside(file, inside)
            regular(file)
        yield files


@contextmanager
def one_of_many(count: int) -> Iterator[None]:
    """Says of a file that cannot be read how the others can be."""
    try:
        yield
    except DataError as error:
        if count == 1 or error.hint or error.path is None:
            raise
        field, found, expected = error.field, error.found, error.expected
        hint = "--skip-broken reads the series without it"
        raise DataError(
            error.message, path=error.path, field=field, found=found, expected=expected, hint=hint
        ) from error


def slices_among(files: Iterable[Path]) -> list[Path]:
    """What of a folder's files belongs to a series: DICOM, and what is named like it though it cannot be told to be.

    A download that was cut off or a full disk leaves such files, empty or without a beginning.
    """
    files = [file for file in files if not file.name.startswith(".")]
    found = {file: dicom.is_dicom(file) for file in files}
    names = {_pattern(file) for file, yes in found.items() if yes}
    return [file for file, yes in found.items() if yes or _pattern(file) in names or _ending(file) in _DICOM_ENDINGS]


def _pattern(file: Path) -> str:
    """A name without what sets one slice apart from the next: its digits, and the mark of a part of a file."""
    return re.sub(r"\d+", "#", file.name.lower().removesuffix(".part").removesuffix(".tmp"))


def _ending(file: Path) -> str:
    return file.with_name(file.name.lower().removesuffix(".part").removesuffix(".tmp")).suffix


def chosen(found: list[Series], wanted: str | None, path: str | Path) -> Series:
    """The series of that UID, or at that place from 1; without a word the only one. DataError lists what is there."""
    if not found:
        raise DataError("no DICOM image in this folder", path=path, hint="Give the folder that holds the slices")
    if wanted is None and len(found) == 1:
        return found[0]
    for place, series in enumerate(found, 1):
        if wanted is not None and wanted.strip() in (series.uid, str(place)):
            return series
    lines = [f"{place}: {series}" for place, series in enumerate(found[:_LISTED], 1)]
    lines += [f"and {len(found) - _LISTED} more"] * (len(found) > _LISTED)
    hint = f"--series takes one by its number here or its UID. {'; '.join(lines)}"
    if wanted is not None:
        raise DataError("no such series", path=path, field="--series", found=wanted, hint=hint)
    slices = f"{len(found)} series of {', '.join(str(len(series.files)) for series in found[:5])} slices"
    raise DataError("several series", path=path, found=slices, hint=hint)
