"""A batch's samples and raters as metrics see them; masks, overlaps and boundaries are computed once for all."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from modiff.metrics import functional as F
from modiff.metrics.protocols import Protocol

T = TypeVar("T")
Values = dict[str, Tensor]


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
        return torch.full((len(self.masks),), torch.nan, dtype=torch.float64)


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
        """The first n samples under a protocol at a threshold."""
        way = self.way(protocol, threshold)

        def binarised() -> tuple[Tensor, F.PairwiseDistances]:
            binary = protocol.binarise(self.maps, threshold)
            return binary, F.PairwiseDistances.of(binary, self.masks, read=self.read)

        return self.once(("view", way, n), lambda: View(self, n, lambda: self.once(("masks", way), binarised)))

    def once(self, key: tuple[object, ...], compute: Callable[[], T]) -> T:
        """What `compute` gives, computed when `key` is first asked for."""
        if key not in self._found:
            self._found[key] = compute()
        return self._found[key]
