"""Images and masks of any format on their grids: read, compared, resampled, turned, cut to one size.

And what a mask's values mean (`Labels`): stated by the user, or 0 and one other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from modiff.errors import ConfigError, DataError
from modiff.io.files import LIMITS, Limits
from modiff.io.image import Volume, picture
from modiff.io.scan import read_any

SUFFIXES = (".nii.gz", ".nii", ".png", ".tif", ".tiff", ".npy", ".dcm")
JPEG = (".jpg", ".jpeg")  # which changes values: only for sources that have nothing else
# (column, row, slice) run towards these sides of the patient: how such slices are usually looked at.
PLANES = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}
_COLOUR = 24  # grey levels by which JPEG's colour planes of a grey image may differ
_JPEG_LIMITS = Limits(max_side=8192)
_TOLERANCE = 0.02  # voxels by which the corners of two grids that are the same may differ: float32 headers
_BINARY = ({0, 1}, {0, 255})  # values that need no --label
_NEAR = 0.15  # of full scale: how far from black and white JPEG and interpolation leave most values of a mask
_MOST = 0.97  # fraction of values that must lie so near
_FEW = 16  # distinct whole values up to which they are labels, not grey values


@dataclass(frozen=True)
class Grid:
    """Voxels (C,Z,H,W) and their place, where the format states it.

    affine: (4,4) voxel (column, row, slice) to RAS+ mm. skipped: which files of a series were left out, in words.
    """

    array: np.ndarray
    path: Path
    affine: np.ndarray | None = None
    skipped: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z,H,W)."""
        return self.array.shape[1:]

    @property
    def spacing(self) -> tuple[float, float] | None:
        """mm per pixel (row, column)."""
        if self.affine is None:
            return None
        column, row, _ = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return row, column

    def slice_affine(self, index: int) -> np.ndarray | None:
        """Of one of the slices, alone."""
        if self.affine is None:
            return None
        affine = self.affine.copy()
        affine[:3, 3] += index * affine[:3, 2]
        return affine


def read_grid(path: Path, limits: Limits = LIMITS, *, mask: bool = False) -> Grid:
    """An image, volume or DICOM series; a mask may also have one bit per pixel or a palette, whose indices it is."""
    if path.suffix.lower() in JPEG:
        return Grid(read_jpeg(path, limits)[None, None], path)
    found = read_any(path, limits=limits, mask=mask)
    if isinstance(found, Volume):
        return Grid(found.array, path, found.affine, getattr(found.source, "skipped", ()))
    stack = mask and found.format == "NPY"  # an array's first of three axes: channels of an image, slices of a mask
    return Grid(found.array[None] if stack else found.array[:, None], path)


def mask_limits(image: Grid, limits: Limits) -> Limits:
    """For a mask of this image: no larger than what was judged already, it may compress as well as it likes."""
    return replace(limits, ratio_free=max(limits.ratio_free, 16 * math.prod(image.shape)))


def read_jpeg(path: Path, limits: Limits = LIMITS) -> np.ndarray:
    """(H,W) uint8 of a grey JPEG, or of one whose colours are grey; its size is checked before it is decoded."""
    size = limits.check_file(path)
    with picture(path, "JPEG") as image:
        _JPEG_LIMITS.check_declared(path, image.size[::-1], 1, size)
        mode, array = image.mode, np.asarray(image)
    if mode == "RGB" and int((array.max(2) - array.min(2)).max()) <= _COLOUR:
        return np.rint(array.mean(2)).astype(np.uint8)
    if mode != "L":
        raise DataError("a JPEG in colour", path=path, found=mode, expected="grey")
    return array


def difference(one: Grid, other: Grid) -> str | None:
    """What differs between two grids, in words; None where they are the same. Two without geometry: their size."""
    if one.shape != other.shape:
        return f"{_times(other.shape)} in place of {_times(one.shape)}"
    if one.affine is None or other.affine is None:
        return None
    corners = np.array([[c, r, z, 1] for c in (0, one.shape[2]) for r in (0, one.shape[1]) for z in (0, one.shape[0])])
    apart = np.linalg.norm((corners @ (one.affine - other.affine).T)[:, :3], axis=1)
    if apart.max() <= _TOLERANCE * np.linalg.norm(one.affine[:3, :3], axis=0).min():
        return None
    return f"the same size, but up to {apart.max():.3g} mm apart"


