"""Findings of a check, in words and with the case, and what gives them: images, duplicates, raters against each other.

Rules are set so that a simulated clean data set gives nothing and LIDC-IDRI gives only what is there to see.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from modiff.errors import counted

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

_ENOUGH = 3  # cases from which a rater's habit is read
_AREA_HABIT, _AREA_CASE = 3.0, 15.0  # ratio of areas to the other raters': as a habit, and in a single case
_AREA_VOXELS, _AREA_AGREED = 100, 1.5  # a single case: least difference; the ratio within which the others agree
_COPIES = 0.5  # fraction of identical outlines from which two raters are suspicious
_SMALL = 30  # voxels: smaller outlines overlap by chance when moved
# IoU as it is and after a flip: in one image, in one volume, and pooled over cases. LIDC-IDRI's 1,783 poor overlaps
# give no image; a volume or many cases give more to judge by, so less is asked of raters who differ much.
_IMAGE, _VOLUME, _POOLED = (0.2, 0.6), (0.05, 0.25), (1 / 3, 0.25)
_FINE = 0.4  # IoU from which a case speaks against any flip, and none is tried
_SHIFT_TO, _SHIFT_GAIN = 0.85, 0.25  # IoU after a shift, and what it must gain
_ALONE_GAIN, _ALONE_FRACTION = 0.5, 0.01  # one image alone: a larger gain, by an outline of this fraction of the image
_HABIT = 0.3  # fraction of a rater's cases that must be flipped or shifted alike
_SAME_SHIFT = 1.5  # voxels between shifts that are the same
_NOW = "as it is"


@dataclass(frozen=True)
class Finding:
    """What the import refuses (`error`), what it takes but is wrong or odd (`warning`), or good to know (`note`).

    kind: what it is, the same words for all of its kind. text: the one instance, in words. case: where to look, or
    None where it is about the whole data set.
    """

    level: Level
    kind: str
    text: str
    case: str | None = None


class View(NamedTuple):
    """What a thumbnail shows. image: (H,W). masks: (R,H,W), not 0 is marked."""

    image: np.ndarray
    masks: np.ndarray
    raters: tuple[str, ...]


@dataclass
class Report:
    """Findings about the data set at `path`. what: its kind and size in words. view: thumbnail of a case, or None."""

    path: str
    what: str
    findings: list[Finding] = field(default_factory=list)
    view: Callable[[str], View | None] = lambda case: None

    @property
    def usable(self) -> bool:
        """No error was found."""
        return self.count("error") == 0

    def count(self, level: Level) -> int:
        """Findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def groups(self) -> list[tuple[Level, str, list[Finding]]]:
        """Findings of one level and kind together, the worst first, in the order they were found."""
        table: dict[tuple[Level, str], list[Finding]] = {}
        for finding in sorted(self.findings, key=lambda finding: LEVELS.index(finding.level)):
            table.setdefault((finding.level, finding.kind), []).append(finding)
        return [(level, kind, found) for (level, kind), found in table.items()]

    @property
    def verdict(self) -> str:
        """One line: usable or not, and how much was found."""
        counts = [counted(count, level) for level in LEVELS if (count := self.count(level))]
        return ("usable" if self.usable else "not usable as it is") + ": " + (", ".join(counts) or "nothing found")


