"""Where samples come from: a model that draws them for a split, or files that any program wrote, with their raters."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modiff.errors import DataError
from modiff.evaluation.predictions.base import MapSource
from modiff.evaluation.predictions.folder import check_place
from modiff.evaluation.predictions.truth import Truth, TruthCase
from modiff.evaluation.predictions.values import Values
from modiff.evaluation.resume import Row
from modiff.evaluation.selection import derangement, subset
from modiff.evaluation.settings import EvaluationSettings
from modiff.rng import seed_for, seeds_for
from modiff.types import Batch

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.methods.base import Segmenter
    from modiff.types import Samples

# Samples that are drawn at once: 1 GiB or so of activations on a CPU at 128×128, and enough to keep a GPU busy.
SAMPLES_AT_ONCE = {"cpu": 128, "cuda": 1024}
_VALUES_AT_ONCE = 1 << 24  # 64 MiB of float32 maps from files

_TIMED, _TIMED_SECONDS = 32, 60.0  # images and seconds that the time of a smaller n is measured on


@dataclass
class Drawn:
    """Samples of B images in one way. maps: (B,N,K,H,W). weights: (B,N) where they differ. seconds: per image."""

    maps: Tensor
    weights: Tensor | None
    steps: int | None = None
    seconds: float | None = None


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
    """A model's own draws for the images of a split. rows: those that are scored."""

    def __init__(
        self,
        model: Segmenter,
        images: MemoryStore,
        settings: EvaluationSettings,
        *,
        device: torch.device,
        batch_size: int | None = None,
    ) -> None:
        if not len(images.cases):
            raise DataError("the split has no images", field="split")
        if len(set(images.cases)) != len(images.cases):
            raise DataError("case names repeat: rows could not be told apart", field="case")
        self.model, self.images, self.settings, self.device = model, images, settings, device
        at_once = SAMPLES_AT_ONCE.get(device.type, SAMPLES_AT_ONCE["cpu"])
        self.batch_size = batch_size or max(1, at_once // max(settings.ns))
        self.rows = subset(images.cases, settings.limit)
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
        for steps, recorded in self._steps():
            samples, taken = draw(self.model, batch, max(self.settings.ns), self.settings.seed, steps)
            yield Drawn(samples.maps, _unequal(samples.weights), recorded, taken / len(batch))

    def _steps(self) -> list[tuple[int | None, int]]:
        """Steps as asked for, and as recorded: the model's default is recorded by its number."""
        return [(steps, self.model.default_steps if steps is None else steps) for steps in self.settings.steps]

    def seconds(self, rows: Sequence[Row]) -> dict[tuple[int | None, int], float]:
        """Seconds to draw n samples of an image: the largest n as measured on all, smaller ones on the first."""
        found: dict[tuple[int | None, int], float] = {}
        *smaller, largest = self.settings.ns
        for steps, recorded in self._steps():
            times = [row["seconds"][str(recorded)] for row in rows]
            found[recorded, largest] = math.fsum(times) / len(times)
            for n in smaller:
                found[recorded, n] = self._time(n, steps)
        return found

    def _time(self, n: int, steps: int | None) -> float:
        """Seconds per image over whole batches, until there are enough images or a minute is over."""
        timed, taken = 0, 0.0
        for start in range(0, min(_TIMED, len(self.rows)), self.batch_size):
            if taken > _TIMED_SECONDS:
                break
            batch = self.images.batch(self.rows[start : start + self.batch_size]).to(self.device)
            taken += draw(self.model, batch, n, self.settings.seed, steps)[1]
            timed += len(batch)
        return taken / timed


@torch.inference_mode()
def draw(model: Segmenter, batch: Batch, n: int, seed: int, steps: int | None) -> tuple[Samples, float]:
    """n samples of each image of a batch and the seconds that took, encoding included."""
    device = batch.image.device

    def now() -> float:
        if device.type == "cuda":  # a GPU works on after the call returns; the clock must not
            torch.cuda.synchronize(device)
        return time.perf_counter()

    seeds, start = seeds_for(seed, batch.case, device=device), now()
    samples = model.sample(model.encode(batch.image), n, seeds=seeds, steps=steps)
    return samples, now() - start


class FileSamples:
    """Samples in files against the raters of the same cases; the slices of a volume are images of their own.

    values: how the numbers of the files are read. allow_missing: cases without samples are left out, and a note says
    how many; else they are refused. Raises DataError where the cases do not fit.
    """

    def __init__(
        self,
        predictions: MapSource,
        truth: Truth,
        settings: EvaluationSettings,
        *,
        values: Values,
        allow_missing: bool = False,
    ) -> None:
        self.predictions, self.truth, self.settings, self.values = predictions, truth, settings, values
        self._digest = hashlib.sha256()
        there = set(predictions.cases)
        unknown = sorted(there - set(truth.cases))
        if unknown:
            what = "predictions for cases that the ground truth does not have"
            expected = f"cases of {truth.path}, split {truth.split}, such as {truth.cases[0]}"
            raise DataError(what, path=predictions.path, found=_first(unknown), expected=expected)
        rows = subset(truth.cases, settings.limit)
        missing = [truth.cases[row] for row in rows if truth.cases[row] not in there]
        if missing and not allow_missing:
            hint = "--allow-missing scores the others."
            found = f"none for {_first(missing)}"
            raise DataError("cases without predictions", path=predictions.path, found=found, hint=hint)
        self.rows = [row for row in rows if truth.cases[row] in there]
        if not self.rows:
            raise DataError("no predictions for the cases that are scored", path=predictions.path)
        self.notes = [f"{len(missing)} cases have no predictions and are left out"] if missing else []

    def fingerprint(self) -> str:
        """A hash of the samples that were read so far, in order."""
        return self._digest.hexdigest()

    def batches(self) -> Iterator[tuple[int, Sampled]]:
        """Images that can be scored together, and how many cases are done with them; a large volume comes in parts."""
        waiting: list[_Piece] = []
        names: set[str] = set()
        for done, row in enumerate(self.rows):
            case, patient = self.truth.cases[row], self.truth.patients[row]
            maps, known, weights = self._read(row)
            masks, read = torch.from_numpy(known.masks), torch.from_numpy(known.read)
            own = [case] if len(maps) == 1 else [f"{case}/slice-{z:03d}" for z in range(len(maps))]
            if not names.isdisjoint(own):
                raise DataError("two images of one name", path=self.predictions.path, field=own[0])
            names.update(own)
            step = max(1, _VALUES_AT_ONCE // maps[0].numel())
            for start in range(0, len(maps), step):
                part = slice(start, start + step)
                count = len(own[part])
                alike = weights.expand(count, -1)
                new = _Piece(own[part], [patient] * count, maps[part], masks[part], read[part], alike)
                if waiting and not _fits(waiting, new):
                    yield done, _joined(waiting)
                    waiting = []
                waiting.append(new)
        yield len(self.rows), _joined(waiting)

    def _read(self, row: int) -> tuple[Tensor, TruthCase, Tensor]:
        """Maps (Z,N,K,H,W) of the largest n by the fixed draw, the raters, and weights (N,)."""
        case, largest = self.truth.cases[row], max(self.settings.ns)
        raw, known = self.predictions.read(case), self.truth.read(row)
        if len(raw.names) < largest:
            hint, found = "-n says how many are scored.", len(raw.names)
            raise DataError("too few samples", path=raw.where, field=case, found=found, expected=largest, hint=hint)
        maps = self.values.read(raw)
        ours, theirs = (shape[:1] + shape[3:] for shape in (maps.shape, known.masks.shape))
        if ours != theirs:
            names = [f"{z} slices of {h}×{w}" if z > 1 else f"{h}×{w}" for z, h, w in (ours, theirs)]
            raise DataError("another size", path=raw.where, field=raw.case, found=names[0], expected=names[1])
        check_place(raw.affine, known.affine, where=raw.where, case=raw.case, other=f"that of {self.truth.path}")
        self._digest.update(f"{case}\x1f{maps.shape}\x1f{maps.dtype}\x1f".encode())
        self._digest.update(np.packbits(maps).tobytes() if maps.dtype == bool else maps.tobytes())
        order = draw_order(self.settings.seed, case, raw.names)[:largest]
        weights = np.ones(len(raw.names)) if raw.weights is None else raw.weights
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights[order].sum() > 0):
            raise DataError("weights out of range", path=raw.where, field=case, expected="0 or more, not all 0")
        return torch.from_numpy(maps[:, order]), known, torch.from_numpy(weights[order])


def draw_order(seed: int, case: str, names: Sequence[str]) -> list[int]:
    """The fixed draw: the first n are a random subset of the samples, the same at every call, and of every larger n."""
    return sorted(range(len(names)), key=lambda i: (seed_for(seed, "score", case, names[i]), i))


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if names[1:] else "")


