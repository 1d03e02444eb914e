"""Maps in files, case by case: what `modiff sample` wrote, a folder of PNG or NIfTI, NPZ, or HDF5.

A case holds several maps: samples where predictions are read, raters where the ground truth is.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from modiff.data.importers.sources import walk
from modiff.data.masks import palette_fault
from modiff.data.store import SIGNATURE
from modiff.data.store_format import check_case
from modiff.errors import DataError
from modiff.io.archive import Archive
from modiff.io.files import LIMITS, Limits, guarded, guarding, located, natural, regular, told
from modiff.io.hdf5 import datasets, names, open_hdf5, rows
from modiff.io.image import Header, npy_header, read_image, read_npy
from modiff.io.results import ARRAYS, SampleFolder, sample_folder, sample_names
from modiff.io.text import is_litter, name_in_zip, one_spelling
from modiff.io.volume import Volume, difference, remark

T = TypeVar("T")
FORMATS = "a folder (a sub-folder per case, a PNG or NIfTI file per map), what `modiff sample` wrote, an NPZ or HDF5"
_MAPS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".npy", ".nii.gz", ".nii")
_REFUSED = (".jpg", ".jpeg", ".dcm", ".pkl", ".pt", ".pth", ".mat")
_SAMPLES, _CASES, _WEIGHTS = "samples", "case", "weights"
_OWN = ("maps", "samples", "masks")  # what the array of a file that holds one case may be called


@dataclass(eq=False)
class RawMaps:
    """The maps of one case as their files have them.

    array: (N,C,Z,H,W); C is 1 or the number of classes, Z > 1 for volumes. names: N. grid: the first map, where files
    may say where they lie. weights: (N,) where they say. notes: what is to be known of a file, and the file. mixed: the
    files are of several number types, so that their maxima are not that of `array`.
    """

    case: str
    where: str
    names: tuple[str, ...]
    array: np.ndarray
    grid: Volume | None = None
    weights: np.ndarray | None = None
    notes: list[tuple[str, str]] = field(default_factory=list)
    mixed: bool = False

    @classmethod
    def numbered(cls, case: str, path: Path, array: np.ndarray) -> RawMaps:
        """From numbers (N,H,W) or (N,C,H,W), called by their places; DataError for another shape."""
        if array.ndim not in (3, 4) or 0 in array.shape:
            raise DataError("wrong shape", path=path, field=case, found=array.shape, expected="(N,H,W) or (N,K,H,W)")
        array = array[:, None, None] if array.ndim == 3 else array[:, :, None]
        return cls(case, str(path), tuple(map(str, range(len(array)))), array)


class MapSource(ExitStack, ABC):
    """A set of cases on disk, a context manager that holds its files open.

    path: where. cases: their names in one spelling, sorted. sampled: those that `modiff sample` wrote. notes: what was
    guessed.
    """

    path: Path
    cases: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.sampled: dict[str, SampleFolder] = {}

    @abstractmethod
    def read(self, case: str) -> RawMaps:
        """The maps of a case; raises DataError that names it."""

    @abstractmethod
    def count(self, case: str) -> int:
        """The number of maps of a case, without reading them where that is possible."""

    def _named(self, names: Sequence[str], found: str | None = None) -> tuple[str, ...]:
        """Case names, checked; raises DataError where there are none, but what was `found`."""
        if not names:
            raise DataError("no cases", path=self.path, found=found, expected=FORMATS)
        _check_once(self.path, names)
        with located(self.path):
            return tuple(sorted(map(check_case, names)))


class NpzMaps(MapSource):
    """An NPZ file with one array (N,H,W) or (N,K,H,W) per case, named as the case.

    case: of a file that holds this one alone, such as samples.npz of `modiff sample`, with weights if it has any. The
    sizes of arrays are checked before memory is taken; nothing is unpickled.
    """

    def __init__(self, path: Path, limits: Limits = LIMITS, case: str | None = None) -> None:
        super().__init__()
        self.path, self._limits = path, limits
        self._zip = self.enter_context(Archive(path))
        every = [(one_spelling(name_in_zip(info)), info) for info in self._zip.infolist()]
        members = [(name.removesuffix(".npy"), info) for name, info in every if name.endswith(".npy")]
        self._infos = {name: info for name, info in members if not is_litter(name)}
        names = list(self._infos)
        _check_once(path, [name for name, _ in members])
        if case is None and {_CASES, _SAMPLES} <= set(names):
            hint = "Or write an HDF5 file, which may hold `samples` and `case`."
            raise DataError("arrays for all cases at once", path=path, expected="an array per case", hint=hint)
        if case is None and {"maps", _WEIGHTS} <= set(names):
            hint = "Give the folder that it lies in"
            raise DataError("the samples of one image", path=path, expected="an array per case", hint=hint)
        only = [*(name for name in _OWN if name in names), *(names if len(names) == 1 else ())]
        if case is not None and not only:
            raise DataError("holds several arrays", path=path, found=", ".join(names[:8]), expected=" or ".join(_OWN))
        self._arrays = {name: name for name in names} if case is None else {case: only[0]}
        self._weighted = case is not None and _WEIGHTS in names
        self.cases = self._named(list(self._arrays), ", ".join(name for name, _ in every[:3]) or "an empty archive")

    def read(self, case: str) -> RawMaps:
        """The case's array; its maps are called by their numbers."""
        maps = RawMaps.numbered(case, self.path, self._array(self._arrays[case]))
        if self._weighted:
            found, expected = math.prod(self._header(_WEIGHTS)[0]), len(maps.array)
            if found != expected:
                raise DataError("one weight per sample", path=self.path, field=_WEIGHTS, found=found, expected=expected)
            maps.weights = self._array(_WEIGHTS).astype(np.float64).reshape(-1)
        return maps

    def count(self, case: str) -> int:
        """The first side of the array, by its header."""
        return next(iter(self._header(self._arrays[case])[0]), 0)

    def _header(self, name: str) -> Header:
        info = self._infos[name]
        with self._zip.opened(info, self.path, name) as file:
            return npy_header(self.path, file, field=name)

    def _array(self, name: str) -> np.ndarray:
        info = self._infos[name]
        self._limits.check_size(self.path, info.file_size, info.compress_size, field=name)
        with self._zip.opened(info, self.path, name) as file:
            return read_npy(self.path, file, info.file_size, field=name)


