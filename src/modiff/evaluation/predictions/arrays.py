"""Maps in one file: NPZ with an array per case, or HDF5 with a dataset per case or one for all."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, TypeVar

import h5py
import numpy as np

from modiff.errors import DataError
from modiff.evaluation.predictions.base import MapSource, RawMaps
from modiff.io.files import Limits
from modiff.io.image import npy_header, read_npy

T = TypeVar("T")
_LIMITS = Limits(max_ratio=1000)  # samples of an empty image compress a thousand times
_SAMPLES, _CASES = "samples", "case"
_OWN = ("maps", "samples", "masks")  # what the array of a file that holds one case may be called


class Npz:
    """An NPZ archive whose members' sizes are checked before memory is taken; nothing is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = _guarded(path, lambda: zipfile.ZipFile(path))
        self.names = [name.removesuffix(".npy") for name in self._zip.namelist() if name.endswith(".npy")]
        if twice := [name for name, count in Counter(self.names).items() if count > 1]:
            raise DataError("a name twice", path=path, found=", ".join(twice[:3]))

    def close(self) -> None:
        """Closes the archive."""
        self._zip.close()

    def count(self, name: str) -> int:
        """The first side of an array, by its header."""
        with self._open(name) as file:
            shape = _guarded(self.path, lambda: npy_header(self.path, file, field=name))[0]
        return shape[0] if shape else 0

    def read(self, name: str) -> np.ndarray:
        """An array; raises DataError where it is damaged, larger than it may be, or not an array of numbers."""
        with self._open(name) as file:
            return _guarded(self.path, lambda: read_npy(self.path, file, field=name))

    def only(self) -> str:
        """The array that holds the maps, in a file of one case."""
        name = next((name for name in _OWN if name in self.names), self.names[0] if len(self.names) == 1 else None)
        if name is None:
            found, expected = ", ".join(self.names[:8]), " or ".join(_OWN)
            raise DataError("which array?", path=self.path, found=found, expected=expected)
        return name

    def _open(self, name: str) -> IO[bytes]:
        info = self._zip.getinfo(f"{name}.npy")
        _check_size(self.path, name, info.file_size, info.file_size, info.compress_size)
        return _guarded(self.path, lambda: self._zip.open(info))


class NpzMaps(MapSource):
    """An NPZ file with one array (N,H,W) or (N,K,H,W) per case, named as the case."""

    def __init__(self, path: Path) -> None:
        self.path, self._npz = path, Npz(path)
        if {_CASES, _SAMPLES} <= set(self._npz.names):
            hint = "Or write an HDF5 file, which may hold `samples` and `case`."
            raise DataError("arrays for all cases at once", path=path, expected="an array per case", hint=hint)
        self.cases = self._named(self._npz.names)

    def read(self, case: str) -> RawMaps:
        """The case's array; its maps are called by their numbers."""
        return RawMaps.numbered(case, self.path, self._npz.read(case))

    def count(self, case: str) -> int:
        """The first side of the array, by its header."""
        return self._npz.count(case)

    def close(self) -> None:
        """Closes the archive."""
        self._npz.close()


def read_one_npz(path: Path, case: str) -> RawMaps:
    """The maps of one case in a file of its own, such as samples.npz of `modiff sample`, with weights if it has any."""
    with closing(Npz(path)) as npz:
        maps = RawMaps.numbered(case, path, npz.read(npz.only()))
        if "weights" in npz.names:
            maps.weights = npz.read("weights").astype(np.float64).reshape(-1)
    if maps.weights is not None and len(maps.weights) != len(maps.array):
        found, expected = len(maps.weights), len(maps.array)
        raise DataError("one weight per sample", path=path, field="weights", found=found, expected=expected)
    return maps


class Hdf5Maps(MapSource):
    """HDF5: a dataset (N,H,W) or (N,K,H,W) per case, whose path is the case; or `case` (n,) and `samples` (n,…).

    Links, and data that lies in other files, are not followed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _guarded(path, lambda: h5py.File(path, "r", locking="best-effort"))
        try:
            self._data = _guarded(path, self._find)
            self.cases = self._named(list(self._data))
        except BaseException:
            self._file.close()
            raise

    def _find(self) -> dict[str, tuple[h5py.Dataset, int | None]]:
        found: dict[str, h5py.Dataset] = {}

        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = item

        self._file.visititems(visit)  # hard links only, each object once
        for name, data in found.items():
            if data.external or data.is_virtual:
                raise DataError("data stored in other files is not followed", path=self.path, field=name)
        if _SAMPLES not in found or _CASES not in found:
            return {name: (data, None) for name, data in found.items()}
        cases, samples = found[_CASES], found[_SAMPLES]
        if cases.ndim != 1 or samples.shape[:1] != cases.shape:
            raise DataError("one name per case", path=self.path, field=_CASES, found=f"{cases.shape}, {samples.shape}")
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in cases[...]]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError("a case twice", path=self.path, field=twice[0])
        return {name: (samples, row) for row, name in enumerate(names)}

    def read(self, case: str) -> RawMaps:
        """The case's maps; they are called by their numbers."""
        data, row = self._data[case]
        if data.dtype.kind not in "biuf":
            raise DataError("not an array of numbers", path=self.path, field=case, found=data.dtype)
        size = math.prod(data.shape) * data.dtype.itemsize
        _check_size(self.path, case, size if row is None else size // len(data), size, self.path.stat().st_size)
        return RawMaps.numbered(case, self.path, _guarded(self.path, lambda: data[... if row is None else row]))

    def count(self, case: str) -> int:
        """The side of the samples."""
        data, row = self._data[case]
        sides = data.shape if row is None else data.shape[1:]
        return sides[0] if sides else 0

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _check_size(path: Path, case: str, one: int, whole: int, packed: int) -> None:
    """DataError for a case of more bytes than allowed, or data that a file of `packed` bytes cannot hold."""
    if one > _LIMITS.max_bytes:
        raise DataError("too large for one case: beyond reason", path=path, field=case, found=f"{one} bytes")
    _LIMITS.check_ratio(path, whole, packed, field=case)


def _guarded(path: Path, action: Callable[[], T]) -> T:
    """A damaged file raises nearly anything inside a library; always a DataError here."""
    try:
        return action()
    except DataError:
        raise
    except Exception as error:
        text = str(error).splitlines()
        raise DataError("damaged file", path=path, found=text[0][:200] if text else type(error).__name__) from error
