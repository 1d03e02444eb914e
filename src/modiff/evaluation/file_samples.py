"""Samples that any program wrote to files, with the raters of the same cases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modiff.config.evaluation import CANDIDATES, IID, REPRESENTATIVE
from modiff.errors import ConfigError, DataError
from modiff.evaluation.predictions import MapSource, RawMaps, check_place
from modiff.evaluation.scoring import EvaluationSettings
from modiff.evaluation.source import Drawn, Sampled, by_hash, enough_mark, sets_of, short_of, subset, unequal
from modiff.evaluation.truth import StoreTruth, Truth, Values
from modiff.io.image import without_suffix
from modiff.io.results import SampleFolder
from modiff.io.text import one_spelling
from modiff.io.volume import Volume, change_of_axes, permuted, plane_of, sides
from modiff.methods.marking import first_marking
from modiff.rng import seed_for
from modiff.types import Samples, marks

_VALUES_AT_ONCE = 1 << 24  # 64 MiB of float32 maps from files


class FileSamples:
    """Samples in files against the raters of the same cases; the slices of a volume are images of their own.

    They are those that the model judged where `modiff sample` says it, else those along the files' third axis.

    values: how the numbers of the files are read. allow_missing: cases without samples are left out, and a note says
    how many; else they are refused. chosen: which samples the files hold, where each was not drawn by itself.
    Raises DataError where the cases do not fit, ConfigError for another selection than that of the files.
    """

    def __init__(
        self, predictions: MapSource, truth: Truth, values: Values, settings: EvaluationSettings, *, allow_missing: bool
    ) -> None:
        self.predictions, self.truth, self.settings, self.values = predictions, truth, settings, values
        self._digest = hashlib.sha256()
        self._planes: set[str] = set()  # of the slices of volumes
        self._fewest: int | None = None  # candidates for representative sets, where they are fewer than wanted
        self.left_out = 0  # images so far that fewer than two raters marked, where only those who do count
        self.chosen = selection_of(predictions)
        if self.chosen is not None and settings.select != (self.chosen,):
            found, expected = ", ".join(settings.select), f"{self.chosen}, as the samples are"
            raise ConfigError("was decided when the samples were drawn", field="select", found=found, expected=expected)
        if any(one.given_marks for one in predictions.sampled.values()) and not settings.given_marks:
            hint = "--given marks scores them"
            raise DataError("samples given that a rater marks", path=predictions.path, field="raters", hint=hint)
        self._theirs, self._about = paired(predictions, truth)
        rows = self._subset()
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

    def _subset(self) -> list[int]:
        """The cases that are scored; where only raters who mark something count, of those that have enough of them."""
        cases, limit = self.truth.cases, self.settings.limit
        if not (limit and self.settings.given_marks):
            return subset(cases, limit)
        found = list[int]()
        for row in by_hash(cases):
            masks, read, _ = self.truth.read(row)
            if enough_mark(masks.any((2, 3, 4)), read[:1]).any():
                found.append(row)
            else:
                self.left_out += len(masks)
            if len(found) == limit:
                break
        return sorted(found)

    @property
    def notes(self) -> list[str]:
        """What is to be known of the samples that were read so far."""
        short = (
            []
            if self._fewest is None
            else [f"representative sets are chosen from {self._fewest} samples, not {CANDIDATES} n"]
        )
        planes = [f"volumes are scored in {' and '.join(sorted(self._planes))} slices"] if self._planes else []
        return [*self._about, *short, *planes, *(f"samples' files: {note}" for note in self.values.notes)]

    def fingerprint(self) -> str:
        """A hash of the samples that were read so far, in order."""
        return self._digest.hexdigest()

    def batches(self) -> Iterator[tuple[int, Sampled]]:
        """Images that can be scored together, and how many cases are done with them; a large volume comes in parts."""
        every = chain.from_iterable(map(self._images, range(len(self.rows))))

        def kind(image: _Image) -> tuple[Any, ...]:
            weighted = unequal(image.weights[None]) is not None  # weights change how metrics are computed
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
            yield Drawn(maps, unequal(weights), select=self.chosen)
            return
        present = marks(maps) if asked.given_marks else torch.ones_like(weights, dtype=torch.bool)
        samples = Samples(maps, weights, present)
        if asked.given_marks:
            samples, found = first_marking(samples, min(max(maps.shape[1], *asked.ns), asked.largest))
        yield from sets_of(samples, None, found, asked, asked.select)

    def _turned(
        self, raw: RawMaps, grid: Volume | None, maps: np.ndarray, masks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Volumes (Z,N,K,H,W) so that their slices are those that the model judged, where the samples say it."""
        known, sampled = raw.grid or grid, self.predictions.sampled.get(raw.case)
        own = None if known is None else sides(known)
        if own is None:
            return maps, masks
        if sampled is not None and sampled.orientation is not None:
            change, own = change_of_axes(own, sampled.orientation), sampled.orientation
            maps, masks = (_permuted(part, change) for part in (maps, masks))
        if len(maps) > 1:
            self._planes.add(plane_of(own))
        return maps, masks

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
            raise DataError("unexpected size", path=raw.where, field=raw.case, found=names[0], expected=names[1])
        for text, file in check_place(raw.grid, grid, where=raw.where, case=case, other=f"that of {self.truth.path}"):
            self.values.said.add([text], file)
        maps, masks = self._turned(raw, grid, maps, masks)
        read = read[:1].repeat(len(maps), 0)  # of a whole volume
        self._digest.update(f"{case}\x1f{maps.shape}\x1f{maps.dtype}\x1f".encode())
        self._digest.update(np.packbits(maps).tobytes() if maps.dtype == bool else maps.tobytes())
        order = draw_order(self.settings.seed, case, raw.names)[: None if given else self.settings.largest]
        weights = np.ones(len(raw.names)) if raw.weights is None else raw.weights
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights[order].sum() > 0):
            raise DataError("weights out of range", path=raw.where, field=case, expected="0 or more, not all 0")
        for z, arrays in enumerate(zip(maps[:, order], masks, read, strict=True)):
            if given and not enough_mark(masks[z].any((1, 2, 3)), read[z]):
                self.left_out += 1
                continue
            name = case if len(maps) == 1 else f"{case}/slice-{z:03d}"
            tensors = (torch.from_numpy(array) for array in (*arrays, weights[order]))
            yield _Image(name, self.truth.patients[row], place + (z + 1 == len(maps)), *tensors)


def _permuted(volumes: np.ndarray, change: np.ndarray) -> np.ndarray:
    """(Z,N,K,H,W) with the axes of each volume permuted and flipped."""
    return np.ascontiguousarray(np.moveaxis(permuted(np.moveaxis(volumes, 0, -3), change), -3, 0))


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
        stem = without_suffix(scan.name)
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