class Hdf5Maps(MapSource):
    """HDF5: a dataset (N,H,W) or (N,K,H,W) per case, whose path is the case; or `case` (n,) and `samples` (n,…).

    Links, and data that lies in other files, are not followed.
    """

    def __init__(self, path: Path, limits: Limits = LIMITS) -> None:
        super().__init__()
        self.path, self._limits = path, limits
        self._file = self.enter_context(guarded(path, lambda: open_hdf5(path)))
        self._data = guarded(path, self._find)
        self.cases = self._named(list(self._data))

    def _find(self) -> dict[str, tuple[h5py.Dataset, int | None]]:
        found = datasets(self._file)
        if _SAMPLES not in found or _CASES not in found:
            _check_once(self.path, list(map(one_spelling, found)))
            return {one_spelling(name): (data, None) for name, data in found.items()}
        cases, samples = found[_CASES], found[_SAMPLES]
        if cases.ndim != 1 or samples.shape[:1] != cases.shape:
            raise DataError("one name per case", path=self.path, field=_CASES, found=f"{cases.shape}, {samples.shape}")
        with located(self.path, _CASES):
            called = list(map(one_spelling, names(cases)))
        _check_once(self.path, called)
        return {name: (samples, row) for row, name in enumerate(called)}

    def read(self, case: str) -> RawMaps:
        """The case's maps; they are called by their numbers."""
        data, row = self._data[case]
        if data.dtype.kind not in "biuf":
            raise DataError("not an array of numbers", path=self.path, field=case, found=data.dtype)
        size = math.prod(data.shape if row is None else data.shape[1:]) * data.dtype.itemsize
        self._limits.check_size(self.path, size, self.path.stat().st_size, field=case)
        with guarding(self.path, field=case):
            array = rows(data) if row is None else rows(data, row, row + 1)[0]
        return RawMaps.numbered(case, self.path, array)

    def count(self, case: str) -> int:
        """The side of the samples."""
        data, row = self._data[case]
        return next(iter(data.shape if row is None else data.shape[1:]), 0)


