"""Results that exist whole or not at all: all that is written goes through here.

A new file or folder is made in a temporary folder beside its place, which is locked while a process works in it: nobody
else writes to the same place, and what a killed process left is removed by the next one. Data are on the disk before a
name leads to them.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from modiff.errors import DataError, InUse
from modiff.io.files import told
from modiff.plain import json_text, parse_json, read_text

_SUFFIXES = (".png", ".npz", ".nii", ".gz", ".dcm")  # of result files
_SCRATCH, _NEW = "modiff-scratch-", 60.0  # seconds in which a folder of that name is locked for sure
MANIFEST = "summary.json"  # its "files" name what a folder of results holds
_REPLACING = ".replacing.json"  # the same, while one set of results takes another's place


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
        made = tempfile.TemporaryDirectory(prefix=_SCRATCH)
    except OSError:
        with told(Path.cwd(), "cannot be written"):
            made = tempfile.TemporaryDirectory(prefix=".modiff-", suffix=".modiff-tmp", dir=Path.cwd())
    with made as name, ExitStack() as opened:
        folder = Path(name)
        with told(folder, "cannot be written"):
            lock = _lock(folder, folder)
        if lock is not None:
            opened.callback(os.close, lock)
            _sweep_scratch(folder.parent)
        yield folder


def _sweep_scratch(place: Path) -> None:
    """Removes what killed processes left there: old folders that nobody has locked. They may hold a patient's scan."""
    for folder in place.glob(f"{_SCRATCH}*"):
        with suppress(OSError, DataError):
            if time.time() - folder.stat().st_mtime > _NEW and (lock := _lock(folder, folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


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
        raise error.at(path / Path(error.path).relative_to(temporary)) from error


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
    """The summary goes first and comes back last, so that an interrupted replacement is not taken for a result.

    Meanwhile another list says which files belong to it, for the replacement after an interrupted one.
    """
    named = {*_named(path / MANIFEST), *_named(path / _REPLACING)}
    made = [file.name for file in temporary.iterdir()]
    write_bytes(path / _REPLACING, json_text({"files": sorted({*named, *made})}).encode())
    (path / MANIFEST).unlink(missing_ok=True)
    for name in named:
        if (path / name).is_file():
            (path / name).unlink()
    for name in sorted(made, key=MANIFEST.__eq__):
        os.replace(temporary / name, path / name)
    (path / _REPLACING).unlink()


def _named(summary: Path) -> Iterator[str]:
    """The files that a summary names.

    The list is a file's word: only result files directly in the folder, never a path that leads elsewhere.
    """
    try:
        names = parse_json(read_text(summary, kind="a summary"))["files"]
    except (DataError, KeyError, TypeError):
        return
    for name in names if isinstance(names, list) else []:
        if isinstance(name, str) and Path(name).name == name and Path(name).suffix in _SUFFIXES:
            yield name


def _make(folder: Path) -> None:
    with told(folder, "cannot make the folder"):
        folder.mkdir(parents=True, exist_ok=True)
