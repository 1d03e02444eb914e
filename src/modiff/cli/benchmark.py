"""`modiff benchmark`: several methods trained and scored alike; the same command goes on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modiff.benchmark.plan import BenchmarkSettings
    from modiff.benchmark.run import Reporter
    from modiff.evaluation.evaluate import Progress

_EPILOG = """\
Each method and seed gets a run folder, DIR/METHOD-seedK, with --folds one per fold, DIR/METHOD-seedK-foldF, and
DIR/benchmark.json says what is done. The same command resumes: finished runs are skipped, a half-trained one resumes,
a failed one is tried again. More methods or seeds may be added later; budget, batches and data may not change.
`modiff tables DIR` writes the tables.

A setting of one method: --set modiff.model.unet.base=32. It reaches the method's ablations too; the name of a row, as
in modiff-mca.model.mca.dim=16, reaches that row alone, and all.training.warmup=100 every method.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    from modiff.benchmark.plan import BenchmarkSettings as Usual
    from modiff.benchmark.plan import names

    made = argparse.ArgumentParser(
        prog=prog,
        description="Train methods with the same budget and batches, score them alike, keep what is done.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--data", required=True, metavar="STORE", help="the store, as `modiff import` writes it")
    made.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help=", ".join(names()))
    made.add_argument(
        "--ablations", action="store_true", help="MoDiff with neither MCA nor LDF, either, both (Table 3)"
    )
    made.add_argument("--edges", action="store_true", help="MoDiff with edge filters in place of the LDF (Table 4)")
    made.add_argument(
        "--controls", action="store_true", help="CCDM and CIMD with MoDiff's stem, hurdle, or both and its prompt"
    )
    made.add_argument("--budget", required=True, metavar="B", help="of every training: 20m, 2h or 50000img")
    made.add_argument("--seeds", type=int, default=len(Usual.seeds), metavar="K", help="trainings each (%(default)s)")
    made.add_argument("--batch-size", type=int, default=Usual.batch_size, metavar="B", help="of all (%(default)s)")
    made.add_argument("--no-augment", action="store_true", help="no flips and turns, for all")
    made.add_argument(
        "-n", dest="ns", nargs="+", type=int, default=list(Usual.ns), metavar="N", help="samples an image (16 32)"
    )
    made.add_argument(
        "--threshold",
        dest="thresholds",
        nargs="+",
        type=float,
        default=list(Usual.thresholds),
        metavar="T",
        help="probabilities at which maps become masks, under both protocols; 0.5 is argmax in standard (0.5 0.9)",
    )
    made.add_argument(
        "--metrics",
        nargs="+",
        default=list(Usual.metrics),
        metavar="M",
        help="as of `modiff evaluate` (ged hm_iou ncc ci)",
    )
    made.add_argument("--split", default=Usual.split, help="the split that is scored (%(default)s)")
    made.add_argument(
        "--folds", action="store_true", help="train on every fold of the store; tables pool the patients held out"
    )
    made.add_argument("--limit", type=int, metavar="IMAGES", help="score a fixed subset (all images)")
    made.add_argument(
        "--presets", nargs="+", default=[], metavar="METHOD=PRESET", help="in place of the methods' usual presets"
    )
    made.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="METHOD.NAME=VALUE", help="a setting, recorded"
    )
    made.add_argument("--accelerator", default=Usual.accelerator, choices=("auto", "cpu", "gpu"), help="(%(default)s)")
    made.add_argument("--devices", type=int, default=Usual.devices, help="of each training, by DDP (%(default)s)")
    made.add_argument(
        "--max-time", default=None, metavar="T", help="end this start after 90s, 20m or 2h; the next goes on"
    )
    made.add_argument("--quiet", action="store_true", help="no progress bars")
    made.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR", help="the benchmark's folder")
    return made


def run(args: argparse.Namespace) -> int:
    """Trains and scores; 0 all done, 1 something failed, 130 not finished."""
    from modiff.benchmark.plan import rows_of
    from modiff.benchmark.run import benchmark
    from modiff.config import parse_budget
    from modiff.errors import ConfigError

    limit = None
    if args.max_time is not None:
        limit, images = parse_budget(args.max_time)
        if images is not None:
            raise ConfigError("is not a time", field="--max-time", found=args.max_time, expected="90s, 20m or 2h")
    rows = rows_of(args.methods, ablations=args.ablations, edges=args.edges, controls=args.controls)
    settings = _settings(args)
    state = benchmark(rows, settings, args.data, args.output, max_seconds=limit, report=_reporter(args.quiet))
    asked = {row.folder(*at) for row in rows for at in product(settings.seeds, state.folds)}
    print(f"{state.counted(asked)} -> {args.output}")
    if others := state.counted(state.runs.keys() - asked):
        print(f"of other methods or seeds, not asked for now: {others}")
    for name in sorted(asked):
        if error := state.runs[name].error:
            print(f"{name} failed: {error} ({args.output / name / 'error.txt'})")
    counts = state.counts(asked)
    if counts["done"] + counts["failed"] < len(asked):
        print("the same command goes on from here")
        return 0 if limit is not None else 130
    if counts["done"]:
        print(f"modiff tables {args.output}")
    return 1 if counts["failed"] else 0


def _settings(args: argparse.Namespace) -> BenchmarkSettings:
    from modiff.benchmark.plan import BenchmarkSettings
    from modiff.errors import ConfigError

    for name, value in (("--seeds", args.seeds), ("--batch-size", args.batch_size), ("--devices", args.devices)):
        if value < 1:
            raise ConfigError("too small", field=name, found=value, expected="1 or more")
    presets = {}
    for text in args.presets:
        name, equals, preset = text.partition("=")
        if not (name and equals and preset):
            raise ConfigError("is not a preset", field="--presets", found=repr(text), expected="METHOD=PRESET")
        presets[name] = preset
    return BenchmarkSettings(
        budget=args.budget,
        seeds=tuple(range(args.seeds)),
        batch_size=args.batch_size,
        augment=not args.no_augment,
        ns=tuple(args.ns),
        thresholds=tuple(args.thresholds),
        metrics=tuple(args.metrics),
        split=args.split,
        folds=args.folds,
        limit=args.limit,
        presets=presets,
        changes=tuple(args.changes),
        accelerator=args.accelerator,
        devices=args.devices,
    )


def _reporter(quiet: bool) -> Reporter:
    """Lines and bars on standard error."""
    from rich.console import Console

    from modiff.benchmark.run import Reporter

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(name: str) -> Iterator[Progress | None]:
        if quiet:
            yield None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=console) as bars:
            task = bars.add_task(f"{name}: samples", total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    return Reporter(say=console.print, bar=bar, quiet=quiet)
