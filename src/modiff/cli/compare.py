"""`modiff compare`: paired differences between methods on the same images, or their quality against seconds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.cli.options import parser_of
from modiff.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Group

parser = partial(parser_of, "compare")


def run(args: argparse.Namespace) -> int:
    """Compares, writes, prints."""
    from modiff.evaluation.records import STRATA
    from modiff.io.output import alone

    if args.stratum not in STRATA:
        raise ConfigError("no such stratum", field="--stratum", found=args.stratum, expected=", ".join(STRATA))
    wanted = {
        name: given for name in ("protocol", "n", "threshold", "select") if (given := getattr(args, name)) is not None
    }
    with alone(args.output):
        return _seconds(args, wanted) if args.seconds else _differences(args, wanted)


def _differences(args: argparse.Namespace, wanted: dict[str, list[Any]]) -> int:
    from modiff.evaluation import provenance
    from modiff.evaluation.compare import compare, differences_frame, figure_of, read_methods, write_comparison
    from modiff.evaluation.words import text_table
    from modiff.io.output import replacing_all
    from modiff.viz.figures import save

    methods = read_methods(args.results, args.names, split=args.split, wanted=wanted)
    comparison = compare(methods, args.metrics, seed=args.seed)
    made = provenance.made() | {"seed": args.seed}
    files = args.output / "comparison.json", args.output / f"comparison.{args.format}"
    with replacing_all(*files) as (record, figure):
        save(figure_of(comparison, args.stratum), figure)
        write_comparison(comparison, record, made=made)
    pairs = combinations([method.name for method in methods], 2)
    frames = {pair: differences_frame(comparison, *pair, args.stratum) for pair in pairs}
    tables = [text_table(rows, heads=dict(zip("ab", pair, strict=True))) for pair, rows in frames.items() if len(rows)]
    return _print(tables, comparison.notes, *files)


def _seconds(args: argparse.Namespace, wanted: dict[str, list[Any]]) -> int:
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
        console.print(str(file), soft_wrap=True)
    return 0
