"""Published numbers that may stand beside a table: the same data set, protocol and way to make masks, nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from modiff.benchmark.plan import ABLATIONS, CONTROLS, EDGES
from modiff.metrics.protocols import PROTOCOLS
from modiff.metrics.published import PublishedValue, published

_TABLES = {ABLATIONS: "Table 3", EDGES: "Table 4"}  # of MoDiff's paper
_PAPER = "MoDiff:"
FULL_MODEL = "MoDiff"
INFERRED = "; its protocol is inferred"


def dataset_of(source: str) -> str | None:
    """What published numbers call the data set that a store is of; None for others."""
    if source.startswith("LIDC-IDRI"):
        return "lidc"
    return "ms_mri" if source.startswith("ISBI 2015 longitudinal MS") else None


def published_beside(
    group: str, protocol: str, threshold: float, columns: Collection[tuple[str, int]], source: str
) -> Iterator[tuple[PublishedValue, str]]:
    """The printed numbers of a table's protocol with their sources; none at another threshold than the protocol's.

    columns: (metric, n) of the table. source: of the store. Numbers of one method and source follow each other.
    """
    dataset = dataset_of(source)
    if dataset is None or threshold != PROTOCOLS[protocol].threshold:
        return
    found = [
        value
        for value in published(dataset=dataset, protocol=protocol)
        if (value.metric, value.n) in columns and _belongs(value, group)
    ]
    order = list(dict.fromkeys((value.method, value.source) for value in found))
    for value in sorted(found, key=lambda value: order.index((value.method, value.source))):
        cited = (value.source.title, value.source.reference, value.source.table)
        inferred = "" if value.protocol_stated else INFERRED
        yield value, f"{', '.join(part for part in cited if part)}; {value.source.data}{inferred}"


def _belongs(value: PublishedValue, group: str) -> bool:
    own = value.source.title.startswith(_PAPER) and value.source.table in _TABLES.values()
    if group in _TABLES:
        full = value.source.title.startswith(_PAPER) and value.method == FULL_MODEL
        return full or (own and value.source.table == _TABLES[group])
    return not own and group != CONTROLS
