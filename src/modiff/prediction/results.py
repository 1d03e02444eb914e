"""A folder of results: masks, maps, the overlay picture and a summary that says how they were made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modiff.errors import DataError
from modiff.io.files import MANIFEST, output_folder
from modiff.io.image import write_png
from modiff.prediction.predictor import Predictor
from modiff.prediction.summary import Summary
from modiff.prediction.window import Window
from modiff.types import Samples


def write_results(
    path: str | Path,
    predictor: Predictor,
    summary: Summary,
    *,
    about: Mapping[str, Any],
    title: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the last samples of `predictor` and their summary into the folder `path`; returns summary.json's content.

    sample-00.png …: each sample's mask, 0 and 255, in the image's frame. consensus.png: the same of the mean map.
    mean.png: its probabilities, 255 = 1. uncertainty.png: entropy, 255 = log2(K+1) bits. With several classes the mask
    and mean files end in the class's name. samples.npz: maps (N,K,H,W) float32, weights, present, raters where
    identifiable, mean, entropy. overlay.png: the picture. summary.json: `about`, the summary, the files. The folder
    appears whole or not at all. Raises DataError where it has files and `overwrite` is false.
    """
    if predictor.samples is None or predictor.window is None or predictor.input is None:
        raise DataError("no samples are drawn", hint="Call set_image and sample first")
    seen = Seen(predictor.input, predictor.window)
    return write_image_results(path, predictor.samples, summary, seen, about=about, title=title, overwrite=overwrite)


@dataclass(frozen=True)
class Seen:
    """What a picture shows of an image: (C,h,w) values in [0,1] through a window."""

    values: np.ndarray
    window: Window


def write_image_results(
    path: str | Path,
    samples: Samples,
    summary: Summary,
    seen: Seen,
    *,
    about: Mapping[str, Any],
    title: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """What `write_results` does, of any samples (1,N,K,H,W) of an image."""
    from modiff.prediction.overlay import overlay
    from modiff.viz.figures import png

    with output_folder(path, overwrite=overwrite) as folder:
        _write_pictures(folder, summary)
        _write_arrays(folder / "samples.npz", samples, summary)
        (folder / "overlay.png").write_bytes(png(overlay(seen.values, summary, seen.window, title=title)))
        files = sorted([*(file.name for file in folder.iterdir()), MANIFEST])
        content = {**about, **summary.to_dict(), "files": files}
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return content


def describe_input(predictor: Predictor) -> dict[str, Any]:
    """What the model saw of the image, as plain data: the window, the rule for its values, the warnings."""
    window = predictor.window
    if window is None:
        raise DataError("no image is set", hint="Call set_image first")
    height, width = window.image
    return {
        "image_size": {"width": width, "height": height},
        "window": {
            "left": window.left,
            "top": window.top,
            "width": window.size[1],
            "height": window.size[0],
            "reaches_outside": window.padded,
        },
        "intensity": {"training": predictor.data.intensity, "applied": predictor.intensity},
        "case": predictor.case,
        "warnings": list(predictor.notes),
    }


def _write_pictures(folder: Path, summary: Summary) -> None:
    ends = endings(summary.classes)
    digits = max(2, len(str(len(summary.masks) - 1)))
    for i, masks in enumerate(summary.masks):
        for mask, end in zip(masks, ends, strict=True):
            write_png(folder / f"sample-{i:0{digits}}{end}.png", mask)
    for kind, end in enumerate(ends):
        write_png(folder / f"consensus{end}.png", summary.consensus[kind])
        write_png(folder / f"mean{end}.png", _eight_bits(summary.mean[kind]))
    write_png(folder / "uncertainty.png", _eight_bits(summary.entropy / np.log2(len(summary.classes) + 1)))


def _write_arrays(path: Path, samples: Samples, summary: Summary) -> None:
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


def _eight_bits(share: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def endings(classes: tuple[str, ...]) -> list[str]:
    """What file names end in: nothing for one class, else the class's name where it is fit for a file name."""
    if len(classes) == 1:
        return [""]
    plain = [re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] for name in classes]
    unique = all(plain) and len(set(plain)) == len(plain)
    return [f"-{name}" if unique else f"-class-{kind}" for kind, name in enumerate(plain, 1)]
