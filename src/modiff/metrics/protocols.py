"""From probability maps to masks, and the two bundles of conventions behind published numbers.

Every number names the protocol that it was computed under. `SampleSet` is a batch's samples and raters as metrics see
them: masks, overlaps and boundaries are computed once for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics import functional as F
from modiff.metrics.functional.maps import NccKind
from modiff.metrics.functional.ops import check_probabilities
from modiff.metrics.functional.sets import Estimator, Matching

T = TypeVar("T")
GIVEN_MARKS = "-marks"  # ends a protocol's name where only raters who mark something count, and samples are of such
Values = dict[str, Tensor]


def binarise(samples: Tensor, threshold: float | None) -> Tensor:
    """Masks of probability maps: (B,N,K,H,W) in [0,1] -> bool of the same shape.

    threshold None is the argmax: classes exclude each other, the background is 1 − Σp, a tie with it is background
    (K = 1: p > 0.5), a tie of two foreground classes goes to the first. A number is a threshold for each class on its
    own, p >= threshold; below one half classes may then overlap. So `binarise(p, 0.5)` is p >= 0.5 and differs from
    the argmax where p is exactly one half; what "0.5" means in a protocol is `Protocol.binarise`'s business.
    Raises MetricError for a shape that is not (B,N,K,H,W), values outside [0,1] or a threshold outside (0,1].
    """
    if samples.ndim != 5:
        raise MetricError("samples of a wrong shape", found=tuple(samples.shape), expected="(B,N,K,H,W)")
    if samples.is_floating_point():
        check_probabilities(samples)
    if threshold is not None:
        if not 0.0 < threshold <= 1.0:
            raise MetricError("a threshold outside its range", found=threshold, expected="0 < threshold <= 1")
        return samples >= threshold
    if samples.dtype == torch.bool:
        samples = samples.to(torch.uint8)
    if samples.shape[2] == 1:
        return samples > 0.5
    best, which = samples.max(dim=2, keepdim=True)
    wins = best > 1 - samples.sum(dim=2, keepdim=True)
    classes = torch.arange(samples.shape[2], device=samples.device).view(1, 1, -1, 1, 1)
    return wins & (which == classes)


@dataclass(frozen=True)
class Protocol:
    """One set of conventions.

    name: "standard" or "paper". ged_estimator: "v" counts pairs of an element with itself, "u" does not.
    matching: of HM-IoU. ncc: over pixels or over row profiles. threshold: the default, as printed. argmax_at_half: a
    threshold of 0.5 means the argmax (p > 0.5, ties are background), not p >= 0.5.
    """

    name: str
    ged_estimator: Estimator
    matching: Matching
    ncc: NccKind
    threshold: float
    argmax_at_half: bool

    def of_marks(self) -> Protocol:
        """The same conventions by the name that they have where only raters who mark something count."""
        return replace(self, name=f"{self.name}{GIVEN_MARKS}")

    def binarise(self, samples: Tensor, threshold: float | None = None) -> Tensor:
        """(B,N,K,H,W) probabilities -> bool masks at `threshold`, by default the protocol's own."""
        at = self.threshold if threshold is None else threshold
        return binarise(samples, None if self.argmax_at_half and at == 0.5 else at)

    def threshold_text(self, threshold: float | None = None) -> str:
        """How masks are made, in the words of a table: "argmax", "p ≥ 0.9"."""
        at = self.threshold if threshold is None else threshold
        return "argmax" if self.argmax_at_half and at == 0.5 else f"p ≥ {at:g}"


PROTOCOLS: dict[str, Protocol] = {
    # What CCDM, MoSE, SSN, PHiSeg and Medical Matting compute.
    "standard": Protocol("standard", "v", "optimal", "pixel", threshold=0.5, argmax_at_half=True),
    # What MoDiff's text (p >= 0.9) and its authors' evaluation scripts (the rest) compute.
    "paper": Protocol("paper", "u", "greedy", "row", threshold=0.9, argmax_at_half=False),
}


def protocol(name: str) -> Protocol:
    """The protocol of that name; raises MetricError for another."""
    if name not in PROTOCOLS:
        raise MetricError("no such protocol", field="protocol", found=name, expected=" or ".join(PROTOCOLS))
    return PROTOCOLS[name]


class View:
    """The first n samples of a set, and their masks under a protocol's threshold.

    maps: (B,n,K,H,W) as given. masks: (B,R,K,H,W) of the raters. read: (B,R) or None. weights: (B,n) or None.
    """

    def __init__(self, whole: SampleSet, n: int, binarised: Callable[[], tuple[Tensor, F.PairwiseDistances]]) -> None:
        self.maps, self.masks, self.read, self._n = whole.maps[:, :n], whole.masks, whole.read, n
        self.weights = None if whole.weights is None else whole.weights[:, :n]
        self._binarised = binarised

    @property
    def binary(self) -> Tensor:
        """(B,n,K,H,W) bool."""
        return self._binarised()[0][:, : self._n]

    @cached_property
    def pairs(self) -> F.PairwiseDistances:
        """Overlaps of all pairs of masks."""
        return self._binarised()[1].subset(self._n)

    @cached_property
    def surface(self) -> F.SurfaceDistances:
        """Boundary distances of the two majorities."""
        return F.surface_distances(self.binary, self.masks, read=self.read)

    def undefined(self) -> Tensor:
        """(B,) NaN."""
        return torch.full((len(self.masks),), torch.nan, dtype=torch.float64, device=self.masks.device)


class SampleSet:
    """Samples of B images against their raters; `registry.values` computes metrics of it.

    maps: (B,N,K,H,W) probabilities or, as bool, masks. masks: (B,R,K,H,W). read: (B,R), None is all. weights: (B,N),
    None is equal.
    """

    def __init__(self, maps: Tensor, masks: Tensor, read: Tensor | None = None, weights: Tensor | None = None) -> None:
        self.maps, self.masks, self.read, self.weights = maps, masks, read, weights
        self._found: dict[tuple[object, ...], Any] = {}

    def way(self, protocol: Protocol, threshold: float) -> str:
        """How masks are made of the samples, in words: equal for equal masks."""
        return "masks" if self.maps.dtype == torch.bool else protocol.threshold_text(threshold)

    def view(self, protocol: Protocol, threshold: float, n: int) -> View:
        """The first n samples under a protocol at a threshold; MetricError where there are fewer."""
        self.check_count(n)
        way = self.way(protocol, threshold)

        def binarised() -> tuple[Tensor, F.PairwiseDistances]:
            binary = protocol.binarise(self.maps, threshold)
            return binary, F.PairwiseDistances.of(binary, self.masks, read=self.read)

        return self.once(("view", way, n), lambda: View(self, n, lambda: self.once(("masks", way), binarised)))

    def check_count(self, n: int) -> None:
        """MetricError for fewer than n samples."""
        if n > (count := self.maps.shape[1]):
            raise MetricError("there are fewer samples", field="n", found=n, expected=f"at most {count}")

    def once(self, key: tuple[object, ...], compute: Callable[[], T]) -> T:
        """What `compute` gives, computed when `key` is first asked for."""
        if key not in self._found:
            self._found[key] = compute()
        found: T = self._found[key]
        return found
