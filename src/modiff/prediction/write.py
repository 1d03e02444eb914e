"""A folder of results: every map and mask once, written as PNG of an image and as NIfTI of a scan, with figures, DICOM
segmentations of a series, and a summary that says how they were made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiff._version import __version__
from modiff.io.files import MANIFEST, output_folder
from modiff.io.image import write_png
from modiff.io.nifti import write_nifti
from modiff.io.volume import Volume
from modiff.prediction.predict import Prediction
from modiff.prediction.summary import Summary, percent

if TYPE_CHECKING:
    from modiff.io.dicom.seg import Segment

PROBABILITY_SEG, HYPOTHESES_SEG = "probability.seg.dcm", "hypotheses.seg.dcm"


def write_prediction(
    path: str | Path, prediction: Prediction, *, about: Mapping[str, Any], title: str = "", overwrite: bool = False
) -> dict[str, Any]:
    """Writes a prediction into the folder `path`; returns summary.json's content: `about`, the summary, the files.

    mean: the mean map's probabilities. consensus: its mask. uncertainty: its entropy in bits. sample-00 …: masks of the
    samples. With several classes the names of masks and mean end in the class's. Of an image they are PNG in its own
    frame (masks 0 and 255; 255 is probability 1, or log2(K+1) bits), beside samples.npz: maps (N,K,H,W) float32,
    weights, present, raters where identifiable, mean, entropy. Of a scan they are NIfTI on its own grid, 0 where
    nothing was looked at, with hypothesis-1.nii.gz …, masks of the distinct hypotheses from the most probable on; of a
    DICOM series also probability.seg.dcm (FRACTIONAL) and hypotheses.seg.dcm (BINARY, a segment per distinct
    hypothesis). overlay.png: the image, or the slice with most marked. slices.png: up to 24 slices of a scan.

    about: how it was made; "model" with its "fingerprint" is named in DICOM objects. The folder appears whole or not at
    all. Raises DataError where it has files and `overwrite` is false.
    """
    from modiff.prediction.figures import key_figure, slices_figure

    scan, content = prediction.scan, {**about, **prediction.to_dict()}
    with output_folder(path, overwrite=overwrite) as folder:
        if isinstance(scan, Volume):
            for made in _outputs(prediction.summary):
                values = prediction.plan.box.put_back(made.values)
                write_nifti(folder / f"{made.name}.nii.gz", values, scan, description=made.words, intent=made.intent)
            if scan.format == "DICOM":
                lacking = _write_segmentations(folder, scan, prediction, str(about["model"]["fingerprint"]))
                content["warnings"] += lacking
            (folder / "slices.png").write_bytes(slices_figure(prediction))
        else:
            for made in _outputs(prediction.summary):
                write_png(folder / f"{made.name}.png", made.grey())
            _write_arrays(folder / "samples.npz", prediction)
        (folder / "overlay.png").write_bytes(key_figure(prediction, title=title))
        content["files"] = sorted([*(file.name for file in folder.iterdir()), MANIFEST])
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return content


@dataclass(frozen=True)
class _Output:
    """A file's name without its suffix; its values, a mask bool or a map from 0 to `largest`; what a header says."""

    name: str
    values: np.ndarray
    words: str
    largest: np.float64 | None = None
    intent: str = ""

    def grey(self) -> np.ndarray:
        """A map in 8 bits; a mask as it is."""
        if self.values.dtype == bool:
            return self.values
        fraction = self.values if self.largest is None else self.values / self.largest
        return np.rint(np.clip(fraction, 0, 1) * 255).astype(np.uint8)


