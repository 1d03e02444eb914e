"""Files of a folder or a zip archive, read alike, with limits that act before memory is taken."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from modiff.errors import DataError

MAX_FILE_BYTES = 256 << 20
MAX_RATIO = 200
RATIO_FROM_BYTES = 64 << 20


class Source(ABC):
    """A place with files: names are relative, with forward slashes, and lie inside.

    path: where it is. names: of all files, sorted.
    """

    path: Path
    names: list[str]

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's content; raises DataError when it is damaged or larger than 256 MiB."""

    @abstractmethod
    def provenance(self) -> str:
        """SHA-256 of the archive, or of the list of a folder's files with their SHA-256."""

    def close(self) -> None:
        """Lets go of the archive."""
        return

    def where(self, name: str) -> str:
        """How an error names a file of this source."""
        return f"{self.path}!{name}"


class FolderSource(Source):
    """All files under a folder; links that lead out of it are refused, links to folders are not followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        root = path.resolve()
        self.names = []
        for folder, _, files in os.walk(path):
            for file in files:
                full = Path(folder, file)
                if full.is_symlink() and not full.resolve().is_relative_to(root):
                    raise DataError("a link that leads out of the folder", path=full, found=full.resolve())
                self.names.append(full.relative_to(path).as_posix())
        self.names.sort()

    def read(self, name: str) -> bytes:
        full = self.path / name
        try:
            if not stat.S_ISREG(full.stat().st_mode):
                raise DataError("not a regular file", path=full)
            if full.stat().st_size > MAX_FILE_BYTES:
                raise DataError("file too large", path=full, found=f"{full.stat().st_size} bytes")
            return full.read_bytes()
        except OSError as error:
            raise DataError("cannot be read", path=full, found=error.strerror) from error

    def provenance(self) -> str:
        sha = hashlib.sha256()
        for name in self.names:
            sha.update(f"{name}\0{hashlib.sha256(self.read(name)).hexdigest()}\n".encode())
        return sha.hexdigest()

    def where(self, name: str) -> str:
        return str(self.path / name)


class ZipSource(Source):
    """A zip archive, checked as a whole from its directory before anything is inflated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError) as error:
            raise DataError("not a zip archive, or a truncated one", path=path, found=error) from error
        try:
            self._entries = self._check()
        except BaseException:
            self._zip.close()
            raise
        self.names = sorted(self._entries)

    def _check(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            name = entry.filename
            pure = PurePosixPath(name)
            if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name:
                raise DataError("a name that escapes the archive", path=self.path, found=repr(name))
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise DataError("links in archives are not followed", path=self.path, found=repr(name))
            if entry.flag_bits & 0x1:
                raise DataError("the archive is encrypted", path=self.path, found=repr(name))
            if name in entries:
                raise DataError("a name twice in one archive", path=self.path, found=repr(name))
            if not entry.is_dir():
                entries[name] = entry
        inflated = sum(entry.file_size for entry in entries.values())
        # What the directory says of compressed sizes may lie; the archive's own size does not.
        size = min(sum(entry.compress_size for entry in entries.values()), self.path.stat().st_size)
        if inflated > RATIO_FROM_BYTES and inflated > MAX_RATIO * max(size, 1):
            raise DataError("would inflate beyond reason", path=self.path, found=f"{inflated} bytes from {size}")
        return entries

    def read(self, name: str) -> bytes:
        entry = self._entries[name]
        if entry.file_size > MAX_FILE_BYTES:
            raise DataError("file too large", path=self.where(name), found=f"{entry.file_size} bytes")
        try:
            with self._zip.open(entry) as handle:
                data = handle.read(entry.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError("damaged in the archive", path=self.where(name), found=error) from error
        if len(data) != entry.file_size:
            raise DataError("truncated", path=self.where(name), found=len(data), expected=f"{entry.file_size} bytes")
        return data

    def provenance(self) -> str:
        return _sha256(self.path)

    def close(self) -> None:
        self._zip.close()


def open_source(path: str | Path) -> Source:
    """A folder or zip archive; raises DataError for anything else."""
    path = Path(path)
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise DataError("no such file or folder", path=path)
    return ZipSource(path)


def provenance(sources: Sequence[Source], files: Sequence[str | Path] = ()) -> dict[str, str]:
    """Name -> SHA-256 of each source and each further file; those of the same name are numbered."""
    table: dict[str, str] = {}
    for source in sources:
        table[_free(source.path.resolve().name, table)] = source.provenance()
    for file in map(Path, files):
        table[_free(file.name, table)] = _sha256(file)
    return table


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _free(name: str, taken: Iterable[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free
