"""`modiff sample`: the hypotheses for one image or scan, with their probabilities."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiff.io import ImageFile
    from modiff.prediction.predictor import Predictor

_NUMBERS: tuple[tuple[str, type[int] | type[float], tuple[int, ...]], ...] = (
    ("at", int, (2, 3)),
    ("spacing", float, (2,)),
)

_EPILOG = """\
IMAGE is a PNG, TIFF or NPY file, (H,W) or (C,H,W); a NIfTI file of two or three dimensions (and channels); one DICOM
file; or a folder with one DICOM series. Several NIfTI files on one grid are the channels of one scan. Values are made
as those of the training data were, or a warning says what differs.

What is larger than the model's training images is seen through windows that slide over each slice; a hypothesis is one
reading of all of it. A model trained on lesion crops reads the lesion at its window's centre: give it the place with
--at, or a warning says what to expect. X, Y and Z count columns, rows and slices from 0; the slices of a DICOM series
are counted along the normal of their plane: of an axial one, from the lowest.

DIR gets, of a picture, sample-00.png … (masks, 0 and 255), samples.npz (probability maps), mean.png, consensus.png,
uncertainty.png, overlay.png and summary.json; of a scan mean.nii.gz, consensus.nii.gz, uncertainty.nii.gz,
hypothesis-1.nii.gz … and sample-00.nii.gz … on the scan's own grid, overlay.png, slices.png and summary.json with
volumes in mm³; of a DICOM series also probability.seg.dcm and hypotheses.seg.dcm. The segmentations belong to the
patient, as the standard asks; nothing else names one unless --identify is given. DIR appears whole or not at all.

The same weights, image and --seed give the same samples, wherever the file lies, and the first 16 of -n 32 are those
of -n 16. Not a medical device.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Draw plausible segmentations of an image or scan, grouped into hypotheses with probabilities.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("model", metavar="MODEL", help="a run folder, or a packaged model's name")
    made.add_argument(
        "image", metavar="IMAGE", type=Path, nargs="+", help="the image file, or a folder with a DICOM series"
    )
    _add_drawing(made)
    _add_writing(made)
    return made


def _add_drawing(made: argparse.ArgumentParser) -> None:
    made.add_argument("-n", type=int, default=16, metavar="N", help="samples to draw (%(default)s)")
    made.add_argument("--at", metavar="X,Y[,Z]", help="the pixel to look at, and its slice, counted from 0")
    made.add_argument(
        "--slices",
        type=int,
        default=0,
        metavar="N",
        help="with --at: N neighbours of slice Z on either side (%(default)s)",
    )
    made.add_argument("--roi", metavar="X0:X1,Y0:Y1[,Z0:Z1]", help="a part of the image, ends excluded (all of it)")
    made.add_argument(
        "--overlap", type=float, default=0.5, metavar="P", help="share of a window its neighbours see too (%(default)s)"
    )
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
    made.add_argument("--spacing", metavar="ROW,COLUMN", help="mm a pixel of a picture, for areas in mm² (unknown)")
    made.add_argument(
        "--intensity",
        metavar="RULE",
        help="how to make the values: minmax-slice, window:LOW:HIGH, percentiles:LOW:HIGH, unit, or ready where they "
        "are as in training (the model's own rule)",
    )


