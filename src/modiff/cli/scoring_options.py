"""What `modiff evaluate` and `modiff score` have in common: the options of scoring, and what is printed in the end."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiff.evaluation.run import Written
    from modiff.evaluation.settings import EvaluationSettings


def add_scoring(made: argparse.ArgumentParser) -> None:
    """Options whose absence (argparse.SUPPRESS) means EvaluationSettings' own default."""
    made.add_argument("--protocol", dest="protocols", nargs="+", metavar="P", help="standard, paper (both)")
    made.add_argument(
        "--threshold",
        dest="thresholds",
        nargs="+",
        type=float,
        metavar="T",
        help="further thresholds; 0.5 is argmax under standard, which uses it anyway, and paper uses 0.9 (none)",
    )
    made.add_argument(
        "--metrics",
        nargs="+",
        metavar="M",
        help="all, or names: ged, hm_iou, ncc, ci, dmax, soft_dice, ece … as docs/metrics.md lists them (ged hm_iou)",
    )


def settings_of(args: argparse.Namespace, **fixed: Any) -> EvaluationSettings:
    """The settings that were given, over `fixed` and the defaults."""
    from modiff.evaluation.settings import EvaluationSettings

    given = dict(fixed)
    for item in fields(EvaluationSettings):
        if hasattr(args, item.name):
            value = getattr(args, item.name)
            given[item.name] = tuple(value) if isinstance(value, list) else value
    return EvaluationSettings(**given)


def show(written: Written) -> None:
    """The table, the notes, and where the files are."""
    from modiff.evaluation.show import results_table, wide_console

    console = wide_console()
    console.print(results_table(written.result))
    for note in written.result.made["notes"]:
        console.print(f"Note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{written.json}\n{written.csv}", markup=False, highlight=False, soft_wrap=True)
