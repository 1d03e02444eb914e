"""`modiff compare`: paired differences between methods on the same images, or their quality against seconds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.config.help import verb_parser

if TYPE_CHECKING:
    from rich.console import Group

_EPILOG = """\
A RESULT is the JSON that `modiff evaluate` wrote, with its CSV beside it, or their folder, or a run
folder. Results of different data, images, split, protocol, n or threshold are refused, and the error says what differs;
--protocol, -n and --threshold narrow the comparison to what both have. A result with several numbers of sampler steps
is several methods. Every pair is compared, a − b in the order given.

With --seconds each model is a line of one metric, each number of sampler steps a point, and one result is enough; its
JSON is all that is read. --metrics, -n, --protocol and --threshold then take one value each (ged, 16, standard, the
protocol's own). Files of one model on one device join. Seconds are as measured, to draw the n samples per image:
compare them on one device that did nothing else.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = verb_parser(
        prog,
        "Compare methods on the same images: mean paired differences with 95 % intervals, as a table and "
        "a figure; or, with --seconds, quality against seconds per image.",
        epilog=_EPILOG,
    )
    made.add_argument("results", metavar="RESULT", nargs="+", type=Path, help="two or more")
    made.add_argument("--seconds", action="store_true", help="quality against seconds in place of paired differences")
    made.add_argument("--names", nargs="+", metavar="NAME", help="what they are called, one per result")
    made.add_argument("--split", metavar="SPLIT", help="of results given as folders (test)")
    add = made.add_argument_group("which numbers").add_argument
    add("--metrics", nargs="+", metavar="M", help="all, or names (ged hm_iou)")
    add("-n", dest="ns", nargs="+", type=int, metavar="N", help="samples per image (all)")
    add("--protocol", dest="protocols", nargs="+", metavar="P", help="standard, paper (all)")
    add("--threshold", dest="thresholds", nargs="+", type=float, metavar="T", help="only these (all)")
    add("--stratum", default="all", help="all, all_marked, some_empty or none: printed and drawn (all)")
    add("--seed", type=int, default=0, help="of the bootstrap (0)")
    add = made.add_argument_group("output").add_argument
    add("-o", dest="output", type=Path, default=Path("comparison"), metavar="DIR", help="where to write (comparison)")
    add("--format", choices=("png", "svg", "pdf"), default="png", help="of the figure (png)")
    return made


def run(args: argparse.Namespace) -> int:
    """Compares, writes, prints."""
    from modiff.errors import ConfigError
    from modiff.evaluation.records import STRATA

    if args.stratum not in STRATA:
        raise ConfigError("no such stratum", field="--stratum", found=args.stratum, expected=", ".join(STRATA))
    if args.seed < 0:
        raise ConfigError("is negative", field="--seed", found=args.seed, expected="0 or more")
    asked = {"protocol": args.protocols, "n": args.ns, "threshold": args.thresholds}
    wanted = {name: values for name, values in asked.items() if values is not None}
    return _seconds(args, wanted) if args.seconds else _differences(args, wanted)


def _differences(args: argparse.Namespace, wanted: dict[str, list[Any]]) -> int:
    from modiff.evaluation import provenance
    from modiff.evaluation.compare import compare, differences_frame, figure_of, read_methods, write_comparison
    from modiff.evaluation.words import text_table
    from modiff.viz.figures import save

    methods = read_methods(args.results, args.names, split=args.split, wanted=wanted)
    comparison = compare(methods, args.metrics, seed=args.seed)
    made = provenance.made() | {"seed": args.seed}
    figure = save(figure_of(comparison, args.stratum), args.output / f"comparison.{args.format}")
    written = write_comparison(comparison, args.output / "comparison.json", made=made)
    pairs = combinations([method.name for method in methods], 2)
    frames = {pair: differences_frame(comparison, *pair, args.stratum) for pair in pairs}
    tables = [
        text_table(frame, heads=dict(zip("ab", pair, strict=True))) for pair, frame in frames.items() if len(frame)
    ]
    return _print(tables, comparison.notes, written, figure)


def _seconds(args: argparse.Namespace, wanted: dict[str, list[Any]]) -> int:
    from modiff.errors import ConfigError
    from modiff.evaluation.compare import find_result
    from modiff.evaluation.tradeoff import figure_of, points_frame, tradeoff_of
    from modiff.evaluation.words import text_table
    from modiff.viz.figures import save

    asked = wanted | ({"metric": args.metrics} if args.metrics else {})
    for name, values in asked.items():
        if len(values) != 1:
            raise ConfigError("takes one value with --seconds", field=name, found=" ".join(map(str, values)))
    chosen = {name: value for name, (value,) in asked.items()}
    files = [find_result(path, args.split) for path in args.results]
    tradeoff = tradeoff_of(files, **chosen, stratum=args.stratum, names=args.names)
    figure = save(figure_of(tradeoff), args.output / f"seconds.{args.format}")
    table = text_table(points_frame(tradeoff), heads={"predictor": "model"})
    return _print([table], tradeoff.notes, figure)


def _print(tables: Sequence[Group], notes: tuple[str, ...], *files: Path) -> int:
    from modiff.evaluation.words import print_notes, wide_console

    console = wide_console()
    for table in tables:
        console.print(table)
    print_notes(notes)
    for file in files:
        console.print(str(file), markup=False, highlight=False, soft_wrap=True)
    return 0
