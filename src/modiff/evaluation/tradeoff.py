"""Quality against time: one metric of several evaluations of the same images, a point a number of steps.

A line is a model on a device. What would make its points mean different things is refused: other images, another
metric, protocol, n or threshold. Only the seconds may be of different devices, and then a note says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modiff.errors import ConfigError, DataError
from modiff.evaluation import words
from modiff.evaluation.records import STRATA, Record, Result, read_result, select
from modiff.evaluation.table import BASELINE, REFERENCE
from modiff.metrics.protocols import PROTOCOLS
from modiff.metrics.registry import WITHOUT_THRESHOLD

MODEL = "model"
_UNNAMED = "unnamed device"
_SAME = 1e-6  # references are computed in float64 from the raters' masks alone


@dataclass(frozen=True)
class Asked:
    """Which number of an evaluation is drawn; raises ConfigError for a protocol or stratum that does not exist."""

    metric: str = "ged"
    n: int = 16
    """samples an image"""
    protocol: str = "standard"
    threshold: float | None = None
    """at which probabilities became masks; None is the protocol's own"""
    stratum: str = "all"

    def __post_init__(self) -> None:
        for field, value, known in (("protocol", self.protocol, PROTOCOLS), ("stratum", self.stratum, STRATA)):
            if value not in known:
                raise ConfigError(f"no such {field}", field=field, found=value, expected=", ".join(known))
        if self.threshold is None:
            object.__setattr__(self, "threshold", PROTOCOLS[self.protocol].threshold)


@dataclass(frozen=True)
class Point:
    """A model's value at a number of steps (None where it has none), and the seconds to draw n samples of an image.

    ci_low, ci_high: the 95 % interval, None under five patients. images: those on which the metric is defined.
    """

    steps: int | None
    seconds: float
    value: float
    ci_low: float | None
    ci_high: float | None
    images: int


