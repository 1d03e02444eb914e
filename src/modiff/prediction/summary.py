"""What a set of samples says together: mean, uncertainty, agreement, areas, presence and the distinct hypotheses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from modiff.errors import ConfigError, DataError
from modiff.types import Samples

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the area
SAME_HYPOTHESIS = 0.5  # average IoU from which samples are one hypothesis; LIDC's raters agree on a nodule by .63


@dataclass(frozen=True)
class Hypothesis:
    """One of the distinct readings that the samples show.

    probability: the summed weights of its samples. members: their indices. medoid: the index of the sample that stands
    for them, of the largest weighted mean IoU with the others. mask: that sample's (K,H,W) bool. nothing: no sample of
    it marks a pixel.
    """

    probability: float
    members: tuple[int, ...]
    medoid: int
    mask: np.ndarray
    nothing: bool


@dataclass(frozen=True)
class Summary:
    """Of N samples of one image; K foreground classes.

    mean: (K,H,W) weighted mean of the probability maps. consensus: (K,H,W) bool, the mean map's argmax (K = 1: > 0.5).
    entropy: (H,W) bits a pixel of the mean map over the K classes and the background. agreement: weighted mean IoU of
    two different samples, of those classes that either marks (1 where both mark nothing); None for one sample.
    masks: (N,K,H,W) bool, the samples by argmax or `threshold`. weights: (N,). presence: probability that a rater marks
    anything, from the model's own head or from the share of samples that mark something, as `presence_from` says.
    hypotheses: from the most to the least probable; "nothing there" is one. spacing: (row, column) mm a pixel or None.
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
    spacing: tuple[float, float] | None

    @property
    def areas(self) -> np.ndarray:
        """(N,K) pixels that each sample marks as each class."""
        return self.masks.sum((2, 3))

    @property
    def pixel_area(self) -> float | None:
        """mm² a pixel, None where the spacing is not known."""
        return None if self.spacing is None else self.spacing[0] * self.spacing[1]

    def area_quantiles(self, kind: int, *, marked: bool = False) -> np.ndarray | None:
        """Quantiles (`QUANTILES`) in pixels of class `kind`'s area over all samples, or only those that mark it.

        The smallest area whose samples and smaller ones together reach the quantile's weight; None for no sample.
        """
        areas = self.areas[:, kind]
        use = areas > 0 if marked else np.ones(len(areas), dtype=bool)
        use = use & (self.weights > 0)
        if not use.any():
            return None
        return np.quantile(areas[use], QUANTILES, weights=self.weights[use], method="inverted_cdf")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: everything but the maps."""
        return {
            "n": len(self.weights),
            "threshold": "argmax" if self.threshold is None else self.threshold,
            "spacing_mm": None if self.spacing is None else list(self.spacing),
            "presence": {"probability": self.presence, "from": self.presence_from},
            "agreement_iou": self.agreement,
            "entropy_bits": {"total": float(self.entropy.sum()), "max": float(self.entropy.max())},
            "same_hypothesis_iou": SAME_HYPOTHESIS,
            "hypotheses": [self._describe(hypothesis) for hypothesis in self.hypotheses],
            "classes": {name: self._describe_class(kind) for kind, name in enumerate(self.classes)},
            "samples": [
                {"weight": float(weight), "area_px": dict(zip(self.classes, map(int, areas), strict=True))}
                for weight, areas in zip(self.weights, self.areas, strict=True)
            ],
        }

    def _describe(self, hypothesis: Hypothesis) -> dict[str, Any]:
        areas = hypothesis.mask.sum((1, 2))
        return {
            "probability": hypothesis.probability,
            "nothing": hypothesis.nothing,
            "samples": list(hypothesis.members),
            "medoid": hypothesis.medoid,
            "area_px": dict(zip(self.classes, map(int, areas), strict=True)),
            "area_mm2": self._in_mm2(areas),
        }

    def _describe_class(self, kind: int) -> dict[str, Any]:
        marks = self.areas[:, kind] > 0
        found: dict[str, Any] = {
            "marked_by_samples": float(self.weights[marks].sum()),
            "consensus_area_px": int(self.consensus[kind].sum()),
        }
        for name, marked in (("area", False), ("area_where_marked", True)):
            pixels = self.area_quantiles(kind, marked=marked)
            for unit, factor in (("px", 1.0), ("mm2", self.pixel_area)):
                if factor is not None:
                    found[f"{name}_{unit}"] = None if pixels is None else _by_quantile(pixels * factor)
        return found

    def _in_mm2(self, areas: np.ndarray) -> dict[str, float] | None:
        if self.pixel_area is None:
            return None
        return dict(zip(self.classes, (float(area * self.pixel_area) for area in areas), strict=True))


def _by_quantile(values: np.ndarray) -> dict[str, float]:
    return {f"q{100 * q:02.0f}": float(value) for q, value in zip(QUANTILES, values, strict=True)}


def summarise(
    samples: Samples,
    *,
    classes: Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
    threshold: float | None = None,
    item: int = 0,
) -> Summary:
    """The Summary of image `item` of a batch. classes: K names. spacing: (row, column) mm. threshold: of the samples'
    masks, by default their argmax. Raises DataError for names, weights or spacing that do not fit, ConfigError for a
    threshold outside (0,1]."""
    from modiff.metrics.binarise import binarise

    if threshold is not None and not 0 < threshold <= 1:
        raise ConfigError("is not possible", field="threshold", found=threshold, expected="0 < threshold ≤ 1")
    maps = samples.maps[item].detach().cpu().float()
    weights = _weights(samples, item)
    names = _names(classes, maps.shape[1])
    masks = binarise(maps[None], threshold)[0]
    mean = _mean(maps, weights)
    iou = _sample_iou(masks)
    own = None if samples.presence is None else float(samples.presence[item])
    share = float(weights[samples.present[item].cpu()].sum())
    return Summary(
        mean=mean.float().numpy(),
        # Weights such as 1/14 do not sum exactly: a tie is background whatever the rounding.
        consensus=binarise((mean - 1e-9).clamp(min=0)[None, None], None)[0, 0].numpy(),
        entropy=entropy_bits(mean).float().numpy(),
        agreement=_agreement(iou, weights.numpy()),
        masks=masks.numpy(),
        weights=weights.numpy(),
        presence=share if own is None else own,
        presence_from="samples" if own is None else "model",
        hypotheses=group(masks.numpy(), iou, weights.numpy()),
        classes=names,
        threshold=threshold,
        spacing=_spacing(spacing),
    )


def entropy_bits(mean: Tensor) -> Tensor:
    """(K,H,W) class probabilities -> (H,W) entropy in bits, over the K classes and the background 1 − Σp."""
    background = (1 - mean.sum(0, keepdim=True)).clamp(0, 1)
    return torch.special.entr(torch.cat((background, mean))).sum(0) / math.log(2)


def group(masks: np.ndarray, iou: np.ndarray, weights: np.ndarray) -> tuple[Hypothesis, ...]:
    """Distinct hypotheses of masks (N,K,H,W) with pairwise IoU (N,N): average-linkage clusters of a mean IoU of at
    least `SAME_HYPOTHESIS`; samples that mark nothing are a group of their own. Most probable first."""
    empty = np.logical_not(masks.any((1, 2, 3)))
    groups = [np.flatnonzero(empty)] if empty.any() else []
    marked = np.flatnonzero(~empty)
    if marked.size == 1:
        groups.append(marked)
    elif marked.size > 1:
        from scipy.cluster.hierarchy import fcluster, linkage
        from scipy.spatial.distance import squareform

        distance = 1 - iou[np.ix_(marked, marked)]
        tree = linkage(squareform(distance, checks=False), method="average")
        # A hair above the cut: an average IoU of exactly the threshold belongs together whatever its rounding.
        label = fcluster(tree, 1 - SAME_HYPOTHESIS + 1e-9, criterion="distance")
        groups += [marked[label == value] for value in np.unique(label)]
    found = []
    for members in groups:
        closeness = iou[np.ix_(members, members)] @ weights[members]
        # Rounding must not decide between equals: the first of them stands for the group.
        medoid = int(members[np.flatnonzero(closeness >= closeness.max() - 1e-12)[0]])
        probability = float(weights[members].sum())
        found.append(Hypothesis(probability, tuple(members.tolist()), medoid, masks[medoid], bool(empty[medoid])))
    return tuple(sorted(found, key=lambda hypothesis: (-hypothesis.probability, hypothesis.members)))


def _mean(maps: Tensor, weights: Tensor) -> Tensor:
    """(N,K,H,W) float32 and (N,) -> (K,H,W) float64; a sample at a time, as large images fill the memory."""
    mean = torch.zeros(maps.shape[1:], dtype=torch.float64)
    for sample, weight in zip(maps, weights.tolist(), strict=True):
        mean.add_(sample, alpha=weight)
    return mean.clamp_(0, 1)


def _sample_iou(masks: Tensor) -> np.ndarray:
    """(N,K,H,W) bool -> (N,N) IoU, the mean over the classes that either of the two marks; 1 where neither marks any.

    The mean over all classes would call two disjoint marks of one class alike because they agree on the others.
    """
    from modiff.metrics.functional import pairwise_iou

    rows, columns = masks.any(3).any(1).any(0), masks.any(2).any(1).any(0)  # what nobody marks costs nothing
    small = masks[:, :, rows][:, :, :, columns]
    if small.numel() == 0:
        return np.ones((len(masks), len(masks)))
    iou = pairwise_iou(small[None], small[None])[0]
    marks = small.flatten(2).any(-1)
    either = marks[:, None] | marks[None]
    count = either.sum(-1)
    return torch.where(count > 0, (iou * either).sum(-1) / count.clamp(min=1), 1.0).numpy()


def _agreement(iou: np.ndarray, weights: np.ndarray) -> float | None:
    pair = np.outer(weights, weights)
    np.fill_diagonal(pair, 0)
    return float((pair * iou).sum() / pair.sum()) if pair.sum() > 0 else None


def _weights(samples: Samples, item: int) -> Tensor:
    weights = samples.weights[item].detach().cpu().double()
    if not torch.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise DataError("are not weights", field="weights", found=weights.tolist(), expected="≥ 0 with a sum above 0")
    return weights / weights.sum()


def _names(classes: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if classes is None:
        return tuple(f"class {kind}" for kind in range(1, count + 1)) if count > 1 else ("foreground",)
    if len(classes) != count:
        raise DataError("do not fit the samples", field="classes", found=list(classes), expected=f"{count} names")
    return tuple(map(str, classes))


def _spacing(spacing: Sequence[float] | None) -> tuple[float, float] | None:
    if spacing is None:
        return None
    if len(spacing) != 2 or not all(math.isfinite(value) and value > 0 for value in spacing):
        raise DataError("is not possible", field="spacing", found=spacing, expected="two lengths in mm above 0")
    return float(spacing[0]), float(spacing[1])