class FolderMaps(MapSource):
    """A folder whose sub-folders, at any depth, are cases: their path is the case, their files its maps by name.

    Of a folder that `modiff sample` wrote only the samples are maps. A folder with samples.npz is that file; any other
    NPZ is a case by its own name. one_case: a folder that holds nothing but maps is one case, named as the folder;
    and `image` or `image-NAME` beside `rater-NAME`, the layout of `modiff import folder`, is not a map.
    """

    def __init__(self, path: Path, limits: Limits = LIMITS, *, one_case: bool = False) -> None:
        super().__init__()
        self.path, self._limits = path, limits
        self._files: dict[str, dict[str, Path]] = {}
        self._npz: dict[str, Path] = {}
        others: list[str] = []
        passed: list[str] = []  # images beside raters' files
        for folder, _, paths in walk(path):
            files = [file.name for file in paths]
            if one_case and (images := _images_beside_raters(files)):
                passed += [str((folder / name).relative_to(path)) for name in images]
                files = [name for name in files if name not in images]
            self._add_folder(folder, files)
            others += files[: 4 - len(others)]
        named = self._files.get(self._case(path), {})  # a folder inside this one may have its name
        own = {name: file for name, file in named.items() if file.parent == path}
        if own and not (one_case and len(self._files) == 1 and not self._npz and not self.sampled):
            raise DataError("files outside a case's folder", path=next(iter(own.values())), expected=FORMATS)
        if own:
            self.notes = (f"the files in {path} are taken for one case of the raters {', '.join(own)}",)
        if passed:
            more = f" and {len(passed) - 1} more" if len(passed) > 1 else ""
            self.notes += (f"{passed[0]}{more} beside raters' files: an image, passed over",)
        self.cases = self._named([*self._files, *self._npz, *self.sampled], ", ".join(others) or "an empty folder")

    def _case(self, folder: Path) -> str:
        """What a folder, or a file without its ending, is called."""
        name = folder.relative_to(self.path).as_posix()
        return one_spelling(self.path.resolve().name if name == "." else name)

    def _add_folder(self, folder: Path, files: list[str]) -> None:
        case = self._case(folder)
        if sampled := sample_folder(folder):
            self._add(self.sampled, case, sampled)
            return
        if ARRAYS in files:
            self._add(self._npz, case, folder / ARRAYS)
            return
        maps: dict[str, Path] = {}
        for file in files:
            suffix = next((end for end in _MAPS if file.lower().endswith(end)), None)
            if file.lower().endswith(".npz"):
                self._add(self._npz, self._case((folder / file).with_suffix("")), folder / file)
            elif file.lower().endswith(_REFUSED):
                raise DataError(
                    "not a format for maps", path=folder / file, expected="PNG, TIFF, BMP, GIF, NIfTI, NPY or NPZ"
                )
            elif suffix is not None:
                name = one_spelling(file[: -len(suffix)])
                if name in maps:
                    found = f"{maps[name].name}, {file}"
                    raise DataError(f"the map {name!r} occurs twice", path=self.path, field=case, found=found)
                maps[name] = folder / file
        if maps:
            self._add(self._files, case, maps)

    def _add(self, there: dict[str, T], case: str, found: T) -> None:
        """Raises DataError for a second case of this name: spelled otherwise, or p1.npz beside p1/samples.npz."""
        if case in there:
            raise DataError("a name occurs twice", path=self.path, found=case)
        there[case] = found

    def read(self, case: str) -> RawMaps:
        """The case's maps in the order of their names; they must be of one size and place."""
        if npz := self._array_file(case):
            with NpzMaps(npz, self._limits, case) as source:
                return source.read(case)
        weights = None
        if sampled := self.sampled.get(case):
            names, files, weights = sample_names(len(sampled.files)), sampled.files, sampled.weights
        else:
            names = sorted(self._files[case], key=natural)
            files = tuple((self._files[case][name],) for name in names)
        maps = [[_read_map(path, self._limits) for path in paths] for paths in files]
        every = [one for classes in maps for one in classes]
        notes = [(str(note), one.path.relative_to(self.path).as_posix()) for one in every for note in one.notes]
        words = f"the first map of case {case}"
        for one in every:
            found, expected = ("×".join(map(str, each.array.shape)) for each in (one, every[0]))
            if found != expected:
                raise DataError("unexpected size", path=one.path, found=found, expected=f"{expected} as {words}")
            notes += check_place(one, every[0], where=str(one.path), case=case, other=words)
        try:
            together = np.stack([np.concatenate([one.array for one in classes]) for classes in maps])
        except MemoryError as error:
            raise DataError("does not fit into memory", path=self.path, field=case, found=len(maps)) from error
        mixed, where = len({one.array.dtype for one in every}) > 1, str(every[0].path.parent)
        return RawMaps(case, where, tuple(names), together, every[0], weights, notes=notes, mixed=mixed)

    def _array_file(self, case: str) -> Path | None:
        return self.sampled[case].arrays if case in self.sampled else self._npz.get(case)

    def count(self, case: str) -> int:
        """The number of files, or of maps in the NPZ."""
        if case in self.sampled:
            return len(self.sampled[case].weights)
        if case not in self._npz:
            return len(self._files[case])
        with NpzMaps(self._npz[case], self._limits, case) as npz:
            return npz.count(case)


