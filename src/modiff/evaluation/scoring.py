"""From samples and raters of a batch to the columns of a table: any method's samples, however they were made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from modiff.evaluation.settings import EvaluationSettings
from modiff.evaluation.table import Quantity
from modiff.metrics.protocols import PROTOCOLS, Protocol
from modiff.metrics.registry import METRICS, values
from modiff.metrics.sample_set import SampleSet

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
    """The metrics asked for of the first n samples, for each n, protocol and threshold: (B,) float64 per quantity.

    maps: (B,N,K,H,W) probabilities or masks, N at least the largest n. masks: (B,R,K,H,W). read: (B,R).
    weights: (B,N), where samples differ in theirs. Overlaps are counted once for each way to binarise.
    """
    samples = SampleSet(maps[:, : max(settings.ns)], masks, read, weights)
    return {
        Quantity(protocol.name, threshold, n, steps, predictor, column): found
        for protocol, threshold, n in ways(settings)
        for column, found in columns_at(samples, settings.metrics, protocol, threshold, n).items()
    }


def ways(settings: EvaluationSettings) -> Iterator[tuple[Protocol, float, int]]:
    """Every protocol, threshold and n that is scored."""
    for name in settings.protocols:
        for threshold in settings.thresholds_of(name):
            for n in settings.ns:
                yield PROTOCOLS[name], threshold, n


def columns_at(
    samples: SampleSet, metrics: Sequence[str], protocol: Protocol, threshold: float, n: int
) -> dict[str, Tensor]:
    """Every column of these metrics; what no threshold enters stands at the protocol's own threshold only."""
    columns: dict[str, Tensor] = {}
    for metric in metrics:
        if not METRICS[metric].of_maps or threshold == protocol.threshold:
            columns |= values(samples, metric, protocol, threshold, n)
    return {name: found.double() for name, found in columns.items()}


def rows_of(columns: Columns, count: int) -> list[dict[str, float]]:
    """Columns of a batch as one {column name: value} per image; NaN stays NaN."""
    listed = {quantity.name: found.tolist() for quantity, found in columns.items()}
    return [{name: found[i] for name, found in listed.items()} for i in range(count)]
