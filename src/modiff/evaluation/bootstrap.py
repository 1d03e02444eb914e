"""Percentile bootstrap over patients.

Slices of a patient resemble each other, so images are not independent; patients are. A resample draws whole patients
with replacement and takes the mean over all their images (cluster bootstrap; Field & Welsh 2007, J. R. Stat. Soc. B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
MIN_PATIENTS = 5  # fewer clusters say nothing about how patients differ
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over images and its 95 % interval; value is None without images, the ends under five patients."""

    value: float | None
    low: float | None
    high: float | None
    images: int
    patients: int


def mean_interval(
    values: ArrayLike, patients: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Mean of the defined (not NaN) values, one an image, with its interval by bootstrap over patients.

    The same data gives the same interval whatever the order of images.
    """
    given, names = np.asarray(values, dtype=np.float64), np.asarray(patients, dtype=str)
    if given.shape != names.shape or given.ndim != 1:
        raise ValueError(f"one patient a value: {given.shape} values, {names.shape} patients")
    defined = ~np.isnan(given)
    given, names = given[defined], names[defined]
    if not given.size:
        return Interval(None, None, None, 0, 0)
    unique, cluster = np.unique(names, return_inverse=True)
    counts = np.bincount(cluster).astype(np.float64)
    # Sums of sorted values, so that rounding does not depend on the order of images either.
    order = np.lexsort((given, cluster))
    sums = np.add.reduceat(given[order], np.concatenate(([0], np.cumsum(counts[:-1]).astype(int))))
    mean = float(sums.sum() / counts.sum())
    if unique.size < MIN_PATIENTS:
        return Interval(mean, None, None, given.size, unique.size)
    low, high = _percentiles(sums, counts, seed, resamples, level)
    return Interval(mean, low, high, given.size, unique.size)


def _percentiles(
    sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int, resamples: int, level: float
) -> tuple[float, float]:
    taken = _taken(sums.size, seed, resamples)
    means = (taken @ sums) / (taken @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@lru_cache(maxsize=8)
def _taken(patients: int, seed: int, resamples: int) -> NDArray[np.float64]:
    """(resamples, patients) how often each is taken: drawing P of P with replacement is a multinomial draw."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(patients, np.full(patients, 1.0 / patients), size=resamples).astype(np.float64)


def paired_difference(
    a: ArrayLike, b: ArrayLike, patients: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Mean of a − b over the images where both are defined, with its interval by bootstrap over patients."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return mean_interval(difference, patients, seed=seed, resamples=resamples)
