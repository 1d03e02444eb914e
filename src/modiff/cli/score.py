"""`modiff score`: any method's samples, from files, against the raters, as tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from modiff.cli.scoring_options import add_scoring, settings_of, show

if TYPE_CHECKING:
    from modiff.evaluation.score import Progress
    from modiff.evaluation.score_truth import Truth

_EPILOG = """\
PREDICTIONS  a folder with a sub-folder a case and a PNG or NIfTI file a sample (or the folders that `modiff sample`
             writes), an NPZ file with an array (N,H,W) or (N,K,H,W) a case, or HDF5 with such datasets, or with
             `samples` (n,N,H,W) and `case` (n,). Cases are named as the ground truth names them; `/` is a sub-folder.
TRUTH        a store, as `modiff import` writes it, or files as above with one map a rater.
Whole numbers are masks (class indices, or 0 and 255), unless other values occur: then 255 (or 65535) is probability 1.
The slices of a volume are scored as images of their own. Writes <split>.csv, a row an image, and <split>.json, a record
a number, exactly as `modiff evaluate` does: `modiff compare` reads both alike.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Score the samples of any method under both protocols, with intervals, beside simple predictors.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # what is not given is EvaluationSettings' own default
    )
    made.add_argument("predictions", metavar="PREDICTIONS", type=Path, help="samples of every case, see below")
    made.add_argument("--truth", required=True, type=Path, metavar="TRUTH", help="the raters' masks, see below")
    made.add_argument("--split", default="test", help="the split of a store (test)")
    made.add_argument("--name", default=None, help="what the method is called (the name of PREDICTIONS)")
    made.add_argument("-n", dest="ns", nargs="+", type=int, metavar="N", help="samples an image (16 32)")
    add_scoring(made)
    _add_reading(made)
    made.add_argument("--limit", type=int, metavar="CASES", help="a fixed subset, the same at every call (all)")
    made.add_argument("--seed", type=int, help="of the draw of subsets and of the bootstrap (0)")
    made.add_argument(
        "-o", dest="output", type=Path, default=None, metavar="DIR", help="where to write (PREDICTIONS-scores)"
    )
    return made


def _add_reading(made: argparse.ArgumentParser) -> None:
    kinds = ("auto", "masks", "probabilities")
    made.add_argument("--values", choices=kinds, default="auto", help="what the predictions' numbers are (auto)")
    made.add_argument("--truth-values", choices=kinds[:2], default="masks", help="the same of the raters' files")
    made.add_argument(
        "--classes", type=int, default=1, metavar="K", help="foreground classes, where TRUTH is no store (1)"
    )
    made.add_argument(
        "--patients",
        type=Path,
        default=None,
        metavar="CSV",
        help="columns case and patient, where TRUTH is no store (the first part of a case's name)",
    )
    made.add_argument(
        "--unread-missing",
        action="store_true",
        default=False,
        help="a case with fewer raters' files than others was not read by the rest",
    )
    made.add_argument("--allow-missing", action="store_true", default=False, help="leave out cases without predictions")


def run(args: argparse.Namespace) -> int:
    """Scores, writes, prints."""
    from modiff.evaluation.predictions import open_maps
    from modiff.evaluation.predictions.values import Values
    from modiff.evaluation.score import score_to_folder

    settings = settings_of(args, one_rater=True)
    given = args.predictions.resolve()
    stem = given.name if given.is_dir() else given.stem
    folder = args.output or given.with_name(f"{stem}-scores")
    truth = _truth(args)
    try:
        with open_maps(args.predictions) as predictions, _progress() as progress:
            written = score_to_folder(
                predictions,
                truth,
                folder,
                settings,
                name=args.name or stem,
                values=Values(args.values, truth.classes),
                allow_missing=args.allow_missing,
                progress=progress,
            )
    finally:
        truth.close()
    show(written)
    return 0


def _truth(args: argparse.Namespace) -> Truth:
    from modiff.errors import ConfigError
    from modiff.evaluation.predictions import open_maps
    from modiff.evaluation.predictions.values import Values
    from modiff.evaluation.score_truth import FileTruth, StoreTruth, is_store, read_patients

    if is_store(args.truth):
        if args.patients is not None:
            raise ConfigError("a store says whose its images are", field="--patients", found=args.patients)
        return StoreTruth(args.truth, args.split)
    if not 1 <= args.classes <= 255:
        raise ConfigError("number of classes", field="--classes", found=args.classes, expected="1 to 255")
    patients = None if args.patients is None else read_patients(args.patients)
    values = Values(args.truth_values, args.classes)
    source = open_maps(args.truth)
    try:
        return FileTruth(source, args.classes, values=values, patients=patients, unread_missing=args.unread_missing)
    except BaseException:
        source.close()
        raise


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("cases"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
