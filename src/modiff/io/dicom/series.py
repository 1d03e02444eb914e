"""DICOM in: one slice, or a series of them as a volume with its place in space.

A slice is a plane in the patient; a series of them makes a regular grid, or is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from modiff.errors import DataError
from modiff.io.dicom.header import (
    check_image,
    is_dicom,
    numbers,
    other_kind,
    quiet,
    read_header,
    read_meta,
    read_with_pixels,
    text,
)
from modiff.io.files import sha256_of
from modiff.io.limits import Limits
from modiff.io.volume import Volume

MAX_FILES = 4096
_SAME_DIRECTION = 1e-3  # of a cosine: scanners write four to six digits
_SAME_PLACE_MM = 1e-3
# Positions rounded to 0.1 mm move a slice of 0.6 mm by 8 % of the step; a missing slice moves it by 100 %.
_EVEN = 0.1
_SPACING_MM = (1e-3, 1e3)
_FAR_MM = 1e5
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class DicomSource:
    """What writing back into a series needs: the headers without pixels, in the order of the volume's slices.

    They hold what the files hold, a patient's name and dates too: they go into objects that the standard wants them in
    and nowhere else.
    """

    headers: tuple[Dataset, ...] = field(repr=False)
    files: tuple[Path, ...]

    @property
    def sop_uids(self) -> tuple[str, ...]:
        """SOP instance UID of each slice."""
        return tuple(text(header, "SOPInstanceUID") for header in self.headers)


def read_dicom_series(path_or_files: str | Path | Iterable[str | Path], *, limits: Limits | None = None) -> Volume:
    """A series as a volume (1,Z,H,W), slices ordered along their normal, values rescaled (HU for CT).

    path_or_files: a folder whose own files are the series (what is no DICOM image there is left out), one file
    (Z = 1), or the files. Values are int16 where they fit, else int32, or float32 where the slope is a fraction.
    Pixels of PixelPaddingValue take the smallest value of the others. `source` is a DicomSource.
    Raises DataError for damaged files, several series, slices that are missing, uneven (with the positions), twice or
    of another size, more than 4,096 files, colour, several frames, and more data than `limits` allow.
    """
    limits = limits or Limits()
    path, files = _files(path_or_files)
    headers = [read_header(file, limits) for file in files]
    for file, header in zip(files, headers, strict=True):
        check_image(file, header, limits)
    _check_one_series(path, headers)
    shape = (len(files), int(headers[0].Rows), int(headers[0].Columns))
    limits.check_declared(path, shape, 4, sum(file.stat().st_size for file in files))
    planes = [plane_of(file, header) for file, header in zip(files, headers, strict=True)]
    check_same_grid(path, planes)
    kept = in_order(files, headers, planes)
    planes = [planes[place] for place in kept]
    check_even(path, planes)
    array, headers = _read_slices([files[place] for place in kept], limits)
    source = DicomSource(tuple(map(_decodable, headers)), tuple(files[place] for place in kept))
    digests = {file.name: sha256_of(file) for file in source.files}
    return Volume(array[None], affine_of(planes), path, "DICOM", digests, source)


def read_slice(path: str | Path, *, limits: Limits | None = None) -> np.ndarray:
    """Rescaled values (H,W) of one slice, as `read_dicom_series` makes them."""
    return _read_slices([Path(path)], limits or Limits())[0][0]


def _files(given: str | Path | Iterable[str | Path]) -> tuple[Path, list[Path]]:
    """What errors name, and the files of the series."""
    files = list(map(Path, [given] if isinstance(given, str | Path) else given))
    if not files:
        raise DataError("no file was given", expected="the files of a DICOM series")
    path = files[0].parent if len(files) > 1 else files[0]
    folder = isinstance(given, str | Path) and path.is_dir()
    try:
        if folder:
            files = list(islice(path.iterdir(), MAX_FILES + 1))
        if len(files) > MAX_FILES:
            raise DataError("too many files for one series", path=path, expected=f"at most {MAX_FILES}")
        if folder:
            # Reports and plans may lie beside slices.
            files = sorted(
                file for file in files if file.is_file() and is_dicom(file) and not other_kind(read_meta(file))
            )
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    if not files:
        raise DataError("no DICOM image in this folder", path=path, hint="Give the folder that holds the slices")
    return path, files


def _check_one_series(path: Path, headers: Sequence[Dataset]) -> None:
    series = Counter(text(header, "SeriesInstanceUID") for header in headers)
    if len(series) > 1:
        found = f"{len(series)} series of {', '.join(map(str, list(series.values())[:5]))} slices"
        raise DataError("several series", path=path, found=found, hint="Give the files of one")
    for name in ("Rows", "Columns", "PixelRepresentation", "BitsAllocated"):
        if len(values := sorted({int(header[name].value) for header in headers})) > 1:
            raise DataError("slices differ", path=path, field=name, found=values[:5], expected="one value")


def in_order(files: Sequence[Path], headers: Sequence[Dataset], planes: Sequence[Plane]) -> list[int]:
    """Places of the slices from the lowest to the highest along the normal, an exact copy of a file left out.

    Raises DataError for two different files that claim one identity.
    """
    kept: dict[str, int] = {}
    for place in sorted(range(len(planes)), key=lambda place: planes[place].height):
        before = kept.setdefault(text(headers[place], "SOPInstanceUID") or f"file {place}", place)
        if before != place and sha256_of(files[before]) != sha256_of(files[place]):
            path, found = files[place].parent, f"{files[before].name} and {files[place].name}"
            raise DataError("two files claim to be one slice", path=path, field="SOPInstanceUID", found=found)
    return list(kept.values())


def _read_slices(files: Sequence[Path], limits: Limits) -> tuple[np.ndarray, list[Dataset]]:
    """Rescaled slices (Z,H,W) and their headers."""
    headers, slices, padding = [], [], []
    for file in files:
        header, stored = read_with_pixels(file, limits)
        headers.append(header)
        padding.append(_is_padding(file, header, stored))
        slices.append(_rescaled(file, header, stored))
    array = np.stack(slices)
    padded = np.stack(padding)
    if padded.any() and not padded.all():
        array[padded] = array[~padded].min()
    return array, headers


def _rescaled(path: Path, header: Dataset, stored: np.ndarray) -> np.ndarray:
    """slope · stored + intercept (PS3.3 C.11.1): int16 where it fits, else int32; float32 with a fraction."""
    if "ModalityLUTSequence" in header:
        what, expected = "values go through a table", "slope and intercept"
        raise DataError(what, path=path, field="ModalityLUTSequence", expected=expected)
    (slope,) = numbers(path, header, "RescaleSlope", 1, (1.0,))
    (intercept,) = numbers(path, header, "RescaleIntercept", 1, (0.0,))
    if slope == 0:
        raise DataError("makes all values the same", path=path, field="RescaleSlope", found=slope)
    if not (slope.is_integer() and intercept.is_integer()):
        return (stored * slope + intercept).astype(np.float32)
    low, high = sorted(int(value) * int(slope) + int(intercept) for value in (stored.min(), stored.max()))
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return (stored.astype(np.int64) * int(slope) + int(intercept)).astype(kind)
    raise DataError("values beyond 32 bits", path=path, field="RescaleSlope", found=f"{low} to {high}")


def _is_padding(path: Path, header: Dataset, stored: np.ndarray) -> np.ndarray:
    """(H,W) bool: pixels that stand for "outside the scan" (PS3.3 C.7.5.1.1.2).

    Scanners write the value as unsigned for signed pixels (63536 for -2000): the bits count, not the number.
    """
    fields = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    try:
        with quiet():
            values = [header[field].value for field in fields if field in header]
            bounds = np.array([int(value) for value in values if isinstance(value, int)]).astype(stored.dtype)
    except Exception:
        raise DataError("no whole number", path=path, field=fields[0]) from None
    if not bounds.size:
        return np.zeros(stored.shape, bool)
    return (stored >= bounds.min()) & (stored <= bounds.max())


def _decodable(header: Dataset) -> Dataset:
    """The header without elements whose bytes make no value: whoever copies it later would stumble over them."""
    with quiet():
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
    def normal(self) -> np.ndarray:
        """(3,) unit vector along which slices are ordered."""
        return np.cross(self.right, self.down)

    @property
    def height(self) -> float:
        """mm along the normal."""
        return float(self.position @ self.normal)


def plane_of(path: Path, header: Dataset) -> Plane:
    """A slice's place; raises DataError where it is missing or is not usable."""
    position = numbers(path, header, "ImagePositionPatient", 3)
    cosines = numbers(path, header, "ImageOrientationPatient", 6)
    spacing = numbers(path, header, "PixelSpacing", 2)
    right, down = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.linalg.norm(right), np.linalg.norm(down)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(right @ down)) > _SAME_DIRECTION:
        expected = "two unit vectors at right angles"
        raise DataError("no directions", path=path, field="ImageOrientationPatient", found=cosines, expected=expected)
    low, high = _SPACING_MM
    if not low <= min(spacing) <= max(spacing) <= high:
        expected = f"{low:g} to {high:g} mm"
        raise DataError("no distances", path=path, field="PixelSpacing", found=spacing, expected=expected)
    if max(map(abs, position)) > _FAR_MM:
        raise DataError("no place in a room", path=path, field="ImagePositionPatient", found=position)
    right = right / lengths[0]
    down = down - (down @ right) * right
    fields = ("SpacingBetweenSlices", "SliceThickness")
    stated = (abs(value) for field in fields for value in numbers(path, header, field, 1, (0.0,)))
    thickness = next((value for value in stated if low <= value <= high), 1.0)
    return Plane(np.array(position), right, down / np.linalg.norm(down), (spacing[0], spacing[1]), thickness)


