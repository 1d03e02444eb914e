"""Files from outside: what one may claim before memory is taken for it, and the words for one that cannot be read."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from modiff.errors import ConfigError, DataError

T = TypeVar("T")
MIB = 1 << 20
RATIO_FREE = 512 * MIB  # a scan of 512×512×320 with one small nodule compresses 228 times as a mask, and more as floats
_PART = 1 << 20  # bytes read at a time
_PLAIN = {  # what libraries say
    r"(?i)bomb": "more pixels than an image has: a decompression bomb",
    r"(?i)truncated|premature|unexpected end|end.of.(stream|file|data)|incomplete|eof": "an end that comes too early",
    r"(?i)signature|magic|not a zip|identify|header": "another format, or a damaged beginning",
    r"(?i)crc|checksum|compress|invalid (code|block|distance|stored)": "compressed content that is damaged",
}


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key to sort names by: slice-9 comes before slice-10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


@contextmanager
def located(path: str | Path, field: str | None = None) -> Iterator[None]:
    """A DataError from inside the block that names no file is about `path`, and `field` there."""
    try:
        yield
    except DataError as error:
        if error.path is not None:
            raise
        where = ": ".join(filter(None, (field, error.field))) or None
        found, expected, hint = error.found, error.expected, error.hint
        raise DataError(error.message, path=path, field=where, found=found, expected=expected, hint=hint) from error


@contextmanager
def guarding(path: str | Path, what: str = "", *, field: str | None = None) -> Iterator[None]:
    """For what touches a file from outside: a damaged one makes libraries raise nearly anything, here a DataError.

    what: in its words, by default that the file is damaged or truncated.
    """
    try:
        with located(path, field):
            yield
    except DataError:
        raise
    except BlockingIOError as error:  # HDF5 locks what it writes
        hint = "Wait for it to end"
        raise DataError("in use by another program", path=path, field=field, hint=hint) from error
    except Exception as error:
        text = str(error) or repr(error)
        what = what or ("truncated file" if "truncated" in text else "damaged file")
        raise DataError(what, path=path, field=field, found=plain(error)) from error


def plain(error: Exception) -> str:
    """What a library says of a file that it cannot read, in words for people."""
    if isinstance(error, MemoryError):
        return "more than fits into memory"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return next((words for part, words in _PLAIN.items() if re.search(part, str(error))), "content that cannot be read")


def guarded(path: str | Path, action: Callable[[], T]) -> T:
    """What `action` returns, run in `guarding`."""
    with guarding(path):
        return action()


@contextmanager
def told(path: str | Path, what: str) -> Iterator[None]:
    """Whatever the operating system refuses inside the block is a DataError about `path`: `what`, and its reason."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and _NUMBER.search(str(error)) is None:  # as of HDF5 where it closes a file
            raise
        raise DataError(f"{what} ({reason_of(error)})", path=path) from error


def begins_with(path: Path, mark: bytes) -> bool:
    """Whether a path is a file that begins with these bytes; DataError where it cannot be read."""
    if not path.is_file():
        return False
    with told(path, "cannot be read"), path.open("rb") as file:
        return file.read(len(mark)) == mark


_NUMBER = re.compile(r"errno = (\d+)")


def reason_of(error: Exception) -> str:
    """Why the operating system refused, in its short words; a library's own are long."""
    found = _NUMBER.search(str(error))
    number = getattr(error, "errno", None) or (found and int(found[1]))
    return os.strerror(number) if number else (str(error) or repr(error)).splitlines()[0][:200]


def sha256_of(path: str | Path, *, start: int = 0, end: int | None = None) -> str:
    """The hexadecimal SHA-256 of a file's bytes, or of those from `start` to before `end`; little memory is taken."""
    digest = hashlib.sha256()
    with told(path, "cannot be read"), Path(path).open("rb") as file:
        file.seek(start)
        while part := file.read(_PART if end is None else max(0, min(_PART, end - file.tell()))):
            digest.update(part)
    return digest.hexdigest()


def unreadable(error: OSError) -> None:
    """For `os.walk`, which would pass over a folder that it cannot read: raises a DataError that names the folder."""
    raise DataError("cannot be read", path=error.filename, found=reason_of(error)) from error


def files_in(folder: Path, ending: str = "") -> list[Path]:
    """The files right in a folder whose names end so, in order; none where there is no such folder.

    Raises DataError where it cannot be read.
    """
    with told(folder, "cannot be read"):
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path for path in there if path.name.endswith(ending) and path.is_file()]


