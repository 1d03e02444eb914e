"""Published numbers that may stand beside a table: the same data set, protocol and way to make masks, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

from modiff.benchmark.plan import ABLATIONS, CONTROLS, EDGES
from modiff.benchmark.tables_data import BenchmarkTable, Column
from modiff.metrics.protocols import PROTOCOLS
from modiff.metrics.published import PublishedValue, Source, published

_TABLES = {ABLATIONS: "Table 3", EDGES: "Table 4"}  # of MoDiff's paper
_PAPER = "MoDiff:"
FULL_MODEL = "MoDiff"


@dataclass
class PublishedLine:
    """A method's printed numbers in the columns of a table. inferred: the source does not state the protocol."""

    method: str
    source: Source
    inferred: bool
    parameters: int | None
    evaluations: int | None
    values: dict[Column, float] = field(default_factory=dict)


def dataset_of(source: str) -> str | None:
    """What published numbers call the data set that a store is of; None for others."""
    if source.startswith("LIDC-IDRI"):
        return "lidc"
    return "ms_mri" if source.startswith("ISBI 2015 longitudinal MS") else None


def published_beside(table: BenchmarkTable, source: str) -> list[PublishedLine]:
    """The printed numbers of this table's protocol, in its columns; none at another threshold than the protocol's."""
    dataset = dataset_of(source)
    if dataset is None or table.threshold != PROTOCOLS[table.protocol].threshold:
        return []
    lines: dict[tuple[str, Source], PublishedLine] = {}
    for value in published(dataset=dataset, protocol=table.protocol):
        column = (value.metric, value.n)
        if column not in table.columns or not _belongs(value, table.group):
            continue
        made = PublishedLine(value.method, value.source, not value.protocol_stated, value.parameters, value.steps)
        lines.setdefault((value.method, value.source), made).values[column] = value.value
    return list(lines.values())


def _belongs(value: PublishedValue, group: str) -> bool:
    own = value.source.title.startswith(_PAPER) and value.source.table in _TABLES.values()
    if group in _TABLES:
        full = value.source.title.startswith(_PAPER) and value.method == FULL_MODEL
        return full or (own and value.source.table == _TABLES[group])
    return not own and group != CONTROLS


def cited(source: Source) -> str:
    """A source in a line."""
    return ", ".join(part for part in (source.title, source.reference, source.table) if part)
