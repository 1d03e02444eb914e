"""`modiff sample`: the hypotheses for one image or scan, with their probabilities."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.cli.options import asked, parser_of
from modiff.cli.sampling import limits_of, maker_of
from modiff.config.evaluation import SampleConfig
from modiff.errors import ConfigError, DataError

if TYPE_CHECKING:
    from modiff.io.volume import Volume
    from modiff.prediction.inputs import Named
    from modiff.prediction.predict import Prediction
    from modiff.prediction.summary import Summary

parser = partial(parser_of, "sample")


def run(args: argparse.Namespace) -> int:
    """Reads, draws, writes, prints."""
    from modiff.io.image import named_file
    from modiff.prediction.cohort.scans import is_cohort

    at, spacing, raters = (numbers(args, name) for name in _LISTS)
    if args.send is not None:
        from modiff.prediction.deliver import check_server

        if args.output is None:
            raise ConfigError("is needed to send results", field="-o", expected="a folder for them")
        check_server(args.send)
    files = [named_file(text) for text in args.image]
    if len(files) == 1 and files[0][0] is None and is_cohort(files[0][1], series=args.series):
        from modiff.cli.cohort import run_cohort

        return run_cohort(args, at=at, spacing=spacing, raters=raters)
    if at is None and (slices := asked(args, SampleConfig).get("slices")):
        raise ConfigError("needs a place", field="--slices", found=slices, hint="Give --at X,Y,Z too")
    for name in ("workers", "devices"):
        if (found := getattr(args, name)) != 1:
            expected = "a table or a folder"
            raise ConfigError("applies to a cohort only", field=f"--{name}", found=found, expected=expected)
    return _one(args, at=at, spacing=spacing, raters=raters)


def _one(args: argparse.Namespace, **given: Any) -> int:
    """One image or scan."""
    from modiff.io.checksum import stamped_json
    from modiff.io.output import MANIFEST, output_folder

    if args.send is not None and not args.overwrite and (args.output / MANIFEST).exists() and _is_there(args):
        return _send(args)
    # What can be refused without torch and a model is refused before they are loaded.
    with nullcontext() if args.output is None else output_folder(args.output, overwrite=args.overwrite) as folder:
        prediction, content, early = _sample(args, folder, **given)

    from modiff.prediction.predict import called

    _warn(called(prediction.scan), [note for note in content["warnings"] if note not in early])
    if args.json:
        print(stamped_json(content, indent=1), end="")  # as in summary.json
    else:
        _show(prediction.summary, args.output, prediction.drawn, given_marks=args.raters == "marking")
    return 0 if args.send is None else _send(args)


def _is_there(args: argparse.Namespace) -> bool:
    """Whether an earlier call of this command has drawn what is to be sent."""
    from modiff.evaluation.provenance import command_line
    from modiff.prediction.deliver import drawn_before

    (files, scan), own = _read(args), {"fingerprint": maker_of(args).fingerprint, "identify": args.identify}
    return drawn_before(args.output, scan, [path for _, path in files], command_line(), **own)


def _send(args: argparse.Namespace) -> int:
    from modiff.prediction.deliver import send

    try:
        send(args.output, args.send)
    except DataError as error:
        what = f"{args.output} is written, and not sent: {error.reason}"
        raise DataError(what, path=error.path, hint="The same command tries again") from error
    print(f"Sent to {args.send}", file=sys.stderr if args.json else sys.stdout)
    return 0


def _sample(
    args: argparse.Namespace, folder: Path | None, **given: Any
) -> tuple[Prediction, dict[str, Any], list[str]]:
    """The prediction, written to a folder if there is one; the summary's content; warnings that were printed."""
    from modiff.io.progress import progress_bar

    files, scan = _read(args)

    from modiff.prediction.predict import called
    from modiff.prediction.scan import sample_scan
    from modiff.prediction.settings import Settings

    settings, early = Settings(**given, **asked(args, SampleConfig)), list[str]()

    def tell(notes: list[str]) -> None:
        early.extend(notes)
        _warn(called(scan), notes)

    with progress_bar("drawing", "samples", quiet=args.quiet) as progress:
        found = sample_scan(scan, files, maker_of(args), settings, folder, tell=tell, progress=progress)
    return *found, early


def _read(args: argparse.Namespace) -> tuple[list[Named], Volume]:
    """The files that are named, and the scan in them."""
    from modiff.io.image import named_file
    from modiff.io.progress import progress_bar
    from modiff.prediction.inputs import read_scan

    files = [named_file(text) for text in args.image]
    with progress_bar("fetching", "slices", quiet=args.quiet) as progress:
        scan = read_scan(files, limits=limits_of(args), series=args.series, progress=progress)
    if args.send is not None and scan.format != "DICOM":
        raise ConfigError("makes no DICOM results to send", field="--send", found=scan.format, expected="a DICOM scan")
    return files, scan


def _warn(name: str, notes: Sequence[str]) -> None:
    for note in notes:
        print(f"modiff: warning: {name}: {note}", file=sys.stderr)


def _show(summary: Summary, output: Path | None, drawn: str, *, given_marks: bool = False) -> None:
    """Prints the distinct hypotheses of an image or scan, presence, agreement and areas or volumes."""
    from rich.table import Table

    from modiff.prediction.summary import percent
    from modiff.terminal import console as terminal

    console = terminal()
    console.print(f"Distinct hypotheses of {drawn}", soft_wrap=True)
    table = Table()
    for name in ("probability", "marks, median (5 %–95 %)", "samples"):
        table.add_column(name, justify="right")
    for hypothesis in summary.hypotheses:
        table.add_row(percent(hypothesis.probability), summary.size_text(hypothesis), str(len(hypothesis.members)))
    if summary.unseen is not None:
        table.add_row(percent(summary.unseen[0]), summary.unseen[1], "0")
    console.print(table)
    if not given_marks:
        console.print(
            f"Probability that a rater marks anything: {percent(summary.presence)} ({summary.presence_source})"
        )
    if summary.agreement is not None:
        console.print(f"Agreement of two samples (mean IoU): {summary.agreement:.2f}")
    what = "Area" if summary.voxel_mm3 is None else "Volume"
    for kind, name in enumerate(summary.classes):
        sizes = summary.area_quantiles(kind, marked=True)
        if sizes is not None:
            console.print(f"{what} of {name} where marked, median (5 %–95 %): {summary.sizes_text(sizes)}")
    if output is not None:
        console.print(f"Written to {output}: overlay.png shows them", soft_wrap=True)


# Options of numbers between commas: their kind, how many there may be, and what is expected.
_LISTS: dict[str, tuple[type[int] | type[float], tuple[int, ...], str]] = {
    "at": (int, (2, 3), "whole numbers, such as 120,85 or 120,85,40"),
    "spacing": (float, (2,), "two numbers, such as 0.7,0.7"),
    "raters": (int, (), "single, marking, all or a list such as 0,2"),
}


def numbers(args: argparse.Namespace, name: str) -> Any:
    """The numbers of an option, or its word where it is none; ConfigError for another form or count."""
    text, (kind, counts, expected) = getattr(args, name), _LISTS[name]
    if text is None or (name == "raters" and text in ("single", "marking", "all")):
        return text
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or (counts and len(values) not in counts):
        raise ConfigError("cannot be understood", field=f"--{name}", found=repr(text), expected=expected)
    return values
