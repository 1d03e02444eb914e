"""What an evaluation measures, and how: from the samples and raters of a batch to the columns of a table.

Any method's samples, and what they are read beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from modiff.config.evaluation import CANDIDATES, IID, REPRESENTATIVE, SELECTIONS, STRATIFIED, EvaluationConfig
from modiff.config.fields import to_dict
from modiff.errors import ConfigError
from modiff.evaluation.records import BASELINE, ONE_RATER, REFERENCE, Quantity
from modiff.metrics.functional import PairwiseDistances, iid_reference, majority_vote
from modiff.metrics.protocols import PROTOCOLS, Protocol, SampleSet, Values
from modiff.metrics.registry import METRICS, chosen, values

Columns = dict[Quantity, Tensor]


@dataclass(frozen=True)
class EvaluationSettings(EvaluationConfig):
    """`EvaluationConfig` in one order, each value once; ConfigError for an unknown metric or protocol."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_order = {
            "metrics": chosen(self.metrics),
            "ns": sorted(set(self.ns)),
            "select": sorted(set(self.select), key=[*SELECTIONS, *self.select].index),
            "thresholds": sorted(set(self.thresholds)),
            "steps": dict.fromkeys(self.steps),
            "protocols": dict.fromkeys(self.protocols),
        }
        for name, given in in_order.items():
            object.__setattr__(self, name, tuple(given))
        for name in self.protocols:
            if name not in PROTOCOLS:
                raise ConfigError("no such protocol", field="protocol", found=name, expected=" or ".join(PROTOCOLS))
        for selection in self.select:
            if selection not in SELECTIONS:
                expected = ", ".join(SELECTIONS)
                raise ConfigError("no such selection", field="select", found=selection, expected=expected)
        if self.given_marks and STRATIFIED in self.select:
            raise ConfigError("presence is not drawn given marks", field="select", found=STRATIFIED)

    @property
    def given_marks(self) -> bool:
        """Whether only raters who mark something count."""
        return self.given == "marks"

    @property
    def largest(self) -> int:
        """How many samples of an image are drawn, of which sets are the first or are chosen."""
        return max(self.ns) * (CANDIDATES if REPRESENTATIVE in self.select else 1)

    def thresholds_of(self, name: str) -> tuple[float, ...]:
        """The protocol's own threshold and those asked for."""
        return tuple(sorted({PROTOCOLS[name].threshold, *self.thresholds}))

    def name(self, split: str) -> str:
        """The stem of the result's files: the split, and whatever else decides which samples of which images count.

        n, protocols, thresholds, metrics and the control only say what is computed from those samples, and every record
        names them; they are not in the file's name.
        """
        parts = [split]
        if self.steps != (None,):
            parts.append("steps" + "-".join("default" if step is None else str(step) for step in self.steps))
        if IID not in self.select:
            parts.append("-".join(self.select))
        if self.given_marks:
            parts.append("given-marks")
        if self.limit is not None:
            parts.append(f"limit{self.limit}")
        if self.seed != 0:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, thresholds by protocol."""
        plain = to_dict(self)
        thresholds = {name: list(self.thresholds_of(name)) for name in self.protocols}
        return {"n": plain.pop("ns")} | plain | {"thresholds": thresholds}


def score_samples(
    maps: Tensor,
    masks: Tensor,
    read: Tensor,
    settings: EvaluationSettings,
    *,
    steps: int | None = None,
    predictor: str = "model",
    weights: Tensor | None = None,
    select: str = IID,
    ns: Sequence[int] | None = None,
) -> Columns:
    """The metrics asked for of the first n samples, for each n, protocol and threshold: (B,) float64 per quantity.

    maps: (B,N,K,H,W) probabilities or masks, N at least the largest n. masks: (B,R,K,H,W). read: (B,R).
    weights: (B,N), where samples differ in theirs. select: which samples they are. ns: by default those of the
    settings. Overlaps are counted once for each way to binarise.
    """
    samples = SampleSet(maps[:, : max(ns or settings.ns)], masks, read, weights)
    return {
        Quantity(way.name, threshold, n, steps, predictor, column, select): found
        for way, threshold, n in _ways(settings, ns)
        for column, found in _columns(samples, settings.metrics, way, threshold, n).items()
    }


def score_references(masks: Tensor, read: Tensor, settings: EvaluationSettings) -> Columns:
    """n times the majority vote, the i.i.d. reference of GED, and where the settings ask for it one rater.

    masks: (B,R,K,H,W). read: (B,R). One rater is each rater's mask n times against the other raters, the mean over the
    raters. None of them depends on a threshold or on steps; each carries the threshold of the scores beside it.
    """
    raters = masks.shape[1]
    # Beyond as many copies as raters, more copies of one mask change no metric; fewer change the greedy matching.
    most = min(max(settings.ns), raters)

    def copied(mask: Tensor, against: Tensor) -> SampleSet:
        return SampleSet(mask[:, None].expand(-1, most, -1, -1, -1), masks, against)

    majority, pairs = copied(majority_vote(masks, read), read), PairwiseDistances.of_raters(masks, read=read)
    alone = torch.eye(raters, dtype=torch.bool, device=masks.device)
    others = [copied(masks[:, j], read & ~alone[j]) for j in range(raters if settings.one_rater else 0)]
    use = (read & (read.sum(1, keepdim=True) > 1)).T  # (R,B): this rater and another one are there
    # The mean over raters of fractions that are 0 or 1 is not a rater's fraction: presence cannot be averaged.
    of_one = [metric for metric in settings.metrics if metric != "presence"]
    columns: Columns = {}
    for way, threshold, n in _ways(settings):
        few = min(n, raters)
        found = {BASELINE: _columns(majority, settings.metrics, way, threshold, few)}
        if others:
            parts = [_columns(own, of_one, way, threshold, few) for own in others]
            by_name = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
            found[ONE_RATER] = {name: torch.where(use, each, 0.0).sum(0) / use.sum(0) for name, each in by_name.items()}
        if "ged" in settings.metrics:
            found[REFERENCE] = {"ged": iid_reference(pairs, n, estimator=way.ged_estimator)}
        columns |= {
            Quantity(way.name, threshold, n, None, predictor, metric): values.double()
            for predictor, of_metrics in found.items()
            for metric, values in of_metrics.items()
        }
    return columns


def rows_of(columns: Columns, count: int) -> list[dict[str, float]]:
    """Columns of a batch as one {column name: value} per image; NaN stays NaN."""
    listed = {quantity.name: found.tolist() for quantity, found in columns.items()}
    return [{name: found[i] for name, found in listed.items()} for i in range(count)]


def _ways(settings: EvaluationSettings, ns: Sequence[int] | None = None) -> Iterator[tuple[Protocol, float, int]]:
    """Every protocol, threshold and n that is scored."""
    for name in settings.protocols:
        own = PROTOCOLS[name].of_marks() if settings.given_marks else PROTOCOLS[name]
        yield from product((own,), settings.thresholds_of(name), ns or settings.ns)


def _columns(samples: SampleSet, metrics: Sequence[str], protocol: Protocol, threshold: float, n: int) -> Values:
    """Every column of these metrics; what no threshold enters, at the protocol's own only."""
    columns: Values = {}
    for metric in metrics:
        if not METRICS[metric].of_maps or threshold == protocol.threshold:
            columns |= values(samples, metric, protocol, threshold, n)
    return {name: found.double() for name, found in columns.items()}
