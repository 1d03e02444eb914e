"""`modiff compare`: paired differences between methods on the same images."""

from __future__ import annotations

import argparse
from pathlib import Path

_EPILOG = """\
A RESULT is the JSON that `modiff evaluate` wrote, with its CSV beside it, or their folder, or a run
folder. Results of different data, images, split, protocol, n or threshold are refused, and the error says what differs;
--protocol, -n and --threshold narrow the comparison to what both have. A result with several numbers of sampler steps
is several methods. Every pair is compared, a − b in the order given.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Compare methods on the same images: mean paired differences with 95 % intervals, and a plot.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("results", metavar="RESULT", nargs="+", type=Path, help="two or more")
    made.add_argument("--names", nargs="+", metavar="NAME", help="what they are called, one a result")
    made.add_argument("--split", metavar="SPLIT", help="of results given as folders (test)")
    made.add_argument("--metrics", nargs="+", metavar="M", help="all, or names (ged hm_iou)")
    made.add_argument("-n", dest="ns", nargs="+", type=int, metavar="N", help="samples an image (all)")
    made.add_argument("--protocol", dest="protocols", nargs="+", metavar="P", help="standard, paper (all)")
    made.add_argument("--threshold", dest="thresholds", nargs="+", type=float, metavar="T", help="only these (all)")
    made.add_argument("--stratum", default="all", help="all, all_marked, some_empty or none: printed and plotted (all)")
    made.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    made.add_argument(
        "-o", dest="output", type=Path, default=Path("comparison"), metavar="DIR", help="where to write (comparison)"
    )
    made.add_argument("--format", choices=("png", "svg", "pdf"), default="png", help="of the plot (png)")
    return made


def run(args: argparse.Namespace) -> int:
    """Compares, writes, prints."""
    from modiff.errors import ConfigError
    from modiff.evaluation import provenance
    from modiff.evaluation.compare import compare, write_comparison
    from modiff.evaluation.compare_inputs import Wanted, read_methods
    from modiff.evaluation.compare_show import differences_table, plot_differences
    from modiff.evaluation.records import STRATA
    from modiff.evaluation.show import wide_console

    if args.stratum not in STRATA:
        raise ConfigError("no such stratum", field="--stratum", found=args.stratum, expected=", ".join(STRATA))
    if args.seed < 0:
        raise ConfigError("is negative", field="--seed", found=args.seed, expected="0 or more")
    wanted = Wanted(*(None if value is None else tuple(value) for value in (args.protocols, args.ns, args.thresholds)))
    methods = read_methods(args.results, args.names, split=args.split, wanted=wanted)
    comparison = compare(methods, args.metrics, seed=args.seed)
    made = {
        "command": provenance.command_line(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "date": provenance.now(),
        "seed": args.seed,
    }
    picture = plot_differences(comparison, args.output / f"comparison.{args.format}", args.stratum)
    written = write_comparison(comparison, args.output / "comparison.json", made=made)
    console = wide_console()
    console.print(differences_table(comparison, args.stratum))
    for note in comparison.notes:
        console.print(f"Note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{written}\n{picture}", markup=False, highlight=False, soft_wrap=True)
    return 0
