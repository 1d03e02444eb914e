"""One rule for what is found in a folder, whoever reads it: regular files that lie inside it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_files import save, series
from PIL import Image

from modiff.data.check.run import check
from modiff.data.importers.sources import Source, digest_below, read_bytes, walk
from modiff.data.importers.unpickle import read_pickle
from modiff.data.store import Store
from modiff.errors import DataError
from modiff.evaluation.predictions import open_maps
from modiff.evaluation.truth import open_truth
from modiff.io.dicom.series import read_dicom_series
from modiff.io.files import Limits, regular
from modiff.io.image import read_image, read_jpeg
from modiff.io.nifti import read_nifti


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def beside_root(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.name == "root").parent


def outside(path: Path) -> None:
    there = beside_root(path) / f"outside-{path.name}"
    there.write_bytes(b"hello")
    path.symlink_to(there)


def folder_outside(path: Path) -> None:
    (there := beside_root(path) / "folder-outside").mkdir()
    path.symlink_to(there)


SPECIAL = [fifo, unix_socket, device, loop]
READERS: dict[str, Callable[[Path], object]] = {
    "regular": regular,
    "image": read_image,
    "jpeg": read_jpeg,
    "nifti": read_nifti,
    "dicom": read_dicom_series,
    "maps": open_maps,
    "truth": lambda path: open_truth(path, "test"),
    "zip": Source,
    "xml": read_bytes,
    "pickle": lambda path: read_pickle(path, 1 << 30),
    "store": Store.open,
    "check": lambda path: check(path, words=[]),
}


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_opens_what_is_not_a_regular_file(tmp_path: Path, reader: str, special: Callable) -> None:
    special(tmp_path / "x")
    if reader == "check" and special is not loop:
        assert not check(tmp_path / "x", words=[]).usable
        return
    with pytest.raises(DataError, match=r"not a regular file|no such file|cannot be read"):
        READERS[reader](tmp_path / "x")


def folder_of(kind: str, root: Path) -> Path:
    """A folder that its reader takes; a name there that the reader would want."""
    if kind == "series":
        return save(series(), root) / "x.dcm"
    (root / "p0").mkdir(parents=True)
    for name in "ab":
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(root / "p0" / f"{name}.png")
    return root / "p0" / "x.png" if kind == "maps" else root / "x.png"


FOLDERS: dict[str, Callable[[Path], object]] = {
    "walk": lambda root: list(walk(root)),
    "source": Source,
    "maps": open_maps,
    "series": read_dicom_series,
}


@pytest.mark.parametrize("special", [*SPECIAL, outside, folder_outside])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_holds_regular_files_inside_it(tmp_path: Path, kind: str, special: Callable) -> None:
    name = folder_of(kind, tmp_path / "root")
    FOLDERS[kind](tmp_path / "root")
    special(name)
    with pytest.raises(DataError, match=r"not a regular file|leads out of the folder|leads nowhere"):
        FOLDERS[kind](tmp_path / "root")


@pytest.mark.parametrize("kind", FOLDERS)
def test_links_inside_a_folder_and_a_link_to_it_are_followed(tmp_path: Path, kind: str) -> None:
    name = folder_of(kind, tmp_path / "root")
    files = [file for file in name.parent.iterdir() if file.is_file()] or [tmp_path / "root/p0/a.png"]
    if kind != "series":  # a slice twice
        name.symlink_to(files[0])
    (tmp_path / "link").symlink_to(tmp_path / "root")
    FOLDERS[kind](tmp_path / "link")


def test_links_to_folders_inside_are_not_followed(tmp_path: Path) -> None:
    folder_of("walk", tmp_path)
    (tmp_path / "p0" / "round").symlink_to(tmp_path)
    (tmp_path / "q").symlink_to(tmp_path / "p0")
    assert sorted(file.name for _, _, files in walk(tmp_path) for file in files) == ["a.png", "b.png"]


def test_a_file_above_the_limit_is_refused_before_it_is_hashed(tmp_path: Path) -> None:
    large = tmp_path / "large.npy"
    large.touch()
    os.truncate(large, 4 << 30)
    start = time.process_time()
    with pytest.raises(DataError, match=r"large\.npy: the file is too large"):
        digest_below(tmp_path, [large], Limits())
    assert time.process_time() - start < 0.5
