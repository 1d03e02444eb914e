"""A model's samples for every image of a split, scored: a row an image, and the records that follow from the rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from modiff.errors import DataError
from modiff.evaluation import distributed as processes
from modiff.evaluation.records import Record
from modiff.evaluation.resume import PartialRows, Row
from modiff.evaluation.scoring import merge, rows_of, score_references, score_samples
from modiff.evaluation.selection import derangement, subset
from modiff.evaluation.settings import EvaluationSettings
from modiff.evaluation.table import UNREAD, ImageTable, assemble, records_of, strata_of
from modiff.rng import seeds_for
from modiff.types import Batch

if TYPE_CHECKING:
    from modiff.methods.base import Segmenter
    from modiff.types import Samples

# Samples that are drawn at once: 1 GiB or so of activations on a CPU at 128×128, and enough to keep a GPU busy.
SAMPLES_AT_ONCE = {"cpu": 128, "cuda": 1024}

_TIMED, _TIMED_SECONDS = 32, 60.0  # images and seconds that the time of a smaller n is measured on

Progress = Callable[[int, int], None]


class Images(Protocol):
    """What an evaluation needs of a split: `modiff.data.loading.MemoryStore` has it."""

    @property
    def cases(self) -> Sequence[str]:
        """Names, one an image."""

    @property
    def patients(self) -> Sequence[str]:
        """The patient of each image."""

    def batch(self, rows: Sequence[int]) -> Batch:
        """The images at these rows."""


@dataclass
class Evaluation:
    """A table of images, its records, and how many images were left out because nobody read them."""

    table: ImageTable
    records: list[Record]
    unread: int = 0


@dataclass
class _Work:
    """What the loop over batches needs."""

    model: Segmenter
    images: Images
    settings: EvaluationSettings
    device: torch.device
    batch_size: int
    rows: list[int]
    default_steps: int | None
    control: dict[int, int]

    def steps(self) -> list[tuple[int | None, int | None]]:
        """Steps as asked for, and as recorded: the model's default is recorded by its number."""
        return [(steps, self.default_steps if steps is None else steps) for steps in self.settings.steps]


