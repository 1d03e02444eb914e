"""Zip archives from anyone: what is not deflated, or lies about its size, is refused before memory is taken."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from memory import takes_less_than

from modiff.errors import DataError
from modiff.evaluation.predictions import open_maps
from modiff.io.archive import MAX_DIRECTORY, Archive


def write(path: Path, method: int, content: bytes = b"hello") -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a", content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_files_bytes_are_read(tmp_path: Path, method: int) -> None:
    with Archive(write(tmp_path / "a.zip", method)) as archive:
        assert archive.content(archive.getinfo("a"), "a") == b"hello"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_are_refused_before_they_inflate(tmp_path: Path, method: int) -> None:
    with Archive(write(tmp_path / "a.zip", method)) as archive, pytest.raises(DataError, match="an unsupported method"):
        archive.content(archive.getinfo("a"), "a")
    np.savez(tmp_path / "b.npz", p=np.zeros((2, 4, 4), np.uint8))
    with zipfile.ZipFile(tmp_path / "b.npz") as old, zipfile.ZipFile(tmp_path / "c.npz", "w", method) as new:
        new.writestr("p.npy", old.read("p.npy"))
    with open_maps(tmp_path / "c.npz") as maps, pytest.raises(DataError, match="an unsupported method"):
        maps.read("p")


def test_a_file_larger_than_the_directory_says_is_refused_within_what_it_says(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.zip", zipfile.ZIP_DEFLATED, bytes(1 << 26)).read_bytes())
    at = data.find(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 1000)
    (tmp_path / "a.zip").write_bytes(data)
    words = r"damaged in the archive|truncated"
    with Archive(tmp_path / "a.zip") as archive, takes_less_than(2 << 20), pytest.raises(DataError, match=words):
        archive.content(archive.getinfo("a"), "a")


def test_a_directory_of_too_many_files_is_refused_unread(tmp_path: Path) -> None:
    size = MAX_DIRECTORY + 1
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 9, 9, size, 0, 0)
    with (tmp_path / "a.zip").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(size)
        file.seek(size)
        file.write(end)
    with pytest.raises(DataError, match="too many files in the archive"):
        Archive(tmp_path / "a.zip")


def test_an_array_that_its_member_does_not_hold_takes_no_memory(tmp_path: Path) -> None:
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 60000, 60000), }\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(100)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("p.npy", content)
        archive.writestr("q.npy", content.replace(b"(2, 60000, 60000)", b"(2, -6000, -6000)"))
    with takes_less_than(1 << 20), open_maps(tmp_path / "a.npz") as maps:
        for case in "pq":
            with pytest.raises(DataError, match="cut short or has bytes to spare"):
                maps.read(case)
