"""What an image file holds: voxels and their place; compared with others, resampled, turned, cut to one size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modiff.errors import DataError

# (column, row, slice) run towards these sides of the patient: how such slices are usually looked at.
PLANES = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}
_AXES = {side: axis for axis, sides in enumerate(("LR", "AP", "IS")) for side in sides}
_LOST = 0.01  # fraction of a mask's marks that resampling may lose
_HALF = 1e-3  # voxels: so far beyond the middle between two is still the middle
_TOLERANCE = 0.02  # voxels by which the corners of two grids that are the same may differ: float32 headers


class Note(NamedTuple):
    """What a user must know of how a scan was read. file: which of its files is meant, where it is not about all.

    The name of a series' file may be its patient's: it goes into no result that is not asked to name the patient.
    """

    text: str
    file: str = ""

    def __str__(self) -> str:
        return f"{self.file} {self.text}".lstrip()


@dataclass(frozen=True)
class Volume:
    """Voxels and where they lie. An image is a volume of one slice (Z = 1).

    array: (C,Z,H,W) in the values' own number type, rescaled to the source's units (HU for CT). affine: (4,4) float64,
    voxel (column, row, slice) = (index along W, H, Z) to RAS+ mm: nibabel's convention for the array transposed to
    (W,H,Z), and the store's for `affine`; None for a picture, whose format states no place. format: "PNG", "TIFF",
    "NPY", "JPEG", "NIfTI" or "DICOM". sha256: file's name -> SHA-256 of what was read. source: what the format needs to
    write results back into the same geometry (a NIfTI header, the headers of a DICOM series in the order of the
    slices): opaque to others, None on another grid than the file's. modality: DICOM's word for how it was made, such as
    CT. region: its word for the part of the body, such as CHEST. Raises DataError where array and affine do not fit.

    stated: mm along (Z,H,W) where a header gives sizes but no place. forms: the places that a header gives (NIfTI's
    sform and qform), the one that is `affine` first, each as (4,4) from the mm of `affine` to its own. palette: colours
    of a mask whose values are indices of colours. around: of a store's slice its channels with those of its neighbours,
    (C',H,W) in the store's order, where it has such.
    """

    array: np.ndarray
    affine: np.ndarray | None
    path: Path
    format: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    source: Any = field(default=None, repr=False)  # a header may name a patient, and a repr ends up in logs
    modality: str | None = None
    stated: tuple[float, float, float] | None = None
    forms: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    palette: Mapping[int, str] = field(default_factory=dict)
    region: str | None = None
    around: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.size == 0:
            raise DataError(
                "is not a volume", path=self.path, field="array", found=self.array.shape, expected="(C,Z,H,W)"
            )
        if self.affine is None:
            return
        affine = np.asarray(self.affine, dtype=np.float64)
        usable = affine.shape == (4, 4) and bool(np.isfinite(affine).all()) and affine[3].tolist() == [0, 0, 0, 1]
        if not usable or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            found, expected = affine.tolist(), "an invertible (4,4)"
            raise DataError("no usable geometry", path=self.path, field="affine", found=found, expected=expected)
        object.__setattr__(self, "affine", affine)

    @property
    def is_picture(self) -> bool:
        """Its format has no place in space, and its results are pictures too."""
        return self.affine is None and self.stated is None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z,H,W)."""
        return self.array.shape[1], self.array.shape[2], self.array.shape[3]

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """mm between neighbouring voxels along (Z,H,W): slice, row, column; None where they are not known."""
        if self.affine is None:
            return self.stated
        column, row, part = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return part, row, column

    @property
    def voxel_mm3(self) -> float | None:
        """Volume of a voxel in mm³, None where its size is not known."""
        if self.affine is None:
            return None if self.stated is None else math.prod(self.stated)
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def part(self, index: int) -> Volume:
        """One of the slices, alone, where it lies."""
        affine = None if self.affine is None else self.affine.copy()
        if affine is not None:
            affine[:3, 3] += index * affine[:3, 2]
        return replace(self, array=self.array[:, index : index + 1], affine=affine, source=None)


def check_finite(array: np.ndarray, *, field: str | None = None, turned: bool = False) -> None:
    """DataError for NaN and infinity: how many, and where the first is, counted from 0, along axes
    longer than 1. turned: in the file the axes are in reverse order."""
    if array.dtype.kind != "f" or (good := np.isfinite(array)).all():
        return
    place = [
        int(index)
        for index, size in zip(np.unravel_index(good.argmin(), good.shape), good.shape, strict=True)
        if size > 1
    ]
    where = ", ".join(map(str, place[::-1] if turned else place))
    found = f"{good.size - np.count_nonzero(good):,} of {good.size:,}, the first at [{where}]"
    raise DataError("has values that are not finite", field=field, found=found, hint="Give them a number first")


def difference(one: Volume, other: Volume) -> str | None:
    """What differs between two grids, in words; None where they are the same. One without geometry: its size.

    Places are compared in every form that both have, such as NIfTI's sform and qform; where these disagree about it,
    the form that is used decides.
    """
    if one.shape != other.shape:
        axes = "rows × columns" if one.shape[0] == other.shape[0] == 1 else "slices × rows × columns"
        return f"{_times(other.shape)} in place of {_times(one.shape)} ({axes})"
    apart = _apart(one, other)
    used = next(iter(apart), "")
    if not apart.get(used):
        return None
    same = next((name for name, mm in apart.items() if not mm), None)
    words = f"up to {apart[used]:.3g} mm apart"
    if same is None:
        return f"the same size, but {words}"
    return f"the same size and the same place by the {same}, but {words} by the {used}"


def remark(image: Volume, mask: Volume) -> str | None:
    """What a mask has that is on the grid of its image (no `difference`), where that is not plain; else None."""
    if (image.affine is None) != (mask.affine is None):
        return "no geometry" if mask.affine is None else "a geometry that the image lacks"
    apart = _apart(image, mask)
    if other := next((name for name, mm in apart.items() if mm), None):
        return f"the image's place by the {next(iter(apart))}, which is used, but not by the {other}"
    mine, its = (next(iter(volume.forms), None) for volume in (image, mask))
    return f"the place by the {its} that the image has by the {mine}" if mine and its and mine != its else None


def corners_apart(one: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    """mm between two places of a grid (Z,H,W), at the corner that is furthest; 0 within their headers' precision."""
    corners = np.array([[c, r, z, 1] for c in (0, shape[2]) for r in (0, shape[1]) for z in (0, shape[0])])
    apart = float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())
    return apart if apart > _TOLERANCE * np.linalg.norm(one[:3, :3], axis=0).min() else 0.0


def _apart(one: Volume, other: Volume) -> dict[str, float]:
    """mm between two volumes of one shape by each form that both have, the one that is used first; 0 is the same.

    A place that is not NIfTI's is compared with every form; places without a common form as they are used.
    """
    if one.affine is None or other.affine is None:
        return {}
    here = np.eye(4)
    mine, theirs = one.forms or dict.fromkeys(other.forms, here), other.forms or dict.fromkeys(one.forms, here)
    return {
        name: corners_apart(mine.get(name, here) @ one.affine, theirs.get(name, here) @ other.affine, one.shape)
        for name in [name for name in mine if name in theirs] or [""]
    }


def joined(volumes: Sequence[Volume]) -> np.ndarray:
    """(C,Z,H,W) of all channels. Of 8 and of 16 bits together they are floats: full scale is not one value then."""
    kinds = {volume.array.dtype for volume in volumes}
    both = {np.dtype(np.uint8), np.dtype(np.uint16)} <= kinds
    return np.concatenate([volume.array.astype(np.float32) if both else volume.array for volume in volumes])


def nearest(places: np.ndarray) -> np.ndarray:
    """The whole numbers nearest to places on a grid, int64. Halves, which two grids often share, all go down: rounded
    to even they would take every other voxel twice, and rounding errors of headers would decide."""
    return np.floor(places + (0.5 - _HALF)).astype(np.int64)


def resample(mask: Volume, to: Volume) -> Volume:
    """A mask on another grid, nearest neighbour, 0 where it does not reach: by affines, of two pictures by position.

    Raises DataError without geometry, and where over 1 % of the marked voxels (not 0) have no place there.
    """
    if mask.affine is not None and to.affine is not None:
        back = np.linalg.inv(mask.affine) @ to.affine
    else:
        if not (mask.is_picture and to.is_picture and mask.shape[0] == to.shape[0]):
            found = f"{_times(mask.shape)} for {_times(to.shape)}"
            raise DataError("no geometry to resample by", path=mask.path, found=found, expected="one in both files")
        rows, columns = mask.shape[1] / to.shape[1], mask.shape[2] / to.shape[2]
        back = moved(np.eye(4), (rows - 1) / 2, (columns - 1) / 2, (rows, columns))
    marks = np.argwhere((mask.array != 0).any(0))[:, ::-1]  # (column, row, slice)
    places = np.linalg.solve(back, np.column_stack([marks, np.ones(len(marks))]).T)[:3].T
    size = np.array(to.shape[::-1])
    lost = int(((places < -0.5 - _TOLERANCE) | (places >= size - 0.5 + _TOLERANCE)).any(1).sum())
    if lost > _LOST * len(marks):
        found = f"{lost} of {len(marks)} marked voxels outside the image"
        raise DataError("marks that resampling would lose", path=mask.path, found=found, expected="at most 1 %")
    in_plane = np.tensordot(back[:3, :2], np.indices(to.shape[1:])[::-1], 1)  # of (column, row)
    made = np.zeros((len(mask.array), *to.shape), mask.array.dtype)
    limit = np.array(mask.shape[::-1])[:, None, None]
    for index in range(to.shape[0]):
        at = nearest(in_plane + (back[:3, 2] * index + back[:3, 3])[:, None, None])
        inside = ((at >= 0) & (at < limit)).all(0)
        column, row, part = at[:, inside]
        made[:, index][:, inside] = mask.array[:, part, row, column]
    if len(marks) and not made.any():
        found = f"none of {len(marks)} marked voxels on the image's grid, which is coarser"
        raise DataError("marks that resampling would lose", path=mask.path, found=found)
    return replace(mask, array=made, affine=to.affine, source=to.source, forms=to.forms, stated=to.stated)


def sides(volume: Volume) -> str | None:
    """Towards which sides of the patient (column, row, slice) run, such as LPS; None without geometry."""
    return None if volume.affine is None else sides_of(volume.affine)


def sides_of(affine: np.ndarray) -> str | None:
    """`sides` of an affine; None where its axes span no space."""
    from nibabel.orientations import aff2axcodes

    codes = aff2axcodes(affine)
    return None if None in codes else "".join(map(str, codes))


def plane_of(orientation: str) -> str:
    """The plane of slices whose axes run towards these sides: axial, coronal or sagittal."""
    return next(plane for plane, known in PLANES.items() if _AXES[known[2]] == _AXES[orientation[2]])


def turn(volume: Volume, plane: str) -> Volume:
    """The same voxels with their axes permuted and flipped so that slices are `plane`'s; DataError without geometry.

    plane: one of `PLANES`, or native, which is as it is.
    """
    if plane == "native":
        return volume
    from nibabel.orientations import inv_ornt_aff

    if volume.affine is None:
        raise DataError("no geometry to turn by", path=volume.path, field="--plane", found=plane, expected="native")
    change = change_of_axes(sides(volume) or "", PLANES[plane])
    affine = volume.affine @ inv_ornt_aff(change, volume.shape[::-1])
    return replace(volume, array=permuted(volume.array, change), affine=affine, source=None)


def change_of_axes(own: str, to: str) -> np.ndarray:
    """(3,2) where each of the axes (column, row, slice) goes, and ±1, so that from the sides `own` they run to `to`."""
    from nibabel.orientations import axcodes2ornt, ornt_transform

    return ornt_transform(axcodes2ornt(own), axcodes2ornt(to))


def permuted(array: np.ndarray, change: np.ndarray) -> np.ndarray:
    """(…,Z,H,W) with its last three axes permuted and flipped; values are the same to the bit."""
    from nibabel.orientations import apply_orientation

    return apply_orientation(array.T, change).T


def moved(affine: np.ndarray, top: float, left: float, scale: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """A slice's affine for pixels `scale` (rows, columns) times as large, the first of them at (top, left)."""
    affine = affine.copy()
    affine[:3, 3] += affine[:3, 0] * left + affine[:3, 1] * top
    affine[:3, :2] *= scale[::-1]
    return affine


def window(
    volume: Volume, top: int, left: int, size: tuple[int, int]
) -> tuple[Volume, tuple[int, int, int, int] | None]:
    """(H,W) pixels from (top, left) of each slice, 0 where there are none; and the part that is not padding.

    The part is (top, left, bottom, right), half-open; None where all is image.
    """
    made = np.zeros((*volume.array.shape[:2], *size), volume.array.dtype)
    y0, x0 = max(top, 0), max(left, 0)
    part = volume.array[..., y0 : max(top + size[0], y0), x0 : max(left + size[1], x0)]
    valid = (y0 - top, x0 - left, y0 - top + part.shape[2], x0 - left + part.shape[3])
    made[..., valid[0] : valid[2], valid[1] : valid[3]] = part
    affine = None if volume.affine is None else moved(volume.affine, top, left)
    return replace(volume, array=made, affine=affine, source=None), None if valid == (0, 0, *size) else valid


def resize(volume: Volume, size: tuple[int, int], *, mask: bool) -> Volume:
    """To (H,W) in the plane: an image linearly and without aliasing, as float32; a mask by nearest neighbour."""
    height, width = volume.shape[1:]
    scale = (height / size[0], width / size[1])
    if mask:
        rows, columns = (
            np.minimum(((np.arange(new) + 0.5) * ratio).astype(np.int64), old - 1)
            for new, ratio, old in zip(size, scale, (height, width), strict=True)
        )
        array = volume.array[:, :, rows[:, None], columns]
    else:
        from skimage.transform import resize as scaled

        wide = volume.array.astype(np.float32)
        parts = [[scaled(image, size, order=1, anti_aliasing=True, preserve_range=True) for image in c] for c in wide]
        array = np.array(parts, np.float32)
    # Pixel centres: the new pixel 0 lies (scale − 1) / 2 old pixels inside.
    top, left = ((step - 1) / 2 for step in scale)
    affine = None if volume.affine is None else moved(volume.affine, top, left, scale)
    stated = volume.stated and (volume.stated[0], volume.stated[1] * scale[0], volume.stated[2] * scale[1])
    return replace(volume, array=array, affine=affine, source=None, stated=stated)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[1:] if shape[0] == 1 else shape))
