"""Percentile bootstrap over patients.

Slices of a patient resemble each other, so images are not independent; patients are. A resample draws whole patients
with replacement and takes the mean over all their images (cluster bootstrap; Field & Welsh 2007, J. R. Stat. Soc. B).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modiff.config.evaluation import RESAMPLES

Floats = NDArray[np.float64]
MIN_PATIENTS = 5  # fewer clusters say nothing about how patients differ
LEVEL = 0.95
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)  # quantiles


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over images and its 95 % interval; value is None without images, the ends under five patients."""

    value: float | None
    ci_low: float | None
    ci_high: float | None
    images: int
    patients: int

    @classmethod
    def of(cls, value: float, ends: Iterable[float], counts: Floats) -> Interval:
        """counts: images of each patient; where these are too few, the ends are left out."""
        low, high = map(float, ends) if len(counts) >= MIN_PATIENTS else (None, None)
        return cls(float(value), low, high, int(counts.sum()), len(counts))


_NOTHING = Interval(None, None, None, 0, 0)


def mean_interval(values: ArrayLike, patients: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of the defined (not NaN) values, one per image, with its interval by bootstrap over patients.

    The same data gives the same interval whatever the order of images.
    """
    given, names = np.asarray(values, dtype=np.float64), np.asarray(patients, dtype=str)
    if given.shape != names.shape or given.ndim != 1:
        raise ValueError(f"one patient per value: {given.shape} values, {names.shape} patients")
    defined = ~np.isnan(given)
    given, names = given[defined], names[defined]
    if not given.size:
        return _NOTHING
    cluster = np.unique(names, return_inverse=True)[1]
    counts = np.bincount(cluster).astype(np.float64)
    # Sums of sorted values, so that rounding does not depend on the order of images either.
    order = np.lexsort((given, cluster))
    sums = np.add.reduceat(given[order], np.concatenate(([0], np.cumsum(counts[:-1]).astype(int))))
    taken = _taken(sums.size, seed, resamples)
    return Interval.of(sums.sum() / counts.sum(), np.quantile((taken @ sums) / (taken @ counts), _ENDS), counts)


@lru_cache(maxsize=8)
def _taken(patients: int, seed: int, resamples: int) -> Floats:
    """(resamples, patients) how often each is taken: drawing P of P with replacement is a multinomial draw."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(patients, np.full(patients, 1.0 / patients), size=resamples).astype(np.float64)


def differences_from(
    rows: Floats, best: int, patients: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> list[Interval]:
    """Mean of each of (rows, images) less that of row `best`, with intervals that hold for all pairs of rows at once.

    Which row is best is read off the same images, so that one pair's own interval would leave out 0 too often. Here all
    share the factor c of their standard errors: the level's quantile of the largest studentised deviation among the
    pairs (bootstrap-t over patients; Tukey's comparison without his assumptions). Every value must be defined.

    A pair that differs on fewer than MIN_PATIENTS patients has no part in c: most resamples miss those patients and
    know no error. Its own interval holds 0 even if all of them agree, as k patients of P are √k errors from 0.
    """
    sums, counts = _clusters(rows.T, patients)
    found = (sums - sums[:, [best]]).sum(0) / counts.sum()
    halves = np.zeros(len(rows))
    if len(counts) >= MIN_PATIENTS:
        one, other = np.triu_indices(len(rows), k=1)
        c = _largest_deviation(sums[:, one] - sums[:, other], counts, _taken(len(counts), seed, resamples))
        halves = c * _ratios(sums - sums[:, [best]], counts, np.ones((1, len(counts))))[1][0]
    return [Interval.of(value, (value - half, value + half), counts) for value, half in zip(found, halves, strict=True)]


_FEW = 2.776  # Student's t at 95 % of five patients, where every pair differs on fewer


def _largest_deviation(sums: Floats, counts: Floats, taken: Floats) -> float:
    """The level's quantile over resamples of max |resampled mean − mean| / its error, over (patients, pairs) sums."""
    known = (np.abs(sums) > 1e-12).sum(0) >= MIN_PATIENTS
    if not known.any():
        return _FEW
    means, _ = _ratios(sums[:, known], counts, np.ones((1, len(counts))))
    drawn, errors = _ratios(sums[:, known], counts, taken)
    moved = np.abs(drawn - means)
    # A resample that misses all patients on whom a pair differs has no error: then nothing is too far.
    deviation = np.divide(moved, errors, out=np.full_like(moved, np.inf), where=errors > 1e-12)
    largest = float(np.quantile(deviation.max(1), LEVEL, method="lower"))
    return largest if np.isfinite(largest) else float(np.max(deviation[np.isfinite(deviation)], initial=_FEW))


def _ratios(sums: Floats, counts: Floats, taken: Floats) -> tuple[Floats, Floats]:
    """(resamples, columns) means over images and their linearised standard errors; taken: how often each patient is."""
    patients, images = len(counts), (taken @ counts)[:, None]
    means = (taken @ sums) / images
    squares = taken @ sums**2 - 2 * means * (taken @ (sums * counts[:, None])) + means**2 * (taken @ counts**2)[:, None]
    return means, np.sqrt(np.maximum(squares, 0.0) * patients / (patients - 1)) / images


def pooled_error_interval(
    values: ArrayLike, patients: Sequence[str], *, classes: int = 1, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Σ over columns of |mean over images|, divided by classes, with its interval by bootstrap over patients.

    values: (images, columns), e.g. each image's part in the bins of a calibration error; rows with NaN are left out.
    Noise makes such a sum too large, and resampling adds noise once more, so percentiles would lie above the truth: the
    interval is the basic one (2·value − percentiles, not below 0), widened where needed to hold the value.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 2 or len(patients) != len(given):
        raise ValueError(f"one patient per row: {given.shape} values, {len(patients)} patients")
    sums, counts = _clusters(given, patients)
    if not counts.size:
        return _NOTHING
    value = float(np.abs(sums.sum(0) / counts.sum()).sum() / classes)
    low, high = np.quantile(np.abs(_resampled_means(sums, counts, seed, resamples)).sum(1) / classes, _ENDS)
    return Interval.of(value, (min(value, max(0.0, 2 * value - high)), max(value, 2 * value - low)), counts)


def _clusters(given: Floats, patients: Sequence[str]) -> tuple[Floats, Floats]:
    """(patients, columns) sums and (patients,) numbers of images, of the rows without NaN."""
    defined = ~np.isnan(given).any(1)
    unique, cluster = np.unique(np.asarray(patients, dtype=str)[defined], return_inverse=True)
    sums = np.zeros((unique.size, given.shape[1]))
    np.add.at(sums, cluster, given[defined])
    return sums, np.bincount(cluster, minlength=unique.size).astype(np.float64)


def _resampled_means(sums: Floats, counts: Floats, seed: int, resamples: int) -> Floats:
    """(resamples, columns) means over images of resampled patients, from their sums (patients, columns) and counts."""
    taken = _taken(len(counts), seed, resamples)
    return (taken @ sums) / (taken @ counts)[:, None]


def pooled_difference(
    a: Floats, b: Floats, patients: Sequence[str], *, classes: int = 1, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Interval, float | None, float | None]:
    """Difference a − b of two pooled errors (see `pooled_error_interval`) on the same images, and both errors.

    The images are those where both are defined. The interval is of percentiles: what noise adds, it adds to both.
    """
    both = np.concatenate([a, b], axis=1, dtype=np.float64)
    width = both.shape[1] // 2
    sums, counts = _clusters(both, patients)
    if not counts.size:
        return _NOTHING, None, None

    def errors(means: Floats) -> tuple[Floats, Floats]:
        size = np.abs(means)
        return size[..., :width].sum(-1) / classes, size[..., width:].sum(-1) / classes

    one, other = (float(value) for value in errors(sums.sum(0) / counts.sum()))
    drawn = errors(_resampled_means(sums, counts, seed, resamples))
    return Interval.of(one - other, np.quantile(drawn[0] - drawn[1], _ENDS), counts), one, other
