"""What the hypotheses of a scan say together: volumes in mm³, presence, agreement and the distinct hypotheses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modiff.prediction.region import Box
from modiff.prediction.summary import QUANTILES, SAME_HYPOTHESIS, Hypothesis, Summary, summarise
from modiff.prediction.volumes import VolumeSamples
from modiff.types import Samples


@dataclass(frozen=True)
class VolumeSummary:
    """Of N samples of a scan, within `box`; K foreground classes.

    flat: the summary of the box's slices one below the other (z·h rows): means, masks and IoU do not ask where a voxel
    lies. voxel_mm3: volume of a voxel. spacing: (slice, row, column) mm.
    """

    flat: Summary
    box: Box
    voxel_mm3: float
    spacing: tuple[float, float, float]

    @property
    def mean(self) -> np.ndarray:
        """(K,z,h,w) float32, the weighted mean of the probability maps."""
        return self._stacked(self.flat.mean)

    @property
    def consensus(self) -> np.ndarray:
        """(K,z,h,w) bool, the mean map's argmax (K = 1: > 0.5)."""
        return self._stacked(self.flat.consensus)

    @property
    def entropy(self) -> np.ndarray:
        """(z,h,w) float32 bits a voxel of the mean map."""
        return self._stacked(self.flat.entropy)

    @property
    def masks(self) -> np.ndarray:
        """(N,K,z,h,w) bool, the samples by argmax or threshold."""
        return self._stacked(self.flat.masks)

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """From the most to the least probable; `mask_of` gives a hypothesis' mask."""
        return self.flat.hypotheses

    def mask_of(self, hypothesis: Hypothesis) -> np.ndarray:
        """(K,z,h,w) bool."""
        return self._stacked(hypothesis.mask)

    def volumes_mm3(self, hypothesis: Hypothesis) -> dict[str, float]:
        """mm³ that a hypothesis marks as each class."""
        counts = hypothesis.mask.sum((1, 2))
        return {name: self._mm3(count) for name, count in zip(self.flat.classes, counts, strict=True)}

    def key_slice(self) -> int:
        """The slice of the scan on which the samples mark most; the box's middle one where they mark nothing."""
        marked = self.flat.weights @ self.masks.sum((1, 3, 4))
        low, high = self.box.spans[0]
        return low + (int(marked.argmax()) if marked.max() > 0 else (high - low) // 2)

    def of_slice(self, samples: VolumeSamples, z: int) -> Summary:
        """The summary of slice z of the scan by itself, its maps in the frame of the whole slice."""
        maps = samples.maps[:, :, z - self.box.spans[0][0]].numpy()
        whole = np.zeros((*maps.shape[:2], *self.box.shape[1:]), np.float32)
        whole[(..., *self.box.slices[1:])] = maps
        drawn = Samples.uniform(torch.from_numpy(whole)[None])
        drawn.weights = samples.weights[None]
        flat = self.flat
        return summarise(drawn, classes=flat.classes, spacing=self.spacing[1:], threshold=flat.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: everything but the maps."""
        flat = self.flat
        return {
            "n": len(flat.weights),
            "threshold": "argmax" if flat.threshold is None else flat.threshold,
            "spacing_mm": dict(zip(("slice", "row", "column"), self.spacing, strict=True)),
            "voxel_mm3": self.voxel_mm3,
            "presence": {"probability": flat.presence, "from": flat.presence_from},
            "agreement_iou": flat.agreement,
            "entropy_bits": {"total": float(flat.entropy.sum()), "max": float(flat.entropy.max())},
            "same_hypothesis_iou": SAME_HYPOTHESIS,
            "hypotheses": [self._describe(hypothesis) for hypothesis in flat.hypotheses],
            "classes": {name: self._describe_class(kind) for kind, name in enumerate(flat.classes)},
            "samples": [
                {"weight": float(weight), "volume_mm3": dict(zip(flat.classes, map(self._mm3, counts), strict=True))}
                for weight, counts in zip(flat.weights, flat.areas, strict=True)
            ],
        }

    def _describe(self, hypothesis: Hypothesis) -> dict[str, Any]:
        counts = hypothesis.mask.sum((1, 2))
        return {
            "probability": hypothesis.probability,
            "nothing": hypothesis.nothing,
            "samples": list(hypothesis.members),
            "medoid": hypothesis.medoid,
            "voxels": dict(zip(self.flat.classes, map(int, counts), strict=True)),
            "volume_mm3": self.volumes_mm3(hypothesis),
        }

    def _describe_class(self, kind: int) -> dict[str, Any]:
        counts, weights = self.flat.areas[:, kind], self.flat.weights
        mean = float(np.average(counts, weights=weights))
        spread = float(np.sqrt(np.average((counts - mean) ** 2, weights=weights)))
        found: dict[str, Any] = {
            "marked_by_samples": float(weights[counts > 0].sum()),
            "consensus_mm3": self._mm3(self.flat.consensus[kind].sum()),
            "mean_map_mm3": self._mm3(float(self.flat.mean[kind].sum(dtype=np.float64))),
            "mean_mm3": self._mm3(mean),
            "standard_deviation_mm3": self._mm3(spread),
        }
        for name, marked in (("volume_mm3", False), ("volume_where_marked_mm3", True)):
            sizes = self.flat.area_quantiles(kind, marked=marked)
            named = None if sizes is None else zip(QUANTILES, sizes, strict=True)
            found[name] = None if named is None else {f"q{100 * q:02.0f}": self._mm3(size) for q, size in named}
        return found

    def _mm3(self, voxels: float) -> float:
        return float(voxels) * self.voxel_mm3

    def _stacked(self, values: np.ndarray) -> np.ndarray:
        """(…,z·h,w) -> (…,z,h,w)."""
        return values.reshape(*values.shape[:-2], *self.box.size)


def summarise_volume(
    samples: VolumeSamples,
    *,
    voxel_mm3: float,
    spacing: Sequence[float],
    classes: Sequence[str] | None = None,
    threshold: float | None = None,
) -> VolumeSummary:
    """The VolumeSummary of samples of a scan whose voxels have `voxel_mm3` and `spacing` (slice, row, column) mm; the
    other settings and errors are those of `summarise`."""
    maps = samples.maps
    drawn = Samples(
        maps.reshape(1, *maps.shape[:2], -1, maps.shape[-1]),
        samples.weights[None],
        samples.present[None],
        presence=None if samples.presence is None else torch.tensor([samples.presence]),
    )
    flat = summarise(drawn, classes=classes, threshold=threshold)
    part, row, column = (float(value) for value in spacing)
    return VolumeSummary(flat, samples.plan.box, float(voxel_mm3), (part, row, column))
