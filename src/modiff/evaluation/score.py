"""Files with samples and raters in, the two files of an evaluation out; what `modiff score` does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modiff.devices import device_name
from modiff.errors import DataError
from modiff.evaluation import provenance
from modiff.evaluation.predictions.base import MapSource, RawMaps
from modiff.evaluation.predictions.folder import check_place
from modiff.evaluation.predictions.values import Values
from modiff.evaluation.records import Result, write_result
from modiff.evaluation.resume import Row
from modiff.evaluation.run import Written
from modiff.evaluation.score_truth import Truth, TruthCase, image_names
from modiff.evaluation.scoring import merge, rows_of, score_references, score_samples
from modiff.evaluation.selection import subset
from modiff.evaluation.settings import EvaluationSettings
from modiff.evaluation.table import UNREAD, assemble, records_of, strata_of, write_csv
from modiff.rng import seed_for

_VALUES_AT_ONCE = 1 << 24  # 64 MiB of float32 maps

Progress = Callable[[int, int], None]


@dataclass(eq=False)
class _Images:
    """Images of one size that are scored together."""

    names: list[str] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    read: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def fits(self, maps: Tensor, masks: Tensor) -> bool:
        """Whether they can be joined, and there is room."""
        if not self.maps:
            return True
        alike = self.maps[0].shape[1:] == maps.shape[1:] and self.maps[0].dtype == maps.dtype
        room = sum(part.numel() for part in self.maps) + maps.numel() <= _VALUES_AT_ONCE
        return alike and room and self.masks[0].shape[1:] == masks.shape[1:]


class _Reader:
    """Reads a case's samples and raters and checks that they fit; keeps a hash of the samples."""

    def __init__(self, predictions: MapSource, truth: Truth, values: Values, settings: EvaluationSettings) -> None:
        self.predictions, self.truth, self.values, self.settings = predictions, truth, values, settings
        self.digest = hashlib.sha256()

    def read(self, row: int) -> tuple[Tensor, TruthCase, Tensor]:
        """Maps (Z,N,K,H,W) of the largest n by the fixed draw, the raters, and weights (N,)."""
        case, largest = self.truth.cases[row], max(self.settings.ns)
        raw, known = self.predictions.read(case), self.truth.read(row)
        if len(raw.names) < largest:
            hint = "-n says how many are scored."
            raise DataError(
                "too few samples", path=raw.where, field=case, found=len(raw.names), expected=largest, hint=hint
            )
        maps = self.values.read(raw)
        self._check(raw, maps, known)
        self.digest.update(f"{case}\x1f{maps.shape}\x1f{maps.dtype}\x1f".encode())
        self.digest.update(np.packbits(maps).tobytes() if maps.dtype == bool else maps.tobytes())
        order = draw_order(self.settings.seed, case, raw.names)[:largest]
        weights = np.ones(len(raw.names)) if raw.weights is None else raw.weights
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights[order].sum() > 0):
            raise DataError("weights that cannot be", path=raw.where, field=case, expected="0 or more, not all 0")
        return torch.from_numpy(maps[:, order]), known, torch.from_numpy(weights[order])

    def _check(self, raw: RawMaps, maps: np.ndarray, known: TruthCase) -> None:
        ours, theirs = (maps.shape[0], *maps.shape[3:]), (known.masks.shape[0], *known.masks.shape[3:])
        if ours != theirs:
            names = [f"{z} slices of {h}×{w}" if z > 1 else f"{h}×{w}" for z, h, w in (ours, theirs)]
            raise DataError("another size", path=raw.where, field=raw.case, found=names[0], expected=names[1])
        check_place(raw.affine, known.affine, where=raw.where, case=raw.case, other=f"that of {self.truth.path}")


def draw_order(seed: int, case: str, names: Sequence[str]) -> list[int]:
    """The fixed draw: the first n are a random subset of the samples, the same at every call, and of every larger n."""
    return sorted(range(len(names)), key=lambda i: (seed_for(seed, "score", case, names[i]), i))


