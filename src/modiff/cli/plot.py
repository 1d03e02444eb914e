"""`modiff plot`: quality against seconds an image."""

from __future__ import annotations

import argparse
from pathlib import Path

_EPILOG = """\
A RESULT is the JSON that `modiff evaluate` wrote. Each model is a line, each number of sampler steps a point; files of
one model on one device join. Files of different data, split, images or seed are refused, and the error says what
differs. Seconds are as measured, to draw the n samples of an image: compare them on one device that did nothing else.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Draw quality against seconds an image, of one model at several numbers of steps or of several "
        "models, and print the points.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # what is not given is the default of evaluation.tradeoff.Asked
    )
    made.add_argument("results", metavar="RESULT", nargs="+", type=Path, help="one or more")
    made.add_argument("--metric", metavar="M", help="ged, hm_iou … as docs/metrics.md lists them (ged)")
    made.add_argument("-n", type=int, metavar="N", help="samples an image (16)")
    made.add_argument("--protocol", metavar="P", help="standard or paper (standard)")
    made.add_argument("--threshold", type=float, metavar="T", help="(the protocol's own)")
    made.add_argument("--stratum", metavar="S", help="all, all_marked, some_empty or none (all)")
    made.add_argument(
        "--labels", nargs="+", default=None, metavar="NAME", help="what the models are called, one a file"
    )
    made.add_argument(
        "-o",
        dest="output",
        type=Path,
        default=Path("quality.png"),
        metavar="FILE",
        help="where to write: .png, .svg or .pdf (quality.png)",
    )
    return made


def run(args: argparse.Namespace) -> int:
    """Gathers, draws, prints."""
    from rich.console import Console

    from modiff.evaluation.show import wide_console
    from modiff.evaluation.tradeoff import Asked, points_of
    from modiff.evaluation.tradeoff_show import points_table
    from modiff.report.tradeoff import check_format, write_tradeoff

    check_format(args.output)
    fields = ("metric", "n", "protocol", "threshold", "stratum")
    asked = Asked(**{name: getattr(args, name) for name in fields if hasattr(args, name)})
    tradeoff = points_of(args.results, asked, labels=args.labels)
    written = write_tradeoff(tradeoff, args.output)
    console, warnings = wide_console(), Console(stderr=True)
    console.print(points_table(tradeoff))
    for note in tradeoff.notes:
        warnings.print(f"Note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(str(written), markup=False, highlight=False, soft_wrap=True)
    return 0