class ContentChecks:
    """Give it cases one by one; `add` yields what a case shows alone, `finish` what all show together."""

    def __init__(self, raters: tuple[str, ...], *, exchangeable: bool, classes: tuple[str, ...] = ()) -> None:
        self.raters, self.exchangeable, self.classes = raters, exchangeable, classes
        self._who = ["a rater"] * len(raters) if exchangeable else list(raters)
        self._seen: dict[bytes, tuple[str, str, str | None]] = {}
        self._moves, self._ratios = [Moves() for _ in raters], [list[float]() for _ in raters]
        self._same: dict[tuple[int, ...], list[bool]] = defaultdict(list)  # by pair; () for all where slots are nobody
        self._reads, self._marks = np.zeros(len(raters), int), np.zeros(len(raters), int)
        self._used: set[int] = set()

    def add(
        self, case: str, patient: str, split: str | None, image: np.ndarray, masks: np.ndarray, read: np.ndarray
    ) -> Iterator[Finding]:
        """Findings about a case: image (C,Z,H,W), masks (R,Z,H,W), 0 is background, read (R,); Z is 1 for an image."""
        yield from self._image(case, patient, split, image)
        marked = (masks != 0) & read[:, None, None, None]
        areas = marked.reshape(len(marked), -1).sum(1)
        self._reads += read
        self._marks += areas > 0
        self._used |= set(np.unique(masks[marked]).tolist())
        marking = [int(rater) for rater in np.flatnonzero(areas)]
        for rater in marking:
            others = [other for other in marking if other != rater]
            yield from self._inverted(case, rater, marked, others)
            if others:
                typical = float(np.median(areas[others]))
                ratio = float(areas[rater]) / typical
                self._ratios[rater].append(ratio)
                agreed = len(others) > 1 and areas[others].max() <= _AREA_AGREED * areas[others].min()
                if agreed and max(ratio, 1 / ratio) >= _AREA_CASE and abs(areas[rater] - typical) >= _AREA_VOXELS:
                    text = f"{self._who[rater]} marks {areas[rater]} pixels, the others {typical:g}"
                    yield Finding("warning", "an area far off", text, case)
                # With two raters each is the other's only company: one word about the pair is enough.
                if len(others) > 1 or rater < others[0]:
                    words = f"{self._who[rater]} overlaps {self._company(others)}"
                    yield from self._moves[rater].add(case, words, marked[rater], consensus(marked[others]))
        for one, other in combinations(marking, 2):
            same = areas[one] == areas[other] and bool((marked[one] == marked[other]).all())
            self._same[() if self.exchangeable else (one, other)].append(same)
            if same and masks.shape[1] > 1 and areas[one] >= _AREA_VOXELS:  # chance does not repeat a volume
                text = f"{self._who[one]} and {self._company([other])} draw the same {areas[one]} voxels"
                yield Finding("warning", "the same outline in a volume", text, case)

    def _image(self, case: str, patient: str, split: str | None, image: np.ndarray) -> Iterator[Finding]:
        flat = np.array([channel.min() == channel.max() for channel in image])
        if flat.all():
            text = f"every pixel is {image.flat[0]:g}: nothing to see"
            yield Finding("warning", "constant image", text, case)
            return
        if flat.any():
            numbers = ", ".join(str(number) for number in np.flatnonzero(flat) + 1)
            yield Finding("warning", "constant channel", f"channel {numbers} has one value throughout", case)
        head = f"{image.dtype} {image.shape}".encode()
        digest = hashlib.blake2b(head + np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
        name, who, where = self._seen.setdefault(digest, (case, patient, split))
        if where != split:
            text = f"shows the same image as {name}: one is in {split}, the other in {where}"
            yield Finding("warning", "the same image in two splits", text, case)
        elif who != patient:
            text = f"patient {patient} has the same image as {name} of patient {who}"
            yield Finding("warning", "the same image of two patients", text, case)
        elif name != case:
            yield Finding("warning", "the same image twice", f"shows the same image as {name}", case)

    def _inverted(self, case: str, rater: int, marked: np.ndarray, others: list[int]) -> Iterator[Finding]:
        mask = marked[rater]
        if not (mask.mean() > 0.5 and mask[:, :: max(mask.shape[1] - 1, 1), :: max(mask.shape[2] - 1, 1)].all()):
            return
        text = f"{self._who[rater]} marks {100 * mask.mean():.0f} % of the image, with all its corners"
        against = consensus(marked[others]) if others else None
        sure = against is not None and iou(~mask, against) > max(0.5, iou(mask, against))
        text += "; its reverse agrees with the other raters" if sure else ": foreground and background swapped?"
        yield Finding("warning", "inverted mask", text, case)

    def finish(self) -> Iterator[Finding]:
        """Findings about raters and the whole data set."""
        if not self.exchangeable:
            for rater, name in enumerate(self.raters):
                others = [other for other in range(len(self.raters)) if other != rater]
                yield from self._moves[rater].finish(f"{name} overlaps {self._company(others)}" if others else name)
                ratios = self._ratios[rater]
                typical = float(np.median(ratios)) if ratios else 1.0
                if len(ratios) >= _ENOUGH and max(typical, 1 / typical) >= _AREA_HABIT:
                    of = f"(median of {len(ratios)} cases)"
                    text = f"{name} marks {typical:.2g} times the area that the others mark {of}"
                    yield Finding("warning", "a rater whose areas are far off", text)
            for silent in np.flatnonzero((self._reads >= _ENOUGH) & (self._marks == 0)):
                name, reads = self.raters[silent], self._reads[silent]
                text = f"{name} marks nothing in any of {reads} cases: are the masks empty?"
                yield Finding("warning", "a rater who never marks", text)
        if self._reads.any() and not self._marks.any():
            yield Finding("warning", "no marks", "no rater marks anything in any case")
        for pair, same in self._same.items():
            if len(same) >= _ENOUGH and np.mean(same) > _COPIES:
                who = " and ".join(self.raters[rater] for rater in pair) or "raters"
                text = f"{who} draw the same outline, to the pixel, {sum(same)} of {len(same)} times that both mark"
                yield Finding("warning", "raters that are copies", text)
        for index, name in enumerate(self.classes, 1):
            if self._used and index not in self._used:
                yield Finding("warning", "a class without a pixel", f"no rater ever marks {name}")

    def _company(self, others: list[int]) -> str:
        if len(others) > 1:
            return "the others"
        return "another" if self.exchangeable else self.raters[others[0]]


class Moves:
    """A rater whose masks were flipped or shifted: they overlap the others' poorly, and well after one move.

    Gathers evidence case by case.
    """

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._flipped: list[str] = []
        self._shifts: list[np.ndarray] = []
        self._compared = 0

    def add(self, case: str, words: str, mask: np.ndarray, against: np.ndarray) -> Iterator[Finding]:
        """The rater's mask (Z,H,W) against the others' consensus; words: who overlaps whom."""
        if np.count_nonzero(mask) < _SMALL or np.count_nonzero(against) < _SMALL:
            return
        self._compared += 1
        here = counts(mask, against)
        now, volume = _ratio(here), mask.shape[0] > 1
        # A flip that is not tried does not overlap: what is fine as it is speaks against it.
        flips = {name: counts(moved, against) if now < _FINE else here * [0, 1] for name, moved in _flips(mask)}
        flips = {_NOW: here} | flips
        for name, pair in flips.items():
            self._sums[name] = self._sums.get(name, 0) + pair
        name, best = max(((name, _ratio(pair)) for name, pair in flips.items()), key=lambda pair: pair[1])
        if any(now <= low and best >= high for low, high in ((_IMAGE, _VOLUME) if volume else (_IMAGE,))):
            self._flipped.append(name)
            yield Finding("warning", "a flipped rater", f"{words} by {now:.2f}, by {best:.2f} when {name}", case)
            return
        if now > _SHIFT_TO - _SHIFT_GAIN:
            return
        shift = np.rint(np.subtract(*map(ndimage.center_of_mass, (against, mask)))).astype(int)
        best = iou(ndimage.shift(mask, shift, order=0), against)  # what leaves the grid is lost
        if best < _SHIFT_TO or np.abs(shift).max() < 2:
            return
        self._shifts.append(shift)
        if volume or (best - now >= _ALONE_GAIN and mask.mean() >= _ALONE_FRACTION):
            text = f"{words} by {now:.2f}, by {best:.2f} when moved by {_steps(shift)}"
            yield Finding("warning", "a shifted rater", text, case)

    def finish(self, words: str) -> Iterator[Finding]:
        """What all cases of a rater say together."""
        compared = self._compared
        if compared < _ENOUGH:
            return
        pooled = {name: _ratio(sums) for name, sums in self._sums.items()}
        best = max(pooled, key=lambda name: pooled[name])
        often, times = max(((name, self._flipped.count(name)) for name in pooled), key=lambda pair: pair[1])
        if pooled[best] >= _POOLED[1] and pooled[_NOW] <= _POOLED[0] * pooled[best]:
            text = f"{words} by {pooled[_NOW]:.2f} over {compared} cases, by {pooled[best]:.2f} when {best}"
            yield Finding("warning", "a flipped rater", text)
        elif times >= max(_ENOUGH, _HABIT * compared):
            text = f"{words} well only when {often}, in {times} of {compared} cases"
            yield Finding("warning", "a flipped rater", text)
        if self._shifts:
            typical = np.median(self._shifts, axis=0)
            alike = int((np.abs(np.array(self._shifts) - typical).max(1) <= _SAME_SHIFT).sum())
            if alike >= max(_ENOUGH, _HABIT * compared):
                steps = _steps(np.rint(typical).astype(int))
                text = f"{words} well only when moved by {steps}, in {alike} of {compared} cases"
                yield Finding("warning", "a shifted rater", text)


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


def _steps(shift: np.ndarray) -> str:
    names = ("slices", "rows", "columns")
    return ", ".join(f"{step:+d} {name}" for step, name in zip(shift, names, strict=True) if step)
