"""DICOM in: one slice, or a series of them as a volume with its place in space.

A slice is a plane in the patient; a series of them makes a regular grid, or is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from modiff.errors import DataError
from modiff.io.dicom import header as dicom
from modiff.io.dicom.pick import chosen, grouped, modality_of, one_of_many, series_below, slices_among
from modiff.io.dicom.region import region_of
from modiff.io.files import LIMITS, Limits, check_inside, located, regular, sha256_of, told
from modiff.io.text import is_litter
from modiff.io.volume import Note, Volume

_WHOSE = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")  # one of each in a series
MAX_FILES = 4096
_SAME_DIRECTION = 1e-3  # of a cosine: scanners write four to six digits
_SAME_PLACE_MM = 1e-3
# Positions rounded to 0.1 mm move a slice of 0.6 mm by 8 % of the step; a missing slice moves it by 100 %.
_EVEN = 0.1
_SPACING_MM = (1e-3, 1e3)
_FAR_MM = 1e5
_ROWS = 256  # that are rescaled at a time
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class DicomSource:
    """What writing back into a series needs: the headers without pixels, in the order of the volume's slices.

    They hold what the files hold, a patient's name and dates too: they go into objects that the standard wants them in
    and nowhere else.
    """

    headers: tuple[Dataset, ...] = field(repr=False)


def read_dicom_series(
    path_or_files: str | Path | Iterable[str | Path], *, limits: Limits = LIMITS, series: str | None = None
) -> Volume:
    """A series as a volume (1,Z,H,W), slices ordered along their normal, values rescaled (HU for CT).

    path_or_files: a folder whose own files are the series (what is not a DICOM image there is left out, but not what
    is named like a slice), one file (Z = 1), or the files. Where the folder has none of its own, or `series` says which
    one by its UID or its place (`pick.grouped`), it is looked for in all folders below; a DICOMDIR stands for its
    folder. Values are int16 where they fit, else int32, or float32 where the slope is a fraction. Pixels of
    PixelPaddingValue take the smallest value of the others. `source` is a DicomSource. With `limits.skip_broken` files
    that cannot be read are left out, and named in the notes.
    Raises DataError for files that are damaged, empty or cut short, several series, slices that are missing, uneven
    (with the positions), twice or of another size, more than 4,096 files, colour, several frames, and more data than
    `limits` allow.
    """
    path, files = _files(path_or_files, limits, series)
    with located(path):
        headers, notes = read_headers(files, limits)
        if not headers:
            raise DataError("no slice can be read", found=f"{len(notes)} that cannot: {notes[0]}")
        files = list(headers)
        found = grouped(headers.items())
        if len(found) > 1 and isinstance(path_or_files, str | Path) and Path(path_or_files).is_dir():
            found = series_below(path, limits)  # the list that --series takes a number of
        chosen(found, None, path)  # DataError where it is not one series
        check_alike(headers.values())
        shape = (len(files), int(headers[files[0]].Rows), int(headers[files[0]].Columns))
        limits.check_declared(path, shape, 4, sum(file.stat().st_size for file in files))
        slices = in_order(headers)
        files, planes = list(slices), list(slices.values())
        check_even(planes)
        with one_of_many(len(files)):
            array, read = _read_slices(files, limits)
        source = DicomSource(tuple(map(_decodable, read)))
        digests = {file.name: sha256_of(file) for file in files}
        known: dict[str, Any] = {"modality": modality_of(headers[files[0]]), "region": region_of(headers[files[0]])}
        notes = [*notes, *_unscaled(read)]
        return Volume(array[None], affine_of(planes), path, "DICOM", digests, source, notes=tuple(notes), **known)


def read_slice(path: str | Path) -> np.ndarray:
    """Rescaled values (H,W) of one slice, as `read_dicom_series` makes them."""
    return _read_slices([Path(path)], LIMITS)[0][0]


def read_headers(files: Iterable[Path], limits: Limits) -> tuple[dict[Path, Dataset], list[Note]]:
    """The headers of slices; with `limits.skip_broken` also which files cannot be read and why.

    Raises DataError for the first that cannot be read where it is not to be left out.
    """
    headers, notes, files = dict[Path, Dataset](), list[Note](), list(files)
    for file in files:
        try:
            with one_of_many(len(files)):
                header = dicom.read_header(file, limits)
                dicom.check_image(file, header, limits)
                if limits.skip_broken:  # its pixels too, or others would be put in order with it
                    dicom.read_with_pixels(file, limits)
            headers[file] = header
        except DataError as error:
            if not limits.skip_broken or len(files) == 1:
                raise
            why = ": ".join(filter(None, (error.field, error.message)))
            notes.append(Note(f"cannot be read and is left out: {why}", file.name))
    return headers, notes


def _files(
    given: str | Path | Iterable[str | Path], limits: Limits, series: str | None = None
) -> tuple[Path, list[Path]]:
    """What errors name, and the files of the series."""
    files = list(map(Path, [given] if isinstance(given, str | Path) else given))
    if not files:
        raise DataError("no file was given", expected="the files of a DICOM series")
    path = files[0].parent if len(files) > 1 or files[0].name.upper() == "DICOMDIR" else files[0]
    folder = len(files) == 1 and path.is_dir()
    if series is not None:
        if not folder:
            raise DataError("is not a folder of series", path=path, field="--series", found=series)
        return path, list(chosen(series_below(path, limits), series, path).files)
    with told(path, "cannot be read"):
        if folder:
            files = list(islice((file for file in path.iterdir() if not is_litter(file.name)), MAX_FILES + 1))
        if len(files) > MAX_FILES:
            raise DataError("too many files for one series", path=path, expected=f"at most {MAX_FILES}")
        if folder:  # reports and plans may lie beside slices
            inside = path.resolve()
            for file in files:
                if file.is_symlink():
                    check_inside(file, inside)
                if not file.is_dir():
                    regular(file)
            slices = slices_among(file for file in files if file.is_file())
            files = sorted(file for file in slices if not dicom.other_kind(dicom.kind_of(file)))
    return path, files or list(chosen(series_below(path, limits), None, path).files)


def check_alike(headers: Collection[Dataset]) -> None:
    """DataError where slices of one series differ in size or type, or are of several patients, studies or frames."""
    for name in ("Rows", "Columns", "PixelRepresentation", "BitsAllocated"):
        if len(values := sorted({int(header[name].value) for header in headers})) > 1:
            raise DataError("slices differ", field=name, found=values[:5], expected="one value")
    for name in _WHOSE:  # what they are is not told: it may name a patient
        if (count := len({dicom.text(header, name) for header in headers})) > 1:
            raise DataError("slices differ", field=name, found=f"{count} values", expected="one")


def _unscaled(headers: Sequence[Dataset]) -> list[Note]:
    """Says where slices of a CT lack what the standard requires to make HU of their values."""
    names = ("RescaleSlope", "RescaleIntercept")
    absent = [{name for name in names if header.get(name) in (None, "", [])} for header in headers]
    lacking = [name for name in names if any(name in one for one in absent)]
    if not lacking or modality_of(headers[0]) != "CT":
        return []
    which = "the" if all(absent) else "some"
    return [Note(f"{which} headers have no {' and no '.join(lacking)}: values may not be HU")]


def _read_slices(files: Sequence[Path], limits: Limits) -> tuple[np.ndarray, list[Dataset]]:
    """Rescaled slices (Z,H,W) and their headers."""
    headers, slices, padding = [], [], []
    for file in files:
        header, stored = dicom.read_with_pixels(file, limits)
        headers.append(header)
        with located(file):
            padding.append(_is_padding(header, stored))
            slices.append(_rescaled(header, stored))
    array, padded = np.stack(slices), np.stack(padding)
    if padded.any() and not padded.all():
        array[padded] = array[~padded].min()
    return array, headers


def _rescaled(header: Dataset, stored: np.ndarray) -> np.ndarray:
    """slope · stored + intercept (PS3.3 C.11.1): int16 where it fits, else int32; float32 with a fraction."""
    if "ModalityLUTSequence" in header:
        raise DataError(
            "values go through a look-up table, which is not supported",
            field="ModalityLUTSequence",
            expected="slope and intercept",
        )
    (slope,) = dicom.numbers(header, "RescaleSlope", 1, (1.0,))
    (intercept,) = dicom.numbers(header, "RescaleIntercept", 1, (0.0,))
    if slope == 0:
        raise DataError("makes all values the same", field="RescaleSlope", found=slope)
    if not (slope.is_integer() and intercept.is_integer()):
        made = np.empty(stored.shape, np.float32)
        for start in range(0, len(stored), _ROWS):  # for memory
            made[start : start + _ROWS] = stored[start : start + _ROWS] * slope + intercept
        return made
    low, high = sorted(int(value) * int(slope) + int(intercept) for value in (stored.min(), stored.max()))
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            made = stored.astype(kind)  # wraps around, and back where the result fits
            factor, shift = np.array([int(slope) & 0xFFFFFFFF, int(intercept) & 0xFFFFFFFF], np.uint32).astype(kind)
            made *= factor
            made += shift
            return made
    raise DataError("values beyond 32 bits", field="RescaleSlope", found=f"{low} to {high}")


def _is_padding(header: Dataset, stored: np.ndarray) -> np.ndarray:
    """(H,W) bool: pixels that stand for "outside the scan" (PS3.3 C.7.5.1.1.2).

    Scanners write the value as unsigned for signed pixels (63536 for -2000): the bits count, not the number.
    """
    fields = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    try:
        with dicom.quiet():
            values = [header[field].value for field in fields if field in header]
            bounds = np.array([int(value) for value in values if isinstance(value, int)]).astype(stored.dtype)
    except Exception:  # what pydicom raises of damaged bytes quotes them
        raise DataError("not a whole number", field=fields[0]) from None
    return (stored >= bounds.min()) & (stored <= bounds.max()) if bounds.size else np.zeros(stored.shape, bool)


def _decodable(header: Dataset) -> Dataset:
    """The header without elements whose bytes make no value: copying it would fail at them."""
    with dicom.quiet():
        for tag in list(header.keys()):
            try:
                element = header[tag]
                for item in element.value if element.VR == "SQ" else ():
                    list(item.iterall())
            except Exception:
                del header[tag]
    return header


@dataclass(frozen=True)
class Plane:
    """A slice in DICOM's patient coordinates (LPS+, mm; PS3.3 C.7.6.2).

    position: (3,) centre of the first pixel. right, down: (3,) unit vectors along which the column and the row index
    grow. spacing: (row, column). thickness: mm a slice stands for, 1 where not stated.
    """

    position: np.ndarray
    right: np.ndarray
    down: np.ndarray
    spacing: tuple[float, float]
    thickness: float

    @property
    def height(self) -> float:
        """mm along the normal, by which slices are ordered."""
        return float(self.position @ np.cross(self.right, self.down))


def plane_of(path: Path, header: Dataset) -> Plane:
    """A slice's place; raises DataError where it is missing or is not usable."""
    with located(path):
        position = dicom.numbers(header, "ImagePositionPatient", 3)
        cosines = dicom.numbers(header, "ImageOrientationPatient", 6)
        spacing = dicom.numbers(header, "PixelSpacing", 2)
        right, down = np.array(cosines[:3]), np.array(cosines[3:])
        lengths = np.linalg.norm(right), np.linalg.norm(down)
        if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(right @ down)) > _SAME_DIRECTION:
            expected = "two unit vectors at right angles"
            raise DataError("are not two directions", field="ImageOrientationPatient", found=cosines, expected=expected)
        low, high = _SPACING_MM
        if not low <= min(spacing) <= max(spacing) <= high:
            expected = f"{low:g} to {high:g} mm"
            raise DataError("is not a pixel spacing", field="PixelSpacing", found=spacing, expected=expected)
        if max(map(abs, position)) > _FAR_MM:
            raise DataError("is too far away", field="ImagePositionPatient", found=position)
        fields = ("SpacingBetweenSlices", "SliceThickness")
        stated = (abs(value) for field in fields for value in dicom.numbers(header, field, 1, (0.0,)))
        thickness = next((value for value in stated if low <= value <= high), 1.0)
    right = right / lengths[0]
    down = down - (down @ right) * right
    return Plane(np.array(position), right, down / np.linalg.norm(down), (spacing[0], spacing[1]), thickness)