def evaluate(
    model: Segmenter,
    images: Images,
    settings: EvaluationSettings | None = None,
    *,
    split: str,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    default_steps: int | None = None,
    resume: PartialRows | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Draws samples of every image, scores them and what stands beside them, in float64.

    Sample i of a case is a function of (weights, image, settings.seed, i): rows depend neither on the batch size nor on
    the number of processes, which share the images, each scored once. With `resume`, finished rows are kept on disk
    and an interrupted evaluation continues. default_steps: what the model does when steps are not given, for the
    records. progress: called with (images done, images in all) by this process.
    Raises DataError for an empty split, CheckpointError where `resume` holds rows of something else.
    """
    settings = settings or EvaluationSettings()
    device = torch.device(device)
    at_once = SAMPLES_AT_ONCE.get(device.type, SAMPLES_AT_ONCE["cpu"])
    chosen = _rows(images, settings)
    work = _Work(
        model=model,
        images=images,
        settings=settings,
        device=device,
        batch_size=batch_size or max(1, at_once // max(settings.ns)),
        rows=chosen,
        default_steps=default_steps,
        control=_control(images, chosen, settings),
    )
    was_training = model.training
    model.eval().to(work.device)
    try:
        rows = _all_rows(work, resume, progress)
        seconds = processes.from_first(lambda: _seconds(work, rows))
    finally:
        model.train(was_training)
    control = {row["control"]["case"]: row["control"]["values"] for row in rows if "control" in row}
    table = assemble(split, rows, control)
    table.seconds = seconds
    unread = sum(row["stratum"] == UNREAD for row in rows)
    return Evaluation(table, records_of(table, seed=settings.seed, resamples=settings.resamples), unread)


def _rows(images: Images, settings: EvaluationSettings) -> list[int]:
    """The rows to score."""
    if not len(images.cases):
        raise DataError("the split has no images", field="split")
    if len(set(images.cases)) != len(images.cases):
        raise DataError("case names repeat: rows could not be told apart", field="case")
    return subset(images.cases, settings.limit)


def _control(images: Images, rows: list[int], settings: EvaluationSettings) -> dict[int, int]:
    """Whose raters are scored against the samples of each row, if at all."""
    if not settings.control:
        return {}
    cases, patients = [images.cases[row] for row in rows], [images.patients[row] for row in rows]
    others = derangement(cases, patients, settings.seed)
    return {row: rows[other] for row, other in zip(rows, others, strict=True)}


def _all_rows(work: _Work, resume: PartialRows | None, progress: Progress | None) -> list[Row]:
    """Rows of every image, in the order of the split, from all processes and earlier starts."""
    earlier = processes.from_first(resume.read) if resume else []
    finished = {row["case"]: row for row in earlier}
    todo = [row for row in work.rows if work.images.cases[row] not in finished]
    mine = processes.share(todo)
    new: list[Row] = []

    def finish(rows: list[Row]) -> None:
        new.extend(rows)
        if progress:
            progress(len(finished) + len(new), len(finished) + len(mine))

    if progress:
        progress(len(finished), len(finished) + len(mine))
    with resume if resume and mine else nullcontext() as kept:
        for start in range(0, len(mine), work.batch_size):
            rows = _score(work, mine[start : start + work.batch_size])
            if kept:
                kept.append(rows)
            finish(rows)
    finished |= {row["case"]: row for row in processes.gather(new)}
    return [finished[work.images.cases[row]] for row in work.rows]


def _score(work: _Work, rows: list[int]) -> list[Row]:
    """Finished rows of one batch of images."""
    batch = work.images.batch(rows).to(work.device)
    other = work.images.batch([work.control[row] for row in rows]).to(work.device) if work.control else None
    parts, controls, seconds = [score_references(batch.masks, batch.read, work.settings)], [], {}
    for steps, recorded in work.steps():
        samples, taken = draw(work.model, batch, max(work.settings.ns), work.settings.seed, steps)
        score = partial(score_samples, samples.maps, settings=work.settings, steps=recorded, weights=_unequal(samples))
        parts.append(score(batch.masks, batch.read))
        if other:
            controls.append(score(other.masks, other.read, predictor="shuffled"))
        seconds[str(recorded)] = taken / len(rows)
    values = rows_of(merge(parts), len(rows))
    strata = strata_of(batch.marked, batch.read)
    readers = batch.read.sum(1).tolist()
    finished: list[Row] = [
        {
            "case": work.images.cases[row],
            "patient": work.images.patients[row],
            "stratum": strata[i],
            "raters": readers[i],
            "values": values[i],
            "seconds": seconds,
        }
        for i, row in enumerate(rows)
    ]
    if other:
        for row, case, found in zip(finished, other.case, rows_of(merge(controls), len(rows)), strict=True):
            row["control"] = {"case": case, "values": found}
    return finished


@torch.inference_mode()
def draw(model: Segmenter, batch: Batch, n: int, seed: int, steps: int | None) -> tuple[Samples, float]:
    """n samples of each image of a batch and the seconds that took, encoding included."""
    seeds = seeds_for(seed, batch.case, device=batch.image.device)
    _wait(batch.image.device)
    start = time.perf_counter()
    samples = model.sample(model.encode(batch.image), n, seeds=seeds, steps=steps)
    _wait(batch.image.device)
    return samples, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    """A GPU works on after the call returns; the clock must not."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _unequal(samples: Samples) -> Tensor | None:
    """The samples' weights where they differ; equal weights take the exact assignment, not a linear programme."""
    weights = samples.weights
    return None if torch.allclose(weights, weights[:, :1].expand_as(weights)) else weights


def _seconds(work: _Work, rows: list[Row]) -> dict[tuple[int | None, int], float]:
    """Seconds to draw n samples of an image: the largest n as measured on all, smaller ones on the first of them."""
    found: dict[tuple[int | None, int], float] = {}
    *smaller, largest = work.settings.ns
    for steps, recorded in work.steps():
        times = [row["seconds"][str(recorded)] for row in rows]
        found[recorded, largest] = math.fsum(times) / len(times)
        for n in smaller:
            found[recorded, n] = _time(work, n, steps)
    return found


def _time(work: _Work, n: int, steps: int | None) -> float:
    """Seconds an image over whole batches, until there are enough images or a minute is over."""
    timed, taken = 0, 0.0
    for start in range(0, min(_TIMED, len(work.rows)), work.batch_size):
        if taken > _TIMED_SECONDS:
            break
        batch = work.images.batch(work.rows[start : start + work.batch_size]).to(work.device)
        taken += draw(work.model, batch, n, work.settings.seed, steps)[1]
        timed += len(batch)
    return taken / timed
