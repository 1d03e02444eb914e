"""Published numbers as data: what the literature's tables print, with source, data and protocol."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from modiff.errors import MetricError
from modiff.plain import parse_json


@dataclass(frozen=True)
class Source:
    """Where numbers stand. title; reference (arXiv number or authors) and table, or None; data: images and split."""

    title: str
    reference: str | None
    table: str | None
    data: str


@dataclass(frozen=True)
class PublishedValue:
    """One printed number.

    dataset: "lidc" or "ms_mri". protocol: "standard" or "paper"; protocol_stated is false where it was inferred from
    the numbers. metric: "ged", "hm_iou", "ncc" or "ci" with n samples. parameters: of the network; steps: network
    evaluations per sample; None where unknown.
    """

    source: Source
    dataset: str
    method: str
    protocol: str
    protocol_stated: bool
    metric: str
    n: int
    value: float
    parameters: int | None
    steps: int | None


@cache
def _all() -> tuple[PublishedValue, ...]:
    table = parse_json(files("modiff.metrics").joinpath("published.json").read_text(encoding="utf-8"))
    sources = {name: Source(**fields) for name, fields in table["sources"].items()}
    return tuple(PublishedValue(**{**record, "source": sources[record["source"]]}) for record in table["records"])


def published(**asked: str | int) -> list[PublishedValue]:
    """The published values with the dataset, protocol, metric, n or method asked for, in the order of their tables.

    Values of different protocol, data or n are not comparable: give these whenever values are to stand side by side.
    Raises MetricError for a name that no published value has.
    """
    for field, value in asked.items():
        known = sorted({getattr(record, field) for record in _all()})
        if value not in known:
            raise MetricError("nothing published", field=field, found=value, expected=", ".join(map(str, known)))
    return [record for record in _all() if all(getattr(record, field) == value for field, value in asked.items())]
