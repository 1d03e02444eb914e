"""Importers: one class per source of multi-rater data, and the runner that makes their stores.

An importer says what its source is and yields its cases; everything else is the same for all and is here: the
output, splits and folds, progress, reading ahead, provenance, and that a store appears whole or not at all.
"""

from __future__ import annotations

import argparse
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from modiff._version import __version__
from modiff.data import context
from modiff.data.importers.catalogue import IMPORTERS
from modiff.data.importers.fitting import Cut
from modiff.data.importers.sources import as_folder, free_name
from modiff.data.masks import Notes
from modiff.data.splits import SplitRule, assign, make_folds, read_splits
from modiff.data.store import StoreWriter, check_free
from modiff.data.store_format import StoreInfo
from modiff.errors import ConfigError
from modiff.io.files import sha256_of, workers
from modiff.io.output import replacing
from modiff.io.progress import tracked
from modiff.terminal import console

_AHEAD = 256  # items that threads read ahead
_NAMED = 20  # files left out that a note names

Item = TypeVar("Item")


@dataclass(frozen=True)
class Case:
    """One image that goes into the store. image: (C,H,W), neighbours behind their channels as `context.named` has them.
    masks: (R,H,W) class index. read: (R,) bool, None for all.

    place: where it lies, as `StoreWriter.add` takes it: affine, slice_index, valid, spacing.
    """

    case: str
    patient: str
    image: np.ndarray
    masks: np.ndarray
    read: np.ndarray | None = None
    place: Mapping[str, Any] = field(default_factory=dict)


class Importer(ExitStack, Generic[Item]):
    """A source of multi-rater data; made from the command's arguments, it finds what there is and reads item by item.

    What its command says and takes is in `catalogue`. items: what is read one after the other (files of a case,
    volumes, patients), in the store's order. What a source opens is closed with it by `enter_context`. cut: counts the
    marks that lie outside what goes into the store. context: neighbours that a slice is to have on either side, which
    `read` puts into its image and `describe` does not name. said: what was decided of single files. left_out: what of
    the source is not in the store, and why.
    """

    version: ClassVar[str]  # of the importer, for the store's record
    threads: ClassVar[bool] = False  # whether items may be read several at a time
    parts: ClassVar[str] = "file"  # what notes are about

    items: Sequence[Item]

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.args, self.cut = args, Cut()
        self.context: int = getattr(args, "context", 0)
        self.said, self.left_out = Notes(what=self.parts), Notes(named=_NAMED, what=self.parts)
        if inner := args.archive.inner if "archive" in args else None:
            self.said.add([f"names begin below its one folder, {inner}"], args.archive.archive.name)

    def say(self, text: str) -> None:
        """A line on standard error, above a progress bar where there is one."""
        console(stderr=True).print(text, soft_wrap=True)

    @abstractmethod
    def describe(self) -> StoreInfo:
        """What the store says of itself, its provenance being the source's files."""

    def patients(self) -> set[str]:
        """Everyone who has a case: the items' patients."""
        return set(map(attrgetter("patient"), self.items))

    def splits(self, rule: Mapping[str, str] | SplitRule) -> Mapping[str, str]:
        """Patient -> split: by --splits or the hash, unless the source has splits of its own."""
        return assign(self.patients(), rule, getattr(self.args, "splits", None))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided in reading that a user must know of; whole once all items are read."""
        return (*self.left_out.lines, *self.said.lines)

    @abstractmethod
    def read(self, item: Item) -> Iterable[Case]:
        """The cases of one item; raises DataError for what cannot be trusted."""


def run_import(name: str, args: argparse.Namespace, make: Callable[..., Importer] | None = None) -> Path:
    """Makes the store that `args` of `import_parser` describe and returns its path; raises DataError, ConfigError.

    make: the source from `args`, where it is not the importer of that name itself.
    """
    path, usual = Path(args.output), SplitRule()
    if getattr(args, "splits", None):  # read before anything else: what is wrong with it shows at once
        rule: Mapping[str, str] | SplitRule = read_splits(args.splits)
    else:
        val, test = getattr(args, "val", usual.val), getattr(args, "test", usual.test)
        rule = SplitRule(val, test, getattr(args, "split_seed", usual.seed))
    check_free(path, overwrite=args.overwrite)
    with ExitStack() as claimed:
        place = claimed.enter_context(replacing(path))  # nobody else reads for hours what could not be written
        if "root" in args:
            root = claimed.enter_context(as_folder(args.root, getattr(args, "max_bytes", None)))
            args = argparse.Namespace(**{"archive": root, **vars(args), "root": root.path})
        with (make or resolve_name(f"{__package__}.{IMPORTERS[name].importer}"))(args) as source:
            source.push(claimed.pop_all())  # the store is there before the source takes leave of what it kept
            how = {"overwrite": args.overwrite, "progress": not getattr(args, "quiet", False), "place": place}
            write_store(source, path, rule, folds=getattr(args, "folds", None), **how)
    return path


def write_store(
    source: Importer,
    path: Path,
    rule: Mapping[str, str] | SplitRule,
    *,
    folds: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    place: Path | None = None,
) -> None:
    """Writes all cases of a source; rule: who is in which split where the source does not say. Raises DataError.

    place: as `StoreWriter` takes it.
    """
    info = source.describe()
    info = replace(info, channels=context.named(info.channels, source.context), context=source.context)
    used = dict(info.provenance)
    archive = getattr(source.args, "archive", None)
    for given in (archive and archive.archive, *(getattr(source.args, option, None) for option in ("table", "splits"))):
        if given:
            used[free_name(Path(given).name, used)] = sha256_of(given)
    info = replace(info, importer=f"{info.importer} (modiff {__version__})", provenance=used)
    splits = source.splits(rule)
    dealt = make_folds(splits, folds, getattr(source.args, "split_seed", 0)) if folds else None
    everyone = np.ones(len(info.raters), bool)
    with StoreWriter(path, info, overwrite=overwrite, folds=dealt, place=place) as writer:
        for cases in tracked(_read(source), "importing", len(source.items), "parts", quiet=not progress):
            for one in cases:
                read, split = everyone if one.read is None else one.read, splits[one.patient]
                writer.add(one.image, one.masks, read, case=one.case, patient=one.patient, split=split, **one.place)
        if not getattr(source.args, "allow_cut", False):
            source.cut.check(info.raters, next(iter(info.provenance), ""))
        cut = (f"cut off: {line}" for line in source.cut.told(info.raters))
        writer.info = replace(info, notes=(*source.notes, *cut))


def _read(source: Importer) -> Iterator[Iterable[Case]]:
    """The cases of each item in order; with `threads`, some hundred items at a time."""
    if not source.threads:
        yield from map(source.read, source.items)
        return
    with ThreadPoolExecutor(workers()) as pool:
        for start in range(0, len(source.items), _AHEAD):
            yield from pool.map(source.read, source.items[start : start + _AHEAD])


def check_whole(number: int | None, option: str, what: str) -> None:
    """Raises ConfigError for a number below 1."""
    if number is not None and number < 1:
        raise ConfigError(f"is not {what}", field=option, found=number, expected="1 or more")