def resample(mask: Grid, to: Grid) -> Grid:
    """A mask on another grid, nearest neighbour, 0 where it does not reach; by affines, else by relative position."""
    if mask.affine is not None and to.affine is not None:
        back = np.linalg.inv(mask.affine) @ to.affine
    else:
        if mask.shape[0] != to.shape[0]:
            found, expected = f"{mask.shape[0]} slices", f"{to.shape[0]}, or a geometry in both files"
            raise DataError("cannot be resampled", path=mask.path, found=found, expected=expected)
        rows, columns = mask.shape[1] / to.shape[1], mask.shape[2] / to.shape[2]
        back = moved(np.eye(4), (rows - 1) / 2, (columns - 1) / 2, (rows, columns))
    in_plane = np.tensordot(back[:3, :2], np.indices(to.shape[1:])[::-1], 1)  # of (column, row)
    made = np.zeros((len(mask.array), *to.shape), mask.array.dtype)
    limit = np.array(mask.shape[::-1])[:, None, None]
    for index in range(to.shape[0]):
        at = np.rint(in_plane + (back[:3, 2] * index + back[:3, 3])[:, None, None]).astype(np.int64)
        inside = ((at >= 0) & (at < limit)).all(0)
        column, row, part = at[:, inside]
        made[:, index][:, inside] = mask.array[:, part, row, column]
    return replace(to, array=made, path=mask.path)


def sides(grid: Grid) -> str | None:
    """Towards which sides of the patient (column, row, slice) run, such as LPS; None without geometry."""
    if grid.affine is None:
        return None
    from nibabel.orientations import aff2axcodes

    return "".join(str(code) for code in aff2axcodes(grid.affine))


def turn(grid: Grid, plane: str) -> Grid:
    """The same voxels with their axes permuted and flipped so that slices are `plane`'s; DataError without geometry.

    plane: one of `PLANES`, or native, which is as it is.
    """
    if plane == "native":
        return grid
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    if grid.affine is None:
        raise DataError("no geometry to turn by", path=grid.path, field="--plane", found=plane, expected="native")
    change = ornt_transform(io_orientation(grid.affine), axcodes2ornt(PLANES[plane]))
    affine = grid.affine @ inv_ornt_aff(change, grid.shape[::-1])
    return replace(grid, array=apply_orientation(grid.array.T, change).T, affine=affine)


