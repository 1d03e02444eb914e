"""The two bundles of conventions behind published numbers; every number names the one it was computed under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.binarise import binarise

Estimator = Literal["v", "u"]
Matching = Literal["optimal", "greedy"]
NccKind = Literal["pixel", "row"]


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
    "standard": Protocol(
        "standard", ged_estimator="v", matching="optimal", ncc="pixel", threshold=0.5, argmax_at_half=True
    ),
    # What MoDiff's text (p >= 0.9) and its authors' evaluation scripts (the rest) compute.
    "paper": Protocol("paper", ged_estimator="u", matching="greedy", ncc="row", threshold=0.9, argmax_at_half=False),
}


def protocol(name: str) -> Protocol:
    """The protocol of that name; raises MetricError for another."""
    if name not in PROTOCOLS:
        raise MetricError("no such protocol", field="protocol", found=name, expected=" or ".join(PROTOCOLS))
    return PROTOCOLS[name]
