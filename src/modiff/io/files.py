"""Results on disk: a file or a folder of files exists whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from modiff.errors import DataError

T = TypeVar("T")
_SUFFIXES = (".png", ".npz", ".nii", ".gz", ".dcm")  # of result files
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


def guarded(path: str | Path, action: Callable[[], T]) -> T:
    """Runs what touches a file from outside: a damaged one makes libraries raise nearly anything, here a DataError."""
    try:
        with located(path):
            return action()
    except DataError:
        raise
    except Exception as error:
        text = str(error) or repr(error)
        what = "truncated" if "truncated" in text else "damaged"
        raise DataError(f"{what} file", path=path, found=text.splitlines()[0][:200]) from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it takes the place of `path` when the block ends without an error."""
    path = Path(path)
    check_file_output(path)
    _make(path.parent)
    with _writable(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with _writable(path):
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """DataError in place of what the operating system says of a place that cannot be written to."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror or error})", path=path) from error


def write_text(path: str | Path, text: str) -> Path:
    """Writes UTF-8 text, line ends as they are: the file holds what it held before or all of `text`."""
    return write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Writes bytes: the file holds what it held before or all of `data`. Makes its folder; returns its path."""
    path = Path(path)
    with replacing(path) as temporary:
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
    _make(path.parent)
    with _writable(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with _writable(path):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            if path.is_dir() and any(path.iterdir()):
                _move_into(temporary, path)
            else:
                os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder ({error.strerror or error})", path=folder) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
