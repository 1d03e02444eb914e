"""A rater whose masks were flipped or shifted: the overlap with the other raters is poor, and good after one move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from modiff.data.check.findings import Finding

_SMALL = 30  # voxels: smaller outlines overlap by chance when moved
_ENOUGH = 3  # cases from which a rater's habit is read
# IoU as it is and after a flip: in one image, in one volume, and pooled over cases. LIDC-IDRI's 1,783 poor overlaps
# give no image; a volume or many cases give more to judge by, so less is asked of raters who differ much.
_IMAGE, _VOLUME, _POOLED = (0.2, 0.6), (0.05, 0.25), (1 / 3, 0.25)
_FINE = 0.4  # IoU from which a case speaks against any flip, and none is tried
_SHIFT_TO, _SHIFT_GAIN = 0.85, 0.25  # IoU after a shift, and what it must gain
_ALONE_GAIN, _ALONE_SHARE = 0.5, 0.01  # one image alone: a larger gain, by an outline of this fraction of the image
_HABIT = 0.3  # fraction of a rater's cases that must be flipped or shifted alike
_SAME_SHIFT = 1.5  # voxels between shifts that are the same
_NOW = "as it is"


class Moves:
    """Gathers evidence case by case. pool: raters are persons, so that their cases can be taken together."""

    def __init__(self, *, pool: bool) -> None:
        self._pool = pool
        self._sums: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
        self._flipped: dict[int, list[str]] = defaultdict(list)
        self._shifts: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        self._compared: dict[int, int] = defaultdict(int)

    def add(self, case: str, rater: int, words: str, mask: np.ndarray, against: np.ndarray) -> Iterator[Finding]:
        """One rater's mask (Z,H,W) against the others' consensus; words: who overlaps whom."""
        if np.count_nonzero(mask) < _SMALL or np.count_nonzero(against) < _SMALL:
            return
        self._compared[rater] += 1
        now, volume = iou(mask, against), mask.shape[0] > 1
        flips = {_NOW: counts(mask, against)}
        if now < _FINE:
            flips |= {name: counts(moved, against) for name, moved in _flips(mask)}
        if self._pool:
            self._gather(rater, flips, [name for name, _ in _flips(mask)])
        name, best = max(((name, _ratio(flips[name])) for name in flips), key=lambda pair: pair[1])
        rules = (_IMAGE, _VOLUME) if volume else (_IMAGE,)
        if any(now <= low and best >= high for low, high in rules):
            self._flipped[rater].append(name)
            text = f"{words} by {now:.2f}, by {best:.2f} when {name}"
            yield Finding("error" if volume else "warning", "a flipped rater", text, case)
        else:
            yield from self._shifted(case, rater, words, mask, against, now)

    def _gather(self, rater: int, flips: dict[str, np.ndarray], names: list[str]) -> None:
        sums = self._sums[rater]
        for name in (_NOW, *names):
            # A flip that was not tried did not overlap: what is fine as it is speaks against it.
            sums[name] = sums.get(name, 0) + flips.get(name, flips[_NOW] * [0, 1])

    def _shifted(
        self, case: str, rater: int, words: str, mask: np.ndarray, against: np.ndarray, now: float
    ) -> Iterator[Finding]:
        if now > _SHIFT_TO - _SHIFT_GAIN:
            return
        shift = tuple(int(step) for step in np.rint(_centroid(against) - _centroid(mask)))
        best = iou(_rolled(mask, shift), against)
        if best < _SHIFT_TO or max(map(abs, shift)) < 2:
            return
        self._shifts[rater].append(shift)
        volume = mask.shape[0] > 1
        if volume or (best - now >= _ALONE_GAIN and mask.mean() >= _ALONE_SHARE):
            text = f"{words} by {now:.2f}, by {best:.2f} when moved by {_steps(shift)}"
            yield Finding("error" if volume else "warning", "a shifted rater", text, case)

    def finish(self, rater: int, words: str) -> Iterator[Finding]:
        """What all cases of a rater say together."""
        compared = self._compared[rater]
        if compared < _ENOUGH:
            return
        pooled = {name: _ratio(sums) for name, sums in self._sums[rater].items()}
        best = max(pooled, key=lambda name: pooled[name])
        often, times = max(((name, self._flipped[rater].count(name)) for name in pooled), key=lambda pair: pair[1])
        if pooled[best] >= _POOLED[1] and pooled[_NOW] <= _POOLED[0] * pooled[best]:
            text = f"{words} by {pooled[_NOW]:.2f} over {compared} cases, by {pooled[best]:.2f} when {best}"
            yield Finding("error", "a flipped rater", text)
        elif times >= max(_ENOUGH, _HABIT * compared):
            text = f"{words} well only when {often}, in {times} of {compared} cases"
            yield Finding("error", "a flipped rater", text)
        if shifts := np.array(self._shifts[rater]).reshape(-1, 3).tolist():
            typical = np.median(shifts, axis=0)
            alike = int((np.abs(np.array(shifts) - typical).max(1) <= _SAME_SHIFT).sum())
            if alike >= max(_ENOUGH, _HABIT * compared):
                steps = _steps(tuple(int(step) for step in np.rint(typical)))
                text = f"{words} well only when moved by {steps}, in {alike} of {compared} cases"
                yield Finding("error", "a shifted rater", text)


def consensus(marked: np.ndarray) -> np.ndarray:
    """(R,…) bool -> (…): what at least half of them mark."""
    return marked.mean(0) >= 0.5


def counts(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(2,) voxels of the intersection and of the union."""
    return np.array([np.count_nonzero(one & other), np.count_nonzero(one | other)])


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union; 1 for two empty masks."""
    return _ratio(counts(one, other))


def _ratio(pair: np.ndarray) -> float:
    return float(pair[0] / pair[1]) if pair[1] else 1.0


def _flips(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "flipped left to right", mask[:, :, ::-1]
    yield "flipped upside down", mask[:, ::-1]
    yield "turned by 180 degrees", mask[:, ::-1, ::-1]
    if mask.shape[1] == mask.shape[2]:
        yield "transposed", mask.swapaxes(1, 2)
    if mask.shape[0] > 1:
        yield "with its slices in reverse order", mask[::-1]


def _centroid(mask: np.ndarray) -> np.ndarray:
    return np.array([places.mean() for places in np.nonzero(mask)])


def _rolled(mask: np.ndarray, shift: tuple[int, ...]) -> np.ndarray:
    """Moved by whole voxels; what leaves the grid is lost."""
    made = np.zeros_like(mask)
    to = tuple(slice(max(step, 0), size + min(step, 0)) for step, size in zip(shift, mask.shape, strict=True))
    of = tuple(slice(max(-step, 0), size + min(-step, 0)) for step, size in zip(shift, mask.shape, strict=True))
    made[to] = mask[of]
    return made


def _steps(shift: tuple[int, ...]) -> str:
    names = ("slices", "rows", "columns")
    return ", ".join(f"{step:+d} {name}" for step, name in zip(shift, names, strict=True) if step)
