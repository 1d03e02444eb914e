"""Where samples come from: a model that draws them for a split, or files that any program wrote, with their raters.

And which images are scored or shown, and whose samples a control takes: fixed choices by hash, the same everywhere.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice, zip_longest
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modiff.config.evaluation import CANDIDATES, IID, REPRESENTATIVE, STRATIFIED
from modiff.errors import CheckpointError, ConfigError, DataError, counted
from modiff.evaluation.distributed import Row
from modiff.evaluation.predictions import MapSource, check_place
from modiff.evaluation.records import STRATA, Seconds, strata_of
from modiff.evaluation.scoring import EvaluationSettings
from modiff.evaluation.truth import StoreTruth, Truth, Values
from modiff.io.image import SUFFIXES
from modiff.io.results import SampleFolder
from modiff.io.text import one_spelling
from modiff.methods.marking import draw_marking, first_marking
from modiff.metrics.representative import representative
from modiff.rng import seed_for, seeds_for
from modiff.types import Batch, Samples, marks

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.data.store_format import StoreInfo
    from modiff.methods.base import Segmenter

# Samples that are drawn at once: 1 GiB or so of activations on a CPU at 128×128, and enough to keep a GPU busy.
SAMPLES_AT_ONCE = {"cpu": 128, "cuda": 1024}
_VALUES_AT_ONCE = 1 << 24  # 64 MiB of float32 maps from files
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
    """A model's own draws for the images of a split. rows: those scored. at_once: images of a batch; 0: as n allows."""

    def __init__(
        self, model: Segmenter, images: MemoryStore, settings: EvaluationSettings, device: torch.device, at_once: int
    ) -> None:
        if not len(images.cases):
            raise DataError("the split has no images", field="split")
        if len(set(images.cases)) != len(images.cases):
            raise DataError("case names repeat: rows could not be told apart", field="case")
        self.model, self.images, self.settings, self.device = model, images, settings, device
        most = SAMPLES_AT_ONCE["cuda" if device.type == "cuda" else "cpu"]
        if STRATIFIED in settings.select:
            model.check_request(steps=None, raters="single", stratified=True)
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
            for stratified in (False,) if alone or asked.select == (IID,) else (False, True):
                own = [name for name in asked.select if alone or (name != IID) == stratified]
                if own:
                    count = asked.largest if REPRESENTATIVE in own else largest
                    drawn = _draw(self.model, batch, count, stratified=stratified, **how)
                    yield from _sets(*drawn, asked, own, recorded)

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
            taken += _draw(
                self.model, batch, n, self.settings.seed, steps, given_marks=self.settings.given_marks
            ).seconds
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
) -> _Draw:
    """n samples of each image of a batch. given_marks: of raters who mark something."""
    device = batch.image.device

    def now() -> float:
        if device.type == "cuda":  # a GPU works on after the call returns; the clock must not
            torch.cuda.synchronize(device)
        return time.perf_counter()

    how: dict[str, Any] = {"seeds": seeds_for(seed, batch.case, device=device), "steps": steps}
    how |= {"stratified": True} if stratified else {}
    start, found = now(), None
    encoding = model.encode(batch.image)
    if not given_marks:
        samples = model.sample(encoding, n, **how)
    else:
        most = model.most_present(encoding)
        sure = encoding if most is None else model.given_marks(encoding, most)
        samples, found = draw_marking(lambda count: model.sample(sure, count, **how), n)
    return _Draw(samples, now() - start, found)