def _images_beside_raters(files: Sequence[str]) -> list[str]:
    """Files `image…` of a folder whose other files are all `rater-…`; else none: a rater may be called image."""
    images = [name for name in files if re.match(r"image[.-]", name)]
    raters = [name for name in files if name not in images]
    return images if raters and all(name.startswith("rater-") for name in raters) else []


def open_maps(path: str | Path, limits: Limits = LIMITS, *, one_case: bool = False) -> MapSource:
    """The maps at `path`, recognised by what lies there; raises DataError for anything else. one_case: `FolderMaps`."""
    path = Path(path)
    if path.is_dir():
        return FolderMaps(path, limits, one_case=one_case)
    regular(path, FORMATS)
    with told(path, "cannot be read"), path.open("rb") as file:
        start = file.read(len(SIGNATURE))
    if start.startswith(b"PK"):
        return NpzMaps(path, limits)
    if start == SIGNATURE:
        return Hdf5Maps(path, limits)
    raise DataError("not a set of maps", path=path, expected=FORMATS)


def check_place(
    one: Volume | None, theirs: Volume | None, *, where: str, case: str, other: str
) -> list[tuple[str, str]]:
    """Raises DataError where both say where they lie and these places differ; returns a note where it is not plain."""
    if one is None or theirs is None or one.is_picture or theirs.is_picture:  # formats that have no place
        return []
    if found := difference(theirs, one):
        raise DataError("lies elsewhere in space", path=where, field=case, found=found, expected=other)
    known = remark(theirs, one)
    return [(f"maps with {known}: read voxel by voxel", case)] if known else []


def _read_map(path: Path, limits: Limits) -> Volume:
    """A map; DataError for a palette of colours whose indices are not classes."""
    one = read_image(path, limits=limits, mask=True)
    if fault := palette_fault(one):
        raise fault
    if one.format == "NPY":  # the first of an array's three axes is its classes, not its slices
        return replace(one, array=one.array.swapaxes(0, 1))
    grey = one.is_picture and (one.array == one.array[:1]).all()  # colours that are grey are one channel
    return replace(one, array=one.array[:1]) if grey else one


def _check_once(path: Path, names: Sequence[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError("a name occurs twice", path=path, found=", ".join(twice[:3]))
