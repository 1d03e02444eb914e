"""A folder of a scan's results: NIfTI on the scan's own grid, DICOM segmentations of a series, pictures, a summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modiff.io.files import MANIFEST, output_folder
from modiff.io.nifti import write_nifti
from modiff.io.volume import Volume
from modiff.prediction.results import Seen, endings, write_image_results
from modiff.prediction.summary import Hypothesis, Summary, summarise
from modiff.prediction.volume_pictures import box_window, key_picture, slices_picture
from modiff.prediction.volume_summary import VolumeSummary
from modiff.prediction.volumes import VolumeSamples
from modiff.prediction.words import percent
from modiff.types import Samples

if TYPE_CHECKING:
    from modiff.io.dicom.seg import Maker

PROBABILITY_SEG, HYPOTHESES_SEG = "probability.seg.dcm", "hypotheses.seg.dcm"


def write_volume_results(
    path: str | Path,
    volume: Volume,
    samples: VolumeSamples,
    summary: VolumeSummary,
    *,
    about: Mapping[str, Any],
    maker: Maker,
    title: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes samples of `volume` and their summary into the folder `path`; returns summary.json's content.

    On the grid of the scan, 0 where nothing was looked at: mean.nii.gz, probabilities; consensus.nii.gz, the mask of
    the mean map; uncertainty.nii.gz, entropy in bits; hypothesis-1.nii.gz …, masks of the distinct hypotheses from the
    most probable on; sample-00.nii.gz …, masks of the samples. With several classes the names of masks and mean end in
    the class's. Of a DICOM series also probability.seg.dcm (FRACTIONAL) and hypotheses.seg.dcm (BINARY, a segment a
    distinct hypothesis). overlay.png: the slice with most marked. slices.png: up to 24 slices. The folder appears whole
    or not at all. Raises DataError where it has files and `overwrite` is false.
    """
    with output_folder(path, overwrite=overwrite) as folder:
        _write_maps(folder, volume, summary)
        lacking = missing_segmentations(volume)
        if volume.format == "DICOM" and lacking is None:
            _write_segmentations(folder, volume, summary, maker)
        (folder / "overlay.png").write_bytes(key_picture(samples, summary, title=title))
        (folder / "slices.png").write_bytes(slices_picture(samples, summary))
        files = sorted([*(file.name for file in folder.iterdir()), MANIFEST])
        content = {**about, **describe_scan(volume, samples), **summary.to_dict(), "files": files}
        content["warnings"] += [lacking] if lacking else []
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return content


def missing_segmentations(volume: Volume) -> str | None:
    """Why no segmentation object can be written of a DICOM series, in words; None where it can, and of other scans."""
    from modiff.io.dicom.seg import missing_reference

    name = missing_reference(volume) if volume.format == "DICOM" else None
    return None if name is None else f"no segmentation objects are written: the series has no {name} to refer to"


def describe_scan(volume: Volume, samples: VolumeSamples) -> dict[str, Any]:
    """What the model saw of the scan, as plain data: the box, the windows, the rule for the values, the warnings."""
    return {**describe_slid(samples), "affine_ras_mm": volume.affine.tolist()}


def describe_slid(samples: VolumeSamples) -> dict[str, Any]:
    """The same of a scan whose geometry is not known."""
    plan = samples.plan
    part, height, width = plan.box.shape
    return {
        "image_size": {"width": width, "height": height, "slices": part},
        "box": {name: list(span) for name, span in zip("xyz", reversed(plan.box.spans), strict=True)},
        "at": None if plan.at is None else list(plan.at),
        "windows": {
            "a_slice": len(plan.windows),
            "width": plan.windows[0].size[1],
            "height": plan.windows[0].size[0],
        },
        "intensity": {"training": samples.values.trained, "applied": samples.values.rule},
        "case": samples.case,
        "warnings": list(samples.notes),
    }


