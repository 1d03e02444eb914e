"""`modiff import NAME …`: brings a source of multi-rater data into a store."""

from __future__ import annotations

import argparse

from modiff.cli.options import parser_of


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

    from modiff.data.importers.base import advice, run_import
    from modiff.data.store import Store

    path = run_import(args.source, given)
    with Store.open(path) as store:
        patients = dict(zip(store.patients.tolist(), store.splits.tolist(), strict=True))
        splits = ", ".join(f"{len(store.rows(name))} {name}" for name in store.split_names())
        notes = list(store.info.notes)
        print(f"{path}: {len(store)} images of {len(patients)} patients ({splits}), {len(store.info.raters)} raters")
    if told := advice(given, patients):
        notes.append(told)
    for note in notes:
        print(f"note: {note}")
    print(f"`modiff info {path}` says more.")
    return 0
