"""`modiff import NAME …`: brings a source of multi-rater data into a store."""

from __future__ import annotations

import argparse

from modiff.cli.options import parser_of
from modiff.errors import counted


def parser(prog: str) -> argparse.ArgumentParser:
    """Only the name of the importer; its own arguments are parsed when its module is loaded."""
    from modiff.data.importers.catalogue import IMPORTERS

    width = max(map(len, IMPORTERS))
    table = "\n".join(f"  {name:<{width}}  {entry.line}" for name, entry in IMPORTERS.items())
    made = parser_of("import", prog, sources=table)
    made.add_argument("source", choices=list(IMPORTERS), metavar="SOURCE", help="where the data comes from: see below")
    made.add_argument("rest", nargs=argparse.REMAINDER, metavar="-o STORE", help=argparse.SUPPRESS)
    made.set_defaults(prog=prog)
    return made


def run(args: argparse.Namespace) -> int:
    """Runs the importer and says what was written."""
    from modiff.data.importers.catalogue import import_parser

    given = import_parser(args.source, f"{args.prog} {args.source}").parse_args(args.rest)

    from modiff.data.importers.base import run_import
    from modiff.data.intensity import little_contrast, used_range
    from modiff.data.loading import place_of
    from modiff.data.splits import lacking
    from modiff.data.store import Store
    from modiff.types import SAME_SIZE

    path = run_import(args.source, given)
    with Store.open(path) as store:
        patients = dict(zip(store.patients.tolist(), store.splits.tolist(), strict=True))
        splits = ", ".join(f"{len(store.rows(name))} {name}" for name in store.split_names())
        images = f"{counted(len(store), 'image')} of {counted(len(patients), 'patient')}"
        print(f"{path}: {images} ({splits}), {counted(len(store.info.raters), 'rater')}")
        place, notes = place_of(store, store.rows()), list(store.info.notes)
        flat = little_contrast(used_range(store.some_images()))
    if (ends := place["spacing_range"]) and ends[1] > ends[0] * SAME_SIZE:
        median = "×".join(f"{mm:.3g}" for mm in place["spacing"])
        notes.append(f"pixels of {ends[0]:.3g} to {ends[1]:.3g} mm; a model takes the median, {median} mm, for its own")
    notes += filter(None, [lacking(patients), flat])
    for note in notes:
        print(f"note: {note}")
    print(f"`modiff info {path}` says more.")
    return 0
