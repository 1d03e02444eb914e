"""Files: what one may claim before memory is taken for it, and results that exist whole or not at all.

All that is written goes through here. A new file or folder is made in a temporary folder beside its place, which is
locked while a process works in it: nobody else writes to the same place, and what a killed process left is removed by
the next one. Data are on the disk before a name leads to them.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from modiff.errors import ConfigError, DataError, InUse
from modiff.plain import parse_json, read_text

T = TypeVar("T")
MIB = 1 << 20
RATIO_FREE = 512 * MIB  # a scan of 512×512×320 with one small nodule compresses 228 times as a mask, and more as floats
_PART = 1 << 20  # bytes read at a time
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


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Where a new `path` can be made, on the same disk and under its name; what is left of it goes with the block.

    Raises DataError where another process makes the same.
    """
    _make(path.parent)
    with told(path, "cannot be written"):
        folder, lock = _claimed(path)
    try:
        yield folder / path.name
    finally:
        with suppress(OSError):  # without a handle, of which there may be none left
            (folder / path.name).unlink(missing_ok=True)
            folder.rmdir()
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep(path: Path) -> None:
    """Removes what a process that was killed left of making `path`, which is there, if nobody makes it now."""
    with suppress(OSError, DataError):
        kept = [file.stat().st_mtime_ns for file in kept_parts(path).glob("*")]  # later ones are of an --overwrite
        finished = kept_parts(path).is_dir() and max(kept, default=0) <= path.stat().st_mtime_ns
        if finished or _temporary(path).is_dir():
            with _beside(path):
                if finished:
                    shutil.rmtree(kept_parts(path), ignore_errors=True)


def kept_parts(path: Path) -> Path:
    """The folder beside `path` that keeps what is done of it until it is whole."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what no result needs: in the system's place, or in the working folder where that cannot be used."""
    try:
        made = tempfile.TemporaryDirectory(prefix="modiff-")
    except OSError:
        with told(Path.cwd(), "cannot be written"):
            made = tempfile.TemporaryDirectory(prefix=".modiff-", suffix=".modiff-tmp", dir=Path.cwd())
    with made as folder:
        yield Path(folder)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:60]}.modiff-tmp")


@contextmanager
def _removed_in_need(folder: Path, new: bool) -> Iterator[None]:
    """A new folder goes where there is no handle left to work in it."""
    try:
        yield
    except OSError:
        if new:
            with suppress(OSError):
                folder.rmdir()
        raise


def _claimed(path: Path) -> tuple[Path, int | None]:
    """An empty folder beside `path`, and the lock that says whose it is; None where nothing can be locked."""
    folder = _temporary(path)
    while True:
        new = not folder.exists()
        folder.mkdir(exist_ok=True)
        # FileNotFoundError: its last owner removes it just now.
        with suppress(FileNotFoundError), _removed_in_need(folder, new), ExitStack() as opened:
            lock = _lock(folder, path)
            if lock is None:
                with suppress(OSError):
                    folder.rmdir()
                return Path(tempfile.mkdtemp(prefix=f"{folder.stem}.", suffix=folder.suffix, dir=path.parent)), None
            opened.callback(os.close, lock)
            if folder.exists() and os.path.samestat(os.fstat(lock), folder.stat()):
                for left in folder.iterdir():  # by a process that was killed
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
                opened.pop_all()
                return folder, lock


