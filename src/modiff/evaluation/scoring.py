"""From samples and raters of a batch to the columns of a table: any method's samples, however they were made."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from modiff.evaluation.settings import EvaluationSettings
from modiff.evaluation.table import BASELINE, REFERENCE, Quantity
from modiff.metrics.functional import PairwiseDistances, majority_vote
from modiff.metrics.protocols import PROTOCOLS, Protocol

Columns = dict[Quantity, Tensor]


def score_samples(
    maps: Tensor,
    masks: Tensor,
    read: Tensor,
    settings: EvaluationSettings,
    *,
    steps: int | None = None,
    predictor: str = "model",
    weights: Tensor | None = None,
) -> Columns:
    """Every metric of the first n samples, for each n, protocol and threshold: (B,) float64 a quantity.

    maps: (B,N,K,H,W) probabilities or masks, N at least the largest n. masks: (B,R,K,H,W). read: (B,R).
    weights: (B,N), where samples differ in theirs. Overlaps are counted once a way to binarise.
    """
    columns: Columns = {}
    counted: dict[str, PairwiseDistances] = {}
    largest = max(settings.ns)
    for name in settings.protocols:
        protocol = PROTOCOLS[name]
        for threshold in settings.thresholds_of(name):
            way = protocol.threshold_text(threshold)
            if way not in counted:
                binary = protocol.binarise(maps[:, :largest], threshold)
                counted[way] = PairwiseDistances.of(binary, masks, read=read)
            for n in settings.ns:
                pairs = counted[way].subset(n)
                own = None if weights is None else weights[:, :n]
                for metric, values in _metrics(pairs, protocol, own).items():
                    columns[Quantity(name, threshold, n, steps, predictor, metric)] = values.double()
    return columns


def _metrics(pairs: PairwiseDistances, protocol: Protocol, weights: Tensor | None) -> dict[str, Tensor]:
    greedy = protocol.matching == "greedy"  # it takes one sample a rater, whatever its weight
    return {
        "ged": pairs.ged(estimator=protocol.ged_estimator, weights=weights),
        "hm_iou": pairs.hm_iou(matching=protocol.matching, weights=None if greedy else weights),
    }


def score_references(masks: Tensor, read: Tensor, settings: EvaluationSettings) -> Columns:
    """What stands beside every score: n times the majority vote, and the i.i.d. reference of GED.

    Neither depends on a threshold or on steps; each carries the threshold of the scores that it stands beside.
    """
    raters = masks.shape[1]
    # Beyond as many copies as raters, more copies of one mask change no metric; fewer change the greedy matching.
    copies = majority_vote(masks, read)[:, None].expand(-1, min(max(settings.ns), raters), -1, -1, -1)
    pairs = PairwiseDistances.of(copies, masks, read=read)
    columns: Columns = {}
    for name in settings.protocols:
        protocol = PROTOCOLS[name]
        for n in settings.ns:
            majority = _metrics(pairs.subset(min(n, raters)), protocol, None)
            reference = pairs.iid_reference(n, estimator=protocol.ged_estimator)
            for threshold in settings.thresholds_of(name):
                for metric, values in majority.items():
                    columns[Quantity(name, threshold, n, None, BASELINE, metric)] = values.double()
                columns[Quantity(name, threshold, n, None, REFERENCE, "ged")] = reference.double()
    return columns


def rows_of(columns: Columns, count: int) -> list[dict[str, float]]:
    """Columns of a batch as one {column name: value} an image; NaN stays NaN."""
    listed = {quantity.name: values.tolist() for quantity, values in columns.items()}
    return [{name: values[i] for name, values in listed.items()} for i in range(count)]


def merge(parts: Sequence[Columns]) -> Columns:
    """The columns of several scorings of the same images."""
    return {quantity: values for part in parts for quantity, values in part.items()}
