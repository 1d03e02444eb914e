"""A batch's samples and raters under any metric, protocol, threshold and n; what several share is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from modiff.evaluation.score_names import COLUMNS, gap_column
from modiff.metrics import functional as F
from modiff.metrics.protocols import Protocol

Values = dict[str, Tensor]


class SampleSet:
    """Samples of B images against their raters.

    maps: (B,N,K,H,W) probabilities or, as bool, masks. masks: (B,R,K,H,W). read: (B,R). weights: (B,N), None is equal.
    A metric that has no weighted form is NaN where samples differ in weight.
    """

    def __init__(self, maps: Tensor, masks: Tensor, read: Tensor, weights: Tensor | None = None) -> None:
        self.maps, self.masks, self.read, self.weights = maps, masks, read, weights
        self._found: dict[tuple[object, ...], Values] = {}
        self._pairs: dict[str, tuple[Tensor, F.PairwiseDistances]] = {}

    def with_threshold(self, metric: str, protocol: Protocol, threshold: float, n: int) -> Values:
        """Columns, each (B,) float64, of a metric of the first n samples' masks."""
        way = "masks" if self.maps.dtype == torch.bool else protocol.threshold_text(threshold)
        if way not in self._pairs:
            binary = protocol.binarise(self.maps, threshold)
            self._pairs[way] = binary, F.PairwiseDistances.of(binary, self.masks, read=self.read)
        binary, pairs = self._pairs[way]
        if metric in _OF_PAIRS:
            return {metric: _OF_PAIRS[metric](pairs.subset(n), protocol, self._weights(n))}
        # A boundary and its average come from one search.
        group = "surface" if metric in ("hd95", "average_surface_distance") else metric
        found = self._once((group, way, n), lambda: self._of_masks(group, binary[:, :n], pairs.subset(n), n))
        return {metric: found[metric]} if group == "surface" else found

    def of_maps(self, metric: str, protocol: Protocol, n: int) -> Values:
        """Columns of a metric of the first n samples' probability maps as they are."""
        kind = protocol.ncc if metric == "ncc" else ""
        return self._once((metric, kind, n), lambda: self._of_maps(metric, protocol, n))

    def _once(self, key: tuple[object, ...], compute: Callable[[], Values]) -> Values:
        if key not in self._found:
            self._found[key] = compute()
        return self._found[key]

    def _weights(self, n: int) -> Tensor | None:
        return None if self.weights is None else self.weights[:, :n]

    def _undefined(self, *columns: str) -> Values:
        return {name: torch.full((len(self.masks),), torch.nan, dtype=torch.float64) for name in columns}

    def _of_masks(self, metric: str, binary: Tensor, pairs: F.PairwiseDistances, n: int) -> Values:
        masks, read, weights = self.masks, self.read, self._weights(n)
        if metric == "presence":
            shares = F.presence_shares(binary, masks, read=read, weights=weights)
            return {"presence_samples": shares.samples, "presence_raters": shares.raters}
        if metric == "ci":
            if weights is not None:
                return self._undefined(*COLUMNS["ci"])
            return dict(zip(COLUMNS["ci"], F.collective_insight(binary, masks, read=read, pairs=pairs), strict=True))
        if weights is not None:
            return self._undefined("hd95", "average_surface_distance")
        distances = F.surface_distances(binary, masks, read=read)
        return {"hd95": distances.hd95, "average_surface_distance": distances.average}

    def _of_maps(self, metric: str, protocol: Protocol, n: int) -> Values:
        maps, weights = self.maps[:, :n], self._weights(n)
        if metric == "ncc":
            oblong = protocol.ncc == "row" and maps.shape[-1] != maps.shape[-2]
            if weights is not None or oblong:  # by rows it is undefined for images that are not square
                return self._undefined("ncc")
            return {"ncc": F.ncc(maps, self.masks, read=self.read, kind=protocol.ncc)}
        if metric == "ece":
            return _gaps(F.calibration_bins(maps, self.masks, read=self.read, weights=weights))
        return {metric: _OF_MEAN_MAP[metric](maps, self.masks, read=self.read, weights=weights)}


def _gaps(bins: Tensor) -> Values:
    """(B,K,bins,3) sums -> a column a class and bin: what the image adds to the pooled calibration error."""
    pixels = bins[..., 0].sum(-1, keepdim=True)
    gaps = (bins[..., 1] - bins[..., 2]) / pixels
    kinds, count = gaps.shape[1:]
    return {gap_column(k + 1, b): gaps[:, k, b] for k in range(kinds) for b in range(count)}


_OF_PAIRS: dict[str, Callable[[F.PairwiseDistances, Protocol, Tensor | None], Tensor]] = {
    "ged": lambda pairs, protocol, weights: pairs.ged(estimator=protocol.ged_estimator, weights=weights),
    # Greedy matching takes one sample a rater, whatever its weight.
    "hm_iou": lambda pairs, protocol, weights: pairs.hm_iou(
        matching=protocol.matching, weights=None if protocol.matching == "greedy" else weights
    ),
    "dmax": lambda pairs, protocol, weights: pairs.dmax(),
    "sample_diversity": lambda pairs, protocol, weights: pairs.sample_diversity(
        estimator=protocol.ged_estimator, weights=weights
    ),
    "rater_diversity": lambda pairs, protocol, weights: pairs.rater_diversity(estimator=protocol.ged_estimator),
}
_OF_MEAN_MAP: dict[str, Callable[..., Tensor]] = {
    "soft_dice": F.soft_dice,
    "brier": F.brier,
    "uncertainty_ncc": F.uncertainty_ncc,
    "uncertainty_auroc": F.uncertainty_auroc,
}


def averaged(parts: Sequence[Values], use: Tensor) -> Values:
    """Mean of several scorings of the same images, those where `use` (parts, B) is true; NaN if one of these is."""
    count = use.sum(0)
    found = {}
    for name in parts[0]:
        total = torch.stack([torch.where(keep, part[name], 0.0) for keep, part in zip(use, parts, strict=True)]).sum(0)
        found[name] = torch.where(count > 0, total / count, torch.nan)
    return found
