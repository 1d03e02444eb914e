"""HDF5 from anyone: read as h5py reads it, or refused before memory is taken."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from memory import takes_less_than

from modiff.errors import DataError
from modiff.io.hdf5 import datasets, names, open_hdf5, rows

WAYS: dict[str, dict[str, object]] = {
    "contiguous": {},
    "chunks": {"chunks": True},
    "gzip": {"compression": "gzip"},
    "shuffle": {"compression": "gzip", "shuffle": True},
    "only shuffle": {"shuffle": True},
    "lzf": {"compression": "lzf"},
    "checksum": {"fletcher32": True},
    "all": {"compression": "gzip", "shuffle": True, "fletcher32": True, "chunks": (2, 2, 3)},
    "uneven": {"compression": "gzip", "chunks": (4, 7, 5), "fillvalue": 1},
}


@pytest.mark.parametrize("kind", ["u1", "<f4", ">f8", ">i2", "?", "f2"])
@pytest.mark.parametrize("way", WAYS)
def test_rows_are_those_of_h5py(tmp_path: Path, kind: str, way: str) -> None:
    array = (np.random.default_rng(0).random((7, 9, 11)) * 9).astype(kind)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("x", data=array, **WAYS[way])
        for start, stop in ((0, 7), (2, 5), (3, 4), (6, 7)):
            found = rows(data, start, stop)
            assert found.dtype == data.dtype
            np.testing.assert_array_equal(found, array[start:stop])


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path: Path, version: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver=version) as file:
        data = file.create_dataset("x", (9, 40, 40), "i4", chunks=(2, 16, 16), compression="gzip", fillvalue=7)
        data[3] = 5
        np.testing.assert_array_equal(rows(data), data[...])


def test_numbers_of_fewer_bits_than_they_take_are_read_by_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        kind = h5py.h5t.STD_I32LE.copy()
        kind.set_precision(12)
        kind.set_offset(4)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        plist.set_deflate(4)
        h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((4,)), plist)
        file["x"][...] = [1, -2, 3, -2000]
        assert rows(file["x"]).tolist() == [1, -2, 3, -2000]


def _chunk(filters: list[tuple[int, tuple[int, ...]]], raw: bytes) -> Callable[[h5py.File], h5py.Dataset]:
    """A dataset of 2 KiB in one chunk, stored as `raw`."""

    def made(file: h5py.File) -> h5py.Dataset:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((2, 32, 32))
        for number, values in filters:
            plist.set_filter(number, 0, values)
        space = h5py.h5s.create_simple((2, 32, 32))
        h5py.h5d.create(file.id, b"x", h5py.h5t.STD_U8LE, space, plist).write_direct_chunk((0, 0, 0), raw, 0)
        return file["x"]

    return made


DEFLATE, CHECKSUM, LZF, SCALE = (1, (4,)), (3, ()), (32_000, (4, 0, 2048)), (6, (2, 0, 2048, 0, 1, 1, 0, 0))
ZEROS = zlib.compress(bytes(1 << 26))
HOSTILE = {
    "deflate": (_chunk([DEFLATE], ZEROS), "not of the size it declares"),
    "deflate too short": (_chunk([DEFLATE], zlib.compress(bytes(2047))), "not of the size it declares"),
    "deflate cut off": (
        _chunk([DEFLATE], zlib.compress(np.arange(1024, dtype="u2").tobytes())[:-9]),
        "not of the size it declares",
    ),
    "deflate damaged": (_chunk([DEFLATE], b"\x78\x9c" + b"\xff" * 30), "damaged chunk"),
    "deflate and checksum": (_chunk([DEFLATE, CHECKSUM], ZEROS + b"\0\0\0\0"), "not of the size it declares"),
    "checksum and deflate": (_chunk([CHECKSUM, DEFLATE], ZEROS), "not of the size it declares"),
    "deflate twice": (_chunk([DEFLATE, DEFLATE], zlib.compress(ZEROS)), "an unsupported filter"),
    "lzf": (_chunk([LZF], b"\0\0" + b"\xe0\xff\0" * (1 << 21)), "LZF chunk too large"),
    "scale-offset": (_chunk([SCALE], bytes(100)), "an unsupported filter"),
    "too many chunks": (
        lambda file: file.create_dataset("x", (2, 1000, 1000), "u1", chunks=(1, 1, 1), compression="gzip"),
        "chunks too small",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_chunks_that_do_not_hold_what_they_declare_are_refused_within_their_own_memory(
    tmp_path: Path, kind: str
) -> None:
    make, words = HOSTILE[kind]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = make(file)
        with takes_less_than(8 << 20), pytest.raises(DataError, match=words):
            rows(data)


def test_each_dataset_is_found_once_by_its_first_hard_link(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("b/x", "a/y", "c", "a/ü"):
            file[name] = np.zeros(3)
        file["b/round"], file["z"], file["soft"] = file["/"], file["c"], h5py.SoftLink("/c")
        expected: list[str] = []
        file.visititems(lambda name, item: expected.append(name) if isinstance(item, h5py.Dataset) else None)
        assert list(datasets(file)) == expected


@pytest.mark.parametrize("kind", ["deep", "many", "elsewhere"])
def test_groups_without_end_and_other_files_are_refused(tmp_path: Path, kind: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        if kind == "deep":
            file["/".join("g" * 40)] = np.zeros(3)
        elif kind == "many":
            for number in range(70_000):
                file.id.links.create_soft(f"{number}".encode(), b"/x")
        else:
            file.create_dataset("x", (3,), "u1", external=[(str(tmp_path / "secret"), 0, 3)])
        with pytest.raises(DataError, match=r"groups too deep|too many objects|other files"):
            datasets(file)


def test_names_are_texts_of_any_kind_and_bounded(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"], file["c"] = ["p", "ü"], np.array(["p", "q"], "S"), [3, 4]
        assert [names(file[name]) for name in "abc"] == [["p", "ü"], ["p", "q"], ["3", "4"]]
        made = file.create_dataset("d", (1000,), h5py.string_dtype())
        made[0] = "a" * 200_000
        place = made.id.get_offset()
        file.create_dataset("e", (2,), "S1000000000", chunks=(1,), compression="gzip")
        with pytest.raises(DataError, match="too long"):
            names(file["e"])
    data = bytearray((tmp_path / "a.h5").read_bytes())
    data[place : place + 16_000] = data[place : place + 16] * 1000  # all of them name one text
    (tmp_path / "a.h5").write_bytes(data)
    with h5py.File(tmp_path / "a.h5") as file, pytest.raises(DataError, match="too long"):
        names(file["d"])


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_read_and_written(tmp_path: Path, monkeypatch, number: int) -> None:
    real = h5py.File

    def without_locks(name: object, mode: str, *, locking: object, **more: object) -> h5py.File:
        if locking is not False:
            raise OSError(number, os.strerror(number))
        return real(name, mode, locking=locking, **more)

    monkeypatch.setattr(h5py, "File", without_locks)
    with open_hdf5(tmp_path / "a.h5", "w", libver="latest") as file:
        file["x"] = [1, 2]
    with open_hdf5(tmp_path / "a.h5") as file:
        assert file["x"][...].tolist() == [1, 2]


def test_a_file_that_another_process_writes_is_still_refused(tmp_path: Path, monkeypatch) -> None:
    def locked(*_: object, **__: object) -> h5py.File:
        raise BlockingIOError(errno.EAGAIN, "unable to lock file")

    monkeypatch.setattr(h5py, "File", locked)
    with pytest.raises(BlockingIOError):
        open_hdf5(tmp_path / "a.h5")