def _sets(
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
    largest, batch = max(settings.ns), len(samples.maps)
    maps, weights = samples.maps, samples.weights
    few = None if found is None else found < maps.shape[1]
    for select in selections:
        if select != REPRESENTATIVE:
            taken = None if seconds is None or maps.shape[1] > largest or select != IID else seconds / batch
            short = None if found is None else found < largest
            yield Drawn(maps[:, :largest], _unequal(weights[:, :largest]), steps, taken, select, None, short)
            continue
        for n in settings.ns:
            first = min(CANDIDATES * n, maps.shape[1])
            start = time.perf_counter()
            kept = representative(Samples(maps[:, :first], weights[:, :first], samples.present[:, :first]), n)
            chosen = time.perf_counter() - start
            taken = None if seconds is None or n < largest else (seconds + chosen) / batch
            yield Drawn(kept.maps, None, steps, taken, select, (n,), few)


class FileSamples:
    """Samples in files against the raters of the same cases; the slices of a volume are images of their own.

    values: how the numbers of the files are read. allow_missing: cases without samples are left out, and a note says
    how many; else they are refused. chosen: which samples the files hold, where each was not drawn by itself.
    Raises DataError where the cases do not fit, ConfigError for another selection than that of the files.
    """

    def __init__(
        self, predictions: MapSource, truth: Truth, values: Values, settings: EvaluationSettings, *, allow_missing: bool
    ) -> None:
        self.predictions, self.truth, self.settings, self.values = predictions, truth, settings, values
        self._digest = hashlib.sha256()
        self._fewest: int | None = None  # candidates for representative sets, where they are fewer than wanted
        self.left_out = 0  # images so far that fewer than two raters marked, where only those who do count
        self.chosen = selection_of(predictions)
        if self.chosen is not None and settings.select != (self.chosen,):
            found, expected = ", ".join(settings.select), f"{self.chosen}, as the samples are"
            raise ConfigError("cannot be chosen any more", field="select", found=found, expected=expected)
        if any(one.given_marks for one in predictions.sampled.values()) and not settings.given_marks:
            hint = "--given marks scores them"
            raise DataError("samples given that a rater marks", path=predictions.path, field="raters", hint=hint)
        self._theirs, self._about = paired(predictions, truth)
        rows = subset(truth.cases, settings.limit)
        missing = [truth.cases[row] for row in rows if truth.cases[row] not in self._theirs]
        if missing and not allow_missing:
            hint = "--allow-missing scores the others."
            found = f"none for {_first(missing)}"
            raise DataError("cases without predictions", path=predictions.path, found=found, hint=hint)
        self.rows = [row for row in rows if truth.cases[row] in self._theirs]
        if not self.rows:
            raise DataError("no predictions for the cases that are scored", path=predictions.path)
        self._about += [f"{len(missing)} cases have no predictions and are left out"] if missing else []
        self._about += short_of(settings.limit, len(truth.cases))

    @property
    def notes(self) -> list[str]:
        """What is to be known of the samples that were read so far."""
        short = (
            []
            if self._fewest is None
            else [f"representative sets are chosen from {self._fewest} samples, not {CANDIDATES} n"]
        )
        return [*self._about, *short, *(f"samples' files: {note}" for note in self.values.notes)]

    def fingerprint(self) -> str:
        """A hash of the samples that were read so far, in order."""
        return self._digest.hexdigest()

    def batches(self) -> Iterator[tuple[int, Sampled]]:
        """Images that can be scored together, and how many cases are done with them; a large volume comes in parts."""
        every = chain.from_iterable(map(self._images, range(len(self.rows))))

        def kind(image: _Image) -> tuple[Any, ...]:
            weighted = _unequal(image.weights[None]) is not None  # weights change how metrics are computed
            return image.maps.shape, image.maps.dtype, image.masks.shape, weighted

        for (shape, *_), alike in groupby(every, key=kind):
            while images := list(islice(alike, max(1, _VALUES_AT_ONCE // shape.numel()))):
                names, patients, done, *tensors = zip(*images, strict=True)
                maps, masks, read, weights = map(torch.stack, tensors)
                yield done[-1], Sampled(names, patients, masks, read, self._drawn(maps, weights))

    def _drawn(self, maps: Tensor, weights: Tensor) -> Iterator[Drawn]:
        """The sets that are scored, of all samples or of those that mark something."""
        asked, found = self.settings, None
        if self.chosen is not None and not asked.given_marks:
            yield Drawn(maps, _unequal(weights), select=self.chosen)
            return
        present = marks(maps) if asked.given_marks else torch.ones_like(weights, dtype=torch.bool)
        samples = Samples(maps, weights, present)
        if asked.given_marks:
            samples, found = first_marking(samples, min(max(maps.shape[1], *asked.ns), asked.largest))
        yield from _sets(samples, None, found, asked, asked.select)

    def _images(self, place: int) -> Iterator[_Image]:
        """The slices of a case, with the largest n of maps by the fixed draw."""
        row, largest, given = self.rows[place], max(self.settings.ns), self.settings.given_marks
        case = self.truth.cases[row]
        raw, (masks, read, grid) = self.predictions.read(self._theirs[case]), self.truth.read(row)
        if len(raw.names) < largest:
            hint, found = "-n says how many are scored.", len(raw.names)
            raise DataError("too few samples", path=raw.where, field=case, found=found, expected=largest, hint=hint)
        if self.chosen == REPRESENTATIVE and len(raw.names) != largest:
            part = f"{largest} of {len(raw.names)}"
            raise DataError("not a representative set", path=raw.where, field=case, found=part, expected="all of them")
        if REPRESENTATIVE in self.settings.select and self.chosen is None and len(raw.names) < self.settings.largest:
            self._fewest = min(len(raw.names), self._fewest or len(raw.names))
        maps = self.values.read(raw)
        ours, theirs = (shape[:1] + shape[3:] for shape in (maps.shape, masks.shape))
        if ours != theirs:
            names = [f"{z} slices of {h}×{w}" if z > 1 else f"{h}×{w}" for z, h, w in (ours, theirs)]
            raise DataError("another size", path=raw.where, field=raw.case, found=names[0], expected=names[1])
        for text, file in check_place(raw.grid, grid, where=raw.where, case=case, other=f"that of {self.truth.path}"):
            self.values.said.add([text], file)
        self._digest.update(f"{case}\x1f{maps.shape}\x1f{maps.dtype}\x1f".encode())
        self._digest.update(np.packbits(maps).tobytes() if maps.dtype == bool else maps.tobytes())
        order = draw_order(self.settings.seed, case, raw.names)[: None if given else self.settings.largest]
        weights = np.ones(len(raw.names)) if raw.weights is None else raw.weights
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights[order].sum() > 0):
            raise DataError("weights out of range", path=raw.where, field=case, expected="0 or more, not all 0")
        for z, arrays in enumerate(zip(maps[:, order], masks, read, strict=True)):
            if given and (masks[z].any((1, 2, 3)) & read[z]).sum() < LEAST_MARKS:
                self.left_out += 1
                continue
            name = case if len(maps) == 1 else f"{case}/slice-{z:03d}"
            tensors = (torch.from_numpy(array) for array in (*arrays, weights[order]))
            yield _Image(name, self.truth.patients[row], place + (z + 1 == len(maps)), *tensors)


def selection_of(predictions: MapSource) -> str | None:
    """Which samples of more `modiff sample` wrote, None where each was drawn by itself; DataError for several."""
    found = {one.select for one in predictions.sampled.values()}
    if found and len(predictions.sampled) < len(predictions.cases):
        found.add(IID)
    if len(found) > 1:
        what, hint = "sets of different selections", "Score them apart"
        raise DataError(what, path=predictions.path, field="select", found=", ".join(sorted(found)), hint=hint)
    return None if found <= {IID} else found.pop()


def paired(predictions: MapSource, truth: Truth) -> tuple[dict[str, str], list[str]]:
    """Case of the truth -> case of the predictions, by their names; and what is to be known of it, in words.

    What `modiff sample` wrote may also be called as the truth's case is by the end of its folder's path, or by that of
    the scan; a single one belongs to a single case. Raises DataError where a case has no match, or two for one.
    """
    known, found, taken = {one_spelling(case): case for case in truth.cases}, dict[str, str](), list[str]()
    unknown, parts = [], []
    for case in predictions.cases:
        name, sampled = known.get(case), predictions.sampled.get(case)
        if name is None and sampled:
            ends = (end for end in _ends(sampled) if end in known)
            single = len(predictions.cases) == len(known) == 1
            name = known.get(next(ends, next(iter(known)) if single else ""))
            taken += [f"{case}, samples of {sampled.scan or 'a scan without a name'}, for {name}"] if name else []
        if name is None:
            unknown.append(case)
        elif found.setdefault(name, case) != case:
            raise DataError(
                "two predictions for one case", path=predictions.path, field=name, found=f"{found[name]}, {case}"
            )
        if sampled and sampled.part:
            parts.append(f"{case} ({sampled.part})")
    if unknown:
        what = "predictions for cases that the ground truth does not have"
        expected = f"cases of {truth.path}, split {truth.split}, such as {truth.cases[0]}"
        slices = isinstance(truth, StoreTruth) and unknown[0] in predictions.sampled
        hint = "A store holds single slices: of whole scans give the raters' files" if slices else None
        raise DataError(what, path=predictions.path, found=_first(unknown), expected=expected, hint=hint)
    notes = [f"taken for each other by their names: {'; '.join(taken)}"] if taken else []
    notes += [f"samples mark nothing where they were not looked for: only in {', '.join(parts)}"] if parts else []
    if any(sampled.arrays is None for sampled in predictions.sampled.values()):
        notes.append("samples of scans are masks: a protocol's threshold does not change them")
    return found, notes


def _ends(sampled: SampleFolder) -> Iterator[str]:
    """What the case of samples may be called, the likeliest first: ends of the paths of folder, scan, scan's folder."""
    paths: list[PurePath] = [sampled.path.resolve()]
    if sampled.scan:
        scan = PurePath(sampled.scan.replace("\\", "/"))
        stem = next((scan.name[: -len(end)] for end in SUFFIXES if scan.name.lower().endswith(end)), scan.name)
        paths += [scan.with_name(stem), scan.parent] if stem else []
    for path in paths:
        names = [one_spelling(name) for name in path.parts]
        yield from ("/".join(names[start:]) for start in range(len(names)))


def draw_order(seed: int, case: str, names: Sequence[str]) -> list[int]:
    """The fixed draw: the first n are a random subset of the samples, the same at every call, and of every larger n."""
    return sorted(range(len(names)), key=lambda i: (seed_for(seed, "score", case, names[i]), i))


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if names[1:] else "")


class _Image(NamedTuple):
    """One image: maps (N,K,H,W), masks (R,K,H,W), read (R,) and weights (N,). done: how many cases are, with it."""

    case: str
    patient: str
    done: int
    maps: Tensor
    masks: Tensor
    read: Tensor
    weights: Tensor


def _unequal(weights: Tensor) -> Tensor | None:
    """Weights (B,N) of samples where they differ; equal ones take the exact assignment, not a linear programme."""
    return None if torch.allclose(weights, weights[:, :1].expand_as(weights)) else weights


def subset(cases: Sequence[str], limit: int | None) -> list[int]:
    """Rows of a fixed subset of `limit` cases, in the order given; all of them without a limit.

    A case's hash decides, so the subset of 64 lies within that of 256, and neither depends on a seed.
    """
    rows = range(len(cases))
    return sorted(sorted(rows, key=lambda row: (seed_for("subset", cases[row]), cases[row]))[:limit])


def rows_to_score(images: MemoryStore, settings: EvaluationSettings) -> list[int]:
    """Rows of the images that are scored: the fixed subset, of those that two raters marked where only such count."""
    rows = np.arange(len(images.cases))
    if settings.given_marks:
        rows = rows[(images.packed.any((2, 3)) & images.read).sum(1) >= LEAST_MARKS]
    return [int(rows[i]) for i in subset([images.cases[row] for row in rows], settings.limit)]


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
    """The channel that is shown, (H,W); all three of a colour image, (3,H,W)."""
    colour = tuple(name.lower() for name in info.channels) == _COLOUR_CHANNELS
    return image if colour else image[0]
