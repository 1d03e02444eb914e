"""The part of `modiff sample` for scans, and for pictures that windows slide over."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modiff.cli.sample import about_call, about_image, errors_name, print_json, print_warnings
from modiff.io.image import ImageFile
from modiff.io.volume import Volume
from modiff.prediction.predictor import Predictor
from modiff.prediction.volumes import VolumeSamples

_IDENTITY = ("PatientName", "PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID")


def is_slid(scan: ImageFile | Volume, predictor: Predictor, args: argparse.Namespace) -> bool:
    """False for a picture that one window shows."""
    if isinstance(scan, Volume) or args.roi is not None:
        return True
    large = predictor.size is not None and any(
        side > size for side, size in zip(scan.array.shape[1:], predictor.size, strict=True)
    )
    return large and args.at is None


def sample_scan(
    scan: ImageFile | Volume,
    predictor: Predictor,
    args: argparse.Namespace,
    *,
    raters: Any,
    at: list[int] | None,
    spacing: list[float] | None,
) -> None:
    """Draws, writes, prints."""
    from modiff.errors import ConfigError

    if isinstance(scan, Volume) and spacing is not None:
        raise ConfigError("the scan brings its own", field="--spacing", found=args.spacing)
    samples = _draw(scan, predictor, args, raters, at, spacing)
    print_warnings(samples.notes, _called(scan))
    if isinstance(scan, Volume):
        _finish_scan(scan, predictor, args, samples)
    else:
        _finish_picture(scan, predictor, args, samples, spacing)


def _draw(
    scan: ImageFile | Volume,
    predictor: Predictor,
    args: argparse.Namespace,
    raters: Any,
    at: list[int] | None,
    spacing: list[float] | None,
) -> VolumeSamples:
    from modiff.prediction.predictor import PredictionWarning
    from modiff.prediction.region import Box
    from modiff.prediction.volumes import plan_windows, sample_volume

    array = scan.array if isinstance(scan, Volume) else scan.array[:, None]
    shape = (array.shape[1], array.shape[2], array.shape[3])
    pixel = scan.spacing[1:] if isinstance(scan, Volume) else spacing
    with warnings.catch_warnings(), errors_name(_called(scan)), _progress(args) as progress:
        warnings.simplefilter("ignore", PredictionWarning)
        roi = None if args.roi is None else Box.parse(args.roi, shape)
        plan = plan_windows(predictor, shape, at=at, slices=args.slices, roi=roi, overlap=args.overlap)
        return sample_volume(
            predictor,
            array,
            plan,
            args.n,
            seed=args.seed,
            steps=args.steps,
            raters=raters,
            stratified=args.stratified,
            intensity=args.intensity,
            spacing=pixel,
            picture=not isinstance(scan, Volume),
            progress=progress,
        )


def _finish_scan(volume: Volume, predictor: Predictor, args: argparse.Namespace, samples: VolumeSamples) -> None:
    from modiff.prediction.show import show_scan
    from modiff.prediction.volume_results import describe_scan, missing_segmentations, write_volume_results
    from modiff.prediction.volume_summary import summarise_volume

    summary = summarise_volume(
        samples,
        voxel_mm3=volume.voxel_mm3,
        spacing=volume.spacing,
        classes=predictor.data.classes,
        threshold=args.threshold,
    )
    about = _about_scan(volume, predictor, args)
    if args.output is not None:
        lacking = missing_segmentations(volume)
        print_warnings([lacking] if lacking else [], _called(volume))
        title = f"{_called(volume)}   model {args.model}, {args.n} samples, seed {args.seed}"
        about = write_volume_results(
            args.output,
            volume,
            samples,
            summary,
            about=about,
            maker=_maker(about, predictor),
            title=title,
            overwrite=args.overwrite,
        )
    else:
        about |= {**describe_scan(volume, samples), **summary.to_dict()}
    if args.json:
        print_json(about)
    else:
        show_scan(summary, args.output)


def _finish_picture(
    image: ImageFile,
    predictor: Predictor,
    args: argparse.Namespace,
    samples: VolumeSamples,
    spacing: list[float] | None,
) -> None:
    from modiff.prediction.show import show_image
    from modiff.prediction.volume_results import describe_slid, write_slid_image

    about = {**about_image(args, image, predictor), **describe_slid(samples)}
    title = f"{image.path.name}   model {args.model}, {args.n} samples, seed {args.seed}"
    summary, about = write_slid_image(
        args.output,
        samples,
        about=about,
        classes=predictor.data.classes,
        spacing=spacing or image.spacing,
        threshold=args.threshold,
        title=title,
        overwrite=args.overwrite,
    )
    if args.json:
        print_json(about)
    else:
        show_image(summary, args.output)


def _called(scan: ImageFile | Volume) -> str:
    """What words and pictures call it. Folders and files of a DICOM series are often named after the patient."""
    if scan.path is None or (isinstance(scan, Volume) and scan.format == "DICOM"):
        return "DICOM series"
    return scan.path.name if isinstance(scan, Volume) else str(scan.path)


def _about_scan(volume: Volume, predictor: Predictor, args: argparse.Namespace) -> dict[str, Any]:
    about = about_call(args, predictor)
    hidden = volume.format == "DICOM" and not args.identify
    image: dict[str, Any] = {
        "format": volume.format,
        "type": str(volume.array.dtype),
        "channels": volume.array.shape[0],
        "sha256": _digest(volume.sha256),
    }
    if hidden:
        about["command"] = _without_path(about["command"], args.image[0])
    else:
        image = {"path": str(volume.path), **image}
    if len(args.image) > 1:
        image["channel_paths"] = list(map(str, args.image))
    if args.identify and volume.format == "DICOM":
        header = volume.source.headers[0]
        image["identity"] = {name: str(header.get(name, "")) for name in _IDENTITY}
    return {**about, "image": image}


def _digest(files: Mapping[str, str]) -> str:
    """One file's own digest; of several that of their digests in alphabetical order."""
    digests = sorted(files.values())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _without_path(command: str, path: Path) -> str:
    words = ["SERIES" if word == str(path) or Path(word) == path else word for word in shlex.split(command)]
    return shlex.join(words)


def _maker(about: Mapping[str, Any], predictor: Predictor) -> Any:
    """What the segmentation objects say of what made them."""
    from modiff.io.dicom.seg import Maker

    fingerprint = about["model"]["fingerprint"]
    settings = {name: str(about[name]) for name in ("seed", "steps", "raters", "stratified")}
    name = type(predictor.model).__name__
    return Maker(name, about["versions"]["modiff"], {**settings, "weights": fingerprint[:16]}, fingerprint[:16])


@contextmanager
def _progress(args: argparse.Namespace) -> Iterator[Any]:
    """A bar on the error stream of a terminal; nothing elsewhere."""
    if not sys.stderr.isatty() or args.json:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("windows", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
