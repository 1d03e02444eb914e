"""Quality against time: one metric of several evaluations of the same images, a point per number of steps.

A line is a model on a device. What would make its points mean different things is refused: other images, another
metric, protocol, n or threshold. Only the seconds may be of different devices, and then a note says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from modiff.config.evaluation import IID
from modiff.errors import ConfigError, DataError, counted
from modiff.evaluation import words
from modiff.evaluation.compare import MODEL, Facts, check_alike, distinct
from modiff.evaluation.records import BASELINE, REFERENCE, STRATA, Record, is_label, read_result, select
from modiff.metrics.protocols import GIVEN_MARKS, PROTOCOLS
from modiff.viz.charts import draw_tradeoff

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Line:
    """A model on a device: its name, and its records in the order of steps, each with a value and seconds."""

    name: str
    device: str
    points: tuple[Record, ...]


@dataclass(frozen=True)
class Tradeoff:
    """What is drawn: lines of one metric on the same images, and its references.

    references: records of the majority vote and, for GED on all images, of the i.i.d. reference. images, patients: of
    the stratum, whether or not the metric is defined on them. notes: what a user should know, in words.
    """

    lines: tuple[Line, ...]
    references: tuple[Record, ...]
    images: int
    patients: int
    notes: tuple[str, ...]

    @property
    def of(self) -> Record:
        """A record with the metric, protocol, threshold, n, split and stratum of them all."""
        return self.lines[0].points[0]

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that the seconds are of, each once."""
        return tuple(dict.fromkeys(line.device for line in self.lines))


class _Source:
    """A file. given: its name, where the user gave one. asked: metric, protocol, threshold, n, stratum and select.

    points: the model's records of what is asked that can be drawn, at least one; notes: what cannot be. beside: the
    references with a value.
    """

    def __init__(self, path: Path, given: str | None, asked: dict[str, Any]) -> None:
        self.path, self.given, self.result = path, given, read_result(path)
        results = self.result.results
        found = [record for record in select(results, predictor=MODEL) if not words.is_difference(record)]
        if not found:
            raise DataError("no results of a model", path=path)
        for field, value in asked.items():
            has = ", ".join(dict.fromkeys(str(getattr(record, field)) for record in found))
            found = select(found, **{field: value})
            if not found:
                raise DataError("the file has no such results", path=path, field=field, found=has, expected=value)
        if all(record.value is None for record in found):
            raise DataError("has no value on any image", path=path, field=asked["metric"])
        # The logarithm of 0 seconds is nowhere.
        self.points = [record for record in found if record.value is not None and record.seconds_per_image]
        if not self.points:
            hint = "`modiff evaluate` measures them for a model, not for files."
            raise DataError("no seconds per image", path=path, field="seconds_per_image", hint=hint)
        lacks = ((one, "value" if one.value is None else "seconds") for one in found if one not in self.points)
        self.notes = [f"{path}: {_steps(record)} left out, no {what}" for record, what in lacks]
        beside = asked | {"select": IID}  # the references are not drawn
        every = (record for name in (BASELINE, REFERENCE) for record in select(results, predictor=name, **beside))
        self.beside = [record for record in every if record.value is not None]

    @property
    def device(self) -> str:
        """What computed; processes that shared its cores or its GPU slow each other."""
        device, processes = self.result.text("device") or "unnamed device", self.result.made.get("processes", 1)
        return device + (f", {processes} processes" if isinstance(processes, int) and processes > 1 else "")

    @property
    def key(self) -> tuple[str, str, str | None]:
        """Files of one model on one device are one line."""
        return self.result.text("model", "fingerprint") or str(self.path), self.device, self.given

    def facts(self) -> Facts:
        """What must be the same for points to be of the same images and samples."""
        of, store = self.points[0], self.result.text("store", "fingerprint")
        yield "data", store, f"store {str(store)[:12]}"
        yield "split", of.split, of.split
        yield "seed", self.result.made.get("seed"), str(self.result.made.get("seed"))
        for part in dict.fromkeys(("all", of.stratum)):
            for kind in ("images", "patients"):
                count = self.result.strata.get(part, {}).get(kind)
                yield kind, count, f"{count} of stratum {part}"
        for name in (BASELINE, REFERENCE):  # the raters' masks alone decide them
            values = [record.value for record in select(self.beside, predictor=name)]
            yield words.PREDICTORS[name], np.array(values), ", ".join(f"{v:.6g}" for v in values) or "none"