def _outputs(summary: Summary) -> Iterator[_Output]:
    """Every map and mask that is written, in the frame of the summary."""
    ends = _endings(summary.classes)

    def masks(name: str, values: np.ndarray, words: str) -> Iterator[_Output]:
        yield from (_Output(f"{name}{end}", mask, f"modiff: {words}") for mask, end in zip(values, ends, strict=True))

    for kind, end in enumerate(ends):
        words = "modiff: probability that a rater marks it"
        yield _Output(f"mean{end}", summary.mean[kind], words, intent="probability")
    yield from masks("consensus", summary.consensus, "mask of the mean map")
    most, words = np.log2(len(ends) + 1), "modiff: entropy of the mean map in bits"
    yield _Output("uncertainty", summary.entropy, words, most, "entropy")
    if summary.voxel_mm3 is not None:
        for number, hypothesis in enumerate(summary.hypotheses, 1):
            yield from masks(f"hypothesis-{number}", hypothesis.mask, percent(hypothesis.probability))
    digits = max(2, len(str(len(summary.masks) - 1)))
    for i, values in enumerate(summary.masks):
        yield from masks(f"sample-{i:0{digits}}", values, "one sample")


def _endings(classes: Sequence[str]) -> list[str]:
    """What file names end in: nothing for one class, else the class's name where it is fit for a file name."""
    if len(classes) == 1:
        return [""]
    plain = [re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] for name in classes]
    unique = all(plain) and len(set(plain)) == len(plain)
    return [f"-{name}" if unique else f"-class-{kind}" for kind, name in enumerate(plain, 1)]


def _write_arrays(path: Path, prediction: Prediction) -> None:
    samples, summary = prediction.samples, prediction.summary
    arrays = {
        "maps": samples.maps[0].numpy(),
        "weights": summary.weights,
        "present": samples.present[0].numpy(),
        "mean": summary.mean,
        "entropy": summary.entropy,
    }
    if samples.raters is not None:
        arrays["raters"] = samples.raters[0].numpy()
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the arrays for its flag


def _write_segmentations(folder: Path, volume: Volume, prediction: Prediction, fingerprint: str) -> list[str]:
    """Both DICOM objects, or in words why there are none."""
    from modiff.io.dicom.seg import Maker, missing_reference, write_binary_seg, write_fractional_seg
    from modiff.viz.palette import rgb

    lacking = missing_reference(volume)
    if lacking is not None:
        return [f"no segmentation objects are written: the series has no {lacking} to refer to"]
    parameters = {name: str(value) for name, value in prediction.settings.drawing().items()}
    serial = fingerprint[:16]
    maker = Maker(prediction.method, __version__, parameters | {"weights": serial}, serial)
    box, classes = prediction.plan.box, prediction.summary.classes
    first, maps = box.spans[0][0], box.framed(prediction.summary.mean)
    colours = [rgb(kind) for kind in range(len(classes))]
    path = folder / PROBABILITY_SEG
    write_fractional_seg(path, maps, volume, first=first, classes=classes, maker=maker, colours=colours)
    write_binary_seg(folder / HYPOTHESES_SEG, _segments(prediction), volume, first=first, maker=maker)
    return []


def _segments(prediction: Prediction) -> list[Segment]:
    """A segment per class and hypothesis that marks something, in its colour in figures, lighter for later classes."""
    from modiff.io.dicom.seg import Segment
    from modiff.viz.palette import rgb

    found, names = [], prediction.summary.classes
    numbered = list(enumerate(prediction.summary.hypotheses, 1))
    marking = [(number, hypothesis) for number, hypothesis in numbered if not hypothesis.nothing]
    for place, (number, hypothesis) in enumerate(marking or numbered[:1]):
        probability = percent(hypothesis.probability)
        label = f"{f'hypothesis {number}' if marking else 'nothing there'}: {probability}"
        words = f"{len(hypothesis.members)} samples, probability {probability}"
        masks = prediction.plan.box.framed(hypothesis.mask)
        for kind, name in enumerate(names if marking else names[:1]):
            title = f"{label}, {name}" if marking and len(names) > 1 else label
            found.append(Segment(masks[kind], title, name, words, rgb(place, white=kind / len(names))))
    return found
