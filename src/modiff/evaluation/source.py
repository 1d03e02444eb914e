"""A model that draws samples for a split, with their raters, and the sets that are scored of them.

And which images are scored or shown, and whose samples a control takes: fixed choices by hash, the same everywhere.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from modiff.config.evaluation import CANDIDATES, IID, REPRESENTATIVE, STRATIFIED
from modiff.devices import wait_for
from modiff.errors import CheckpointError, ConfigError, DataError, counted
from modiff.evaluation.distributed import Row
from modiff.evaluation.records import STRATA, Seconds, strata_of
from modiff.evaluation.scoring import EvaluationSettings
from modiff.methods.marking import draw_marking
from modiff.metrics.representative import representative
from modiff.rng import seed_for, seeds_for
from modiff.types import Batch, Samples

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.data.store_format import StoreInfo
    from modiff.methods.base import Segmenter

# Samples that are drawn at once: 1 GiB or so of activations on a CPU at 128×128, and enough to keep a GPU busy.
SAMPLES_AT_ONCE = {"cpu": 128, "cuda": 1024}
_TIMED, _TIMED_SECONDS = 32, 60.0  # images and seconds that the time of a smaller n is measured on
LEAST_MARKS = 2  # raters who mark an image, where only such count
_COLOUR_CHANNELS = ("red", "green", "blue")


@dataclass
class Drawn:
    """Samples of B images in one way. maps: (B,N,K,H,W). weights: (B,N) where they differ. seconds: per image.

    ns: the n that they are of, by default those of the settings. few: (B,) fewer than N differ: no more mark anything.
    """

    maps: Tensor
    weights: Tensor | None
    steps: int | None = None
    seconds: float | None = None
    select: str = IID
    ns: tuple[int, ...] | None = None
    few: Tensor | None = None


@dataclass
class Sampled:
    """B images with their raters and their samples, drawn when they are asked for.

    cases, patients: B names. masks: (B,R,K,H,W). read: (B,R). control: other images whose raters the samples are scored
    against as well.
    """

    cases: Sequence[str]
    patients: Sequence[str]
    masks: Tensor
    read: Tensor
    draws: Iterable[Drawn]
    control: Batch | None = None


class ModelSamples:
    """A model's own draws for the images of a split.

    rows: those scored. at_once: images of a batch; 0: as n allows. bf16: networks compute in bfloat16 where that is
    safe.
    """

    def __init__(
        self,
        model: Segmenter,
        images: MemoryStore,
        settings: EvaluationSettings,
        device: torch.device,
        at_once: int,
        *,
        bf16: bool = False,
    ) -> None:
        if not len(images.cases):
            raise DataError("the split has no images", field="split")
        if len(set(images.cases)) != len(images.cases):
            raise DataError("case names repeat: rows could not be told apart", field="case")
        self.model, self.images, self.settings, self.device = model, images, settings, device
        self.bf16 = bf16
        most = SAMPLES_AT_ONCE["cuda" if device.type == "cuda" else "cpu"]
        if STRATIFIED in settings.select:
            model.check_request(steps=None, raters="single", stratified=True)
        model.check_count(min(settings.ns))
        self.batch_size = at_once or max(1, most // settings.largest)
        self.rows = rows_to_score(images, settings)
        if not self.rows:
            raise DataError("no image that two raters marked", field="split")
        # Recorded and asked for: the model's default is recorded by its number.
        self.steps = {model.default_steps if steps is None else steps: steps for steps in settings.steps}
        self._other: dict[int, int] = {}
        if settings.control:
            cases, patients = ([names[row] for row in self.rows] for names in (images.cases, images.patients))
            others = derangement(cases, patients, settings.seed)
            self._other = {row: self.rows[other] for row, other in zip(self.rows, others, strict=True)}

    def batches(self, rows: Sequence[int]) -> Iterator[Sampled]:
        """Images at these rows with the largest n of samples, for each number of steps."""
        for start in range(0, len(rows), self.batch_size):
            some = rows[start : start + self.batch_size]
            batch = self.images.batch(some).to(self.device)
            other = self.images.batch([self._other[row] for row in some]).to(self.device) if self._other else None
            patients = [self.images.patients[row] for row in some]
            yield Sampled(batch.case, patients, batch.masks, batch.read, self._draws(batch), other)

    def _draws(self, batch: Batch) -> Iterator[Drawn]:
        """The largest n of samples, and candidates with stratified presence, from which the other selections come.

        Where the method does not draw presence, these are one and the same draw.
        """
        asked, largest = self.settings, max(self.settings.ns)
        alone = not self.model.draws_stratified or asked.given_marks
        for recorded, steps in self.steps.items():
            how: dict[str, Any] = {"seed": asked.seed, "steps": steps, "given_marks": asked.given_marks}
            how["bf16"] = self.bf16
            for stratified in (False,) if alone or asked.select == (IID,) else (False, True):
                own = [name for name in asked.select if alone or (name != IID) == stratified]
                if own:
                    count = asked.largest if REPRESENTATIVE in own else largest
                    drawn = _draw(self.model, batch, count, stratified=stratified, **how)
                    yield from sets_of(*drawn, asked, own, recorded)

    def seconds(self, rows: Sequence[Row]) -> Seconds:
        """Seconds to draw n samples of an image: the largest n as measured on all, smaller ones on the first.

        Of sets that are chosen from the samples of others, only the largest n of a representative set is timed.
        """
        found: Seconds = {}
        *smaller, largest = self.settings.ns
        for recorded, steps in self.steps.items():
            chosen = f"{recorded} {REPRESENTATIVE}"
            timed = {IID, REPRESENTATIVE} & {*self.settings.select}
            if timed and any(not {chosen, str(recorded)} & row["seconds"].keys() for row in rows):
                hint = "Add --restart to begin again."
                raise CheckpointError("rows of an unfinished evaluation that say no time", field="seconds", hint=hint)
            if times := [row["seconds"][chosen] for row in rows if chosen in row["seconds"]]:
                found[recorded, largest, REPRESENTATIVE] = math.fsum(times) / len(times)
            if IID in self.settings.select:
                times = [row["seconds"][str(recorded)] for row in rows if str(recorded) in row["seconds"]]
                alone = [] if times else [largest]  # where it was drawn as part of more it is timed by itself
                found |= {(recorded, largest): math.fsum(times) / len(times)} if times else {}
                found |= {(recorded, n): self._time(n, steps) for n in (*smaller, *alone)}
        return found

    def _time(self, n: int, steps: int | None) -> float:
        """Seconds per image over whole batches, until there are enough images or a minute is over."""
        timed, taken = 0, 0.0
        for start in range(0, min(_TIMED, len(self.rows)), self.batch_size):
            if taken > _TIMED_SECONDS:
                break
            batch = self.images.batch(self.rows[start : start + self.batch_size]).to(self.device)
            how: dict[str, Any] = {"given_marks": self.settings.given_marks, "bf16": self.bf16}
            taken += _draw(self.model, batch, n, self.settings.seed, steps, **how).seconds
            timed += len(batch)
        return taken / timed


def draw(model: Segmenter, batch: Batch, n: int, seed: int, steps: int | None) -> tuple[Samples, float]:
    """n i.i.d. samples of each image of a batch and the seconds that took, encoding included."""
    return _draw(model, batch, n, seed, steps)[:2]


class _Draw(NamedTuple):
    """Samples of each image of a batch, the seconds that took, encoding included, and (B,) how many differ where those
    that mark nothing were drawn anew."""

    samples: Samples
    seconds: float
    found: Tensor | None


@torch.inference_mode()
def _draw(
    model: Segmenter,
    batch: Batch,
    n: int,
    seed: int,
    steps: int | None,
    *,
    stratified: bool = False,
    given_marks: bool = False,
    bf16: bool = False,
) -> _Draw:
    """n samples of each image of a batch. given_marks: of raters who mark something."""
    device = batch.image.device

    def now() -> float:
        wait_for(device)
        return time.perf_counter()

    how: dict[str, Any] = {"seeds": seeds_for(seed, batch.case, device=device), "steps": steps}
    how |= {"stratified": True} if stratified else {}
    start, found = now(), None
    # A graph would read casts of weights that are kept only until this block ends.
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=model.replays is None):
        encoding = model.encode(batch.image)
        if not given_marks:
            samples = model.sample(encoding, n, **how)
        else:
            most = model.most_present(encoding)
            sure = encoding if most is None else model.given_marks(encoding, most)
            samples, found = draw_marking(lambda count: model.sample(sure, count, **how), n)
    return _Draw(samples, now() - start, found)


def sets_of(
    samples: Samples,
    seconds: float | None,
    found: Tensor | None,
    settings: EvaluationSettings,
    selections: Sequence[str],
    steps: int | None = None,
) -> Iterator[Drawn]:
    """The sets of the selections, from the same samples: the first n, or the n of the first 4n that are chosen.

    found: (B,) how many samples differ, where there may be too few that mark anything.
    """
    largest, (batch, count) = max(settings.ns), samples.maps.shape[:2]
    few = None if found is None else found < count
    for select in selections:
        if select != REPRESENTATIVE:
            taken = None if seconds is None or count > largest or select != IID else seconds / batch
            # The first of more share a mixture's weights in another way than all of them: each n is a set of its own.
            for ns in [None] if samples.part is None else [(n,) for n in settings.ns]:
                first = samples.first(max(ns or settings.ns))
                short = None if found is None else found < first.maps.shape[1]
                yield Drawn(first.maps, unequal(first.weights), steps, taken, select, ns, short)
            continue
        for n in settings.ns:
            start = time.perf_counter()
            kept = representative(samples.first(min(CANDIDATES * n, count)), n)
            chosen = time.perf_counter() - start
            taken = None if seconds is None or n < largest else (seconds + chosen) / batch
            yield Drawn(kept.maps, None, steps, taken, select, (n,), few)


def unequal(weights: Tensor) -> Tensor | None:
    """Weights (B,N) of samples where they differ; equal ones take the exact assignment, not a linear programme."""
    return None if torch.allclose(weights, weights[:, :1].expand_as(weights)) else weights


def subset(cases: Sequence[str], limit: int | None) -> list[int]:
    """Rows of a fixed subset of `limit` cases, in the order given; all of them without a limit.

    A case's hash decides, so the subset of 64 lies within that of 256, and neither depends on a seed.
    """
    return sorted(by_hash(cases)[:limit])


def by_hash(cases: Sequence[str]) -> list[int]:
    """Rows in the order in which `subset` takes them."""
    return sorted(range(len(cases)), key=lambda row: (seed_for("subset", cases[row]), cases[row]))


def rows_to_score(images: MemoryStore, settings: EvaluationSettings) -> list[int]:
    """Rows of the images that are scored: the fixed subset, of those that two raters marked where only such count."""
    rows = np.arange(len(images.cases))
    if settings.given_marks:
        rows = rows[enough_mark(images.packed.any((2, 3)), images.read)]
    return [int(rows[i]) for i in subset([images.cases[row] for row in rows], settings.limit)]


def enough_mark(marked: ArrayLike, read: ArrayLike) -> NDArray[np.bool_]:
    """(…) bool of who marked something (…,R) and who read: whether an image is scored where only such raters count."""
    return np.asarray(np.logical_and(marked, read).sum(-1) >= LEAST_MARKS)


def left_out(settings: EvaluationSettings, count: int) -> list[str]:
    """In words, how many images fewer than two raters marked, where only those who do count."""
    found = f"left out: {counted(count, 'image')} that fewer than two raters marked"
    return [found] if settings.given_marks and count else []


def short_of(limit: int | None, count: int) -> list[str]:
    """In words, where there are fewer cases than the limit."""
    return [f"--limit {limit}: there are {count}, all of them are scored"] if limit and limit > count else []


def derangement(cases: Sequence[str], patients: Sequence[str], seed: int) -> list[int]:
    """For each case the row of another case, each once; of another patient unless one holds more than half of all.

    Neighbouring slices of a patient look alike, so that a control with samples of the same patient would still know
    the answer. Raises ConfigError for a single case.
    """
    count = len(cases)
    if count < 2:
        raise ConfigError("a control needs another case to take samples from", field="control", found=f"{count} case")
    # Patients in random order, a patient's cases side by side: a shift by the largest group leaves every group.
    order = sorted(
        range(count),
        key=lambda row: (seed_for(seed, "control", patients[row]), patients[row], seed_for(seed, cases[row])),
    )
    shift = max(Counter(patients).values())
    shifted = np.roll(order, -(shift if shift < count else 1)).tolist()
    return [other for _, other in sorted(zip(order, shifted, strict=True))]


def choose(cases: Sequence[str], strata: Sequence[str], count: int) -> list[int]:
    """Rows of a fixed choice by hash: the strata take turns until `count` are found; in the order of the strata."""
    by_hash = sorted(range(len(cases)), key=lambda row: (seed_for("report", cases[row]), cases[row]))
    queues = [[row for row in by_hash if strata[row] == name] for name in STRATA[1:]]
    turns = [row for turn in zip_longest(*queues) for row in turn if row is not None]
    return [row for queue in queues for row in queue if row in turns[:count]]


def strata(images: MemoryStore) -> list[str]:
    """The stratum of each image of a split."""
    return strata_of(torch.from_numpy(images.packed.any((2, 3))), torch.from_numpy(images.read))


def pictured(image: np.ndarray, info: StoreInfo) -> np.ndarray:
    """The channel that is shown, (H,W), of the slice itself; all three of a colour image, (3,H,W)."""
    colour = tuple(name.lower() for name in info.channels) == _COLOUR_CHANNELS
    return image if colour else image[info.context]
