"""torchmetrics classes of the registry's metrics: they only collect, so processes reduce as torchmetrics does.

`update` takes probability maps (or masks) of samples (B,N,K,H,W), masks (B,R,K,H,W), read (B,R) or None and, where the
metrics have a weighted form, weights (B,N) or None. One value per image is kept; `compute` gives for each name its mean
over the images where it is defined, and the numbers of images and of undefined values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from modiff.errors import MetricError
from modiff.metrics import functional as F
from modiff.metrics.functional.maps import BINS
from modiff.metrics.protocols import PROTOCOLS, Protocol, SampleSet, protocol
from modiff.metrics.registry import COLUMNS, METRICS, values


class RegistryMetric(Metric):
    """Metrics of the registry under a protocol, one value per image, concatenated over processes.

    threshold: where masks are made, None is the protocol's own. n: the first n samples, for each n given; names are
    then "<name>_<n>". reduction "summary": `compute` returns {name: mean, name_images: n, name_undefined: n}; "none":
    {name: (images,) float64}, in the order of processes and then of updates.
    A subclass says which metrics; `extra` are names that its `per_set` adds to their columns.
    """

    metrics: ClassVar[tuple[str, ...]]
    extra: ClassVar[tuple[str, ...]]
    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False

    def __init_subclass__(cls, *, metrics: Iterable[str] = (), extra: Iterable[str] = (), **more: Any) -> None:
        """Which metrics, by default the base's, and which side is better, where that is the same for all of them."""
        super().__init_subclass__(**more)
        if metrics:
            cls.metrics, cls.extra = tuple(metrics), tuple(extra)
        sides = {column.higher_is_better for name in cls.metrics for column in METRICS[name].outputs} - {None}
        cls.higher_is_better = sides.pop() if len(sides) == 1 else None

    def __init__(
        self,
        protocol_name: str,
        *,
        threshold: float | None = None,
        n: int | Iterable[int] | None = None,
        reduction: Literal["summary", "none"] = "summary",
        **torchmetrics: Any,
    ) -> None:
        super().__init__(**torchmetrics)
        if reduction not in ("summary", "none"):
            raise MetricError("no such reduction", field="reduction", found=reduction, expected="summary or none")
        self.set_dtype(torch.float64)  # also of the empty state of a process that got no images
        self.protocol: Protocol = protocol(protocol_name)
        self.threshold = self.protocol.threshold if threshold is None else threshold
        self.n = (n,) if isinstance(n, int) else None if n is None else tuple(n)
        self.reduction = reduction
        kinds = [*(column for name in self.metrics for column in COLUMNS[name]), *self.extra]
        self.names = tuple(kinds) if self.n is None else tuple(f"{kind}_{k}" for kind in kinds for k in self.n)
        for name in self.names:
            self.add_state(f"values_{name}", default=[], dist_reduce_fx="cat")

    def per_set(self, samples: SampleSet, n: int) -> dict[str, Tensor]:
        """(B,) values of the first n samples of a batch, by name."""
        found: dict[str, Tensor] = {}
        for name in self.metrics:
            found |= values(samples, name, self.protocol, self.threshold, n)
        return found

    def update(self, samples: Tensor, masks: Tensor, read: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Adds a batch; raises MetricError, also for weights that a metric cannot use."""
        greedy = "hm_iou" in self.metrics and self.protocol.matching == "greedy"
        if weights is not None and (greedy or not all(METRICS[name].weighted for name in self.metrics)):
            raise MetricError("this metric has no weighted form", field="weights", expected="None")
        of_batch = SampleSet(samples, masks, read, weights)
        for n in self.n or samples.shape[1:2]:
            for name, found in self.per_set(of_batch, n).items():
                getattr(self, f"values_{name}_{n}" if self.n else f"values_{name}").append(found.double())

    def compute(self) -> dict[str, Tensor]:
        """The summary, or the values themselves; see the class."""
        found: dict[str, Tensor] = {}
        for name in self.names:
            of_images = self._collected(name)
            undefined = of_images.isnan()
            counts = {f"{name}_images": torch.tensor(len(of_images)), f"{name}_undefined": undefined.sum()}
            found |= {name: of_images} if self.reduction == "none" else {name: of_images[~undefined].mean(), **counts}
        return found

    def _collected(self, name: str) -> Tensor:
        """(images,) values: a list before processes are reduced, a tensor after."""
        state = getattr(self, f"values_{name}")
        return dim_zero_cat(state) if len(state) else torch.zeros(0, dtype=torch.float64, device=self.device)


class EnergyDistance(RegistryMetric, metrics=("ged",)):
    """GED under a protocol ("standard": V, "paper": U), of all samples or the first n; see `functional.ged`."""


class HungarianIoU(RegistryMetric, metrics=("hm_iou",)):
    """HM-IoU under a protocol ("standard": optimal, "paper": greedy, no weights); see `functional.hm_iou`."""


class SampleSetMetrics(
    RegistryMetric, metrics=("ged", "hm_iou", "sample_diversity", "rater_diversity", "dmax"), extra=("iid_reference",)
):
    """GED, HM-IoU, both diversities, D_max and the i.i.d. reference from one count of the overlaps."""

    def per_set(self, samples: SampleSet, n: int) -> dict[str, Tensor]:
        """As the base, with the expected GED of n fresh raters."""
        pairs = samples.view(self.protocol, self.threshold, n).pairs
        reference = F.iid_reference(pairs, n, estimator=self.protocol.ged_estimator)
        return super().per_set(samples, n) | {"iid_reference": reference}


class CrossCorrelation(RegistryMetric, metrics=("ncc",), extra=("ncc_degenerate",)):
    """NCC under a protocol ("standard": pixels, "paper": rows) of the maps as they are; see `functional.ncc`.

    ncc_degenerate is the number of raters per image whose correlation was settled by rule.
    """

    def per_set(self, samples: SampleSet, n: int) -> dict[str, Tensor]:
        """NCC and how often it was settled by rule, from one computation."""
        samples.check_count(n)
        found = F.ncc_result(samples.maps[:, :n], samples.masks, read=samples.read, kind=self.protocol.ncc)
        return {"ncc": found.value, "ncc_degenerate": found.degenerate}


class Insight(RegistryMetric, metrics=("ci",)):
    """CI and its three parts at a protocol's threshold; see `functional.collective_insight`."""


class MeanMapMetrics(RegistryMetric, metrics=("soft_dice", "brier", "uncertainty_ncc", "uncertainty_auroc")):
    """Soft Dice, Brier score, NCC and AUROC of the uncertainty map, of the samples' mean map as it is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(next(iter(PROTOCOLS)), **options)  # they are the same under every protocol


class ConsensusSurface(RegistryMetric, metrics=("hd95", "average_surface_distance")):
    """HD95 and average surface distance, in pixels, of the majorities; see `functional.surface_distances`."""


class PresenceCalibration(RegistryMetric, metrics=("presence",)):
    """Calibration over images of the fraction of samples that mark anything; see `functional.presence_fractions`.

    The summary adds "presence_ece", the calibration error over images.
    """

    def __init__(self, protocol_name: str, *, bins: int = BINS, **options: Any) -> None:
        super().__init__(protocol_name, **options)
        self.bins = bins

    def compute(self) -> dict[str, Tensor]:
        """As the base; with the summary also the calibration error."""
        found = super().compute()
        if self.reduction == "summary":
            presence = F.Presence(*(self._collected(name) for name in self.names))
            found["presence_ece"] = F.presence_calibration_error(presence, self.bins)
        return found


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
            raise MetricError("unexpected number of classes", found=sums.shape[1], expected=self.sums.shape[0])
        unread = sums.isnan().flatten(1).any(1)
        self.sums += sums[~unread].sum(0)
        self.images += torch.stack([(~unread).sum(), unread.sum()])

    def compute(self) -> dict[str, Tensor]:
        """The pooled error and the number of images it is of."""
        error = F.pooled_calibration_error(self.sums[None])
        return {"ece": error, "ece_images": self.images[0], "ece_undefined": self.images[1]}
