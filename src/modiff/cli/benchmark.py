"""`modiff benchmark`: several methods trained and scored alike, and the paper's tables of them; resumable."""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from modiff.config.help import verb_parser

if TYPE_CHECKING:
    from modiff.benchmark.plan import BenchmarkSettings
    from modiff.evaluation.evaluate import Progress

_EPILOG = """\
Each method and seed gets a run folder, DIR/METHOD-seedK, with --folds one per fold, DIR/METHOD-seedK-foldF, and
DIR/benchmark.json says what is done. The same command resumes: finished runs are skipped, a half-trained one resumes,
a failed one is tried again. More methods or seeds may be added later; budget, batches and data may not change.

At the end tables.md, tables.csv (one number per line), tables.html and figure2-1.png … are written to DIR/tables. Runs
that are not finished are named and left out. No column mixes protocols or thresholds; published numbers stand in tables
of their own. --tables writes them again from what is there, and trains nothing: modiff benchmark -o DIR --tables [OUT]

A setting of one method: --set modiff.model.unet.base=32. It reaches the method's ablations too; the name of a row, as
in modiff-mca.model.mca.dim=16, reaches that row alone, and all.training.warmup=100 every method.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    from modiff.benchmark.plan import BenchmarkSettings as Usual
    from modiff.benchmark.plan import names

    made = verb_parser(
        prog,
        "Train methods with the same budget and batches, score them alike, write the tables.",
        epilog=_EPILOG,
    )
    add = made.add_argument_group("what is trained").add_argument
    add("--data", metavar="STORE", help="the store, as `modiff import` writes it (of --tables: where it has moved to)")
    add("--methods", nargs="+", default=[], metavar="METHOD", help=", ".join(names()))
    add("--ablations", action="store_true", help="MoDiff with neither MCA nor LDF, either, both (Table 3)")
    add("--edges", action="store_true", help="MoDiff with edge filters in place of the LDF (Table 4)")
    add("--controls", action="store_true", help="CCDM and CIMD with MoDiff's stem, hurdle, or both and its prompt")
    add = made.add_argument_group("how").add_argument
    add("--budget", metavar="B", help="of every training: 20m, 2h or 50000img")
    add("--seeds", type=int, default=len(Usual.seeds), metavar="K", help="trainings per method (%(default)s)")
    add("--batch-size", type=int, default=Usual.batch_size, metavar="B", help="of all (%(default)s)")
    add("--no-augment", action="store_true", help="no flips and turns, for all")
    ns, thresholds, metrics = (" ".join(map(str, values)) for values in (Usual.ns, Usual.thresholds, Usual.metrics))
    add = made.add_argument_group("how it is scored").add_argument
    add("-n", dest="ns", nargs="+", type=int, default=list(Usual.ns), metavar="N", help=f"samples per image ({ns})")
    add(
        "--threshold",
        dest="thresholds",
        nargs="+",
        type=float,
        default=list(Usual.thresholds),
        metavar="T",
        help="probabilities at which maps become masks, under both protocols; 0.5 is argmax in standard "
        f"({thresholds})",
    )
    add("--metrics", nargs="+", default=list(Usual.metrics), metavar="M", help=f"as of `modiff evaluate` ({metrics})")
    add("--split", default=Usual.split, help="the split that is scored (%(default)s)")
    add("--folds", action="store_true", help="train on every fold of the store; tables pool the patients held out")
    add("--limit", type=int, metavar="IMAGES", help="score a fixed subset (all images)")
    add = made.add_argument_group("settings of methods").add_argument
    add("--presets", nargs="+", default=[], metavar="METHOD=PRESET", help="in place of the methods' usual presets")
    add("--set", dest="changes", action="append", default=[], metavar="METHOD.NAME=VALUE", help="a setting, recorded")
    add = made.add_argument_group("where it runs").add_argument
    add("--accelerator", default=Usual.accelerator, choices=("auto", "cpu", "gpu"), help="(%(default)s)")
    add("--devices", type=int, default=Usual.devices, help="of each training, by DDP (%(default)s)")
    add("--max-time", default=None, metavar="T", help="end this start after 90s, 20m or 2h; the next resumes")
    add = made.add_argument_group("output").add_argument
    add("--tables", nargs="?", type=Path, const=Path(), metavar="OUT", help="only write the tables again (DIR/tables)")
    add("--cases", type=int, default=3, help="cases of Figure 2, 0 for no figure (%(default)s)")
    add("--samples", type=int, default=6, help="samples of each method in Figure 2 (%(default)s)")
    add("--quiet", action="store_true", help="no progress bars")
    add("-o", dest="output", type=Path, required=True, metavar="DIR", help="the benchmark's folder")
    return made


def run(args: argparse.Namespace) -> int:
    """Trains, scores and writes the tables; 0 all done, 1 something failed, 130 not finished."""
    from modiff.config import parse_budget
    from modiff.errors import ConfigError

    for name, least in (("seeds", 1), ("batch_size", 1), ("devices", 1), ("cases", 0), ("samples", 1)):
        if (value := getattr(args, name)) < least:
            field = f"--{name.replace('_', '-')}"
            raise ConfigError("too small", field=field, found=value, expected=f"{least} or more")
    if args.tables is not None:
        return _tables(args, None if args.tables == Path() else args.tables)
    for name in ("data", "budget"):
        if getattr(args, name) is None:
            raise ConfigError("is needed to train", field=f"--{name}", found="nothing")
    limit, images = parse_budget(args.max_time) if args.max_time else (None, None)
    if images is not None:
        raise ConfigError("is not a time", field="--max-time", found=args.max_time, expected="90s, 20m or 2h")
    return _benchmark(args, limit)


def _benchmark(args: argparse.Namespace, limit: float | None) -> int:
    from rich.console import Console

    from modiff.benchmark.plan import rows_of
    from modiff.benchmark.run import benchmark
    from modiff.cli.evaluate import progress_bar

    rows = rows_of(args.methods, ablations=args.ablations, edges=args.edges, controls=args.controls)
    settings = _settings(args)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def bar(name: str) -> AbstractContextManager[Progress]:
        return progress_bar(f"{name}: samples", "images", quiet=args.quiet)

    say = console.print
    state = benchmark(rows, settings, args.data, args.output, max_seconds=limit, say=say, bar=bar, quiet=args.quiet)
    asked = {row.folder(*at) for row in rows for at in product(settings.seeds, state.folds)}
    print(f"{state.counted(asked)} -> {args.output}")
    if others := state.counted(state.runs.keys() - asked):
        print(f"of other methods or seeds, not asked for now: {others}")
    for name in sorted(asked):
        if error := state.runs[name].error:
            print(f"{name} failed: {error} ({args.output / name / 'error.txt'})")
    counts = state.counts(asked)
    if counts["done"] + counts["failed"] < len(asked):
        print("the same command resumes")
        return 0 if limit is not None else 130
    if state.complete():
        _tables(args, None)
    return 1 if counts["failed"] else 0


def _tables(args: argparse.Namespace, output: Path | None) -> int:
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
    from modiff.errors import ConfigError

    presets = {}
    for text in args.presets:
        name, equals, preset = text.partition("=")
        if not (name and equals and preset):
            raise ConfigError("is not a preset", field="--presets", found=repr(text), expected="METHOD=PRESET")
        presets[name] = preset
    names = ("budget", "batch_size", "ns", "thresholds", "metrics", "split", "folds", "limit", "changes", "accelerator")
    given = {name: getattr(args, name) for name in (*names, "devices")}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return BenchmarkSettings(seeds=tuple(range(args.seeds)), augment=not args.no_augment, presets=presets, **given)
