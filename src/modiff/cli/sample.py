"""`modiff sample`: the hypotheses for one image, with their probabilities."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiff.io import ImageFile
    from modiff.prediction.predictor import Predictor
    from modiff.prediction.summary import Summary

_EPILOG = """\
IMAGE is a PNG, TIFF or NPY file, (H,W) or (C,H,W). One larger than the model's training images needs --at, the pixel
to look at: a model trained on lesion crops reads the lesion at the crop's centre. Values are made as those of the
training data were, or a warning says what differs.

DIR gets sample-00.png … (masks, 0 and 255), samples.npz (probability maps), mean.png, consensus.png, uncertainty.png,
overlay.png and summary.json; it appears whole or not at all. The same weights, image and --seed give the same samples,
wherever the file lies, and the first 16 of -n 32 are those of -n 16. Not a medical device.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Draw plausible segmentations of an image, group them into distinct hypotheses with probabilities.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("model", metavar="MODEL", help="a run folder, or a packaged model's name")
    made.add_argument("image", metavar="IMAGE", type=Path, help="the image file")
    made.add_argument("-n", type=int, default=16, metavar="N", help="samples to draw (%(default)s)")
    made.add_argument("--at", metavar="X,Y", help="the pixel to look at, counted from the upper left corner (0,0)")
    made.add_argument("--seed", type=int, default=0, help="seed of the random numbers (%(default)s)")
    made.add_argument("--steps", type=int, metavar="S", help="steps of the sampler (the model's own)")
    made.add_argument(
        "--raters",
        default="single",
        metavar="WHO",
        help="single: each sample is one reader's; all: the panel's consensus; or a list such as 0,2 (%(default)s)",
    )
    made.add_argument(
        "--stratified",
        action="store_true",
        help="spread whether raters mark anything evenly over the samples instead of drawing it for each by itself",
    )
    made.add_argument(
        "--threshold", type=float, metavar="T", help="a pixel is marked from this probability on (argmax)"
    )
    made.add_argument("--spacing", metavar="ROW,COLUMN", help="mm a pixel, for areas in mm² (unknown)")
    made.add_argument(
        "--intensity",
        metavar="RULE",
        help="how to make the values: minmax-slice, window:LOW:HIGH, percentiles:LOW:HIGH, unit, or ready where they "
        "are as in training (the model's own rule)",
    )
    made.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … or auto (%(default)s)")
    made.add_argument("-o", dest="output", type=Path, metavar="DIR", help="where to write (nothing is written)")
    made.add_argument("--overwrite", action="store_true", help="replace the results of an earlier call in DIR")
    made.add_argument("--json", action="store_true", help="print the summary as JSON")
    return made


def run(args: argparse.Namespace) -> int:
    """Reads, draws, writes, prints."""
    from modiff.io import read_image
    from modiff.io.output import check_output

    at = _numbers(args.at, "--at", int)
    spacing = _numbers(args.spacing, "--spacing", float)
    raters = _raters(args.raters)
    # What can be refused without torch and a model is refused before they are loaded.
    if args.output is not None:
        check_output(args.output, overwrite=args.overwrite)
    image = read_image(args.image)

    from modiff.prediction.predictor import Predictor
    from modiff.prediction.results import describe_input, write_results

    predictor = Predictor.from_path(args.model, device=args.device)
    _set_image(predictor, image, at, args.intensity)
    predictor.sample(args.n, seed=args.seed, steps=args.steps, raters=raters, stratified=args.stratified)
    summary = predictor.summary(threshold=args.threshold, spacing=spacing or image.spacing)
    about = {**_about(args, image, predictor), **describe_input(predictor), "at": at}
    if args.output is not None:
        title = f"{image.path.name}   model {args.model}, {args.n} samples, seed {args.seed}"
        about = write_results(args.output, predictor, summary, about=about, title=title, overwrite=args.overwrite)
    else:
        about |= summary.to_dict()
    if args.json:
        print(json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _show(summary, args)
    return 0


def _set_image(predictor: Predictor, image: ImageFile, at: list[Any] | None, intensity: str | None) -> None:
    """Errors name the file; warnings are a line each."""
    import sys

    from modiff.errors import DataError
    from modiff.prediction.intensity import PredictionWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        try:
            predictor.set_image(image.array, at=at, intensity=intensity)
        except DataError as error:
            if error.path is not None or error.field not in ("image", "at"):
                raise
            raise type(error)(str(error), path=image.path) from error
    for note in predictor.notes:
        print(f"modiff: warning: {image.path}: {note}", file=sys.stderr)


def _about(args: argparse.Namespace, image: ImageFile, predictor: Predictor) -> dict[str, Any]:
    from modiff.config import to_dict
    from modiff.evaluation import provenance

    config = None if predictor.config is None else to_dict(predictor.config)
    return {
        "command": provenance.command_line(),
        "date": provenance.now(),
        "versions": provenance.versions(),
        "device": provenance.device_name(predictor.device),
        "model": {
            "name": str(args.model),
            "fingerprint": provenance.model_fingerprint(predictor.model, config),
            "card": predictor.card,
        },
        "image": {
            "path": str(image.path),
            "format": image.format,
            "type": str(image.dtype),
            "channels": image.array.shape[0],
            "sha256": image.sha256,
        },
        "seed": args.seed,
        "steps": args.steps,
        "raters": args.raters,
        "stratified": args.stratified,
    }


def _numbers(text: str | None, field: str, kind: type[int] | type[float]) -> list[Any] | None:
    from modiff.errors import ConfigError

    if text is None:
        return None
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 2:
        expected = "two whole numbers, such as 120,85" if kind is int else "two numbers, such as 0.7,0.7"
        raise ConfigError("cannot be understood", field=field, found=repr(text), expected=expected)
    return values


def _raters(text: str) -> Any:
    from modiff.errors import ConfigError

    if text in ("single", "all"):
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            "cannot be understood", field="--raters", found=repr(text), expected="single, all or a list such as 0,2"
        ) from error


def _show(summary: Summary, args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from modiff.prediction.words import area_text, percent

    console = Console(highlight=False, markup=False)
    table = Table(title=f"Distinct hypotheses of {len(summary.weights)} samples", title_justify="left")
    for name in ("probability", "marks", "samples"):
        table.add_column(name, justify="right")
    for hypothesis in summary.hypotheses:
        table.add_row(percent(hypothesis.probability), area_text(hypothesis, summary), str(len(hypothesis.members)))
    console.print(table)
    source = "the model says" if summary.presence_from == "model" else "share of samples"
    console.print(f"A rater marks anything: {percent(summary.presence)} ({source})")
    if summary.agreement is not None:
        console.print(f"Agreement of two samples (mean IoU): {summary.agreement:.2f}")
    unit, factor = ("px", 1.0) if summary.pixel_area is None else ("mm²", summary.pixel_area)
    for kind, name in enumerate(summary.classes):
        sizes = summary.area_quantiles(kind, marked=True)
        if sizes is not None:
            low, _, middle, _, high = (f"{size * factor:.0f}" for size in sizes)
            console.print(f"Area of {name} where marked: median {middle} {unit}, 5 % to 95 % {low} to {high}")
    if args.output is not None:
        console.print(f"Written to {args.output}: overlay.png shows them", soft_wrap=True)
