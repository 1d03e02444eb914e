"""`modiff report`: one self-contained HTML page about a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from modiff.config.help import verb_parser


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = verb_parser(
        prog,
        "Writes one HTML file about a run: scores, training curves, figures of a dozen cases. It needs no "
        "other file, no network and no script.",
    )
    made.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    made.add_argument("--data", metavar="STORE", help="the store that the cases come from (the one that was evaluated)")
    made.add_argument("--split", help="the split that the cases come from (the one that was evaluated)")
    made.add_argument("--device", default="cpu", help="device that draws the samples of the figures (cpu)")
    made.add_argument("-o", dest="output", type=Path, metavar="FILE", help="where to write (RUN/report.html)")
    return made


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    from modiff.report.run import write_report

    print(write_report(args.run, args.output, data=args.data, split=args.split, device=args.device))
    return 0
