"""What the page is told: numbers as texts, masks and maps as packed bytes in their place of the scan."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modiff.data.intensity import IntensityRule
from modiff.io.volume import Volume
from modiff.prediction.predict import Prediction
from modiff.prediction.summary import Summary, percent
from modiff.prediction.windows import Box
from modiff.prediction.write import colours
from modiff.viz.figures import heat_colours

# Name, low and high of usual CT windows, in HU.
CT_WINDOWS = (("lung", -1350, 150), ("soft tissue", -160, 240), ("brain", 0, 80), ("bone", -450, 1050))
_AIR = -200  # values below it are HU
_MOST_SAMPLES = 32 << 20  # voxels of samples' masks that are sent
_GREY = "#bfbfbf"


def encoded(values: np.ndarray) -> str:
    """The bytes of an array in C order as base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def packed_mask(classes: np.ndarray, corner: Sequence[int] = (0, 0, 0)) -> dict[str, Any]:
    """Class indices (z,h,w), cut to what is marked; corner: (z,y,x) of their first voxel in the scan."""
    spans = []
    for axis in range(3):
        marked = np.flatnonzero(classes.any(tuple({0, 1, 2} - {axis})))
        spans.append((int(marked[0]), int(marked[-1]) + 1) if marked.size else (0, 0))
    cut = classes[tuple(slice(*span) for span in spans)].astype(np.uint8)
    low = [start + first for (start, _), first in zip(spans, corner, strict=True)]
    return {"corner": low, "size": list(cut.shape), "classes": encoded(cut)}


def packed_summary(summary: Summary, box: Box) -> dict[str, Any]:
    """The hypotheses of a scan's box, or of a whole image, with their masks; samples; uncertainty."""
    image = summary.voxel_mm3 is None
    corner = (0, 0, 0) if image else tuple(low for low, _ in box.spans)

    def classes(mask: np.ndarray) -> np.ndarray:
        """(K,…) bool -> (z,h,w) class index."""
        made: np.ndarray = (mask * np.arange(1, len(mask) + 1).reshape(-1, *(1,) * (mask.ndim - 1))).max(0)
        return made[None] if image else made

    hypotheses = [
        {
            "probability": hypothesis.probability,
            "percent": percent(hypothesis.probability),
            "size": summary.size_text(hypothesis),
            "nothing": hypothesis.nothing,
            "colour": colour if colour.startswith("#") else _GREY,
            "rare": not colour.startswith("#"),
            "samples": list(hypothesis.members),
            "mask": packed_mask(classes(hypothesis.mask), corner),
        }
        for hypothesis, colour in zip(summary.hypotheses, colours(summary), strict=True)
    ]
    few = summary.masks.size <= _MOST_SAMPLES
    most = math.log2(len(summary.classes) + 1)
    entropy = (np.clip(summary.entropy / most, 0, 1) * 255).round().astype(np.uint8)
    what = "Area" if image else "Volume"
    return {
        "presence": percent(summary.presence),
        "presence_from": summary.presence_source,
        "agreement": None if summary.agreement is None else f"{summary.agreement:.2f}",
        "sizes": [
            f"{what} of {name} where marked: {summary.sizes_text(sizes)}"
            for kind, name in enumerate(summary.classes)
            if (sizes := summary.area_quantiles(kind, marked=True)) is not None
        ],
        "unseen": None if summary.unseen is None else f"{percent(summary.unseen[0])} {summary.unseen[1]}",
        "hypotheses": hypotheses,
        "samples": [packed_mask(classes(mask), corner) for mask in summary.masks] if few else [],
        "entropy": packed_mask(entropy[None] if image else entropy, corner),
        "most_bits": f"{most:.3g}",
    }


def packed_prediction(prediction: Prediction) -> dict[str, Any]:
    """A prediction as the page shows it."""
    return {
        "drawn": prediction.drawn,
        "warnings": list(prediction.notes),
        **packed_summary(prediction.summary, prediction.plan.box),
    }


def packed_raters(raters: Mapping[str, np.ndarray | None]) -> list[dict[str, Any]]:
    """Raters' masks; those who did not read have none."""
    return [
        {
            "name": name,
            "mask": None if mask is None else packed_mask(mask),
            "nothing": mask is not None and not mask.any(),
        }
        for name, mask in raters.items()
    ]


def windows_of(scan: Volume, rule: str | None) -> list[dict[str, Any]]:
    """Grey windows to choose from, the first one to begin with: the model's where it has one, CT's, the whole range."""
    low, high = np.percentile(scan.array[:, :: max(1, scan.shape[0] // 8)], [0.5, 99.5]).tolist()
    found = [("whole range", low, high if high > low else low + 1)]
    if scan.modality == "CT" or (scan.modality is None and scan.array.dtype.kind in "if" and scan.array.min() < _AIR):
        found = [*CT_WINDOWS, *found]
    parsed = None if rule is None else IntensityRule.parse(rule)
    if parsed is not None and parsed.kind == "window" and not scan.is_picture and scan.format != "store":
        found = [("as the model sees it", parsed.low, parsed.high), *found]
    return [{"name": name, "low": float(least), "high": float(most)} for name, least, most in found]


def heat_table() -> list[list[int]]:
    """Red, green, blue and opacity (0 to 255) of uncertainty from 0 to its largest, in 256 steps."""
    table: list[list[int]] = (heat_colours(np.linspace(0, 1, 256), opacity=1) * 255).round().astype(int).tolist()
    return table