@dataclass(frozen=True)
class Line:
    """A model on a device: its name, and its points in the order of steps."""

    name: str
    device: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Tradeoff:
    """What is drawn: lines of one metric on the same images, and what stands beside them.

    images, patients: of the stratum, whether or not the metric is defined on them. references: records of the majority
    vote and, for GED on all images, of the i.i.d. reference. notes: what a reader must know, in words.
    """

    asked: Asked
    split: str
    images: int
    patients: int
    lines: tuple[Line, ...]
    references: tuple[Record, ...]
    notes: tuple[str, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that the seconds are of, each once."""
        return tuple(dict.fromkeys(line.device for line in self.lines))

    @property
    def threshold_text(self) -> str:
        """How probabilities became masks: "argmax", "p ≥ 0.9"; "–" where that does not enter."""
        if self.asked.metric in WITHOUT_THRESHOLD:
            return "–"
        return PROTOCOLS[self.asked.protocol].threshold_text(self.asked.threshold)


@dataclass(frozen=True)
class _Source:
    """A file, its label where one was given, and the model's records of what is asked."""

    path: Path
    label: str | None
    result: Result
    records: list[Record]

    @property
    def made(self) -> dict[str, Any]:
        return self.result.made

    @property
    def key(self) -> tuple[str, str, str | None]:
        """Of the line that its points belong to: files of one model on one device are one line."""
        fingerprint = _text(self.made.get("model", {}).get("fingerprint"))
        return fingerprint or str(self.path), self.device, self.label

    @property
    def name(self) -> str:
        return self.label or _text(self.made.get("model", {}).get("name")) or self.path.stem

    @property
    def device(self) -> str:
        """What computed; processes that shared its cores or its GPU count, for they slow each other."""
        name, processes = _text(self.made.get("device")) or _UNNAMED, self.made.get("processes", 1)
        return f"{name}, {processes} processes" if isinstance(processes, int) and processes > 1 else name


def points_of(
    paths: Sequence[str | Path], asked: Asked | None = None, *, labels: Sequence[str] | None = None
) -> Tradeoff:
    """Gathers quality and seconds from evaluations' JSON files.

    Files of one model (by the fingerprint of its weights) on one device join into one line, unless their labels differ.
    labels: what the models are called, one a file; by default what the files call them.
    Raises DataError for a file that is no evaluation, has not what is asked or no seconds, or is of other images than
    the first; ConfigError for labels that do not fit.
    """
    asked = asked or Asked()
    sources = _read([Path(path) for path in paths], labels, asked)
    for source in sources[1:]:
        _check_same_images(sources[0], source, asked)
    first = sources[0]
    groups: dict[tuple[str, str, str | None], list[_Source]] = {}
    for source in sources:
        groups.setdefault(source.key, []).append(source)
    names = _names([group[0] for group in groups.values()])
    lines = tuple(
        Line(name, group[0].device, _points(group, name)) for name, group in zip(names, groups.values(), strict=True)
    )
    images, patients = _counts(first, asked)
    references = tuple(_references(sources, asked))
    notes = (*_notes(lines, asked, images), *_left_out(sources))
    return Tradeoff(asked, first.records[0].split, images, patients, lines, references, notes)


def _read(paths: list[Path], labels: Sequence[str] | None, asked: Asked) -> list[_Source]:
    if not paths:
        raise ConfigError("nothing to draw", field="results", found="none", expected="one or more")
    if labels is not None and len(labels) != len(paths):
        raise ConfigError("one label a file", field="labels", found=len(labels), expected=len(paths))
    for given in labels or ():
        if _text(given) is None:
            raise ConfigError("not a label", field="labels", found=repr(given), expected="a line of text")
    sources = []
    for i, path in enumerate(paths):
        result = read_result(path)
        label = None if labels is None else labels[i]
        sources.append(_Source(path, label, result, _wanted(path, result, asked)))
    return sources


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.isprintable() and value.strip() else None


def _wanted(path: Path, result: Result, asked: Asked) -> list[Record]:
    """The model's records of what is asked, with seconds and a value."""
    found = [record for record in select(result.results, predictor=MODEL) if not words.is_difference(record)]
    if not found:
        raise DataError("no results of a model", path=path)
    for field in ("metric", "protocol", "threshold", "n", "stratum"):
        value = getattr(asked, field)
        kept = select(found, **{field: value})
        if not kept:
            has = ", ".join(str(one) for one in dict.fromkeys(getattr(record, field) for record in found))
            raise DataError("the file has no results of it", path=path, field=field, found=has, expected=value)
        found = kept
    drawable = [record for record in found if _drawable(record)]
    if not drawable and all(record.value is None for record in found):
        raise DataError("defined on no image", path=path, field=asked.metric)
    if not drawable:
        hint = "`modiff evaluate` measures them for a model, not for files."
        raise DataError("no seconds an image", path=path, field="seconds_per_image", hint=hint)
    return drawable


def _drawable(record: Record) -> bool:
    """A logarithmic axis has no place for 0 seconds."""
    return record.value is not None and record.seconds_per_image is not None and record.seconds_per_image > 0


# Refusals


def _counts(source: _Source, asked: Asked) -> tuple[int, int]:
    """Images and patients of the stratum."""
    counts = source.result.strata.get(asked.stratum, {})
    record = source.records[0]
    return counts.get("images", record.images), counts.get("patients", record.patients)


def _check_same_images(first: _Source, other: _Source, asked: Asked) -> None:
    """Raises DataError that says in what the other's images or samples differ from those of the first."""

    def limit(source: _Source) -> Any:
        # Without effect where both have all images; the counts below tell.
        return source.made.get("settings", {}).get("limit") if _all(first) != _all(other) else None

    aspects: list[tuple[str, Callable[[_Source], Any], Callable[[Any], str]]] = [
        ("data", lambda s: s.made.get("store", {}).get("fingerprint"), lambda found: f"store {str(found)[:12]}"),
        ("split", lambda s: s.records[0].split, str),
        ("seed", lambda s: s.made.get("seed"), str),
        ("limit", limit, lambda found: "all images" if found is None else f"{found} images"),
        ("images", lambda s: _counts(s, asked)[0], lambda found: f"{found} of stratum {asked.stratum}"),
        ("patients", lambda s: _counts(s, asked)[1], lambda found: f"{found} of stratum {asked.stratum}"),
    ]
    for field, of, say in aspects:
        if of(first) != of(other):
            raise DataError(
                "evaluations of different things are not drawn together",
                path=other.path,
                field=field,
                found=say(of(other)),
                expected=f"{say(of(first))}, as {first.path} has",
            )


def _all(source: _Source) -> int | None:
    """How many images were looked at, those that nobody read included."""
    images, unread = source.result.strata.get("all", {}).get("images"), source.made.get("unread", 0)
    return None if images is None else images + (unread if isinstance(unread, int) else 0)


def _references(sources: list[_Source], asked: Asked) -> Iterator[Record]:
    """The majority vote and the i.i.d. reference from the first file that has them; the images alone decide them."""
    fields = {name: getattr(asked, name) for name in ("metric", "protocol", "threshold", "n", "stratum")}
    for predictor in (BASELINE, REFERENCE):
        first: tuple[_Source, Record] | None = None
        for source in sources:
            found = select(source.result.results, predictor=predictor, **fields)
            if not found or found[0].value is None:
                continue
            if first is None:
                first = source, found[0]
                yield found[0]
            elif not math.isclose(found[0].value, first[1].value or 0.0, rel_tol=_SAME, abs_tol=_SAME):
                raise DataError(
                    "evaluations of different images are not drawn together",
                    path=source.path,
                    field=words.PREDICTORS[predictor],
                    found=f"{found[0].value:.6g}",
                    expected=f"{first[1].value:.6g}, as {first[0].path} has",
                )


# Lines


def _names(sources: list[_Source]) -> list[str]:
    """A name a line: the model's, and where several have it also the device, the file or its path."""
    ways: tuple[Callable[[_Source], str], ...] = (
        lambda s: s.name,
        lambda s: f"{s.name}, {s.device}",
        lambda s: f"{s.name} ({s.path.stem})",
        lambda s: f"{s.name} ({s.path})",
    )
    names = []
    for source in sources:
        alike = [other for other in sources if other.name == source.name]
        if source.label is not None and len({other.key[0] for other in alike}) > 1:
            raise ConfigError("two models of one label", field="labels", found=source.label)
        way = next((way for way in ways if len({way(other) for other in alike}) == len(alike)), ways[-1])
        names.append(way(source))
    return names


def _points(group: list[_Source], name: str) -> tuple[Point, ...]:
    points: dict[int | None, Point] = {}
    for source in group:
        for record in source.records:
            if record.steps in points:
                hint = "Leave one of the files out, or give each a label of its own."
                found = f"{_steps(record.steps)} again"
                raise DataError(f"one point a number of steps of {name}", path=source.path, found=found, hint=hint)
            points[record.steps] = _point(record)
    return tuple(sorted(points.values(), key=lambda point: point.steps or 0))


def _point(record: Record) -> Point:
    value, seconds = record.value, record.seconds_per_image
    assert value is not None  # `_wanted` keeps no other
    assert seconds is not None
    return Point(record.steps, seconds, value, record.ci_low, record.ci_high, record.images)


def _steps(steps: int | None) -> str:
    return "no steps" if steps is None else f"{steps} step{'s' if steps != 1 else ''}"


def _notes(lines: Iterable[Line], asked: Asked, images: int) -> Iterator[str]:
    devices = list(dict.fromkeys(line.device for line in lines))
    if len(devices) > 1:
        yield f"seconds of different devices are not comparable: {'; '.join(devices)}"
    for line in lines:
        for point in line.points:
            if point.images != images:
                metric = words.METRICS.get(asked.metric, asked.metric)
                yield f"{line.name}, {_steps(point.steps)}: {metric} is defined on {point.images} of {images} images"


def _left_out(sources: list[_Source]) -> Iterator[str]:
    """Points of a model that has others."""
    for source in sources:
        chosen = source.records[0]
        fields = {name: getattr(chosen, name) for name in ("metric", "protocol", "threshold", "n", "stratum")}
        for record in select(source.result.results, predictor=MODEL, **fields):
            if not _drawable(record):
                what = "value" if record.value is None else "seconds"
                yield f"{source.path}: {_steps(record.steps)} left out, no {what}"