def _lock(folder: Path, path: Path) -> int | None:
    """A handle of the folder that keeps others out; DataError about `path` where another process has it.

    It is `InUse` then. The operating system frees what a killed process held. None where nothing can be locked: some
    network file systems.
    """
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            what = "another process works in this folder" if folder == path else "another process writes this"
            raise InUse(what, path=path, hint="Wait for it to end, or give another place") from None
        return None
    return handle


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` when the block ends without an error.

    Raises DataError where it cannot be written, or another process writes it.
    """
    path = Path(path)
    _check_place(path)
    with _beside(path) as temporary:
        with told(path, "cannot be written"):
            temporary.touch()
            mode = temporary.stat().st_mode  # as the umask has it; other writers may let only the owner read
        with _called(path, temporary):
            yield temporary
        with told(path, "cannot be written"):
            temporary.chmod(mode)
            to_disk(temporary)
            os.replace(temporary, path)
            to_disk(path.parent)


@contextmanager
def _called(path: Path, temporary: Path) -> Iterator[None]:
    """Errors of the block about what is made at `temporary` are about `path`, where it would have been."""
    try:
        yield
    except DataError as error:
        if error.path is None or not Path(error.path).is_relative_to(temporary):
            raise
        place, found, expected = path / Path(error.path).relative_to(temporary), error.found, error.expected
        raise DataError(
            error.message, path=place, field=error.field, found=found, expected=expected, hint=error.hint
        ) from error


@contextmanager
def replacing_all(*paths: Path) -> Iterator[list[Path]]:
    """`replacing` for files that belong together: where one cannot be written, none takes its place.

    The last takes its place first.
    """
    with ExitStack() as opened:
        yield [opened.enter_context(replacing(path)) for path in paths]


def to_disk(path: Path) -> None:
    """Waits until a file, or a folder's names, are on the disk; a file system that cannot do it for folders may not."""
    folder = path.is_dir()
    if folder and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> Path:
    """Writes UTF-8 text, line ends as they are: the file holds what it held before or all of `text`.

    Lone surrogates, of which UTF-8 has none, become escapes.
    """
    return write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Writes bytes: the file holds what it held before or all of `data`. Makes its folder; returns its path."""
    path = Path(path)
    with replacing(path) as temporary, told(path, "cannot be written"):
        temporary.write_bytes(data)
    return path


def sha256_of(path: str | Path, *, start: int = 0, end: int | None = None) -> str:
    """The hexadecimal SHA-256 of a file's bytes, or of those from `start` to before `end`; little memory is taken."""
    digest = hashlib.sha256()
    with told(path, "cannot be read"), Path(path).open("rb") as file:
        file.seek(start)
        while part := file.read(_PART if end is None else max(0, min(_PART, end - file.tell()))):
            digest.update(part)
    return digest.hexdigest()


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """The folder is made, can be written, and is this process's to write to until the block ends.

    Raises DataError where that is not so. Where the operating system cannot lock, nobody else is noticed. A folder that
    was made for the block and is empty at its end goes.
    """
    folder = Path(folder)
    new = not folder.exists()
    _make(folder)
    handle = _lock(folder, folder)
    try:
        _check_writable(folder)
        yield
    finally:
        if new:
            with suppress(OSError):
                folder.rmdir()
        if handle is not None:
            os.close(handle)


@contextmanager
def output_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` whose files become those of `path` when the block ends without an error.

    An existing folder with files is refused unless `overwrite`; then each new file replaces its namesake, files that
    the earlier summary.json names are removed, and whatever else lies there stays. Raises DataError, also where another
    process makes the same folder.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    with _beside(path) as temporary:
        check_output(path, overwrite=overwrite)  # another process may have ended meanwhile
        with told(path, "cannot be written"):
            temporary.mkdir()
        with _called(path, temporary):
            yield temporary
        with told(path, "cannot be written"):
            for file in (*temporary.iterdir(), temporary):
                to_disk(file)
            if path.is_dir() and any(path.iterdir()):
                _move_into(temporary, path)
            else:
                os.replace(temporary, path)
            to_disk(path.parent)


def check_file_output(path: str | Path) -> None:
    """Raises DataError where no file can be written in the place of `path`: known before any work is done."""
    _check_place(Path(path))
    _check_writable(Path(path).parent)


def _check_writable(folder: Path) -> None:
    """Raises DataError where no file can be written in a folder, or the folder cannot be made, for whatever reason."""
    with told(folder, "cannot be written"):
        place = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
        if not place.is_dir():
            raise DataError("cannot make the folder", path=folder, found=f"{place} is a file")
        with tempfile.TemporaryFile(dir=place) as trial:
            trial.write(bytes(4096))


def _check_place(path: Path) -> None:
    """Raises DataError where a file may not take the place of what is there."""
    with told(path, "cannot be written"):
        if path.is_dir():
            raise DataError("is a folder", path=path, field="output", expected="a file")
        if path.exists() and not path.is_file():  # a device would be replaced
            raise DataError("is not a regular file", path=path, field="output", expected="a file")


def check_output(path: str | Path, *, overwrite: bool) -> None:
    """Raises DataError where results cannot go to the folder `path`: known before any work is done."""
    path = Path(path)
    with told(path, "cannot be written"):
        if path.exists() and not path.is_dir():
            raise DataError("is a file", path=path, field="output", expected="a folder")
        if path.is_dir() and any(path.iterdir()) and not overwrite:
            sweep(path)
            hint = "Use --overwrite to replace them"
            raise DataError("the folder has files already", path=path, field="output", hint=hint)
    _check_writable(path)


def _move_into(temporary: Path, path: Path) -> None:
    """The summary goes first and comes back last, so that an interrupted replacement is not taken for a result."""
    try:
        named = parse_json(read_text(path / MANIFEST, kind="a summary"))["files"]
    except (DataError, KeyError, TypeError):
        named = []
    (path / MANIFEST).unlink(missing_ok=True)
    for name in named if isinstance(named, list) else []:
        # The list is a file's word: only result files directly in the folder, never a path that leads elsewhere.
        own = isinstance(name, str) and Path(name).name == name and Path(name).suffix in _SUFFIXES
        if own and (path / name).is_file():
            (path / name).unlink()
    for file in sorted(temporary.iterdir(), key=lambda file: file.name == MANIFEST):
        os.replace(file, path / file.name)


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


def _make(folder: Path) -> None:
    with told(folder, "cannot make the folder"):
        folder.mkdir(parents=True, exist_ok=True)


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
            what = "would inflate beyond reason: declares far more data than the file can hold"
            found, expected = f"{declared} bytes from {packed}", f"a ratio ≤ {self.max_ratio:g}"
            raise DataError(what, path=path, field=field, found=found, expected=expected, hint=self.hint(declared))


LIMITS = Limits()