def _add_writing(made: argparse.ArgumentParser) -> None:
    made.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … or auto (%(default)s)")
    made.add_argument("-o", dest="output", type=Path, metavar="DIR", help="where to write (nothing is written)")
    made.add_argument(
        "--identify",
        action="store_true",
        help="name the patient, the study and the path of a DICOM series in summary.json",
    )
    made.add_argument(
        "--max-bytes",
        type=int,
        default=2 << 30,
        metavar="BYTES",
        help="refuse files that hold or claim more, before they are read (%(default)s)",
    )
    made.add_argument("--overwrite", action="store_true", help="replace the results of an earlier call in DIR")
    made.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Reads, draws, writes, prints."""
    from modiff.errors import ConfigError
    from modiff.io.files import check_output
    from modiff.io.limits import Limits
    from modiff.io.scan import read_channels

    places = {name: numbers(getattr(args, name), f"--{name}", kind, counts) for name, kind, counts in _NUMBERS}
    if args.slices and args.at is None:
        raise ConfigError("needs a place", field="--slices", found=args.slices, hint="Give --at X,Y,Z too")
    raters = _raters(args.raters)
    # What can be refused without torch and a model is refused before they are loaded.
    if args.output is not None:
        check_output(args.output, overwrite=args.overwrite)
    scan = read_channels(args.image, limits=Limits(max_bytes=args.max_bytes))

    from modiff.cli.sample_scan import is_slid, sample_scan
    from modiff.prediction.predictor import Predictor

    predictor = Predictor.from_path(args.model, device=args.device)
    if is_slid(scan, predictor, args):
        sample_scan(scan, predictor, args, raters=raters, **places)
    else:
        _sample_image(scan, predictor, args, raters=raters, **places)
    return 0


def _sample_image(
    image: Any, predictor: Predictor, args: argparse.Namespace, *, raters: Any, at: Any, spacing: Any
) -> None:
    """One window of one picture."""
    from modiff.prediction.results import describe_input, write_results
    from modiff.prediction.show import show_image

    _set_image(predictor, image, at, args.intensity)
    predictor.sample(args.n, seed=args.seed, steps=args.steps, raters=raters, stratified=args.stratified)
    summary = predictor.summary(threshold=args.threshold, spacing=spacing or image.spacing)
    about = {**about_image(args, image, predictor), **describe_input(predictor), "at": at}
    if args.output is not None:
        title = f"{image.path.name}   model {args.model}, {args.n} samples, seed {args.seed}"
        about = write_results(args.output, predictor, summary, about=about, title=title, overwrite=args.overwrite)
    else:
        about |= summary.to_dict()
    if args.json:
        print_json(about)
    else:
        show_image(summary, args.output)


def _set_image(predictor: Predictor, image: ImageFile, at: list[Any] | None, intensity: str | None) -> None:
    """Errors name the file; warnings are a line each."""
    from modiff.prediction.predictor import PredictionWarning

    with warnings.catch_warnings(), errors_name(image.path):
        warnings.simplefilter("ignore", PredictionWarning)
        predictor.set_image(image.array, at=at, intensity=intensity)
    print_warnings(predictor.notes, image.path)


@contextmanager
def errors_name(path: Path | str) -> Iterator[None]:
    """An error about the image's content or a place in it names the file."""
    from modiff.errors import DataError

    try:
        yield
    except DataError as error:
        if error.path is not None or error.field not in ("image", "at", "--roi"):
            raise
        raise type(error)(str(error), path=path) from error


def print_warnings(notes: Sequence[str], path: Path | str) -> None:
    """A line each on the error stream."""
    import sys

    for note in notes:
        print(f"modiff: warning: {path}: {note}", file=sys.stderr)


def print_json(content: dict[str, Any]) -> None:
    """The summary as it stands in summary.json."""
    print(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def about_call(args: argparse.Namespace, predictor: Predictor) -> dict[str, Any]:
    """How the samples were made, but for the image."""
    from modiff.config import to_dict
    from modiff.devices import device_name
    from modiff.evaluation import provenance

    config = None if predictor.config is None else to_dict(predictor.config)
    return {
        "command": provenance.command_line(),
        "date": provenance.now(),
        "versions": provenance.versions(),
        "device": device_name(predictor.device),
        "model": {
            "name": str(args.model),
            "fingerprint": provenance.model_fingerprint(predictor.model, config),
            "card": predictor.card,
        },
        "seed": args.seed,
        "steps": args.steps,
        "raters": args.raters,
        "stratified": args.stratified,
    }


def about_image(args: argparse.Namespace, image: ImageFile, predictor: Predictor) -> dict[str, Any]:
    """How the samples of a picture were made."""
    return {
        **about_call(args, predictor),
        "image": {
            "path": str(image.path),
            "format": image.format,
            "type": str(image.dtype),
            "channels": image.array.shape[0],
            "sha256": image.sha256,
        },
    }


def numbers(text: str | None, field: str, kind: type[int] | type[float], counts: tuple[int, ...]) -> list[Any] | None:
    """Numbers between commas; ConfigError for another form or count."""
    from modiff.errors import ConfigError

    if text is None:
        return None
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        expected = "whole numbers, such as 120,85 or 120,85,40" if kind is int else "two numbers, such as 0.7,0.7"
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
