"""From samples and raters of a batch to the columns of a table: any method's samples, however they were made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from modiff.evaluation.score_metrics import SampleSet, averaged
from modiff.evaluation.score_names import WITHOUT_THRESHOLD
from modiff.evaluation.settings import EvaluationSettings
from modiff.evaluation.table import BASELINE, ONE_RATER, REFERENCE, Quantity
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
    """The metrics asked for of the first n samples, for each n, protocol and threshold: (B,) float64 a quantity.

    maps: (B,N,K,H,W) probabilities or masks, N at least the largest n. masks: (B,R,K,H,W). read: (B,R).
    weights: (B,N), where samples differ in theirs. Overlaps are counted once a way to binarise.
    """
    samples = SampleSet(maps[:, : max(settings.ns)], masks, read, weights)
    return {
        Quantity(protocol.name, threshold, n, steps, predictor, column): values
        for protocol, threshold, n in _ways(settings)
        for column, values in _columns(samples, settings.metrics, protocol, threshold, n).items()
    }


def _ways(settings: EvaluationSettings) -> Iterator[tuple[Protocol, float, int]]:
    for name in settings.protocols:
        for threshold in settings.thresholds_of(name):
            for n in settings.ns:
                yield PROTOCOLS[name], threshold, n


def _columns(
    samples: SampleSet, metrics: Sequence[str], protocol: Protocol, threshold: float, n: int
) -> dict[str, Tensor]:
    """Every column of these metrics; what no threshold enters stands at the protocol's own threshold only."""
    columns: dict[str, Tensor] = {}
    for metric in metrics:
        if metric not in WITHOUT_THRESHOLD:
            columns |= samples.with_threshold(metric, protocol, threshold, n)
        elif threshold == protocol.threshold:
            columns |= samples.of_maps(metric, protocol, n)
    return {name: values.double() for name, values in columns.items()}


def score_references(masks: Tensor, read: Tensor, settings: EvaluationSettings) -> Columns:
    """What stands beside every score: n times the majority vote, the i.i.d. reference of GED, and one rater.

    One rater, where the settings ask for it, is each reader's mask n times against the other readers, the mean over the
    readers. None of them depends on a threshold or on steps; each carries the threshold of the scores it stands beside.
    """
    raters = masks.shape[1]
    # Beyond as many copies as raters, more copies of one mask change no metric; fewer change the greedy matching.
    most = min(max(settings.ns), raters)
    majority = SampleSet(_copies(majority_vote(masks, read), most), masks, read)
    pairs = PairwiseDistances.of_raters(masks, read=read)
    others = _against_the_rest(masks, read, most) if settings.one_rater else []
    columns: Columns = {}
    for protocol, threshold, n in _ways(settings):
        few = min(n, raters)

        def put(predictor: str, found: dict[str, Tensor], at: tuple[Protocol, float, int]) -> None:
            way, level, number = at
            for metric, values in found.items():
                columns[Quantity(way.name, level, number, None, predictor, metric)] = values.double()

        at = (protocol, threshold, n)
        put(BASELINE, _columns(majority, settings.metrics, protocol, threshold, few), at)
        if others:
            # The mean over readers of shares that are 0 or 1 is no reader's share: presence cannot be averaged.
            metrics = [metric for metric in settings.metrics if metric != "presence"]
            parts = [_columns(own, metrics, protocol, threshold, few) for own in others]
            use = torch.stack([read[:, j] & own.read.any(1) for j, own in enumerate(others)])
            put(ONE_RATER, averaged(parts, use), at)
        if "ged" in settings.metrics:
            put(REFERENCE, {"ged": pairs.iid_reference(n, estimator=protocol.ged_estimator)}, at)
    return columns


def _copies(mask: Tensor, count: int) -> Tensor:
    """(B,K,H,W) -> (B,count,K,H,W)."""
    return mask[:, None].expand(-1, count, -1, -1, -1)


def _against_the_rest(masks: Tensor, read: Tensor, most: int) -> list[SampleSet]:
    """For each rater, copies of the own mask against the others who read the image."""
    slots = torch.arange(masks.shape[1], device=masks.device)
    return [SampleSet(_copies(masks[:, j], most), masks, read & (slots != j)) for j in slots.tolist()]


def rows_of(columns: Columns, count: int) -> list[dict[str, float]]:
    """Columns of a batch as one {column name: value} an image; NaN stays NaN."""
    listed = {quantity.name: values.tolist() for quantity, values in columns.items()}
    return [{name: values[i] for name, values in listed.items()} for i in range(count)]


def merge(parts: Sequence[Columns]) -> Columns:
    """The columns of several scorings of the same images."""
    return {quantity: values for part in parts for quantity, values in part.items()}
