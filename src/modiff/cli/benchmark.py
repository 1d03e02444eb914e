"""`modiff benchmark`: several methods trained and scored alike, and the paper's tables of them; resumable."""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from modiff.cli.options import asked, parser_of
from modiff.config.evaluation import BenchmarkConfig
from modiff.config.run import parse_time
from modiff.errors import ConfigError

if TYPE_CHECKING:
    from modiff.benchmark.plan import BenchmarkSettings
    from modiff.io.progress import Progress


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    from modiff.benchmark.plan import ROWS

    return parser_of("benchmark", prog, methods=", ".join(ROWS), seeds=str(len(BenchmarkConfig.seeds)))


def run(args: argparse.Namespace) -> int:
    """Trains, scores and writes the tables; 0 all done, 1 something failed, 130 not finished."""
    if args.tables is not None:
        return _tables(args, args.tables or None)
    for name in ("data", "budget"):
        if getattr(args, name, None) is None:
            raise ConfigError("is needed to train", field=f"--{name}", found="nothing")

    from modiff.benchmark.plan import rows_of
    from modiff.benchmark.run import benchmark
    from modiff.io.progress import progress_bar
    from modiff.terminal import console

    rows = rows_of(args.methods, ablations=args.ablations, edges=args.edges, controls=args.controls)
    settings = _settings(args)
    log = console(stderr=True)

    def bar(name: str) -> AbstractContextManager[Progress]:
        return progress_bar(f"{name}: samples", "images", quiet=args.quiet)

    say, limit = partial(log.print, soft_wrap=True), parse_time(args.max_time, field="--max-time")
    state = benchmark(rows, settings, args.data, args.output, max_seconds=limit, say=say, bar=bar, quiet=args.quiet)
    wanted = {row.folder(*at) for row in rows for at in product(settings.seeds, state.folds)}
    print(f"{state.counted(wanted)} -> {args.output}")
    if others := state.counted(state.runs.keys() - wanted):
        print(f"other methods or seeds in this folder: {others}")
    for name in sorted(wanted):
        if error := state.runs[name].error:
            print(f"{name} failed: {error} ({args.output / name / 'error.txt'})")
    counts = state.counts(wanted)
    if counts["done"] + counts["failed"] < len(wanted):
        print("the same command resumes")
        return 0 if limit is not None else 130
    if state.complete():
        _tables(args, None)
    return 1 if counts["failed"] else 0


def _tables(args: argparse.Namespace, output: str | None) -> int:
    """Writes the tables, and says what they show."""
    from modiff.benchmark.tables import write_tables

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    written = write_tables(args.output, output, data=args.data, cases=args.cases, samples=args.samples, say=say)
    for table in written.tables:
        print(f"{table.group}, {table.title}")
        for line in table.findings:
            print(f"  {line}")
    for line in written.left_out:
        print(f"not in the tables: {line}")
    if written.note:
        print(written.note)
    for file in written.files:
        print(file)
    return 0


def _settings(args: argparse.Namespace) -> BenchmarkSettings:
    from modiff.benchmark.plan import BenchmarkSettings

    presets = {}
    for text in args.presets:
        name, equals, preset = text.partition("=")
        if not (name and equals and preset):
            raise ConfigError("is not a preset", field="--presets", found=repr(text), expected="METHOD=PRESET")
        presets[name] = preset
    seeds = BenchmarkConfig.seeds if args.seeds is None else tuple(range(args.seeds))
    given = asked(args, BenchmarkConfig) | {"seeds": seeds, "presets": presets}
    return BenchmarkSettings(**given)
