"""A patient's CT series: which slice is where and who it is, from the headers alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modiff.errors import DataError
from modiff.io.dicom.geometry import Plane, check_same_grid, in_order, plane_of
from modiff.io.dicom.header import check_image, is_dicom, read_header, read_meta, text
from modiff.io.dicom.series import MAX_FILES
from modiff.io.files import sha256_of
from modiff.io.limits import Limits

_CT = "1.2.840.10008.5.1.4.1.1.2"


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
    found: dict[str, dict[str, CtSlice]] = {}
    limits = Limits()
    for path in files:
        if not is_dicom(path) or text(read_meta(path), "MediaStorageSOPClassUID") not in (_CT, ""):
            continue
        header = read_header(path, limits)
        if text(header, "SOPClassUID") != _CT:
            continue
        check_image(path, header, limits)
        one = CtSlice(
            path, text(header, "SOPInstanceUID"), plane_of(path, header), (int(header.Rows), int(header.Columns))
        )
        series = found.setdefault(text(header, "SeriesInstanceUID"), {})
        before = series.setdefault(one.sop_uid, one)
        if before is not one and sha256_of(before.path) != sha256_of(path):
            raise DataError("two files claim to be one slice", path=path, field="SOPInstanceUID", found=before.path)
        if len(series) > MAX_FILES:
            raise DataError("too many files for one series", path=where, expected=f"at most {MAX_FILES}")
    return [_series(uid, list(slices.values()), where) for uid, slices in sorted(found.items())]


def _series(uid: str, slices: list[CtSlice], where: Path) -> CtSeries:
    planes = [one.plane for one in slices]
    check_same_grid(where, planes)
    if len({one.shape for one in slices}) > 1:
        found = sorted({one.shape for one in slices})[:5]
        raise DataError("slices differ in size", path=where, found=found, expected="one size in a series")
    return CtSeries(uid, tuple(slices[place] for place in in_order(planes)))