def tradeoff_of(
    paths: Sequence[str | Path],
    *,
    metric: str = "ged",
    n: int = 16,
    protocol: str = "standard",
    threshold: float | None = None,
    select: str = IID,
    stratum: str = "all",
    names: Sequence[str] | None = None,
) -> Tradeoff:
    """Gathers quality and seconds from evaluations' JSON files.

    threshold: at which probabilities became masks, by default the protocol's own. names: what the models are called,
    one per file; by default what the files call them. Files of one model (by the fingerprint of its weights) on one
    device join into one line, unless their names differ.
    Raises DataError for a file that is not an evaluation, has not what is asked or no seconds, or is of other images
    than the first; ConfigError for a protocol, stratum or names that do not fit.
    """
    convention = protocol.removesuffix(GIVEN_MARKS)
    for field, value, known in (("protocol", convention, PROTOCOLS), ("stratum", stratum, STRATA)):
        if value not in known:
            raise ConfigError(f"no such {field}", field=field, found=value, expected=", ".join(known))
    if names is not None and len(names) != len(paths):
        raise ConfigError("one name per result", field="names", found=len(names), expected=len(paths))
    for name in names or ():
        if not is_label(name):
            raise ConfigError("not a name", field="names", found=repr(name), expected="a line of text")
    at = PROTOCOLS[convention].threshold if threshold is None else threshold
    asked = {"metric": metric, "protocol": protocol, "threshold": at, "n": n, "stratum": stratum, "select": select}
    sources = [_Source(Path(path), names[i] if names else None, asked) for i, path in enumerate(paths)]
    first = sources[0]
    groups: dict[tuple[str, str, str | None], list[_Source]] = {}
    for source in sources:
        check_alike(first.path, first.facts(), source.path, source.facts())
        groups.setdefault(source.key, []).append(source)
    ones = [group[0] for group in groups.values()]
    for one in ones:
        if one.given is not None and len({other.key[0] for other in ones if other.given == one.given}) > 1:
            raise ConfigError("two models of one name", field="names", found=one.given)
    own = [one.given or one.result.text("model", "name") or one.path.stem for one in ones]
    called = distinct(own, [s.device for s in ones], [s.path.stem for s in ones], [str(s.path) for s in ones])
    lines = tuple(_line(name, group) for name, group in zip(called, groups.values(), strict=True))
    images, patients = (first.result.strata.get(stratum, {}).get(kind, 0) for kind in ("images", "patients"))
    return Tradeoff(lines, tuple(first.beside), images, patients, tuple(_notes(lines, sources, images)))


def _line(name: str, group: Sequence[_Source]) -> Line:
    points: dict[int | None, Record] = {}
    for source in group:
        for record in source.points:
            if record.steps in points:
                found, hint = f"{_steps(record)} again", "Leave one of the files out, or give each a name of its own."
                raise DataError(f"one point per number of steps of {name}", path=source.path, found=found, hint=hint)
            points[record.steps] = record
    return Line(name, group[0].device, tuple(sorted(points.values(), key=lambda record: record.steps or 0)))


def _steps(record: Record) -> str:
    return "no steps" if record.steps is None else counted(record.steps, "step")


def _notes(lines: Sequence[Line], sources: Sequence[_Source], images: int) -> Iterator[str]:
    devices = dict.fromkeys(line.device for line in lines)
    if len(devices) > 1:
        yield f"seconds of different devices are not comparable: {'; '.join(devices)}"
    for line in lines:
        for point in line.points:
            if point.images != images:
                where = f"is defined on {point.images} of {images} images"
                yield f"{line.name}, {_steps(point)}: {words.metric(point)} {where}"
    yield from chain.from_iterable(source.notes for source in sources)


def points_frame(tradeoff: Tradeoff) -> pd.DataFrame:
    """The cells of a table, a row per point, then the references; indexed by which of both it is."""
    rows = [("model", line.name, point) for line in tradeoff.lines for point in line.points]
    rows += [("reference", words.predictor(record), record) for record in tradeoff.references]
    cells = [words.row(record) | {"predictor": name} for _, name, record in rows]
    return pd.DataFrame(cells, index=[kind for kind, _, _ in rows])


def caption_of(tradeoff: Tradeoff) -> str:
    """What the numbers depend on, in one line: metric, protocol, n, threshold, images, devices, and any notes."""
    of = tradeoff.of
    parts = [words.with_direction(of.metric), f"{of.protocol} protocol", f"n = {of.n}", words.threshold(of)]
    parts += [] if of.select == IID else [of.select]
    where = f"split {of.split}, {words.STRATA[of.stratum]}: {counted(tradeoff.images, 'image')}"
    where += f" of {counted(tradeoff.patients, 'patient')}"
    # A stratum's images are not timed apart.
    mean = "" if of.stratum == "all" else ", the mean over the images of all strata,"
    known = any(point.ci_low is not None for line in tradeoff.lines for point in line.points)
    # What is comparable is said here; which devices they are, before.
    notes = [note.partition(":")[0].capitalize() if note.startswith("seconds of") else note for note in tradeoff.notes]
    sentences = [
        ", ".join(part for part in (*parts, where) if part != words.NONE),
        f"Seconds{mean} to draw {of.n} samples per image on {' and '.join(tradeoff.devices)}",
        "Bars: 95 % intervals over patients" if known else f"No intervals: {words.FEW}",
        *(words.ORACLE.partition(". ")[:1] if any(own.predictor == BASELINE for own in tradeoff.references) else ()),
        *notes,
    ]
    return ". ".join(sentences) + "."


def figure_of(tradeoff: Tradeoff) -> Figure:
    """Quality against seconds: a line per model, the references as levels, and a caption that says all they are of."""
    of = tradeoff.of
    return draw_tradeoff(
        {line.name: pd.DataFrame(line.points) for line in tradeoff.lines},
        {f"{words.predictor(record)}: {words.value(record)}": record.value or 0.0 for record in tradeoff.references},
        title=f"{words.metric(of)} against seconds per image",
        across=f"seconds to draw {of.n} samples per image, logarithmic; at the points: steps of the sampler",
        up=words.with_direction(of.metric),
        caption=caption_of(tradeoff),
    )
