"""`modiff sample`: the hypotheses for one image or scan, with their probabilities."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.cli.options import asked, parser_of
from modiff.config.evaluation import SampleConfig
from modiff.errors import ConfigError

if TYPE_CHECKING:
    from modiff.prediction.predict import Prediction, Predictor
    from modiff.prediction.summary import Summary

parser = partial(parser_of, "sample")


def run(args: argparse.Namespace) -> int:
    """Reads, draws, writes, prints."""
    from modiff.io.checksum import stamped_json
    from modiff.io.files import output_folder

    at, spacing, raters = (numbers(args, name) for name in _LISTS)
    if at is None and (slices := asked(args, SampleConfig).get("slices")):
        raise ConfigError("needs a place", field="--slices", found=slices, hint="Give --at X,Y,Z too")
    # What can be refused without torch and a model is refused before they are loaded.
    with nullcontext() if args.output is None else output_folder(args.output, overwrite=args.overwrite) as folder:
        prediction, content, early = _sample(args, folder, at=at, spacing=spacing, raters=raters)

    from modiff.prediction.predict import called

    _warn(called(prediction.scan), [note for note in content["warnings"] if note not in early])
    if args.json:
        print(stamped_json(content, indent=1), end="")  # as in summary.json
    else:
        _show(prediction.summary, args.output, prediction.drawn, given_marks=args.raters == "marking")
    return 0


def _sample(
    args: argparse.Namespace, folder: Path | None, **given: Any
) -> tuple[Prediction, dict[str, Any], list[str]]:
    """The prediction, written to a folder if there is one; the summary's content; warnings that were printed."""
    from modiff.io.files import Limits
    from modiff.io.image import named_file, read_channels
    from modiff.io.progress import progress_bar

    files = [named_file(text) for text in args.image]
    limits = Limits.asked(args.max_bytes, skip_broken=args.skip_broken)
    scan = read_channels([path for _, path in files], limits=limits)

    from modiff.prediction.channels import arranged
    from modiff.prediction.predict import Predictor, Settings, called, predict
    from modiff.prediction.write import segmentation_notes, write_results

    settings = Settings(**given, **asked(args, SampleConfig))
    predictor = Predictor.from_path(args.model, device=args.device)
    left_out = [str(note) for note in scan.notes if note.file]
    scan, paths, guessed = arranged(scan, files, predictor.data.channels)
    early = [] if folder is None else segmentation_notes(scan, full_header=args.seg_full_header)
    _warn(called(scan), [*left_out, *early])
    with progress_bar("drawing", "samples", quiet=args.quiet) as progress:
        prediction = predict(scan, predictor, settings, progress=progress)
    prediction = replace(prediction, notes=(*guessed, *prediction.notes))
    content = about(prediction, predictor, paths, model=str(args.model), identify=args.identify)
    if folder is None:
        content |= prediction.to_dict()
    else:
        title = f"{Path(called(scan)).name}   model {args.model}, {prediction.drawn}, seed {settings.seed}"
        content = write_results(folder, prediction, about=content, title=title, full_header=args.seg_full_header)
    return prediction, content, early


def _warn(name: str, notes: Sequence[str]) -> None:
    for note in notes:
        print(f"modiff: warning: {name}: {note}", file=sys.stderr)


def about(
    prediction: Prediction, predictor: Predictor, paths: Sequence[Path], *, model: str, identify: bool = False
) -> dict[str, Any]:
    """How the samples were made. paths: of the image, in the order of its channels."""
    from modiff.devices import device_name
    from modiff.evaluation import provenance
    from modiff.prediction.write import describe_source, public_command

    scan, command = prediction.scan, provenance.command_line()
    return {
        "command": public_command(command, scan, paths[0], identify=identify),
        "date": provenance.now(),
        "versions": provenance.versions(),
        "device": device_name(predictor.device),
        "model": {
            "name": model,
            "fingerprint": provenance.model_fingerprint(predictor.model, predictor.config),
            "card": predictor.card,
        },
        **prediction.settings.drawing(),
        "image": describe_source(scan, paths, identify=identify),
    }


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
    counted_in = "samples" if summary.candidates is None else "candidates"
    source = f"fraction of {counted_in}"
    if summary.presence_from == "model":
        source = f"model's own; {percent(summary.marking)} of {counted_in} do"
    if not given_marks:
        console.print(f"Probability that a rater marks anything: {percent(summary.presence)} ({source})")
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
