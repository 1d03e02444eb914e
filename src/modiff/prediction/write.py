"""A folder of results: every map and mask once, written as PNG of an image and as NIfTI of a scan, with figures, DICOM
segmentations of a series, and a summary that says how they were made.

A DICOM series names its patient, and so do, often, its folder and files: unless the user asks for it, nothing that is
printed or written says more than "DICOM series". Only segmentations carry the patient's identity, as the standard asks.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modiff._version import __version__
from modiff.io.dicom.seg import Maker, Segment, missing_reference, write_seg
from modiff.io.files import MANIFEST, output_folder
from modiff.io.image import ImageFile, Volume, write_png
from modiff.io.nifti import write_nifti
from modiff.prediction.figures import key_figure, slices_figure
from modiff.prediction.predict import Prediction
from modiff.prediction.summary import percent
from modiff.viz.figures import rgb

_IDENTITY = ("PatientName", "PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID")
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
    scan, content = prediction.scan, {**about, **prediction.to_dict()}
    with output_folder(path, overwrite=overwrite) as folder:
        _write_maps(folder, prediction)
        if isinstance(scan, Volume):
            if scan.format == "DICOM":
                content["warnings"] += _write_segmentations(folder, scan, prediction, about["model"]["fingerprint"])
            (folder / "slices.png").write_bytes(slices_figure(prediction))
        else:
            samples, summary = prediction.samples, prediction.summary
            arrays: dict[str, Any] = {"maps": samples.maps[0].numpy(), "present": samples.present[0].numpy()}
            arrays |= {"weights": summary.weights, "mean": summary.mean, "entropy": summary.entropy}
            if samples.raters is not None:
                arrays["raters"] = samples.raters[0].numpy()
            np.savez_compressed(folder / "samples.npz", **arrays)
        (folder / "overlay.png").write_bytes(key_figure(prediction, title=title))
        content["files"] = sorted([*(file.name for file in folder.iterdir()), MANIFEST])
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return content


def _write_maps(folder: Path, prediction: Prediction) -> None:
    """Every map and mask: of an image as PNG, of a scan as NIfTI."""
    scan, summary, box = prediction.scan, prediction.summary, prediction.plan.box
    ends = _endings(summary.classes)

    def write(name: str, values: np.ndarray, words: str, intent: str = "", largest: float = 1.0) -> None:
        """values: a mask bool, or a map from 0 to `largest`."""
        if isinstance(scan, Volume):
            target, words = folder / f"{name}.nii.gz", f"modiff: {words}"
            write_nifti(target, box.put_back(values), scan, description=words, intent=intent)
        else:
            mask = values.dtype == bool
            grey = values if mask else np.rint(np.clip(values / largest, 0, 1) * 255).astype(np.uint8)
            write_png(folder / f"{name}.png", grey)

    def write_masks(name: str, masks: np.ndarray, words: str) -> None:
        for end, mask in zip(ends, masks, strict=True):
            write(f"{name}{end}", mask, words)

    for end, mean in zip(ends, summary.mean, strict=True):
        write(f"mean{end}", mean, "probability that a rater marks it", "probability")
    write_masks("consensus", summary.consensus, "mask of the mean map")
    write("uncertainty", summary.entropy, "entropy of the mean map in bits", "entropy", np.log2(len(ends) + 1))
    if isinstance(scan, Volume):
        for number, hypothesis in enumerate(summary.hypotheses, 1):
            write_masks(f"hypothesis-{number}", hypothesis.mask, percent(hypothesis.probability))
    digits = max(2, len(str(len(summary.masks) - 1)))
    for i, masks in enumerate(summary.masks):
        write_masks(f"sample-{i:0{digits}}", masks, "one sample")


def _endings(classes: Sequence[str]) -> list[str]:
    """What file names end in: nothing for one class, else the class's name where it is fit for a file name."""
    if len(classes) == 1:
        return [""]
    plain = [re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] for name in classes]
    unique = all(plain) and len(set(plain)) == len(plain)
    return [f"-{name}" if unique else f"-class-{kind}" for kind, name in enumerate(plain, 1)]


def _write_segmentations(folder: Path, volume: Volume, prediction: Prediction, fingerprint: str) -> list[str]:
    """Both DICOM objects, or in words why there are none.

    A segment per class and hypothesis that marks something, in its colour in figures, lighter for later classes.
    """
    lacking = missing_reference(volume)
    if lacking is not None:
        return [f"no segmentation objects are written: the series has no {lacking} to refer to"]
    serial, box, summary = fingerprint[:16], prediction.plan.box, prediction.summary
    parameters = {name: str(value) for name, value in prediction.settings.drawing().items()}
    maker = Maker(prediction.method, __version__, parameters | {"weights": serial}, serial)
    first, names = box.spans[0][0], summary.classes
    maps = box.put_back(summary.mean, dimensions=2)
    means = [Segment(maps[i], name, name, "probability", rgb(i)) for i, name in enumerate(names)]
    write_seg(folder / PROBABILITY_SEG, means, volume, first=first, maker=maker)
    segments, numbered = [], list(enumerate(summary.hypotheses, 1))
    marking = [(number, hypothesis) for number, hypothesis in numbered if not hypothesis.nothing]
    for place, (number, hypothesis) in enumerate(marking or numbered[:1]):
        probability = percent(hypothesis.probability)
        label = f"{f'hypothesis {number}' if marking else 'nothing there'}: {probability}"
        words = f"{len(hypothesis.members)} samples, probability {probability}"
        masks = box.put_back(hypothesis.mask, dimensions=2)
        for kind, name in enumerate(names if marking else names[:1]):
            title = f"{label}, {name}" if marking and len(names) > 1 else label
            segments.append(Segment(masks[kind], title, name, words, rgb(place, white=kind / len(names))))
    write_seg(folder / HYPOTHESES_SEG, segments, volume, first=first, maker=maker)
    return []


def describe_source(scan: ImageFile | Volume, paths: Sequence[Path], *, identify: bool = False) -> dict[str, Any]:
    """Where an image came from, as plain data. paths: as the user gave them, one per channel where several."""
    named = identify or scan.format != "DICOM"
    found: dict[str, Any] = {"path": str(scan.path)} if named else {}
    digests = [scan.sha256] if isinstance(scan.sha256, str) else sorted(scan.sha256.values())
    found |= {
        "format": scan.format,
        "type": str(scan.array.dtype),
        "channels": scan.array.shape[0],
        # One file's own digest; of several that of their digests in alphabetical order.
        "sha256": digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest(),
    }
    if len(paths) > 1:
        found["channel_paths"] = list(map(str, paths))
    if identify and isinstance(scan, Volume) and scan.format == "DICOM":
        header = scan.source.headers[0]
        found["identity"] = {name: str(header.get(name, "")) for name in _IDENTITY}
    return found


def public_command(command: str, scan: ImageFile | Volume, path: Path, *, identify: bool = False) -> str:
    """The command line without the path of a DICOM series."""
    if identify or scan.format != "DICOM":
        return command
    words = ["SERIES" if word == str(path) or Path(word) == path else word for word in shlex.split(command)]
    return shlex.join(words)
