"""Maps in a folder: a sub-folder per case, a file per map; or an NPZ per case, as `modiff sample` writes it."""

from __future__ import annotations

import os
import re
from contextlib import closing
from pathlib import Path

import numpy as np

from modiff.data.importers.grids import read_grid
from modiff.errors import DataError
from modiff.evaluation.predictions.arrays import Npz, read_one_npz
from modiff.evaluation.predictions.base import FORMATS, MapSource, RawMaps
from modiff.io.image import read_image

_PICTURES = (".png", ".tif", ".tiff", ".npy")
_NIFTI = (".nii.gz", ".nii")
_REFUSED = (".jpg", ".jpeg", ".bmp", ".gif", ".dcm", ".pkl", ".pt", ".pth", ".mat")
_OF_MODIFF_SAMPLE = "samples.npz"
_SAME_MM = 1e-3


class FolderMaps(MapSource):
    """A folder whose sub-folders, at any depth, are cases: their path is the case, their files its maps by name.

    A folder with samples.npz, as `modiff sample` writes it, is that file; any other NPZ is a case by its own name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, dict[str, Path]] = {}
        self._npz: dict[str, Path] = {}
        for folder, subfolders, files in os.walk(path):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            self._add_folder(Path(folder), sorted(name for name in files if not name.startswith(".")))
        both = sorted(self._files.keys() & self._npz.keys())
        if both:
            raise DataError("a case twice: a folder and an NPZ", path=path, field=both[0])
        self.cases = self._named([*self._files, *self._npz])

    def _add_folder(self, folder: Path, files: list[str]) -> None:
        case = folder.relative_to(self.path).as_posix()
        if _OF_MODIFF_SAMPLE in files:
            self._npz[case] = folder / _OF_MODIFF_SAMPLE
            return
        maps: dict[str, Path] = {}
        for file in files:
            suffix = next((end for end in (*_PICTURES, *_NIFTI) if file.lower().endswith(end)), None)
            if file.lower().endswith(".npz"):
                self._npz[(folder / file).relative_to(self.path).with_suffix("").as_posix()] = folder / file
            elif file.lower().endswith(_REFUSED):
                raise DataError("not a format for maps", path=folder / file, expected="PNG, NIfTI, TIFF, NPY or NPZ")
            elif suffix is not None:
                name = file[: -len(suffix)]
                if name in maps:
                    found = f"{maps[name].name}, {file}"
                    raise DataError(f"the map {name!r} twice", path=self.path, field=case, found=found)
                maps[name] = folder / file
        if maps and case == ".":
            raise DataError("files outside a case's folder", path=next(iter(maps.values())), expected=FORMATS)
        if maps:
            self._files[case] = maps

    def read(self, case: str) -> RawMaps:
        """The case's maps in the order of their names; they must be of one size, number type and place."""
        if case in self._npz:
            return read_one_npz(self._npz[case], case)
        names, arrays = sorted(self._files[case], key=_natural), list[np.ndarray]()
        place: np.ndarray | None = None
        first = f"the first map of case {case}"
        for name in names:
            path = self._files[case][name]
            array, affine = _read(path)
            if not arrays:
                place = affine
            elif array.shape != arrays[0].shape:
                found, expected = ("×".join(map(str, one.shape)) for one in (array, arrays[0]))
                raise DataError("another size", path=path, found=found, expected=f"{expected} as {first}")
            elif array.dtype != arrays[0].dtype:
                expected = f"{arrays[0].dtype} as {first}"
                raise DataError("another number type", path=path, found=array.dtype, expected=expected)
            check_place(affine, place, where=str(path), case=case, other=first)
            arrays.append(array)
        try:
            together = np.stack(arrays)
        except MemoryError as error:
            raise DataError("does not fit into memory", path=self.path, field=case, found=len(arrays)) from error
        return RawMaps(case, str(self.path / case), tuple(names), together, place)

    def count(self, case: str) -> int:
        """The number of files, or of maps in the NPZ."""
        if case not in self._npz:
            return len(self._files[case])
        with closing(Npz(self._npz[case])) as npz:
            return npz.count(npz.only())


def check_place(affine: np.ndarray | None, theirs: np.ndarray | None, *, where: str, case: str, other: str) -> None:
    """Raises DataError where both say where they lie and these places differ."""
    if affine is not None and theirs is not None and not np.allclose(affine, theirs, rtol=0, atol=_SAME_MM):
        found = f"affines {float(np.abs(affine - theirs).max()):.3g} mm apart"
        raise DataError("another place in space", path=where, field=case, found=found, expected=other)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(C,Z,H,W) and the affine of NIfTI. The first of an array's three axes is its classes."""
    if path.suffix.lower() == ".npy":
        return read_image(path).array[:, None], None
    grid = read_grid(path, mask=True)
    return grid.array, grid.affine


def _natural(name: str) -> tuple[object, ...]:
    """sample-2 before sample-10."""
    texts_and_numbers = enumerate(re.split(r"(\d+)", f"{name}\0"))
    return (*(int(part) if place % 2 else part for place, part in texts_and_numbers), name)