def in_order(headers: Mapping[Path, Dataset]) -> dict[Path, Plane]:
    """The slices of a series and their places, from the lowest to the highest along their normal.

    An exact copy of a file is left out. Raises DataError unless all are parallel and of one pixel spacing, and for two
    different files that claim one identity.
    """
    planes = {file: plane_of(file, header) for file, header in headers.items()}
    first = next(iter(planes.values()))
    for plane in planes.values():
        turned = max(np.abs(plane.right - first.right).max(), np.abs(plane.down - first.down).max())
        if turned > _SAME_DIRECTION:
            hint = "Is a scout among them?"
            raise DataError("slices are not parallel", field="ImageOrientationPatient", hint=hint)
        if np.abs(np.subtract(plane.spacing, first.spacing)).max() > 1e-4 * max(first.spacing):
            found = f"{first.spacing} and {plane.spacing}"
            raise DataError("slices differ in pixel spacing", field="PixelSpacing", found=found)
    kept: dict[str, Path] = {}
    for file in sorted(planes, key=lambda file: planes[file].height):
        before = kept.setdefault(dicom.text(headers[file], "SOPInstanceUID") or str(file), file)
        if before != file and sha256_of(before) != sha256_of(file):
            found = f"{before.name} and {file.name}"
            raise DataError("two files claim to be one slice", field="SOPInstanceUID", found=found)
    return {file: planes[file] for file in kept.values()}


