"""Files of a folder or a zip archive, read alike, with limits that act before memory is taken; and their digests."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from modiff.errors import DataError, printable
from modiff.io.archive import Archive
from modiff.io.files import MIB, Limits, check_inside, files_in, guarding, regular, sha256_of, told, unreadable
from modiff.io.output import scratch
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
        archive = self._zip = self.enter_context(Archive(self.path))
        self._entries = self._named(self._checked(archive))
        self.names = sorted(self._entries)

    def _named(self, found: Iterable[tuple[str, T]]) -> dict[str, T]:
        named: dict[str, T] = {}
        for name, file in found:
            if named.setdefault(unicodedata.normalize("NFC", name), file) is not file:
                raise DataError("a name occurs twice", path=self.path, found=repr(name))
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
        if len(entries) > MAX_FILES:
            raise DataError("too many files", path=self.path, expected=f"at most {MAX_FILES}")
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
        return self._zip.content(entry, where)

    def unpack(self, folder: Path, limits: Limits) -> None:
        """Puts an archive's files below a folder; raises DataError for a damaged or too large one, and a full disk."""
        archive = self._zip
        assert archive is not None
        for name, entry in self._entries.items():
            limits.check_size(Path(self.where(name)), entry.file_size, entry.compress_size)
        total, free = sum(entry.file_size for entry in self._entries.values()), shutil.disk_usage(folder).free
        if total > free:
            hint = "TMPDIR names another place to unpack in."
            found, expected = f"{total} bytes", f"at most {free}, which {folder.parent} has free"
            raise DataError("more than fits on the disk", path=self.path, found=found, expected=expected, hint=hint)
        for name, entry in self._entries.items():
            where = self.where(name)
            with told(where, "cannot be unpacked"), ExitStack() as opened:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                to = opened.enter_context((folder / name).open("xb"))
                archive.check_method(entry, where)
                with guarding(where, "damaged in the archive"):
                    packed = opened.enter_context(archive.open(entry))
                while part := _part(packed, where):
                    to.write(part)

    def sha256(self) -> str:
        """SHA-256 of the archive, or of the list of a folder's files with their SHA-256."""
        if self._zip is not None:
            return sha256_of(self.path)
        return digest_of((name, hashlib.sha256(self.read(name)).hexdigest()) for name in self.names)

    def where(self, name: str) -> str:
        """How an error names a file of this source."""
        return str(self.path / name) if self._zip is None else f"{self.path}!{name}"


def _part(packed: IO[bytes], where: str) -> bytes:
    with guarding(where, "damaged in the archive"):
        return packed.read(MIB)


@dataclass(frozen=True)
class Root:
    """Where a source's files lie. path: the folder. archive: the zip that they are unpacked from, into `top`."""

    path: Path
    archive: Path | None = None
    top: Path = Path()

    @property
    def inner(self) -> str | None:
        """The one folder that all of an archive's files lie in, which is then the root."""
        return None if self.archive is None or self.path == self.top else self.path.name

    def called(self, text: str) -> str:
        """What a text says of unpacked files, by their names in the archive."""
        return text if self.archive is None else text.replace(f"{self.top}/", f"{self.archive}!")


@contextmanager
def as_folder(path: str | Path, max_bytes: int | None = None) -> Iterator[Root]:
    """A folder, or a zip archive's files unpacked in a temporary one while the block lasts.

    An archive is checked as `Source` does. Where all its files lie in one folder, that is the root. max_bytes: of
    `Limits.asked`, for each file. Errors from inside the block name files as the archive does. Raises DataError.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        yield Root(path)
        return
    with scratch() as made:
        top = Path(made).resolve() / path.stem
        with Source(path) as source:
            top.mkdir()
            source.unpack(top, Limits.asked(max_bytes))
        within = {name.partition("/")[0] for name in source.names}
        inner = top / within.pop() if len(within) == 1 else top
        root = Root(inner if inner.is_dir() else top, path, top)
        try:
            yield root
        except DataError as error:
            if error.path is None or not (file := Path(error.path)).is_relative_to(top):
                raise
            where = path if file == top else root.called(str(file))
            raise error.at(where) from error


def walk(root: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[Path, list[str], list[Path]]]:
    """Each folder below `root`, the names of its folders (which may be edited) and its `wanted` files, in order.

    What systems put beside people's files (`is_litter`) is left out, and links to folders inside are not followed: what
    they lead to is read where it lies. Raises DataError where there is no folder, one that cannot be read, too much in
    it, a link that leads out of it, and for such a file that is a device or the like.
    """
    if not root.is_dir():
        raise DataError("no such folder", path=root)
    inside, files_seen = root.resolve(), 0
    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not is_litter(name))
        files = [Path(folder, name) for name in sorted(names) if wanted(name) and not is_litter(name)]
        files_seen += len(names)
        if files_seen > MAX_FILES:
            raise DataError("too many files", path=root, expected=f"at most {MAX_FILES}")
        for file in files:
            if printable(name := str(file.relative_to(root))) != name:
                what, hint = "a name with characters that cannot be printed, or bytes that are not UTF-8", "Rename it"
                raise DataError(what, path=file, hint=hint)
            if not stat.S_ISREG(os.lstat(file).st_mode):
                check_inside(file, inside)
                regular(file)
        for name in folders:
            if os.path.islink(path := Path(folder, name)):
                check_inside(path, inside)
        yield Path(folder), folders, files


def read_bytes(path: Path) -> bytes:
    """A regular file's content; raises DataError where it cannot be read or is larger than 256 MiB."""
    with told(path, "cannot be read"):
        if (size := regular(path)) > LIMITS.max_bytes:
            found, expected = f"{size} bytes", f"at most {LIMITS.max_bytes}"
            raise DataError("file too large", path=path, found=found, expected=expected)
        return path.read_bytes()


def digest_of(files: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of a list of files' names with their SHA-256."""
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in files).encode()).hexdigest()


def digest_below(root: Path, paths: Iterable[Path], limits: Limits) -> dict[str, str]:
    """The folder's name -> SHA-256 of the list of these files or DICOM folders below `root` with theirs.

    Raises DataError for a file above the limit, before time is taken for it.
    """

    def own(path: Path) -> str:
        if not path.is_dir():
            if path.stat().st_size > limits.max_bytes:
                limits.check_file(path)
            return sha256_of(path)
        files = (file for file in files_in(path) if not is_litter(file.name))
        return digest_of((file.name, sha256_of(file)) for file in files)

    return {root.resolve().name: digest_of((path.relative_to(root).as_posix(), own(path)) for path in sorted(paths))}


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or with a number behind it, such as `name (2)`, where it is taken."""
    names = chain((name,), (f"{name} ({number})" for number in count(2)))
    return next(free for free in names if free not in taken)
