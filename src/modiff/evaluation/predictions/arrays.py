"""Maps in one file: NPZ with an array per case, or HDF5 with a dataset per case or one for all."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, TypeVar

import h5py
import numpy as np

from modiff.errors import DataError
from modiff.evaluation.predictions.base import MapSource, RawMaps, stacked

T = TypeVar("T")
_MAX_BYTES = 2 << 30
_MAX_RATIO, _RATIO_FREE = 1000, 64 << 20  # samples of an empty image compress a thousand times
_SAMPLES, _CASES = "samples", "case"
_OWN = ("maps", "samples", "masks")  # what the array of a file that holds one case may be called


class Npz:
    """An NPZ archive whose members' sizes are checked before memory is taken; nothing is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = _guarded(path, lambda: zipfile.ZipFile(path))
        self.names = [name.removesuffix(".npy") for name in self._zip.namelist() if name.endswith(".npy")]
        twice = sorted({name for name in self.names if self.names.count(name) > 1}) if len(self.names) < 10_000 else []
        if twice or len(set(self.names)) != len(self.names):
            raise DataError("a name twice", path=path, found=", ".join(twice[:3]))

    def close(self) -> None:
        """Closes the archive."""
        self._zip.close()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array by its header."""
        with self._open(name) as file:
            return _guarded(self.path, lambda: self._header(name, file))[0]

    def read(self, name: str) -> np.ndarray:
        """An array; raises DataError where it is damaged, larger than it may be, or not an array of numbers."""
        with self._open(name) as file:
            shape, columns_first, dtype = _guarded(self.path, lambda: self._header(name, file))
            data = _guarded(self.path, file.read)
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise DataError("is cut short or has bytes to spare", path=self.path, field=name, found=len(data))
        flat = np.frombuffer(data, dtype)
        return flat.reshape(shape, order="F" if columns_first else "C").astype(dtype.newbyteorder("="), copy=False)

    def _open(self, name: str) -> IO[bytes]:
        info = self._zip.getinfo(f"{name}.npy")
        size, packed = info.file_size, info.compress_size
        if size > _MAX_BYTES or (size > _RATIO_FREE and size > _MAX_RATIO * packed):
            raise DataError("would inflate beyond reason", path=self.path, field=name, found=f"{size} from {packed}")
        return _guarded(self.path, lambda: self._zip.open(info))

    def _header(self, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, dtype = reader(file)
        if dtype.hasobject or dtype.kind not in "biuf":
            raise DataError("not an array of numbers", path=self.path, field=name, found=dtype)
        return shape, columns_first, dtype


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
        array = stacked(case, str(self.path), self._npz.read(case))
        return RawMaps(case, str(self.path), tuple(map(str, range(len(array)))), array)

    def count(self, case: str) -> int:
        """The first side of the array, by its header."""
        return (self._npz.shape(case) or (0,))[0]

    def close(self) -> None:
        """Closes the archive."""
        self._npz.close()


def own_array(npz: Npz) -> str:
    """The array that holds the maps, in a file of one case."""
    name = next((name for name in _OWN if name in npz.names), npz.names[0] if len(npz.names) == 1 else None)
    if name is None:
        found, expected = ", ".join(npz.names[:8]), " or ".join(_OWN)
        raise DataError("which array?", path=npz.path, found=found, expected=expected)
    return name


def read_one_npz(path: Path, case: str) -> RawMaps:
    """The maps of one case in a file of its own, such as samples.npz of `modiff sample`, with weights if it has any."""
    with closing(Npz(path)) as npz:
        array = stacked(case, str(path), npz.read(own_array(npz)))
        weights = npz.read("weights").astype(np.float64).reshape(-1) if "weights" in npz.names else None
    if weights is not None and len(weights) != len(array):
        raise DataError("one weight per sample", path=path, field="weights", found=len(weights), expected=len(array))
    return RawMaps(case, str(path), tuple(map(str, range(len(array)))), array, weights=weights)


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
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError("a case twice", path=self.path, field=twice)
        return {name: (samples, row) for row, name in enumerate(names)}

    def read(self, case: str) -> RawMaps:
        """The case's maps; they are called by their numbers."""
        data, row = self._data[case]
        if data.dtype.kind not in "biuf":
            raise DataError("not an array of numbers", path=self.path, field=case, found=data.dtype)
        size = math.prod(data.shape) * data.dtype.itemsize
        if size > _RATIO_FREE and size > _MAX_RATIO * self.path.stat().st_size:
            raise DataError("would inflate beyond reason", path=self.path, field=case, found=f"{size} bytes")
        if (size if row is None else size // len(data)) > _MAX_BYTES:
            raise DataError("too large for one case", path=self.path, field=case, found=f"{size} bytes")
        array = _guarded(self.path, lambda: data[...] if row is None else data[row])
        maps = stacked(case, str(self.path), array)
        return RawMaps(case, str(self.path), tuple(map(str, range(len(maps)))), maps)

    def count(self, case: str) -> int:
        """The side of the samples."""
        data, row = self._data[case]
        sides = data.shape if row is None else data.shape[1:]
        return sides[0] if sides else 0

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _guarded(path: Path, action: Callable[[], T]) -> T:
    """A damaged file raises nearly anything inside a library; always a DataError here."""
    try:
        return action()
    except DataError:
        raise
    except Exception as error:
        text = str(error).splitlines()
        raise DataError("damaged file", path=path, found=text[0][:200] if text else type(error).__name__) from error
