"""Which images are scored or shown, and whose samples a control takes: fixed choices by hash, the same everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from modiff.errors import ConfigError
from modiff.evaluation.table import strata_of
from modiff.evaluation.words import STRATA
from modiff.rng import seed_for

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.data.store_format import StoreInfo

_COLOUR_CHANNELS = ("red", "green", "blue")


def subset(cases: Sequence[str], limit: int | None) -> list[int]:
    """Rows of a fixed subset of `limit` cases, in the order given; all of them without a limit.

    A case's hash decides, so the subset of 64 lies within that of 256, and neither depends on a seed.
    """
    rows = range(len(cases))
    return sorted(sorted(rows, key=lambda row: (seed_for("subset", cases[row]), cases[row]))[:limit])


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
    order = list(STRATA)
    queues = [[row for row in by_hash if strata[row] == name] for name in order if name != "all"]
    turns = [row for turn in zip_longest(*queues) for row in turn if row is not None]
    return sorted(turns[:count], key=lambda row: (order.index(strata[row]), by_hash.index(row)))


def strata(images: MemoryStore) -> list[str]:
    """The stratum of each image of a split."""
    found: list[str] = []
    for start in range(0, len(images), 256):
        batch = images.batch(range(start, min(start + 256, len(images))))
        found += strata_of(batch.marked, batch.read)
    return found


def pictured(image: np.ndarray, info: StoreInfo) -> np.ndarray:
    """The channel that is shown, (H,W); all three of a colour image, (3,H,W)."""
    colour = tuple(name.lower() for name in info.channels) == _COLOUR_CHANNELS
    return image if colour else image[0]
