"""`modiff tables`: a benchmark's folder as the paper's tables and Figure 2."""

from __future__ import annotations

import argparse
from pathlib import Path

_EPILOG = """\
Writes tables.md, tables.csv (a line a number), tables.html and figure2-1.png … to DIR/tables or to -o. Runs that are
not finished are named and left out. No column mixes protocols or thresholds; published numbers stand in tables of
their own.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="The tables of a benchmark, each number with its interval and what is needed to read it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("folder", type=Path, metavar="DIR", help="the folder that `modiff benchmark` wrote")
    made.add_argument("-o", dest="output", type=Path, default=None, metavar="OUT", help="where to write (DIR/tables)")
    made.add_argument("--data", metavar="STORE", help="the store, where it has moved since the benchmark")
    made.add_argument("--cases", type=int, default=3, help="cases of Figure 2, 0 for no figure (%(default)s)")
    made.add_argument("--samples", type=int, default=6, help="samples of each method in Figure 2 (%(default)s)")
    return made


def run(args: argparse.Namespace) -> int:
    """Builds, writes, says what the tables show."""
    import sys

    from modiff.benchmark.tables import write_tables
    from modiff.benchmark.tables_words import findings, group_title, table_title
    from modiff.errors import ConfigError

    for name, value, least in (("--cases", args.cases, 0), ("--samples", args.samples, 1)):
        if value < least:
            raise ConfigError("too small", field=name, found=value, expected=f"{least} or more")
    written = write_tables(
        args.folder,
        args.output,
        data=args.data,
        cases=args.cases,
        samples=args.samples,
        say=lambda line: print(line, file=sys.stderr),
    )
    source = str(written.tables.state.data.get("source", ""))
    for table in written.tables.tables:
        print(f"{group_title(table.group, source)}, {table_title(table)}")
        for line in findings(table):
            print(f"  {line}")
    for line in written.tables.left_out:
        print(f"not in the tables: {line}")
    if written.note:
        print(written.note)
    for file in written.files:
        print(file)
    return 0
