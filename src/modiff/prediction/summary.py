"""What a set of samples says together: mean, uncertainty, agreement, sizes, presence and the distinct hypotheses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from modiff import notebook
from modiff.config.evaluation import DISTINCT
from modiff.errors import ConfigError, DataError
from modiff.prediction.hypotheses import Hypothesis, Overlaps, group
from modiff.types import Samples
from modiff.viz.figures import COLOURS, CloseUp, Contour, close_up, contact_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of areas and volumes
_UNITS = {"area_px": "px", "area_mm2": "mm²", "volume_mm3": "mm³"}  # what sizes are called in JSON, and in words
ML = 1000  # mm³: from here on volumes are said in ml


@dataclass(frozen=True)
class Summary:
    """Of N samples of one image or scan; K foreground classes. "…" is (H,W) of an image, (z,h,w) of a scan.

    mean: (K,…) weighted mean of the probability maps. consensus: (K,…) bool, the mean map's argmax (K = 1: > 0.5).
    entropy: (…) bits per pixel of the mean map over the K classes and the background. agreement: weighted mean IoU of
    two different samples, of those classes that either marks (1 where both mark nothing); None for one sample.
    masks: (N,K,…) bool, the samples by argmax or `threshold`. weights: (N,). candidates: how many a representative set
    was chosen from, else None. Of such a set mean, consensus, entropy and presence are those of all candidates, and
    weights the fractions of them that each sample stands for. presence: probability that a rater marks
    anything, from the model's own head or from the fraction of samples that mark something, as `presence_from` says.
    hypotheses: from the most to the least probable; "nothing there" is one, of 1 − presence; those that mark something
    share presence by their samples. distinct: as `summarise` takes it.
    spacing: mm of a pixel (row, column), or None where it is not known; of a voxel (slice, row, column). voxel_mm3:
    volume of a voxel; None of an image.
    """

    mean: np.ndarray
    consensus: np.ndarray
    entropy: np.ndarray
    agreement: float | None
    masks: np.ndarray
    weights: np.ndarray
    presence: float
    presence_from: Literal["model", "samples"]
    hypotheses: tuple[Hypothesis, ...]
    classes: tuple[str, ...]
    threshold: float | None
    distinct: float
    spacing: tuple[float, ...] | None
    voxel_mm3: float | None = None
    candidates: int | None = None

    def __repr__(self) -> str:
        found = (f"{percent(one.probability)} {self.size_text(one)}" for one in self.hypotheses)
        return f"Summary(presence {percent(self.presence)}, {len(self.masks)} samples; {'; '.join(found)})"

    def _repr_html_(self) -> str:
        return self.card("Summary")

    def card(self, title: str, image: np.ndarray | None = None) -> str:
        """HTML: what the samples say together, and `plot`."""
        facts = {"a rater marks anything": f"{percent(self.presence)} (from the {self.presence_from})"}
        if self.agreement is not None:
            facts["agreement of two samples (mean IoU)"] = f"{self.agreement:.2f}"
        for number, one in enumerate(self.hypotheses, 1):
            facts[f"hypothesis {number}"] = f"{percent(one.probability)}: {self.size_text(one)}"
        return notebook.card(title, facts, self.plot(image))

    def plot(self, image: np.ndarray | None = None) -> Figure:
        """Mean map, uncertainty, and each hypothesis with its probability and size; of a scan on its key slice.

        image: (H,W) or (C,H,W) in [0,1], of a scan (…,z,H,W), to draw on; by default black.
        """
        z = () if self.entropy.ndim == 2 else (self.key_slice(),)
        cut = (Ellipsis, *z, slice(None), slice(None))
        mean, entropy = self.mean[cut], self.entropy[cut]
        ground = np.zeros_like(entropy) if image is None else np.asarray(image, dtype=np.float32)[cut]
        if ground.shape[-2:] != entropy.shape:
            raise DataError("has another size", field="image", found=ground.shape, expected=entropy.shape)
        close = CloseUp(ground, close_up(np.asarray(self.masks[cut].any((0, 1))), least=32))
        first = [
            close.whole(title="image" if image is not None else "close-up"),
            close.probability(np.clip(mean.sum(0), 0, 1), "mean map"),
            close.heat(entropy, math.log2(len(mean) + 1), "uncertainty"),
        ]
        second, colours = [], cycle(COLOURS)
        for one in self.hypotheses[:8]:
            outline = () if one.nothing else (Contour(one.mask[cut], next(colours)),)
            second.append(close.contours(*outline, title=f"{percent(one.probability)} {self.size_text(one)}"))
        return notebook.displayed(contact_sheet([first, second], inches=1.7))

    @property
    def set_weights(self) -> np.ndarray:
        """(N,) of the samples as a set that is scored: equal ones of a representative set."""
        count = len(self.weights)
        return self.weights if self.candidates is None else np.full(count, 1 / count)

    @cached_property
    def areas(self) -> np.ndarray:
        """(N,K) pixels, or voxels, that each sample marks as each class."""
        found: np.ndarray = self.masks.sum(tuple(range(2, self.masks.ndim)))
        return found

    @property
    def marking(self) -> float:
        """The weighted fraction of samples that mark something."""
        return float(self.weights[self.areas.any(1)].sum())

    @property
    def presence_source(self) -> str:
        """Where `presence` comes from, in words."""
        counted = "samples" if self.candidates is None else "candidates"
        own = f"model's own; {percent(self.marking)} of {counted} do"
        return own if self.presence_from == "model" else f"fraction of {counted}"

    @property
    def unseen(self) -> tuple[float, str] | None:
        """The probability of what no sample shows, and what that is: the model's presence knows of it."""
        rest = 1 - sum(hypothesis.probability for hypothesis in self.hypotheses)
        marked = all(hypothesis.nothing for hypothesis in self.hypotheses)
        return (rest, "marks that no sample shows" if marked else "nothing there") if rest > 1e-6 else None

    @property
    def pixel_area(self) -> float | None:
        """mm² of a pixel, None where the spacing is not known."""
        return None if self.spacing is None else self.spacing[-2] * self.spacing[-1]

    def size_text(self, hypothesis: Hypothesis) -> str:
        """What the samples of a hypothesis mark, in words."""
        members = list(hypothesis.members)
        text = self.sizes_text(_quantiles(np.asarray(hypothesis.sizes), self.weights[members]))
        return "nothing there" if hypothesis.nothing else text

    def sizes_text(self, quantiles: np.ndarray) -> str:
        """Quantiles (`QUANTILES`) of pixels or voxels as "median (5 %–95 %) unit", where they differ.

        In mm³ of a scan, or ml where a sample marks that much, else in mm² where known, else px.
        """
        name, factor = next((name, factor) for name, factor in reversed(self._scales.items()) if factor is not None)
        unit, size = _UNITS[name], float(factor)
        largest = max(max(hypothesis.sizes) for hypothesis in self.hypotheses)
        if unit == "mm³" and largest * size >= ML:
            unit, size = "ml", size / ML
        low, _, middle, _, high = (size_number(value, unit) for value in quantiles * size)
        return f"{middle} {unit}" if low == high else f"{middle} ({low}–{high}) {unit}"

    def key_slice(self) -> int:
        """The slice of a scan's maps on which the samples mark most; the middle one where they mark nothing."""
        marked = self.weights @ self.masks.sum((1, 3, 4))
        return int(marked.argmax()) if marked.max() > 0 else len(marked) // 2

    def area_quantiles(self, kind: int, *, marked: bool = False) -> np.ndarray | None:
        """Quantiles (`QUANTILES`) in pixels or voxels of class `kind` over all samples, or only those that mark it.

        None for no sample.
        """
        areas = self.areas[:, kind]
        use = (areas > 0 if marked else True) & (self.weights > 0)
        return _quantiles(areas[use], self.weights[use]) if use.any() else None

    def extremes(self) -> dict[str, Any]:
        """Plain data: by unit and class, how much all samples mark together (the consensus of a cohort's table) and
        how much any of them marks (with what is in dispute)."""
        drawn = self.masks[self.weights > 0]
        sides = tuple(range(1, drawn.ndim - 1))
        return {
            "all_samples": self._sizes(drawn.all(0).sum(sides)),
            "any_sample": self._sizes(drawn.any(0).sum(sides)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: everything but the maps."""
        size, count = "area_px", len(self.weights)
        stands_for: list[dict[str, float]] = [{}] * count
        if self.candidates is not None:
            stands_for = [{"stands_for": fraction} for fraction in self.weights.tolist()]
        scale: dict[str, Any] = {"spacing_mm": self.spacing and list(self.spacing)}
        if self.voxel_mm3 is not None:
            spacing = dict(zip(("slice", "row", "column"), self.spacing or (), strict=True))
            size, scale = "volume_mm3", {"spacing_mm": spacing, "voxel_mm3": self.voxel_mm3}
        return {
            "n": count,
            **({} if self.candidates is None else {"candidates": self.candidates}),
            "threshold": "argmax" if self.threshold is None else self.threshold,
            **scale,
            "presence": {"probability": self.presence, "from": self.presence_from, "of_samples": self.marking},
            "agreement_iou": self.agreement,
            "entropy_bits": {"total": float(self.entropy.sum()), "max": float(self.entropy.max())},
            "distinct_px": self.distinct,
            "hypotheses": [
                {
                    "probability": hypothesis.probability,
                    "nothing": hypothesis.nothing,
                    "samples": list(hypothesis.members),
                    "medoid": hypothesis.medoid,
                    **self._sizes(self.areas[hypothesis.medoid]),
                    "spread": self._spread(list(hypothesis.members)),
                }
                for hypothesis in self.hypotheses
            ],
            "classes": {name: self._describe_class(kind) for kind, name in enumerate(self.classes)},
            "samples": [
                {"weight": float(weight), **own, size: self._sizes(counts)[size]}
                for weight, own, counts in zip(self.set_weights, stands_for, self.areas, strict=True)
            ],
        }

    @property
    def _scales(self) -> dict[str, float | None]:
        """What sizes are called in JSON, and how large a pixel or voxel is in it; None where that is not known."""
        if self.voxel_mm3 is not None:
            return {"voxels": 1, "volume_mm3": self.voxel_mm3}
        return {"area_px": 1, "area_mm2": self.pixel_area}

    def _sizes(self, counts: np.ndarray) -> dict[str, dict[str, float] | None]:
        """Pixels or voxels (K,) in each unit, by class."""
        named = dict(zip(self.classes, map(int, counts), strict=True))
        return {
            unit: None if factor is None else {name: count * factor for name, count in named.items()}
            for unit, factor in self._scales.items()
        }

    def _describe_class(self, kind: int) -> dict[str, Any]:
        counts, weights, consensus = self.areas[:, kind], self.weights, int(self.consensus[kind].sum())
        found: dict[str, Any] = {"marked_by_samples": float(weights[counts > 0].sum())}
        if self.voxel_mm3 is None:
            found["consensus_area_px"] = consensus
        else:
            mean = float(np.average(counts, weights=weights))
            voxels = {
                "consensus_mm3": consensus,
                "mean_map_mm3": float(self.mean[kind].sum(dtype=np.float64)),
                "mean_mm3": mean,
                "standard_deviation_mm3": float(np.sqrt(np.average((counts - mean) ** 2, weights=weights))),
            }
            found |= {name: float(size) * self.voxel_mm3 for name, size in voxels.items()}
        for marked in (False, True):
            for name, sizes in self._named(self.area_quantiles(kind, marked=marked)).items():
                found[name.replace("_", "_where_marked_") if marked else name] = sizes
        return found

    def _spread(self, members: list[int]) -> dict[str, dict[str, Any]]:
        """Quantiles of what these samples mark, by class and unit."""
        weights = self.weights[members]
        return {
            name: self._named(_quantiles(self.areas[members, kind], weights)) for kind, name in enumerate(self.classes)
        }

    def _named(self, quantiles: np.ndarray | None) -> dict[str, dict[str, float] | None]:
        """Quantiles of pixels or voxels in each unit, by their names."""
        units = {name: float(factor) for name, factor in self._scales.items() if name in _UNITS and factor is not None}
        if quantiles is None:
            return dict.fromkeys(units)
        names = [f"q{100 * q:02.0f}" for q in QUANTILES]
        return {unit: dict(zip(names, (quantiles * factor).tolist(), strict=True)) for unit, factor in units.items()}


def _quantiles(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The smallest count that together with smaller ones reaches the quantile's weight; equal weights if all are 0."""
    weights = weights if weights.any() else np.ones(len(weights))
    found: np.ndarray = np.quantile(counts, QUANTILES, weights=weights, method="inverted_cdf")
    return found


def _sharing(found: Sequence[Hypothesis], presence: float) -> tuple[Hypothesis, ...]:
    """Hypotheses by a model's own presence: "nothing there" has the rest, the others share it by their samples."""
    marked = sum(hypothesis.probability for hypothesis in found if not hypothesis.nothing)
    shared = [
        replace(one, probability=1 - presence if one.nothing else one.probability * presence / (marked or 1))
        for one in found
    ]
    return tuple(sorted(shared, key=lambda hypothesis: (-hypothesis.probability, hypothesis.members)))


def percent(probability: float) -> str:
    """A probability in whole percent; a small one is not rounded to none, nor a large one to certainty."""
    if 0 < probability < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < probability < 1 - 1e-9 else f"{100 * probability:.0f} %"


def size_number(size: float, unit: str) -> str:
    """A size as it is shown: a whole number from 10 on, two digits below, the second of pixels only where not 0."""
    exponent = int(f"{size:.1e}".partition("e")[2])  # after rounding: 9.96 is shown as 10
    text = f"{size:.{max(0, 1 - exponent)}f}" if size else "0"
    return text.rstrip("0").rstrip(".") if unit == "px" and "." in text else text


def summarise(
    samples: Samples,
    *,
    classes: Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
    voxel_mm3: float | None = None,
    threshold: float | None = None,
    distinct: float = DISTINCT,
    item: int = 0,
) -> Summary:
    """The Summary of item `item` of a batch: of an image with maps (B,N,K,H,W), or of a scan with (B,N,K,z,h,w).

    classes: K names. spacing: mm of a pixel (row, column) or voxel (slice, row, column), which a scan needs. voxel_mm3:
    volume of a voxel, by default that of a right-angled one. threshold: of the samples' masks, by default their argmax.
    distinct: pixels between the outlines of two hypotheses, on average along them (`hypotheses.group`).
    Raises DataError for names, weights or spacing that do not fit, ConfigError for a threshold outside (0,1] or a
    distance that is not above 0.
    """
    from modiff.metrics.functional import uncertainty_map
    from modiff.metrics.protocols import binarise

    maps = samples.maps[item].detach().cpu().float()
    frame = tuple(maps.shape[2:])
    _check(len(frame), maps.shape[1], classes, spacing, threshold, distinct)
    if len(frame) == 3 and voxel_mm3 is None:
        voxel_mm3 = math.prod(spacing or ())
    if classes is None:
        classes = [f"class {kind}" for kind in range(1, maps.shape[1] + 1)] if maps.shape[1] > 1 else ["foreground"]
    pool = samples.pool
    weights = (samples.weights if pool is None else pool.fractions)[item].detach().cpu().double()
    if not torch.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise DataError("are not weights", field="weights", found=weights.tolist(), expected="≥ 0 with a sum above 0")
    weights = weights / weights.sum()
    maps = maps.flatten(2, -2)  # slices one below the other: what follows does not ask where a voxel lies
    if pool is None:
        mean = torch.zeros(maps.shape[1:], dtype=torch.float64)
        for sample, weight in zip(maps, weights.tolist(), strict=True):  # one by one, as large images fill the memory
            mean.add_(sample, alpha=weight)
    else:
        mean = pool.mean[item].detach().cpu().double().flatten(1, -2)
    mean.clamp_(0, 1)
    flat = binarise(maps[None], threshold)[0]
    overlaps, pairs = Overlaps.of(flat), np.outer(weights.numpy(), weights.numpy())
    np.fill_diagonal(pairs, 0)
    own = None if samples.presence is None else min(max(float(samples.presence[item]), 0.0), 1.0)
    marking = float(weights[flat.flatten(1).any(1)].sum())
    if pool is not None and threshold is None:
        marking = float(pool.marking[item])

    def shaped(values: Tensor) -> np.ndarray:
        return values.numpy().reshape(*values.shape[:-2], *frame)

    masks = shaped(flat)
    found = group(masks, overlaps, weights.numpy(), distinct=distinct, spacing=spacing)
    return Summary(
        mean=shaped(mean.float()),
        # Weights such as 1/14 do not sum exactly: a tie is background whatever the rounding.
        consensus=shaped(binarise((mean - 1e-9).clamp(min=0)[None, None], None)[0, 0]),
        entropy=shaped((uncertainty_map(mean[None], "entropy")[0] / math.log(2)).float()),
        agreement=float((pairs * overlaps.mean).sum() / pairs.sum()) if pairs.sum() > 0 else None,
        masks=masks,
        weights=weights.numpy(),
        presence=marking if own is None else own,
        presence_from="samples" if own is None else "model",
        hypotheses=found if own is None and pool is None else _sharing(found, marking if own is None else own),
        classes=tuple(map(str, classes)),
        threshold=threshold,
        distinct=distinct,
        spacing=None if spacing is None else tuple(map(float, spacing)),
        voxel_mm3=voxel_mm3,
        candidates=None if pool is None else pool.count,
    )


def _check(
    sides: int,
    count: int,
    classes: Sequence[str] | None,
    spacing: Sequence[float] | None,
    threshold: float | None,
    distinct: float,
) -> None:
    """Raises an error for what does not fit maps of so many sides and classes."""
    if not 0 < distinct < math.inf:
        raise ConfigError("is out of range", field="distinct", found=distinct, expected="more than 0 pixels")
    if threshold is not None and not 0 < threshold <= 1:
        raise ConfigError("is out of range", field="threshold", found=threshold, expected="0 < threshold ≤ 1")
    if classes is not None and len(classes) != count:
        raise DataError("do not fit the samples", field="classes", found=list(classes), expected=f"{count} names")
    if spacing is None and sides == 2:
        return
    if spacing is None or len(spacing) != sides or not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        expected = f"{sides} lengths in mm above 0"
        raise DataError("is not possible", field="spacing", found=spacing, expected=expected)