def check_same_grid(path: Path, planes: Sequence[Plane]) -> None:
    """Raises DataError unless all slices are parallel and of one pixel spacing."""
    first = planes[0]
    for plane in planes[1:]:
        turned = max(np.abs(plane.right - first.right).max(), np.abs(plane.down - first.down).max())
        if turned > _SAME_DIRECTION:
            hint = "Is a scout among them?"
            raise DataError("slices are not parallel", path=path, field="ImageOrientationPatient", hint=hint)
        if np.abs(np.subtract(plane.spacing, first.spacing)).max() > 1e-4 * max(first.spacing):
            found = f"{first.spacing} and {plane.spacing}"
            raise DataError("slices differ in pixel spacing", path=path, field="PixelSpacing", found=found)


def check_even(path: Path, planes: Sequence[Plane]) -> None:
    """Raises DataError, with the positions, unless slices in order are even: none missing, none twice, on one line."""
    if len(planes) < 2:
        return
    heights = np.array([plane.height for plane in planes])
    steps = np.diff(heights)
    if (steps < _SAME_PLACE_MM).any():
        found = _listed(heights[:-1][steps < _SAME_PLACE_MM], "{:.2f}")
        raise DataError("several slices in one place", path=path, found=found)
    usual = float(np.median(steps))
    positions = np.stack([plane.position for plane in planes])
    off = np.abs(positions - np.linspace(positions[0], positions[-1], len(planes))).max(1) > _EVEN * usual
    if not off.any():
        return
    field = "ImagePositionPatient"
    wide = np.abs(steps - usual) > _EVEN * usual
    if not wide.any():
        raise DataError("slices are not on one line", path=path, field=field, found=_listed(heights[off], "{:.2f}"))
    what = "slices are missing" if (steps[wide] > 1.5 * usual).any() else "slices are unevenly spaced"
    gaps = np.stack([steps, heights[:-1], heights[1:]], 1)[wide]
    found = _listed(gaps, "{:.2f} mm from {:.2f} to {:.2f}")
    raise DataError(what, path=path, field=field, found=found, expected=f"{usual:.2f} mm between all")


def affine_of(planes: Sequence[Plane]) -> np.ndarray:
    """(4,4) voxel (column, row, slice) to RAS+ mm of slices in order; a tilted gantry makes the slice axis oblique."""
    first, last = planes[0], planes[-1]
    step = (last.position - first.position) / (len(planes) - 1) if len(planes) > 1 else first.normal * first.thickness
    columns = np.stack([first.right * first.spacing[1], first.down * first.spacing[0], step, first.position], axis=1)
    affine = np.eye(4)
    affine[:3] = _LPS_TO_RAS[:, None] * columns
    return affine


def _listed(rows: np.ndarray, words: str) -> str:
    """The first five rows, in words."""
    listed = [words.format(*np.atleast_1d(row)) for row in rows[:5]]
    return ", ".join(listed) + (" …" if len(rows) > 5 else "")
