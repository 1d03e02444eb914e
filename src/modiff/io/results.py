"""The folder that `modiff sample` writes: what its samples are called, and which of its files they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modiff.config.evaluation import IID, SELECTIONS, STRATIFIED
from modiff.errors import DataError
from modiff.io.output import MANIFEST
from modiff.io.text import read_json_text
from modiff.types import is_orientation

ARRAYS = "samples.npz"  # of an image: maps (N,K,H,W) and weights, beside a picture per sample
_PARTS = ("files", "image", "classes", "samples", "n")  # of its summary, by which such a folder is known


def endings(classes: Sequence[str]) -> list[str]:
    """What file names end in: nothing for one class, else the class's name where it is fit for a file name."""
    if len(classes) == 1:
        return [""]
    plain = [re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] for name in classes]
    unique = all(plain) and len(set(plain)) == len(plain)
    return [f"-{name}" if unique else f"-class-{kind}" for kind, name in enumerate(plain, 1)]


def sample_names(count: int) -> list[str]:
    """What the files of samples begin with."""
    digits = max(2, len(str(count - 1)))
    return [f"sample-{number:0{digits}}" for number in range(count)]


@dataclass(frozen=True, eq=False)
class SampleFolder:
    """The samples in a folder of results. files: (N,K) of masks, or the one NPZ of an image. weights: (N,).

    select: which samples they are. given_marks: of raters who mark something.
    scan: the path of the image or scan they are of; None where the results do not name it. part: in words, what of the
    scan was looked at where that is not all of it.
    orientation: of the slices that the model judged, such as LPS, where it is not the scan's own.
    """

    path: Path
    files: tuple[tuple[Path, ...], ...]
    weights: np.ndarray
    scan: str | None
    part: str | None
    select: str = IID
    given_marks: bool = False
    orientation: str | None = None

    @property
    def arrays(self) -> Path | None:
        """The NPZ of an image."""
        return self.files[0][0] if self.files[0][0].name == ARRAYS else None


def sample_folder(folder: Path) -> SampleFolder | None:
    """What lies in a folder if `modiff sample` wrote it, by its summary; DataError where samples are not there."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    summary = read_json_text(path, kind="summary of `modiff sample`")
    if not isinstance(summary, dict) or not set(_PARTS) <= summary.keys():
        return None
    try:
        named, weights = set(summary["files"]), np.array([one["weight"] for one in summary["samples"]], np.float64)
        scan = summary["image"].get("path", "") and str(summary["image"]["path"])
        ends, part = endings(list(summary["classes"])), _part(summary)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise DataError("is not a summary of `modiff sample`", path=path, expected=", ".join(_PARTS)) from None
    suffix = ".nii.gz" if any(str(name).endswith(".nii.gz") for name in named) else ".png"
    wanted = [[f"{name}{end}{suffix}" for end in ends] for name in sample_names(len(weights))]
    wanted = [[ARRAYS]] if ARRAYS in named else wanted
    if absent := [name for names in wanted for name in names if not (folder / name).is_file()]:
        raise DataError("lacks a sample that its summary names", path=folder, found=f"no {absent[0]}")
    if not (len(weights) and len(weights) == summary["n"]):
        raise DataError("one weight per sample", path=path, field="samples", found=len(weights), expected=summary["n"])
    files = tuple(tuple(folder / name for name in names) for names in wanted)
    select = summary.get("select", STRATIFIED if summary.get("stratified") is True else IID)
    if select not in SELECTIONS:
        raise DataError("no such selection", path=path, field="select", found=select, expected=", ".join(SELECTIONS))
    marking, seen = summary.get("raters") == "marking", summary.get("model_sees", {})
    orientation = seen.get("orientation") if isinstance(seen, dict) else None
    if orientation is not None and not (isinstance(orientation, str) and is_orientation(orientation)):
        expected = "such as LPS"
        raise DataError("no such orientation", path=path, field="model_sees", found=orientation, expected=expected)
    return SampleFolder(folder, files, weights, scan or None, part, select, marking, orientation)


def _part(summary: dict[str, Any]) -> str | None:
    """What of the scan was looked at, where that is not all of it."""
    size, box = summary.get("image_size", {}), dict(summary.get("box", {}))
    if window := summary.get("window"):
        for axis, start, side in (("x", "left", "width"), ("y", "top", "height")):
            box[axis] = max(window[start], 0), min(window[start] + window[side], size[side])
    sides = {"x": "width", "y": "height", "z": "slices"}
    cut = {axis: (low, high) for axis, (low, high) in box.items() if (low, high) != (0, size[sides[axis]])}
    return ", ".join(f"{axis} {low} to {high - 1}" for axis, (low, high) in cut.items()) or None
