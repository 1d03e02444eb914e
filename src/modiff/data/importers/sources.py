"""Files of a folder or a zip archive, read alike, with limits that act before memory is taken; and their digests."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import TypeVar

from modiff.errors import DataError, printable
from modiff.io.files import Limits, guarding, sha256_of, told
from modiff.io.text import is_litter, name_in_zip

T = TypeVar("T")
MAX_FILES = 1_000_000
LIMITS = Limits(max_bytes=256 << 20, option=None)  # of one file: images and XML, not volumes


class Source(ExitStack):
    """A folder or a zip archive: its files are named relative, with forward slashes, and lie inside; close it.

    What systems put beside people's files is left out, and accents in names are composed (Unicode NFC). Links that lead
    out of a folder are refused, links to folders are not followed; an archive is checked as a whole from its directory
    before anything is inflated. path: where it is. names: of all files, sorted. files: of a folder, by name. Raises
    DataError.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path, self._zip = Path(path), None
        if self.path.is_dir():
            found = [(file.relative_to(path).as_posix(), file) for _, _, files in walk(self.path) for file in files]
            self.files = self._named(found)
            self.names = sorted(self.files)
            return
        if not self.path.exists():
            raise DataError("no such file or folder", path=path)
        with guarding(path, "not a zip archive, or a truncated one"):
            archive = self._zip = self.enter_context(zipfile.ZipFile(path))
        self._entries = self._named(self._checked(archive))
        self.names = sorted(self._entries)

    def _named(self, found: Iterable[tuple[str, T]]) -> dict[str, T]:
        named: dict[str, T] = {}
        for name, file in found:
            if named.setdefault(unicodedata.normalize("NFC", name), file) is not file:
                raise DataError("a name twice", path=self.path, found=repr(name))
        return named

    def _checked(self, archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
        entries: list[tuple[str, zipfile.ZipInfo]] = []
        for entry in archive.infolist():
            name = name_in_zip(entry)
            pure = PurePosixPath(name)
            escapes = pure.is_absolute() or ".." in pure.parts or any(character in name for character in ":\0")
            faults = {
                "a name with characters that cannot be printed": printable(name) != name,
                "a name that escapes the archive": escapes,
                "links in archives are not followed": stat.S_ISLNK(entry.external_attr >> 16),
                "the archive is encrypted": bool(entry.flag_bits & 0x1),
            }
            if fault := next((words for words, wrong in faults.items() if wrong), None):
                raise DataError(fault, path=self.path, found=repr(name))
            if not (name.endswith("/") or is_litter(name)):
                entries.append((name, entry))
        # What the directory says of compressed sizes may lie; the archive's own size does not.
        size = min(sum(entry.compress_size for _, entry in entries), self.path.stat().st_size)
        LIMITS.check_ratio(self.path, sum(entry.file_size for _, entry in entries), size)
        return entries

    def read(self, name: str) -> bytes:
        """A file's content; raises DataError when it is damaged or larger than 256 MiB."""
        if self._zip is None:
            return read_bytes(self.files[name])
        entry, where = self._entries[name], self.where(name)
        if entry.file_size > LIMITS.max_bytes:
            raise DataError("file too large", path=where, found=f"{entry.file_size} bytes")
        with guarding(where, "damaged in the archive"), self._zip.open(entry) as handle:
            data = handle.read(entry.file_size + 1)
        if len(data) != entry.file_size:
            raise DataError("truncated", path=where, found=len(data), expected=f"{entry.file_size} bytes")
        return data

    def sha256(self) -> str:
        """SHA-256 of the archive, or of the list of a folder's files with their SHA-256."""
        if self._zip is not None:
            return sha256_of(self.path)
        return digest_of((name, hashlib.sha256(self.read(name)).hexdigest()) for name in self.names)

    def where(self, name: str) -> str:
        """How an error names a file of this source."""
        return str(self.path / name) if self._zip is None else f"{self.path}!{name}"


def walk(root: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[Path, list[str], list[Path]]]:
    """Each folder below `root`, the names of its folders (which may be edited) and its `wanted` files, in order.

    What systems put beside people's files (`is_litter`) is left out. Raises DataError where there is no folder, too
    much in it, or a link to such a file leads out of it.
    """
    if not root.is_dir():
        raise DataError("no such folder", path=root)
    inside, files_seen = root.resolve(), 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_litter(name))
        files = [Path(folder, name) for name in sorted(names) if wanted(name) and not is_litter(name)]
        files_seen += len(names)
        if files_seen > MAX_FILES:
            raise DataError("too many files", path=root, expected=f"at most {MAX_FILES}")
        for file in files:
            if printable(name := str(file.relative_to(root))) != name:
                what, hint = "a name with characters that cannot be printed, or bytes that are not UTF-8", "Rename it"
                raise DataError(what, path=file, hint=hint)
            if file.is_symlink() and not file.resolve().is_relative_to(inside):
                raise DataError("a link that leads out of the folder", path=file, found=file.resolve())
        yield Path(folder), folders, files


def read_bytes(path: Path) -> bytes:
    """A regular file's content; raises DataError where it cannot be read or is larger than 256 MiB."""
    with told(path, "cannot be read"):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a regular file", path=path)
        if status.st_size > LIMITS.max_bytes:
            found, expected = f"{status.st_size} bytes", f"at most {LIMITS.max_bytes}"
            raise DataError("file too large", path=path, found=found, expected=expected)
        return path.read_bytes()


def digest_of(files: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of a list of files' names with their SHA-256."""
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in files).encode()).hexdigest()


def digest_below(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """The folder's name -> SHA-256 of the list of these files or DICOM folders below `root` with theirs."""

    def own(path: Path) -> str:
        if not path.is_dir():
            return sha256_of(path)
        files = (file for file in sorted(path.iterdir()) if file.is_file() and not is_litter(file.name))
        return digest_of((file.name, sha256_of(file)) for file in files)

    return {root.resolve().name: digest_of((path.relative_to(root).as_posix(), own(path)) for path in sorted(paths))}


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or with a number behind it, such as `name (2)`, where it is taken."""
    names = chain((name,), (f"{name} ({number})" for number in count(2)))
    return next(free for free in names if free not in taken)