def _write_maps(folder: Path, volume: Volume, summary: VolumeSummary) -> None:
    ends = endings(summary.flat.classes)
    box = summary.box

    def write(name: str, values: np.ndarray, description: str, intent: str = "") -> None:
        write_nifti(folder / f"{name}.nii.gz", box.put_back(values), volume, description=description, intent=intent)

    for kind, end in enumerate(ends):
        write(f"mean{end}", summary.mean[kind], "modiff: probability that a reader marks it", "probability")
        write(f"consensus{end}", summary.consensus[kind], "modiff: mask of the mean map")
    write("uncertainty", summary.entropy, "modiff: entropy of the mean map in bits", "entropy")
    for place, hypothesis in enumerate(summary.hypotheses, 1):
        _write_masks(write, f"hypothesis-{place}", summary.mask_of(hypothesis), ends, percent(hypothesis.probability))
    digits = max(2, len(str(len(summary.masks) - 1)))
    for i, masks in enumerate(summary.masks):
        _write_masks(write, f"sample-{i:0{digits}}", masks, ends, "one sample")


def _write_masks(write: Any, name: str, masks: np.ndarray, ends: Sequence[str], words: str) -> None:
    for mask, end in zip(masks, ends, strict=True):
        write(f"{name}{end}", mask, f"modiff: {words}")


def _write_segmentations(folder: Path, volume: Volume, summary: VolumeSummary, maker: Maker) -> None:
    from modiff.io.dicom.seg import write_binary_seg, write_fractional_seg

    (first, last), rows, columns = summary.box.spans
    classes = summary.flat.classes

    def framed(values: np.ndarray) -> np.ndarray:
        """(…,z,h,w) of the box -> (…,z,H,W): whole slices."""
        whole = np.zeros((*values.shape[:-2], *volume.shape[1:]), values.dtype)
        whole[..., slice(*rows), slice(*columns)] = values
        return whole

    mean = framed(summary.mean)
    write_fractional_seg(folder / PROBABILITY_SEG, mean, volume, first=first, classes=classes, maker=maker)
    segments = [
        segment
        for place, hypothesis in enumerate(summary.hypotheses, 1)
        if not hypothesis.nothing
        for segment in _segments(place, hypothesis, framed(summary.mask_of(hypothesis)), classes)
    ]
    if not segments:
        segments = _segments(
            1, summary.hypotheses[0], np.zeros((1, last - first, *volume.shape[1:]), bool), classes[:1]
        )
    write_binary_seg(folder / HYPOTHESES_SEG, segments, volume, first=first, maker=maker)


def _segments(place: int, hypothesis: Hypothesis, masks: np.ndarray, classes: Sequence[str]) -> list[Any]:
    from modiff.io.dicom.seg import Segment

    words = "nothing there" if hypothesis.nothing else f"hypothesis {place}"
    share = percent(hypothesis.probability)
    description = f"{len(hypothesis.members)} samples, probability {share}"
    several = len(masks) > 1
    return [
        Segment(mask, f"{words}: {share}{f', {name}' if several else ''}", name, description)
        for mask, name in zip(masks, classes, strict=True)
    ]


def write_slid_image(
    path: Path | None,
    samples: VolumeSamples,
    *,
    about: Mapping[str, Any],
    classes: Sequence[str] | None,
    spacing: Sequence[float] | None,
    threshold: float | None,
    title: str = "",
    overwrite: bool = False,
) -> tuple[Summary, dict[str, Any]]:
    """Of a picture that windows slid over (a scan of one slice): its summary and, where `path` is given, the files that
    `write_results` writes; returns both, the second as summary.json holds it."""
    box = samples.plan.box
    drawn = Samples(
        torch.from_numpy(box.put_back(samples.maps.numpy())[:, :, 0])[None],
        samples.weights[None],
        samples.present[None],
        None if samples.raters is None else samples.raters[None],
        None if samples.presence is None else torch.tensor([samples.presence]),
    )
    summary = summarise(drawn, classes=classes, spacing=spacing, threshold=threshold)
    if path is None:
        return summary, {**about, **summary.to_dict()}
    window = box_window(samples)
    seen = Seen(samples.values.cut(0, window), window)
    return summary, write_image_results(path, drawn, summary, seen, about=about, title=title, overwrite=overwrite)