def score_to_folder(
    predictions: MapSource,
    truth: Truth,
    folder: str | Path,
    settings: EvaluationSettings,
    *,
    name: str,
    values: Values,
    allow_missing: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Scores every case of the truth and writes <split>.csv and <split>.json to `folder`, as an evaluation does.

    name: of the method. values: how the numbers of the predictions are read. allow_missing: cases without predictions
    are left out, and a note says how many; else they are refused.
    Raises DataError that names the case where predictions and truth do not fit, and for unequal cases.
    """
    rows, notes = _matched(predictions, truth, settings, allow_missing)
    reader = _Reader(predictions, truth, values, settings)
    finished: list[Row] = []
    for done, images in _batches(reader, rows):
        finished += _score(images, settings)
        if progress:
            progress(done, len(rows))
    _check_names(finished, predictions)
    table = assemble(truth.split, finished, {})
    if not len(table):
        raise DataError("nobody read any of these images", path=truth.path)
    unread = sum(row["stratum"] == UNREAD for row in finished)
    made = {
        "command": provenance.command_line(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "device": device_name("cpu"),
        "processes": 1,
        "store": {"path": str(truth.path.resolve()), "fingerprint": truth.fingerprint()},
        "model": {"name": name, "fingerprint": reader.digest.hexdigest(), "samples": str(predictions.path.resolve())},
        "date": provenance.now(),
        "seed": settings.seed,
        "split": truth.split,
        "settings": settings.to_dict(),
        "notes": [*truth.notes, *notes],
        "unread": unread,
    }
    records = records_of(table, seed=settings.seed, resamples=settings.resamples)
    result = Result(made, table.counts(), records)
    target = Path(folder) / f"{settings.name(truth.split)}.json"
    written = write_csv(table, target.with_suffix(".csv"))
    return Written(result, write_result(result, target), written)


def _matched(
    predictions: MapSource, truth: Truth, settings: EvaluationSettings, allow_missing: bool
) -> tuple[list[int], list[str]]:
    """Rows of the truth that are scored, and what is to be said of them."""
    predicted = set(predictions.cases)
    unknown = sorted(predicted - set(truth.cases))
    if unknown:
        more = f" and {len(unknown) - 1} more" if unknown[1:] else ""
        found = f"{unknown[0]}{more}"
        raise DataError(
            "predictions for cases that the ground truth does not have",
            path=predictions.path,
            found=found,
            expected=f"cases of {truth.path}, split {truth.split}, such as {truth.cases[0]}",
        )
    rows = subset(truth.cases, settings.limit)
    missing = [truth.cases[row] for row in rows if truth.cases[row] not in predicted]
    if not missing:
        return rows, []
    if not allow_missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        hint = "--allow-missing scores the others."
        raise DataError(
            "cases without predictions", path=predictions.path, found=f"none for {missing[0]}{more}", hint=hint
        )
    rows = [row for row in rows if truth.cases[row] in predicted]
    return rows, [f"{len(missing)} cases have no predictions and are left out"]


def _batches(reader: _Reader, rows: list[int]) -> Iterator[tuple[int, _Images]]:
    """Images that can be scored together, and how many cases are read. A large volume is scored in parts."""
    images = _Images()
    for done, row in enumerate(rows):
        maps, known, weights = reader.read(row)
        masks, read = torch.from_numpy(known.masks), torch.from_numpy(known.read)
        names = image_names(reader.truth.cases[row], len(maps))
        step = max(1, _VALUES_AT_ONCE // maps[0].numel())
        for start in range(0, len(maps), step):
            part = slice(start, start + step)
            if not images.fits(maps[part], masks[part]):
                yield done, images
                images = _Images()
            images.names += names[part]
            images.patients += [reader.truth.patients[row]] * len(maps[part])
            images.maps.append(maps[part])
            images.masks.append(masks[part])
            images.read.append(read[part])
            images.weights.append(weights.expand(len(maps[part]), -1))
    yield len(rows), images


def _score(images: _Images, settings: EvaluationSettings) -> list[Row]:
    """Finished rows of some images."""
    masks, read, weights = torch.cat(images.masks), torch.cat(images.read), torch.cat(images.weights)
    unequal = None if torch.equal(weights, weights[:, :1].expand_as(weights)) else weights
    columns = [
        score_references(masks, read, settings),
        score_samples(torch.cat(images.maps), masks, read, settings, weights=unequal),
    ]
    values = rows_of(merge(columns), len(masks))
    strata = strata_of(masks.flatten(2).any(-1) & read, read)
    readers = read.sum(1).tolist()
    return [
        {
            "case": images.names[i],
            "patient": images.patients[i],
            "stratum": strata[i],
            "raters": readers[i],
            "values": values[i],
        }
        for i in range(len(masks))
    ]


def _check_names(rows: list[Row], predictions: MapSource) -> None:
    seen: set[str] = set()
    for row in rows:
        if row["case"] in seen:
            raise DataError("two images of one name", path=predictions.path, field=row["case"])
        seen.add(row["case"])
