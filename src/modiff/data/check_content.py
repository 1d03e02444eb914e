"""What cases show when they are looked at together: images, duplicates, and raters against each other.

Rules are set so that a simulated clean data set gives nothing and LIDC-IDRI gives only what is there to see.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from modiff.data.findings import Finding

_SMALL = 30  # voxels: smaller outlines overlap by chance when moved
_FLIP_FROM, _FLIP_TO = 0.2, 0.6  # IoU with the other raters as it is, and after a flip
_SHIFT_TO, _SHIFT_GAIN = 0.85, 0.25  # IoU after a shift, and what it must gain
_SINGLE_GAIN, _SINGLE_SHARE = 0.5, 0.01  # one 2-D case alone: a larger gain, by an outline of this share of the image
_SAME_SHIFT = 1.5  # pixels between shifts that are the same
_ENOUGH = 3  # cases from which a rater's habit is read
_AREA_HABIT, _AREA_CASE = 3.0, 15.0  # ratio of areas to the other raters': as a habit, and in a single case
_AREA_VOXELS, _AREA_AGREED = 100, 1.5  # a single case: least difference, and the ratio within which the others agree
_COPIES = 0.5  # share of identical outlines from which two raters are suspicious


@dataclass(frozen=True)
class Case:
    """One case: image (C,Z,H,W), masks (R,Z,H,W) with 0 as background, read (R,); Z is 1 for single images."""

    name: str
    patient: str
    split: str | None
    image: np.ndarray
    masks: np.ndarray
    read: np.ndarray


class ContentChecks:
    """Give it cases one by one; `add` yields what a case shows alone, `finish` what all show together."""

    def __init__(self, raters: tuple[str, ...], *, exchangeable: bool, classes: tuple[str, ...] = ()) -> None:
        self.raters, self.exchangeable, self.classes = raters, exchangeable, classes
        self._seen: dict[bytes, Case] = {}
        self._moves: dict[int, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
        self._compared: dict[int, int] = defaultdict(int)
        self._ratios: dict[int, list[float]] = defaultdict(list)
        self._same: dict[tuple[int, int], list[bool]] = defaultdict(list)
        self._reads, self._marks = np.zeros(len(raters), int), np.zeros(len(raters), int)
        self._used: set[int] = set()
        self._cases = 0

    def add(self, case: Case) -> Iterator[Finding]:
        """Findings about this case."""
        self._cases += 1
        yield from self._image(case)
        marked = (case.masks != 0) & case.read[:, None, None, None]
        areas = marked.reshape(len(marked), -1).sum(1)
        self._reads += case.read
        self._marks += areas > 0
        self._used |= set(np.unique(case.masks[marked]).tolist()) if areas.any() else set()
        marking = [int(rater) for rater in np.flatnonzero(areas)]
        for rater in marking:
            others = [other for other in marking if other != rater]
            yield from self._inverted(case, rater, marked, others)
            if others:
                yield from self._areas(case, rater, areas, others)
                # With two raters each is the other's only company: one word about the pair is enough.
                if len(others) > 1 or rater < others[0]:
                    yield from self._moved(case, rater, marked, others)
        for one, other in combinations(marking, 2):
            self._same[one, other].append(areas[one] == areas[other] and bool((marked[one] == marked[other]).all()))

    def _image(self, case: Case) -> Iterator[Finding]:
        flat = np.array([channel.min() == channel.max() for channel in case.image])
        if flat.all():
            yield Finding(
                "error", "constant image", f"every pixel is {case.image.flat[0]:g}: nothing to see", case.name
            )
            return
        if flat.any():
            numbers = ", ".join(str(number) for number in np.flatnonzero(flat) + 1)
            yield Finding("warning", "constant channel", f"channel {numbers} has one value throughout", case.name)
        head = f"{case.image.dtype} {case.image.shape}".encode()
        digest = hashlib.blake2b(head + np.ascontiguousarray(case.image).tobytes(), digest_size=16).digest()
        before = self._seen.setdefault(digest, Case(case.name, case.patient, case.split, *[np.empty(0)] * 3))
        if before.name == case.name:
            return
        if before.split != case.split:
            text = f"shows the same image as {before.name}: one is in {case.split}, the other in {before.split}"
            yield Finding("error", "the same image in two splits", text, case.name)
        elif before.patient != case.patient:
            text = f"patient {case.patient} has the same image as {before.name} of patient {before.patient}"
            yield Finding("warning", "the same image of two patients", text, case.name)
        else:
            yield Finding("warning", "the same image twice", f"shows the same image as {before.name}", case.name)

    def _inverted(self, case: Case, rater: int, marked: np.ndarray, others: list[int]) -> Iterator[Finding]:
        mask = marked[rater]
        if not (mask.mean() > 0.5 and mask[:, :: max(mask.shape[1] - 1, 1), :: max(mask.shape[2] - 1, 1)].all()):
            return
        text = f"{self._who(rater)} marks {100 * mask.mean():.0f} % of the image, with all its corners"
        against = _consensus(marked[others]) if others else None
        sure = against is not None and _iou(~mask, against) > max(0.5, _iou(mask, against))
        text += "; its reverse agrees with the other raters" if sure else ": foreground and background swapped?"
        yield Finding("error" if sure else "warning", "inverted mask", text, case.name)

    def _areas(self, case: Case, rater: int, areas: np.ndarray, others: list[int]) -> Iterator[Finding]:
        typical = float(np.median(areas[others]))
        ratio = float(areas[rater]) / typical
        self._ratios[rater].append(ratio)
        agreed = len(others) > 1 and areas[others].max() <= _AREA_AGREED * areas[others].min()
        if agreed and max(ratio, 1 / ratio) >= _AREA_CASE and abs(areas[rater] - typical) >= _AREA_VOXELS:
            text = f"{self._who(rater)} marks {areas[rater]} pixels, the others {typical:g}"
            yield Finding("warning", "an area far off", text, case.name)

    def _moved(self, case: Case, rater: int, marked: np.ndarray, others: list[int]) -> Iterator[Finding]:
        """Flipped or shifted: the overlap with the other raters is poor as it is and good after one move."""
        mask, against = marked[rater], _consensus(marked[others])
        if mask.sum() < _SMALL or against.sum() < _SMALL:
            return
        self._compared[rater] += 1
        now, volume = _iou(mask, against), mask.shape[0] > 1
        whom = f"{self._who(rater)} overlaps {self._company(others)} by {now:.2f}"
        if now <= _FLIP_FROM:
            best, name = max((_iou(moved, against), name) for name, moved in _flips(mask))
            if best >= _FLIP_TO:
                self._moves[rater].append((name, ()))
                text = f"{whom}, by {best:.2f} when {name}"
                yield Finding("error" if volume else "warning", "a flipped rater", text, case.name)
                return
        if now > _SHIFT_TO - _SHIFT_GAIN:
            return
        shift = tuple(int(step) for step in np.rint(_centroid(against) - _centroid(mask)))
        best = _iou(_shifted(mask, shift), against)
        if best < _SHIFT_TO or best - now < _SHIFT_GAIN or max(map(abs, shift)) < 2:
            return
        self._moves[rater].append(("shift", shift))
        alone = best - now >= _SINGLE_GAIN and mask.mean() >= _SINGLE_SHARE
        if volume or alone:
            text = f"{whom}, by {best:.2f} when moved by {_steps(shift)}"
            yield Finding("error" if volume else "warning", "a shifted rater", text, case.name)

    def finish(self) -> Iterator[Finding]:
        """Findings about raters and the whole data set."""
        if not self.exchangeable:
            yield from self._habits()
            for rater in np.flatnonzero((self._reads >= _ENOUGH) & (self._marks == 0)):
                text = f"{self.raters[rater]} marks nothing in any of {self._reads[rater]} cases: are the masks empty?"
                yield Finding("warning", "a rater who never marks", text)
        if self._cases and not self._marks.any():
            yield Finding("error", "no marks", "no rater marks anything in any case")
        yield from self._copies()
        for index, name in enumerate(self.classes, 1):
            if self._used and index not in self._used:
                yield Finding("warning", "a class without a pixel", f"no rater ever marks {name}")

    def _habits(self) -> Iterator[Finding]:
        for rater, name in enumerate(self.raters):
            for move, text in _habitual(self._moves[rater]):
                share = f"{move} of {self._compared[rater]} cases"
                if move >= _ENOUGH and move >= 0.3 * self._compared[rater]:
                    kind = "a shifted rater" if "moved" in text else "a flipped rater"
                    company = self._company([other for other in range(len(self.raters)) if other != rater])
                    yield Finding("error", kind, f"{name} agrees with {company} when {text}, in {share}")
            ratios = self._ratios[rater]
            typical = float(np.median(ratios)) if ratios else 1.0
            if len(ratios) >= _ENOUGH and max(typical, 1 / typical) >= _AREA_HABIT:
                text = f"{name} marks {typical:.2g} times the area that the others mark (median of {len(ratios)} cases)"
                yield Finding("warning", "a rater whose areas are far off", text)

    def _copies(self) -> Iterator[Finding]:
        pairs = self._same
        if self.exchangeable:  # slots are nobody: all pairs together
            pairs = {(-1, -1): [same for values in self._same.values() for same in values]}
        for (one, other), same in pairs.items():
            share = float(np.mean(same)) if same else 0.0
            if len(same) < _ENOUGH or share <= _COPIES:
                continue
            who = "raters" if self.exchangeable else f"{self.raters[one]} and {self.raters[other]}"
            text = f"{who} draw the same outline, to the pixel, {sum(same)} of {len(same)} times that both mark"
            yield Finding("error" if share == 1 else "warning", "raters that are copies", text)

    def _company(self, others: list[int]) -> str:
        if len(others) > 1:
            return "the others"
        return "another" if self.exchangeable else self.raters[others[0]]

    def _who(self, rater: int) -> str:
        return "a rater" if self.exchangeable else self.raters[rater]


def _consensus(marked: np.ndarray) -> np.ndarray:
    return marked.mean(0) >= 0.5


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


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


def _shifted(mask: np.ndarray, shift: tuple[int, ...]) -> np.ndarray:
    made = np.zeros_like(mask)
    to = tuple(slice(max(step, 0), size + min(step, 0)) for step, size in zip(shift, mask.shape, strict=True))
    of = tuple(slice(max(-step, 0), size + min(-step, 0)) for step, size in zip(shift, mask.shape, strict=True))
    made[to] = mask[of]
    return made


def _steps(shift: tuple[int, ...]) -> str:
    names = ("slices", "rows", "columns")
    return ", ".join(f"{step:+d} {name}" for step, name in zip(shift, names, strict=True) if step) or "nothing"


def _habitual(moves: list[tuple[str, tuple[int, ...]]]) -> Iterator[tuple[int, str]]:
    """(How often, in words) of each flip, and of the shift that most cases share."""
    names = [name for name, _ in moves if name != "shift"]
    yield from ((names.count(name), name) for name in dict.fromkeys(names))
    shifts = np.array([shift for name, shift in moves if name == "shift"])
    if len(shifts):
        typical = np.median(shifts, axis=0)
        alike = int((np.abs(shifts - typical).max(1) <= _SAME_SHIFT).sum())
        yield alike, f"moved by {_steps(tuple(int(step) for step in np.rint(typical)))}"
