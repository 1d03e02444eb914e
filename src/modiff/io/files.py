"""Files: what one may claim before memory is taken for it, and results that exist whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from modiff.errors import DataError

T = TypeVar("T")
MIB = 1 << 20
_SUFFIXES = (".png", ".npz", ".nii", ".gz", ".dcm")  # of result files
_PLAIN = {  # what libraries say
    r"(?i)bomb": "more pixels than an image has: a decompression bomb",
    r"(?i)truncated|premature|unexpected end|end.of.(stream|file|data)|incomplete|eof": "an end that comes too early",
    r"(?i)signature|magic|not a zip|identify|header": "another format, or a damaged beginning",
    r"(?i)crc|checksum|compress|invalid (code|block|distance|stored)": "compressed content that is damaged",
}
MANIFEST = "summary.json"  # its "files" name what a folder of results holds


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
    except OSError as error:
        raise DataError(f"{what} ({error.strerror or error})", path=path) from error


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Where a new `path` can be made, on the same disk and under its name; what is left of it goes with the block."""
    _make(path.parent)
    with told(path, "cannot be written"):
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True)
    with folder as name:
        yield Path(name) / path.name


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` when the block ends without an error."""
    path = Path(path)
    check_file_output(path)
    with _beside(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors would let only the owner read
        yield temporary
        with told(path, "cannot be written"):
            temporary.chmod(mode)
            os.replace(temporary, path)


def write_text(path: str | Path, text: str) -> Path:
    """Writes UTF-8 text, line ends as they are: the file holds what it held before or all of `text`."""
    return write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Writes bytes: the file holds what it held before or all of `data`. Makes its folder; returns its path."""
    path = Path(path)
    with replacing(path) as temporary, told(path, "cannot be written"):
        temporary.write_bytes(data)
    return path


def sha256_of(path: str | Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """The folder is this process's to write to until the block ends; DataError where another holds it.

    The operating system frees what a killed process held. Where it cannot lock, nothing is checked.
    """
    _make(Path(folder))
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError("another process works in this folder", path=folder, hint="Wait for it to end") from None
        except (ImportError, OSError):
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def output_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` whose files become those of `path` when the block ends without an error.

    An existing folder with files is refused unless `overwrite`; then each new file replaces its namesake, files that
    the earlier summary.json names are removed, and whatever else lies there stays. Raises DataError.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    with _beside(path) as temporary, told(path, "cannot be written"):
        temporary.mkdir()
        yield temporary
        if path.is_dir() and any(path.iterdir()):
            _move_into(temporary, path)
        else:
            os.replace(temporary, path)


def check_file_output(path: str | Path) -> None:
    """Raises DataError where a file cannot take the place of `path`: known before any work is done."""
    if Path(path).is_dir():
        raise DataError("is a folder", path=path, field="output", expected="a file")


def check_output(path: str | Path, *, overwrite: bool) -> None:
    """Raises DataError where results cannot go to the folder `path`: known before any work is done."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise DataError("is a file", path=path, field="output", expected="a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        hint = "Use --overwrite to replace them"
        raise DataError("the folder has files already", path=path, field="output", hint=hint)


def _move_into(temporary: Path, path: Path) -> None:
    """The summary goes first and comes back last, so that an interrupted replacement is not taken for a result."""
    try:
        named = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        named = []
    (path / MANIFEST).unlink(missing_ok=True)
    for name in named if isinstance(named, list) else []:
        # The list is a file's word: only result files directly in the folder, never a path that leads elsewhere.
        own = isinstance(name, str) and Path(name).name == name and Path(name).suffix in _SUFFIXES
        if own and (path / name).is_file():
            (path / name).unlink()
    for file in sorted(temporary.iterdir(), key=lambda file: file.name == MANIFEST):
        os.replace(file, path / file.name)


def workers() -> int:
    """Threads that are worth having for compression and decoding here."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _make(folder: Path) -> None:
    with told(folder, "cannot make the folder"):
        folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Limits:
    """Bounds on a file from outside, checked on its header or directory alone."""

    max_bytes: int = 2048 * MIB  # of the decoded pixels, and of the file itself
    max_side: int = 65_535  # pixels per side: the largest that DICOM and TIFF readers agree on
    max_ratio: float = 200.0  # decoded bytes to file bytes: beyond it a large file is taken for a decompression bomb
    ratio_free: int = 64 * MIB  # decoded bytes up to which any ratio is allowed: blank pictures compress well

    def check_file(self, path: Path) -> int:
        """The file's size in bytes; raises DataError where there is none to read or it exceeds `max_bytes`."""
        if path.is_dir():
            raise DataError("is a folder", path=path, expected="an image file")
        if not path.is_file():
            raise DataError("no such file", path=path)
        size = path.stat().st_size
        if size == 0:
            raise DataError("the file is empty", path=path, expected="an image file")
        if size > self.max_bytes:
            raise DataError("the file is too large", path=path, found=f"{size} bytes", expected=f"≤ {self.max_bytes}")
        return size

    def check_declared(self, path: Path, shape: tuple[int, ...], itemsize: int, file_bytes: int) -> None:
        """Raises DataError where the header's `shape` of `itemsize`-byte values is empty, too large or implausible."""
        sides, declared = "×".join(map(str, shape)), math.prod(shape) * itemsize
        if min(shape) < 1:
            raise DataError("has no pixels", path=path, field="size", found=sides)
        if max(shape) > self.max_side:
            expected = f"≤ {self.max_side}"
            raise DataError("too many pixels per side", path=path, field="size", found=sides, expected=expected)
        if declared > self.max_bytes:
            found, expected = f"{sides}, {declared} bytes", f"≤ {self.max_bytes} bytes"
            raise DataError("declares more data than allowed", path=path, field="size", found=found, expected=expected)
        self.check_ratio(path, declared, file_bytes)

    def check_ratio(self, path: str | Path, declared: int, packed: int, *, field: str | None = "size") -> None:
        """Raises DataError where `declared` bytes are said to come from `packed` ones and no real data do."""
        if declared > self.ratio_free and declared > self.max_ratio * packed:
            what = "would inflate beyond reason: declares far more data than the file can hold"
            found, expected = f"{declared} bytes from {packed}", f"a ratio ≤ {self.max_ratio:g}"
            raise DataError(what, path=path, field=field, found=found, expected=expected)


LIMITS = Limits()