class _Piece(NamedTuple):
    """Images of one case: names, patients, maps (Z,N,K,H,W), masks, read and weights (Z,N)."""

    cases: list[str]
    patients: list[str]
    maps: Tensor
    masks: Tensor
    read: Tensor
    weights: Tensor


def _fits(waiting: list[_Piece], new: _Piece) -> bool:
    """Whether images can be scored together with those that wait, and there is room."""
    first = waiting[0]
    alike = first.maps.shape[1:] == new.maps.shape[1:] and first.maps.dtype == new.maps.dtype
    room = sum(piece.maps.numel() for piece in (*waiting, new)) <= _VALUES_AT_ONCE
    return alike and room and first.masks.shape[1:] == new.masks.shape[1:]


def _joined(waiting: list[_Piece]) -> Sampled:
    cases, patients, *tensors = zip(*waiting, strict=True)
    maps, masks, read, weights = (torch.cat(parts) for parts in tensors)
    return Sampled(list(chain(*cases)), list(chain(*patients)), masks, read, [Drawn(maps, _unequal(weights))])


def _unequal(weights: Tensor) -> Tensor | None:
    """Weights (B,N) of samples where they differ; equal ones take the exact assignment, not a linear programme."""
    return None if torch.allclose(weights, weights[:, :1].expand_as(weights)) else weights