def check_even(planes: Sequence[Plane]) -> None:
    """Raises DataError, with the positions, unless slices in order are even: none missing, none twice, on one line."""
    heights, positions = (np.array([getattr(plane, name) for plane in planes]) for name in ("height", "position"))
    steps = np.diff(heights)
    if (steps < _SAME_PLACE_MM).any():
        raise DataError("several slices in one place", found=_listed(heights[:-1][steps < _SAME_PLACE_MM], "{:.2f}"))
    usual = float(np.median(steps)) if steps.size else 0.0
    off = np.abs(positions - np.linspace(positions[0], positions[-1], len(planes))).max(1) > _EVEN * usual
    if not off.any():
        return
    field, wide = "ImagePositionPatient", np.abs(steps - usual) > _EVEN * usual
    if not wide.any():
        raise DataError("slices are not on one line", field=field, found=_listed(heights[off], "{:.2f}"))
    what = "slices are missing" if (steps[wide] > 1.5 * usual).any() else "slices are unevenly spaced"
    gaps = np.stack([steps, heights[:-1], heights[1:]], 1)[wide]
    found, expected = _listed(gaps, "{:.2f} mm from {:.2f} to {:.2f}"), f"{usual:.2f} mm between all"
    raise DataError(what, field=field, found=found, expected=expected)


def affine_of(planes: Sequence[Plane]) -> np.ndarray:
    """(4,4) voxel (column, row, slice) to RAS+ mm of slices in order; a tilted gantry makes the slice axis oblique."""
    first, last = planes[0], planes[-1]
    step = np.cross(first.right, first.down) * first.thickness
    if len(planes) > 1:
        step = (last.position - first.position) / (len(planes) - 1)
    columns = np.stack([first.right * first.spacing[1], first.down * first.spacing[0], step, first.position], axis=1)
    affine = np.eye(4)
    affine[:3] = _LPS_TO_RAS[:, None] * columns
    return affine


def _listed(rows: np.ndarray, words: str) -> str:
    """The first five rows, in words."""
    listed = [words.format(*np.atleast_1d(row)) for row in rows[:5]]
    return ", ".join(listed) + (" …" if len(rows) > 5 else "")
