"""torchmetrics classes over the functional core: they only collect, so processes reduce as torchmetrics does.

`update` takes probability maps (or masks) of samples (B,N,K,H,W), masks (B,R,K,H,W), read (B,R) or None and, where the
metric has weights, weights (B,N) or None. Values are kept one an image; `compute` gives for each name of the metric its
mean over the images where it is defined, and the numbers of images and of undefined values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from modiff.errors import MetricError
from modiff.metrics import functional as F
from modiff.metrics.functional.calibration import BINS
from modiff.metrics.protocols import Protocol, protocol


class PerImageMetric(Metric):
    """Base: lists of values one an image, concatenated over processes.

    names: of the values. reduction "summary": `compute` returns {name: mean, name_images: n, name_undefined: n};
    "none": {name: (images,) float64}, in the order of processes and then of updates.
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False

    def __init__(
        self, names: Iterable[str], reduction: Literal["summary", "none"] = "summary", **torchmetrics: Any
    ) -> None:
        super().__init__(**torchmetrics)
        if reduction not in ("summary", "none"):
            raise MetricError("no such reduction", field="reduction", found=reduction, expected="summary or none")
        self.set_dtype(torch.float64)  # also of the empty state of a process that got no images
        self.names, self.reduction = tuple(names), reduction
        for name in self.names:
            self.add_state(f"values_{name}", default=[], dist_reduce_fx="cat")

    def per_image(
        self, samples: Tensor, masks: Tensor, read: Tensor | None, weights: Tensor | None
    ) -> dict[str, Tensor]:
        """Each name's (B,) values of one batch."""
        raise NotImplementedError

    def update(self, samples: Tensor, masks: Tensor, read: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Adds a batch; raises MetricError."""
        for name, values in self.per_image(samples, masks, read, weights).items():
            getattr(self, f"values_{name}").append(values.double())

    def compute(self) -> dict[str, Tensor]:
        """The summary, or the values themselves; see the class."""
        found: dict[str, Tensor] = {}
        for name in self.names:
            values = self._collected(name)
            if self.reduction == "none":
                found[name] = values
                continue
            undefined = values.isnan()
            found[name] = values[~undefined].mean()
            found[f"{name}_images"] = torch.tensor(len(values))
            found[f"{name}_undefined"] = undefined.sum()
        return found

    def _collected(self, name: str) -> Tensor:
        """(images,) values: a list before processes are reduced, a tensor after."""
        state = getattr(self, f"values_{name}")
        if isinstance(state, Tensor):
            return state
        return torch.cat(state) if state else torch.zeros(0, dtype=torch.float64, device=self.device)


class _UnderProtocol(PerImageMetric):
    """A metric whose conventions a protocol names, for the first n samples for each n asked for."""

    kinds: tuple[str, ...]

    def __init__(
        self,
        protocol_name: str,
        *,
        threshold: float | None = None,
        n: int | Iterable[int] | None = None,
        reduction: Literal["summary", "none"] = "summary",
        **torchmetrics: Any,
    ) -> None:
        self.n = None if n is None else (n,) if isinstance(n, int) else tuple(n)
        names = self.kinds if self.n is None else tuple(f"{kind}_{n}" for kind in self.kinds for n in self.n)
        super().__init__(names, reduction, **torchmetrics)
        self.protocol: Protocol = protocol(protocol_name)
        self.threshold = threshold

    def _values(self, pairs: F.PairwiseDistances, weights: Tensor | None) -> dict[str, Tensor]:
        raise NotImplementedError

    def per_image(
        self, samples: Tensor, masks: Tensor, read: Tensor | None, weights: Tensor | None
    ) -> dict[str, Tensor]:
        pairs = F.PairwiseDistances.of(self.protocol.binarise(samples, self.threshold), masks, read=read)
        if self.n is None:
            return self._values(pairs, weights)
        values: dict[str, Tensor] = {}
        for n in self.n:
            first = None if weights is None else weights[:, :n]
            values |= {f"{kind}_{n}": value for kind, value in self._values(pairs.subset(n), first).items()}
        return values


class EnergyDistance(_UnderProtocol):
    """GED under a protocol ("standard": V, "paper": U), of all samples or the first n; see `functional.ged`."""

    higher_is_better = False
    kinds = ("ged",)

    def _values(self, pairs: F.PairwiseDistances, weights: Tensor | None) -> dict[str, Tensor]:
        return {"ged": pairs.ged(estimator=self.protocol.ged_estimator, weights=weights)}


class HungarianIoU(_UnderProtocol):
    """HM-IoU under a protocol ("standard": optimal, "paper": greedy, no weights); see `functional.hm_iou`."""

    higher_is_better = True
    kinds = ("hm_iou",)

    def _values(self, pairs: F.PairwiseDistances, weights: Tensor | None) -> dict[str, Tensor]:
        return {"hm_iou": pairs.hm_iou(matching=self.protocol.matching, weights=weights)}


class SampleSetMetrics(_UnderProtocol):
    """GED, HM-IoU, both diversities, D_max and the i.i.d. reference from one count of the overlaps."""

    kinds = ("ged", "hm_iou", "sample_diversity", "rater_diversity", "dmax", "iid_reference")

    def _values(self, pairs: F.PairwiseDistances, weights: Tensor | None) -> dict[str, Tensor]:
        estimator = self.protocol.ged_estimator
        return {
            "ged": pairs.ged(estimator=estimator, weights=weights),
            "hm_iou": pairs.hm_iou(matching=self.protocol.matching, weights=weights),
            "sample_diversity": pairs.sample_diversity(estimator=estimator, weights=weights),
            "rater_diversity": pairs.rater_diversity(estimator=estimator),
            "dmax": pairs.dmax(),
            "iid_reference": pairs.iid_reference(pairs.n, estimator=estimator),
        }


class CrossCorrelation(PerImageMetric):
    """NCC under a protocol ("standard": pixels, "paper": rows) of the maps as they are; see `functional.ncc`.

    ncc_degenerate is the number of readers an image whose correlation was settled by rule.
    """

    higher_is_better = True

    def __init__(self, protocol_name: str, **options: Any) -> None:
        super().__init__(("ncc", "ncc_degenerate"), **options)
        self.protocol: Protocol = protocol(protocol_name)

    def per_image(
        self, samples: Tensor, masks: Tensor, read: Tensor | None, weights: Tensor | None
    ) -> dict[str, Tensor]:
        _no_weights(weights)
        result = F.ncc_result(samples, masks, read=read, kind=self.protocol.ncc)
        return {"ncc": result.value, "ncc_degenerate": result.degenerate}


class Insight(PerImageMetric):
    """CI and its three parts at a protocol's threshold; see `functional.collective_insight`."""

    higher_is_better = True

    def __init__(self, protocol_name: str, *, threshold: float | None = None, **options: Any) -> None:
        super().__init__(("ci", "ci_sensitivity", "ci_dmax", "ci_agreement"), **options)
        self.protocol: Protocol = protocol(protocol_name)
        self.threshold = threshold

    def per_image(
        self, samples: Tensor, masks: Tensor, read: Tensor | None, weights: Tensor | None
    ) -> dict[str, Tensor]:
        _no_weights(weights)
        parts = F.collective_insight(self.protocol.binarise(samples, self.threshold), masks, read=read)
        return dict(zip(self.names, parts, strict=True))


class MeanMapMetrics(PerImageMetric):
    """Soft Dice, Brier score, NCC and AUROC of the uncertainty map, of the samples' mean map as it is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(("soft_dice", "brier", "uncertainty_ncc", "uncertainty_auroc"), **options)

    def per_image(
        self, samples: Tensor, masks: Tensor, read: Tensor | None, weights: Tensor | None
    ) -> dict[str, Tensor]:
        functions = (F.soft_dice, F.brier, F.uncertainty_ncc, F.uncertainty_auroc)
        values = (function(samples, masks, read=read, weights=weights) for function in functions)
        return dict(zip(self.names, values, strict=True))


class ConsensusSurface(PerImageMetric):
    """HD95 and average surface distance, in pixels, of the majorities; see `functional.surface_distances`."""

    higher_is_better = False

    def __init__(self, protocol_name: str, *, threshold: float | None = None, **options: Any) -> None:
        super().__init__(("hd95", "average_surface_distance"), **options)
        self.protocol: Protocol = protocol(protocol_name)
        self.threshold = threshold

    def per_image(
        self, samples: Tensor, masks: Tensor, read: Tensor | None, weights: Tensor | None
    ) -> dict[str, Tensor]:
        _no_weights(weights)
        distances = F.surface_distances(self.protocol.binarise(samples, self.threshold), masks, read=read)
        return dict(zip(self.names, distances, strict=True))


class CalibrationError(Metric):
    """Expected calibration error of the mean map, pooled over the images of all processes; see `functional`.

    The state is sums, so its size does not grow with the data. `compute` returns {"ece", "ece_images",
    "ece_undefined"}, the last two the images scored and those that nobody read.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    sums: Tensor
    images: Tensor

    def __init__(self, classes: int, bins: int = BINS, **torchmetrics: Any) -> None:
        super().__init__(**torchmetrics)
        self.bins = bins
        self.add_state("sums", torch.zeros(classes, bins, 3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, samples: Tensor, masks: Tensor, read: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Adds a batch; raises MetricError."""
        sums = F.calibration_bins(samples, masks, read=read, weights=weights, bins=self.bins)
        if sums.shape[1:] != self.sums.shape:
            raise MetricError("another number of classes", found=sums.shape[1], expected=self.sums.shape[0])
        unread = sums.isnan().flatten(1).any(1)
        self.sums += sums[~unread].sum(0)
        self.images += torch.stack([(~unread).sum(), unread.sum()])

    def compute(self) -> dict[str, Tensor]:
        """The pooled error and the number of images it is of."""
        error = F.pooled_calibration_error(self.sums[None])
        return {"ece": error, "ece_images": self.images[0], "ece_undefined": self.images[1]}


class PresenceCalibration(PerImageMetric):
    """Calibration over images of the share of samples that mark anything; see `functional.presence_shares`.

    The summary adds "presence_ece", the calibration error over images.
    """

    higher_is_better = False

    def __init__(self, protocol_name: str, *, threshold: float | None = None, bins: int = BINS, **options: Any) -> None:
        super().__init__(("presence_samples", "presence_raters"), **options)
        self.protocol: Protocol = protocol(protocol_name)
        self.threshold, self.bins = threshold, bins

    def per_image(
        self, samples: Tensor, masks: Tensor, read: Tensor | None, weights: Tensor | None
    ) -> dict[str, Tensor]:
        binary = self.protocol.binarise(samples, self.threshold)
        return dict(zip(self.names, F.presence_shares(binary, masks, read=read, weights=weights), strict=True))

    def compute(self) -> dict[str, Tensor]:
        """As the base; with the summary also the calibration error."""
        found = super().compute()
        if self.reduction == "summary":
            shares = F.Presence(*(self._collected(name) for name in self.names))
            found["presence_ece"] = F.presence_calibration_error(shares, self.bins)
        return found


def _no_weights(weights: Tensor | None) -> None:
    if weights is not None:
        raise MetricError("this metric has no weighted form", field="weights", expected="None")
