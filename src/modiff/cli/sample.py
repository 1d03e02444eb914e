"""`modiff sample`: the hypotheses for one image or scan, with their probabilities."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.config.help import verb_parser
from modiff.config.sampling import OVERLAP, SAMPLES

if TYPE_CHECKING:
    from modiff.prediction.predict import Prediction
    from modiff.prediction.predictor import Predictor
    from modiff.prediction.summary import Summary

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


_SETTINGS = ("n", "seed", "steps", "stratified", "slices", "roi", "overlap", "intensity", "threshold")


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = verb_parser(
        prog,
        "Draw plausible segmentations of an image or scan, grouped into hypotheses with probabilities.",
        epilog=_EPILOG,
    )
    add = made.add_argument
    add("model", metavar="MODEL", help="a run folder, or a packaged model's name")
    add("image", metavar="IMAGE", type=Path, nargs="+", help="the image file, or a folder with a DICOM series")
    add = made.add_argument_group("what is drawn").add_argument
    add("-n", type=int, default=SAMPLES, metavar="N", help="samples to draw (%(default)s)")
    add = made.add_argument_group("where").add_argument
    add("--at", metavar="X,Y[,Z]", help="the pixel to look at, and its slice, counted from 0")
    words = "with --at: N neighbours of slice Z on either side (%(default)s)"
    add("--slices", type=int, default=0, metavar="N", help=words)
    add("--roi", metavar="X0:X1,Y0:Y1[,Z0:Z1]", help="a part of the image, ends excluded (all of it)")
    words = "fraction of a window that its neighbours see too (%(default)s)"
    add("--overlap", type=float, default=OVERLAP, metavar="P", help=words)
    add = made.add_argument_group("how it is drawn").add_argument
    add("--seed", type=int, default=0, help="seed of the random numbers (%(default)s)")
    add("--steps", type=int, metavar="S", help="steps of the sampler (the model's own)")
    words = "single: each sample is one rater's; all: the panel's consensus; or a list such as 0,2 (%(default)s)"
    add("--raters", default="single", metavar="WHO", help=words)
    words = "spread whether raters mark anything evenly over the samples instead of drawing it for each by itself"
    add("--stratified", action="store_true", help=words)
    add("--device", default="cpu", help="cpu, cuda, cuda:1 … or auto (%(default)s)")
    add("--threshold", type=float, metavar="T", help="a pixel is marked from this probability on (argmax)")
    add = made.add_argument_group("the image").add_argument
    add("--spacing", metavar="ROW,COLUMN", help="mm per pixel of a picture, for areas in mm² (unknown)")
    words = (
        "how to make the values: minmax-slice, window:LOW:HIGH, percentiles:LOW:HIGH, unit, or ready where they are "
    )
    add("--intensity", metavar="RULE", help=words + "as in training (the model's own rule)")
    add = made.add_argument_group("output").add_argument
    add("-o", dest="output", type=Path, metavar="DIR", help="where to write (nothing is written)")
    words = "name the patient, the study and the path of a DICOM series in summary.json"
    add("--identify", action="store_true", help=words)
    words = "refuse files that hold or claim more, before they are read (%(default)s)"
    add("--max-bytes", type=int, default=2 << 30, metavar="BYTES", help=words)
    add("--overwrite", action="store_true", help="replace the results of an earlier call in DIR")
    add("--json", action="store_true", help="print the summary as JSON")
    return made


def run(args: argparse.Namespace) -> int:
    """Reads, draws, writes, prints."""
    from modiff.errors import ConfigError
    from modiff.io.files import Limits, check_output
    from modiff.io.scan import read_channels

    at, spacing = _numbers(args.at, "--at", int, (2, 3)), _numbers(args.spacing, "--spacing", float, (2,))
    if args.slices and at is None:
        raise ConfigError("needs a place", field="--slices", found=args.slices, hint="Give --at X,Y,Z too")
    raters = args.raters if args.raters in ("single", "all") else _numbers(args.raters, "--raters", int)
    # What can be refused without torch and a model is refused before they are loaded.
    if args.output is not None:
        check_output(args.output, overwrite=args.overwrite)
    scan = read_channels(args.image, limits=Limits(max_bytes=args.max_bytes))

    from modiff.prediction.predict import Settings, called, predict
    from modiff.prediction.predictor import Predictor
    from modiff.prediction.write import write_prediction

    same = {name: getattr(args, name) for name in _SETTINGS}
    settings = Settings(at=at, spacing=spacing, raters=raters, **same)
    predictor = Predictor.from_path(args.model, device=args.device)
    with _progress(args) as progress:
        prediction = predict(scan, predictor, settings, progress=progress)
    content = _about(args, predictor, prediction)
    if args.output is None:
        content |= prediction.to_dict()
    else:
        title = f"{Path(called(scan)).name}   model {args.model}, {args.n} samples, seed {args.seed}"
        content = write_prediction(args.output, prediction, about=content, title=title, overwrite=args.overwrite)
    for note in content["warnings"]:
        print(f"modiff: warning: {called(scan)}: {note}", file=sys.stderr)
    if args.json:
        print(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _show(prediction.summary, args.output)
    return 0


def _about(args: argparse.Namespace, predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
    """How the samples were made."""
    from modiff.devices import device_name
    from modiff.evaluation import provenance
    from modiff.prediction.write import describe_source, public_command

    scan, command = prediction.scan, provenance.command_line()
    return {
        "command": public_command(command, scan, args.image[0], identify=args.identify),
        "date": provenance.now(),
        "versions": provenance.versions(),
        "device": device_name(predictor.device),
        "model": {
            "name": str(args.model),
            "fingerprint": provenance.model_fingerprint(predictor.model, predictor.config),
            "card": predictor.card,
        },
        **prediction.settings.drawing(),
        "image": describe_source(scan, args.image, identify=args.identify),
    }


def _show(summary: Summary, output: Path | None) -> None:
    """Prints the distinct hypotheses of an image or scan, presence, agreement and areas or volumes."""
    from rich.console import Console
    from rich.table import Table

    from modiff.prediction.summary import percent

    console = Console(highlight=False, markup=False)
    table = Table(title=f"Distinct hypotheses of {len(summary.weights)} samples", title_justify="left")
    for name in ("probability", "marks", "samples"):
        table.add_column(name, justify="right")
    for hypothesis in summary.hypotheses:
        table.add_row(percent(hypothesis.probability), summary.size_text(hypothesis), str(len(hypothesis.members)))
    console.print(table)
    source = "model's own" if summary.presence_from == "model" else "fraction of samples"
    console.print(f"Probability that a rater marks anything: {percent(summary.presence)} ({source})")
    if summary.agreement is not None:
        console.print(f"Agreement of two samples (mean IoU): {summary.agreement:.2f}")
    what, (unit, factor) = "Area" if summary.voxel_mm3 is None else "Volume", summary.unit
    for kind, name in enumerate(summary.classes):
        sizes = summary.area_quantiles(kind, marked=True)
        if sizes is not None:
            low, _, middle, _, high = (f"{size * factor:.0f}" for size in sizes)
            console.print(f"{what} of {name} where marked: median {middle} {unit}, 5 % to 95 % {low} to {high}")
    if output is not None:
        console.print(f"Written to {output}: overlay.png shows them", soft_wrap=True)


def _numbers(text: str | None, field: str, kind: type[int] | type[float], counts: tuple[int, ...] = ()) -> Any:
    """Numbers between commas; ConfigError for another form, or another count than one of `counts`."""
    from modiff.errors import ConfigError

    if text is None:
        return None
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or (counts and len(values) not in counts):
        expected = {
            "--at": "whole numbers, such as 120,85 or 120,85,40",
            "--spacing": "two numbers, such as 0.7,0.7",
            "--raters": "single, all or a list such as 0,2",
        }
        raise ConfigError("cannot be understood", field=field, found=repr(text), expected=expected[field])
    return values


@contextmanager
def _progress(args: argparse.Namespace) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on the error stream of a terminal; nothing elsewhere."""
    if not sys.stderr.isatty() or args.json:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("windows", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