def workers() -> int:
    """Threads that are worth having for compression and decoding here."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def regular(path: Path, expected: str | None = None) -> int:
    """The size in bytes of a file that may be opened; DataError where there is none.

    A fifo, a socket or a device is none: opening it may wait for ever, and reading it may have no end.
    """
    with told(path, "cannot be read"):
        if path.is_dir():
            raise DataError("is a folder", path=path, expected=expected or "a file")
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "no such file"
            raise DataError(what, path=path, expected=expected)
        return path.stat().st_size


def check_inside(path: Path, root: Path) -> None:
    """Raises DataError for a link that leads out of the folder `root`, which is resolved, or nowhere.

    The rule for all that is found in a folder, not for what a user names.
    """
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself, before Python 3.13
        raise DataError("a link that leads nowhere", path=path) from error
    if not target.is_relative_to(root):
        raise DataError("a link that leads out of the folder", path=path, found=target)


@dataclass(frozen=True)
class Limits:
    """Bounds on a file from outside, checked on its header or directory alone."""

    max_bytes: int = 2048 * MIB  # of the decoded pixels, and of the file itself
    max_side: int = 65_535  # pixels per side: the largest that DICOM and TIFF readers agree on
    max_ratio: float = 200.0  # decoded bytes to file bytes: beyond it a large file is taken for a decompression bomb
    ratio_free: int = RATIO_FREE  # decoded bytes up to which any ratio is allowed
    option: str | None = "--max-bytes"  # by which a user who trusts a file raises the bounds, where there is one
    skip_broken: bool = False  # files of a DICOM series that cannot be read are left out

    @classmethod
    def asked(cls, max_bytes: int | None, *, skip_broken: bool = False) -> Limits:
        """The usual bounds, or one size that is allowed at any ratio: a verb's --max-bytes and --skip-broken."""
        if max_bytes is None:
            return cls(skip_broken=skip_broken)
        if max_bytes < 1:
            raise ConfigError("is not a number of bytes", field="--max-bytes", found=max_bytes, expected="1 or more")
        return cls(max_bytes, ratio_free=max_bytes, skip_broken=skip_broken)

    def hint(self, needed: int) -> str | None:
        """What to do with a file that one trusts."""
        return f"{self.option} {needed} allows it, if you trust the file" if self.option else None

    def check_file(self, path: Path) -> int:
        """The file's size in bytes; raises DataError where there is none to read or it exceeds `max_bytes`."""
        size = regular(path, expected="an image file")
        if size == 0:
            raise DataError("the file is empty", path=path, expected="an image file")
        if size > self.max_bytes:
            found, expected = f"{size} bytes", f"≤ {self.max_bytes}"
            raise DataError("the file is too large", path=path, found=found, expected=expected, hint=self.hint(size))
        return size

    def check_declared(self, path: Path, shape: tuple[int, ...], itemsize: int, file_bytes: int) -> None:
        """Raises DataError where the header's `shape` of `itemsize`-byte values is empty, too large or implausible."""
        sides, declared = "×".join(map(str, shape)), math.prod(shape) * itemsize
        if min(shape) < 1:
            raise DataError("has no pixels", path=path, field="size", found=sides)
        if max(shape) > self.max_side:
            expected = f"≤ {self.max_side}"
            raise DataError("too many pixels per side", path=path, field="size", found=sides, expected=expected)
        self.check_size(path, declared, file_bytes, found=f"{sides}, ")

    def check_size(self, path: Path, declared: int, packed: int, *, field: str = "size", found: str = "") -> None:
        """Raises DataError for more `declared` bytes than allowed, or than `packed` bytes of a file can hold."""
        if declared > self.max_bytes:
            what, hint = "declares more data than allowed", self.hint(declared)
            found, expected = f"{found}{declared} bytes", f"≤ {self.max_bytes} bytes"
            raise DataError(what, path=path, field=field, found=found, expected=expected, hint=hint)
        self.check_ratio(path, declared, packed, field=field)

    def check_ratio(self, path: str | Path, declared: int, packed: int, *, field: str | None = "size") -> None:
        """Raises DataError where `declared` bytes are said to come from `packed` ones and no real data do."""
        if declared > self.ratio_free and declared > self.max_ratio * packed:
            what = "declares far more data than the file can hold"
            found, expected = f"{declared} bytes from {packed}", f"a ratio ≤ {self.max_ratio:g}"
            raise DataError(what, path=path, field=field, found=found, expected=expected, hint=self.hint(declared))


LIMITS = Limits()
