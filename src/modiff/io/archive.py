"""Zip archives from anyone: their directory and each file in them, within bounds that hold before memory is taken."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from modiff.errors import DataError
from modiff.io.files import MIB, guarding, regular, told

MAX_DIRECTORY = 16 * MIB  # bytes of names, about 130,000 files: an entry takes 8 µs and 800 bytes of memory
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_OTHERS = {9: "Deflate64", zipfile.ZIP_BZIP2: "BZIP2", zipfile.ZIP_LZMA: "LZMA", 93: "Zstandard"}


class Archive(zipfile.ZipFile):
    """A zip archive, opened for reading. Raises DataError for what is none, is damaged, or has too many files."""

    _file: _Directory | None = None

    def __init__(self, path: Path) -> None:
        regular(path, "a zip archive")
        with told(path, "cannot be read"):
            self._file = _Directory(io.FileIO(path))
        try:
            with guarding(path, "not a zip archive, or a truncated one"):
                super().__init__(self._file)
        except DataError:
            self._file.close()
            raise
        self._file.read_whole = True

    @contextmanager
    def opened(self, entry: zipfile.ZipInfo, where: str | Path, field: str | None = None) -> Iterator[IO[bytes]]:
        """A file's bytes as a stream, no more than the directory declares, which a caller compares with its limits.

        Raises DataError for damage, and as `check_method`.
        """
        self.check_method(entry, where, field)
        with guarding(where, "damaged in the archive", field=field), self.open(entry) as file:
            yield file

    def check_method(self, entry: zipfile.ZipInfo, where: str | Path, field: str | None = None) -> None:
        """DataError for what is not deflated.

        LZMA takes a dictionary of 4 GiB if it is told so, and zipfile inflates it and BZIP2 without a bound.
        """
        if entry.compress_type not in _METHODS:
            hint = "Pack it again by deflate, the usual method of zip"
            found = _OTHERS.get(entry.compress_type, f"method {entry.compress_type}")
            raise DataError("compressed by an unsupported method", path=where, field=field, found=found, hint=hint)

    def content(self, entry: zipfile.ZipInfo, where: str | Path) -> bytes:
        """All bytes of a file; raises DataError for more or fewer than are declared."""
        with self.opened(entry, where) as file:
            data = file.read(entry.file_size + 1)
            if len(data) != entry.file_size:
                raise DataError("truncated", found=len(data), expected=f"{entry.file_size} bytes")
            return data

    def close(self) -> None:
        """Closes the file too: zipfile leaves open what it was given."""
        super().close()
        if self._file is not None:
            self._file.close()


class _Directory(io.BufferedReader):
    """A file of which no long stretch can be read until the archive's directory is known to be short."""

    read_whole = False

    def read(self, size: int | None = -1) -> bytes:
        if not self.read_whole and size is not None and size > MAX_DIRECTORY:
            found, expected = f"a directory of {size} bytes", f"at most {MAX_DIRECTORY}"
            raise DataError("too many files in the archive", found=found, expected=expected, hint="Unpack it")
        return super().read(size)
