"""Which cases of a split are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modiff.evaluation.table import strata_of
from modiff.evaluation.words import STRATA
from modiff.rng import seed_for

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.data.store_format import StoreInfo

_COLOUR_CHANNELS = ("red", "green", "blue")


def choose(cases: Sequence[str], strata: Sequence[str], count: int) -> list[int]:
    """Rows of a fixed choice by hash: the strata take turns until `count` are found; in the order of the strata."""
    by_hash = sorted(range(len(cases)), key=lambda row: (seed_for("report", cases[row]), cases[row]))
    queues = {name: [row for row in by_hash if strata[row] == name] for name in STRATA if name != "all"}
    chosen: list[int] = []
    while len(chosen) < count and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    order = list(STRATA)
    return sorted(chosen, key=lambda row: (order.index(strata[row]), by_hash.index(row)))


def strata(images: MemoryStore) -> list[str]:
    """The stratum of each image of a split."""
    found: list[str] = []
    for start in range(0, len(images), 256):
        rows = range(start, min(start + 256, len(images)))
        batch = images.batch(rows)
        found += strata_of(batch.marked, batch.read)
    return found


def pictured(image: np.ndarray, info: StoreInfo) -> np.ndarray:
    """The channel that is shown, (H,W); all three of a colour image, (3,H,W)."""
    colour = tuple(name.lower() for name in info.channels) == _COLOUR_CHANNELS
    return image if colour else image[0]
