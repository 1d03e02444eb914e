"""Errors of a whole data set: calibration is a property of many images together, not a mean over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modiff.evaluation.bootstrap import Interval, pooled_error_interval
from modiff.evaluation.score_names import GAP
from modiff.metrics.functional.calibration import BINS


@dataclass(frozen=True, eq=False)
class PooledError:
    """Σ |mean over images of a column| / classes. gaps: (images, columns), each image's signed share in each bin."""

    gaps: NDArray[np.float64]
    classes: int

    def interval(self, rows: NDArray[np.bool_], patients: Sequence[str], *, seed: int, resamples: int) -> Interval:
        """The error over the images where `rows` is true, one patient an image, with its interval."""
        gaps = self.gaps[rows]
        return pooled_error_interval(gaps, patients, classes=self.classes, seed=seed, resamples=resamples)


def pooled(columns: Mapping[str, NDArray[np.float64]]) -> dict[str, PooledError]:
    """The pooled errors that follow from the columns (metric -> a value an image) of one set of samples."""
    found = {}
    gaps = {name: values for name, values in columns.items() if name.startswith(GAP)}
    if gaps:
        kinds = {name.removeprefix(f"{GAP}_").partition("_")[0] for name in gaps}
        found["ece"] = PooledError(np.stack([gaps[name] for name in sorted(gaps)], 1), len(kinds))
    if {"presence_samples", "presence_raters"} <= columns.keys():
        found["presence_ece"] = _presence(columns["presence_samples"], columns["presence_raters"])
    return found


def _presence(samples: NDArray[np.float64], raters: NDArray[np.float64]) -> PooledError:
    """Each image's difference of shares, in the bin of its predicted share."""
    # The small addition keeps a share such as 3/10 in the bin that starts there.
    known = np.where(np.isnan(samples), 0.0, samples)
    which = np.minimum((known * BINS + 1e-6).astype(int), BINS - 1)
    gaps = np.zeros((len(samples), BINS))
    gaps[np.arange(len(samples)), which] = samples - raters
    return PooledError(gaps, 1)