def moved(affine: np.ndarray, top: float, left: float, scale: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """A slice's affine for pixels `scale` (rows, columns) times as large, the first of them at (top, left)."""
    affine = affine.copy()
    affine[:3, 3] += affine[:3, 0] * left + affine[:3, 1] * top
    affine[:3, :2] *= scale[::-1]
    return affine


def centre_fit(grid: Grid, size: tuple[int, int]) -> tuple[Grid, tuple[int, int, int, int] | None]:
    """Cropped or padded with 0 about the centre to (H,W); and the part that is not padding, None where all is image."""
    height, width = grid.shape[1:]
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    made = np.zeros((*grid.array.shape[:2], *size), grid.array.dtype)
    y0, x0 = max(top, 0), max(left, 0)
    part = grid.array[..., y0 : top + size[0], x0 : left + size[1]]
    valid = (y0 - top, x0 - left, y0 - top + part.shape[2], x0 - left + part.shape[3])
    made[..., valid[0] : valid[2], valid[1] : valid[3]] = part
    affine = None if grid.affine is None else moved(grid.affine, top, left)
    return replace(grid, array=made, affine=affine), None if valid == (0, 0, *size) else valid


def resize(grid: Grid, size: tuple[int, int], *, mask: bool) -> Grid:
    """To (H,W) in the plane: an image linearly and without aliasing, as float32; a mask by nearest neighbour."""
    height, width = grid.shape[1:]
    scale = (height / size[0], width / size[1])
    if mask:
        rows, columns = (
            np.minimum(((np.arange(new) + 0.5) * ratio).astype(np.int64), old - 1)
            for new, ratio, old in zip(size, scale, (height, width), strict=True)
        )
        array = grid.array[:, :, rows[:, None], columns]
    else:
        from skimage.transform import resize as scaled

        wide = grid.array.astype(np.float32)
        parts = [[scaled(image, size, order=1, anti_aliasing=True, preserve_range=True) for image in c] for c in wide]
        array = np.array(parts, np.float32)
    # Pixel centres: the new pixel 0 lies (scale − 1) / 2 old pixels inside.
    top, left = ((step - 1) / 2 for step in scale)
    return replace(grid, array=array, affine=None if grid.affine is None else moved(grid.affine, top, left, scale))


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(H,W) from 128x128; ConfigError for another form."""
    if text is None:
        return None
    height, x, width = text.lower().partition("x")
    if not (x and height.isdecimal() and width.isdecimal() and min(int(height), int(width)) > 0):
        raise ConfigError("is not a size", field="--size", found=repr(text), expected="HxW, such as 128x128")
    return int(height), int(width)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[1:] if shape[0] == 1 else shape))


class Labels:
    """Which value of a mask is which class.

    Without rules one class named `foreground`: a mask holds 0 and either 1 or 255. Rules are VALUE=CLASS, several
    values may be one class; `VALUE=` is background. A value without a rule is refused.
    """

    def __init__(self, rules: Sequence[str] = (), foreground: str = "foreground") -> None:
        self.values: dict[int, int] = {}
        names: list[str] = []
        for rule in rules:
            value, equals, name = rule.partition("=")
            if not equals or not value.lstrip("-").isdecimal() or int(value) in self.values or int(value) == 0:
                expected = "VALUE=CLASS, a whole number other than 0, each once"
                raise ConfigError("no such rule", field="--label", found=repr(rule), expected=expected)
            if name and name not in names:
                names.append(name)
            self.values[int(value)] = names.index(name) + 1 if name else 0
        if rules and not names:
            raise ConfigError("no class is named", field="--label", expected="VALUE=CLASS")
        self.classes = tuple(names) if names else (foreground,)

    def judge(self, grid: Grid) -> tuple[DataError | None, np.ndarray]:
        """What is wrong with a mask's values, and (Z,H,W) uint8 the class indices that they most likely mean."""
        if len(grid.array) > 1 and (grid.array != grid.array[0]).any():  # colours that are grey are one channel
            raise DataError("a mask in colour", path=grid.path, found=f"{len(grid.array)} channels", expected="one")
        mask = grid.array[0]
        present = np.unique(mask)
        if self.values:
            made = np.zeros(mask.shape, np.uint8)
            for value, index in self.values.items():
                made[mask == value] = index
            strange = present[~np.isin(present, [0, *self.values])]
            kind, found = "mask values without a meaning", f"{_few(strange)}, which no --label names"
            return (DataError(kind, path=grid.path, found=found) if strange.size else None), made
        if any(set(present.tolist()) <= known for known in _BINARY):
            return None, (mask != 0).astype(np.uint8)
        top = max(float(present[-1]), 1.0)
        marked, expected, hint = (mask > top / 2).astype(np.uint8), None, None
        whole = np.array_equal(present, np.rint(present))
        near = np.minimum(np.abs(mask - 0.0), np.abs(top - mask)) <= _NEAR * top
        if whole and len(present) > 2 and near.mean() >= _MOST and top > _FEW:
            kind = "smeared mask values"
            found = f"{len(present)} values about 0 and {top:g}, as JPEG or interpolation leaves them"
        elif not whole:
            kind, found = "mask values that are not whole", f"values such as {_few(present[present % 1 != 0])}"
        elif len(present) <= _FEW:
            kind, found, marked = "mask values without a meaning", _few(present), (mask != 0).astype(np.uint8)
            expected, hint = "0 and either 1 or 255", "--label VALUE=CLASS says what they mean."
        else:
            kind = "mask values like those of an image"
            found = f"{len(present)} values from {present[0]:g} to {top:g}: is it a mask?"
        return DataError(kind, path=grid.path, found=found, expected=expected, hint=hint), marked


def _few(values: np.ndarray) -> str:
    words = ", ".join(f"{value:.4g}" for value in values[:5])
    return words + (f" and {len(values) - 5} more" if len(values) > 5 else "")
