"""The sources that `modiff import` knows: what each is, its layout on disk in words, and the arguments it takes.

They are in catalogue.toml. Nothing heavy is loaded here, so that help is instant: a source's `Importer` is loaded
when it is read.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any

from modiff.config.data import MOST_CONTEXT, PhantomConfig, SplitRule
from modiff.config.fields import HelpFormatter, Parser

_TYPES = {"int": int, "float": float}  # that an argument in catalogue.toml may have


@dataclass(frozen=True)
class Entry:
    """One source. importer: its class, in a module of this package. line: for the list of sources.

    text: what `modiff import NAME --help` prints: what the source is, its layout, what is refused. arguments: name or
    --option -> what `ArgumentParser.add_argument` takes, of what the source needs to be known; the output and the
    splits are added for all. context: slices can have their neighbours, by --context. dealt: whom val and test take a
    fraction of. signs: patterns of names of files in a folder that tell the source where each fits one; a folder like
    none of them holds images and masks.
    """

    importer: str
    line: str
    text: str
    arguments: Mapping[str, Mapping[str, Any]]
    split_options: Sequence[str] = ("splits", "val", "test", "split-seed", "folds")
    context: bool = False
    dealt: str = "patients"
    signs: Sequence[str] = ()


def _entries() -> dict[str, Entry]:
    table = tomllib.loads(resources.files(__package__).joinpath("catalogue.toml").read_text(encoding="utf-8"))
    for item in fields(PhantomConfig):
        option = table["phantom"]["arguments"][f"--{item.name.replace('_', '-')}"]
        option |= {"type": item.type, "default": item.default}
    return {name: Entry(**entry) for name, entry in table.items()}


IMPORTERS = _entries()  # by the name on the command line


def import_parser(name: str, prog: str) -> argparse.ArgumentParser:
    """All arguments of `modiff import NAME`; its help is the entry's text."""
    entry = IMPORTERS[name]
    parser = Parser(prog, description=entry.text, formatter_class=HelpFormatter)
    for option, details in entry.arguments.items():
        kind = {"type": _TYPES[details["type"]]} if "type" in details else {}
        parser.add_argument(option, **{**details, **kind})
    if entry.context:
        words = "also keep K neighbouring slices on either side of each, as channels (default %(default)s)"
        parser.add_argument("--context", type=int, choices=range(MOST_CONTEXT + 1), default=0, metavar="K", help=words)
    parser.add_argument("-o", "--output", required=True, metavar="STORE", help="the store to write, e.g. data.h5")
    parser.add_argument("--overwrite", action="store_true", help="replace the store if it exists")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    usual, of = SplitRule(), f"fraction of {entry.dealt}"
    options: dict[str, dict[str, Any]] = {
        "splits": {"metavar": "JSON", "help": "patients of each split; without it they are dealt by a hash"},
        "val": {"type": float, "default": usual.val, "help": f"{of} for val (default %(default)s)"},
        "test": {"type": float, "default": usual.test, "help": f"{of} for test (default %(default)s)"},
        "split-seed": {"type": int, "default": usual.seed, "help": "seed of the hash (default %(default)s)"},
        "folds": {"type": int, "metavar": "K", "help": "also deal patients into K folds for cross-validation"},
    }
    for option in entry.split_options:
        parser.add_argument(f"--{option}", **options[option])
    return parser
