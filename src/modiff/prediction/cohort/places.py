"""Where lesions lie in a scan: voxels, millimetres, the objects of a mask, or points that were marked in a viewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from modiff.data.masks import palette_fault
from modiff.errors import DataError
from modiff.io.files import Limits, located
from modiff.io.image import read_image
from modiff.io.text import OTHER_COLUMNS, read_json_text, read_table
from modiff.io.volume import Volume, nearest

Frame = Literal["voxel", "ras", "lps"]
COLUMNS: dict[Frame, tuple[str, str, str]] = {
    "voxel": ("x", "y", "z"),
    "ras": ("x_ras", "y_ras", "z_ras"),
    "lps": ("x_lps", "y_lps", "z_lps"),
}
_EXPECTED = "x, y, z in voxels; x_ras, y_ras, z_ras or x_lps, y_lps, z_lps in mm"
_MOST = 1000  # lesions of one file


@dataclass(frozen=True)
class Place:
    """A point in a scan. at: (column, row[, slice]) from 0, or mm towards right, anterior, superior or left, posterior,
    superior, as `frame` says. grid: (Z,H,W) that voxels are counted in, where it is known. label: what it is called.
    """

    at: tuple[float, ...]
    frame: Frame
    label: str = ""
    grid: tuple[int, ...] | None = None

    def voxel(self, scan: Volume) -> tuple[int, ...]:
        """The voxel of the scan that it lies in, (x, y, z), or (x, y) where it has two numbers.

        Raises DataError for millimetres of a picture, a fraction of a voxel, and a mask on another grid.
        """
        if self.frame == "voxel":
            if self.grid is not None and self.grid != scan.shape:
                found = "×".join(map(str, self.grid))
                raise DataError("is on another grid", field="mask", found=found, expected=scan.shape)
            if any(value != int(value) for value in self.at):
                raise DataError("is not a voxel", field="x, y, z", found=self.at, expected="whole numbers from 0")
            return tuple(map(int, self.at))
        if scan.affine is None:
            raise DataError("has no place in space", field=self.frame, found="mm", expected="voxels: x, y, z")
        point = np.array(self.at) * ((-1, -1, 1) if self.frame == "lps" else (1, 1, 1))
        place = np.linalg.solve(scan.affine, [*point, 1.0])[:3]
        outside = [not -0.5 <= value < side - 0.5 for value, side in zip(place, scan.shape[::-1], strict=True)]
        if any(outside):  # a wrong frame shows here
            expected = f"a point in the scan, which spans {_span(scan)} mm (RAS)"
            raise DataError("lies outside the image", field=self.frame, found=self.at, expected=expected)
        return tuple(int(value) for value in nearest(place).clip(0))


def _span(scan: Volume) -> str:
    assert scan.affine is not None
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [*scan.shape[::-1], 1]
    ends = (corners @ scan.affine.T)[:, :3]
    return ", ".join(f"{low:.0f} to {high:.0f}" for low, high in zip(ends.min(0), ends.max(0), strict=True))


def place_in(row: Mapping[str, str]) -> Place | None:
    """The place that the columns of a table's row give; None where they are empty. Raises DataError."""
    found = [frame for frame, names in COLUMNS.items() if any(row.get(name) for name in names)]
    if not found:
        return None
    if len(found) > 1:
        raise DataError(
            "a place given twice", field=", ".join(COLUMNS[frame][0] for frame in found), expected=_EXPECTED
        )
    (frame,) = found
    texts = [row.get(name, "") for name in COLUMNS[frame]]
    texts = texts[:2] if frame == "voxel" and not texts[2] else texts
    try:
        at = tuple(float(text.replace(",", ".")) for text in texts)
        finite = all(map(np.isfinite, at))
    except ValueError:
        finite = False
    if not finite:
        names = ", ".join(COLUMNS[frame])
        raise DataError("is not a place", field=names, found=", ".join(texts), expected="numbers, none left out")
    return Place(at, frame)


def check_columns(names: Sequence[str]) -> None:
    """Raises DataError for a column that seems to be a coordinate and does not say in what."""
    known = {name for columns in COLUMNS.values() for name in columns}
    for name in names:
        start = name.casefold()
        if name not in known and (start in known or start[:2] in ("x_", "y_", "z_", "x ", "y ", "z ")):
            raise DataError("does not say its unit", field=name, expected=_EXPECTED)


def objects_of(path: Path, limits: Limits) -> list[Place]:
    """A place for each object of a mask: connected, also over corners, of whatever value but 0.

    It is the object's own voxel nearest to the middle of the slice on which the object is largest.
    """
    from scipy import ndimage

    mask = read_image(path, limits=limits, mask=True)
    if fault := palette_fault(mask):
        raise fault
    with located(path):
        marked, count = ndimage.label((mask.array != 0).any(0), np.ones((3, 3, 3)))
        if not 1 <= count <= _MOST:
            raise DataError(
                "has no lesion" if not count else "has too many lesions", found=count, expected=f"1 to {_MOST}"
            )
    found = []
    for number, box in enumerate(ndimage.find_objects(marked), 1):
        own = marked[box] == number
        z = int(own.sum((1, 2)).argmax())
        pixels = np.argwhere(own[z])
        row, column = pixels[((pixels - pixels.mean(0)) ** 2).sum(1).argmin()]
        at = (box[2].start + int(column), box[1].start + int(row), box[0].start + z)
        if mask.affine is not None:
            point = (mask.affine @ [*at, 1.0])[:3]
            found.append(Place(tuple(map(float, point)), "ras", str(number)))
        else:
            found.append(Place(at if mask.shape[0] > 1 else at[:2], "voxel", str(number), mask.shape))
    return found


def points_of(path: Path) -> list[Place]:
    """The points of a table with the columns of a cohort's, or of 3D Slicer's markups (`.mrk.json`)."""
    if path.suffix.lower() != ".json":
        rows, found = _rows(path), []
        for place, row in rows:
            with located(path, place):
                check_columns(list(row))
                point = place_in(row)
                if point is None:
                    raise DataError("has no place", expected=_EXPECTED)
                found.append(Place(point.at, point.frame, row.get("lesion", "")))
    else:
        found = list(_markups(path))
    if not 1 <= len(found) <= _MOST:
        raise DataError("has no points" if not found else "has too many points", path=path, found=len(found))
    return found


def _rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    found = None
    for names in COLUMNS.values():
        try:
            return read_table(path, names[:2], None, kind="table of points")
        except DataError as error:
            if error.message != OTHER_COLUMNS:
                raise
            found = error.found
    raise DataError(OTHER_COLUMNS, path=path, found=found, expected=_EXPECTED)


def _markups(path: Path) -> list[Place]:
    content = read_json_text(path, kind="markups of 3D Slicer")
    found: list[Place] = []
    try:
        for markup in content["markups"]:
            frame = {"LPS": "lps", "RAS": "ras"}[markup["coordinateSystem"]]
            for point in markup["controlPoints"]:
                if point.get("positionStatus", "defined") != "defined":
                    continue
                x, y, z = (float(value) for value in point["position"])
                found.append(Place((x, y, z), "lps" if frame == "lps" else "ras", str(point.get("label", ""))))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = "markups with coordinateSystem LPS or RAS, and controlPoints with a position"
        raise DataError("is not a file of points", path=path, found=str(error)[:80], expected=what) from None
    return found
