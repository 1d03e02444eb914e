"""Which cases of a split are shown, and which part of them."""

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


def part_of_interest(marks: np.ndarray) -> tuple[slice, slice]:
    """The square (or all) of an image that holds whatever is marked in `marks` (H,W) bool, with a margin.

    At least three eighths of the image's shorter side; around the centre where nothing is marked.
    """
    height, width = marks.shape
    rows, columns = np.flatnonzero(marks.any(1)), np.flatnonzero(marks.any(0))
    top, bottom = (rows[0], rows[-1]) if rows.size else (height // 2, height // 2)
    left, right = (columns[0], columns[-1]) if columns.size else (width // 2, width // 2)
    side = max(bottom - top + 1, right - left + 1)
    side = int(min(max(side + 2 * max(4, side // 4), 3 * min(height, width) // 8), height, width))
    y = int(np.clip((top + bottom + 1 - side) // 2, 0, height - side))
    x = int(np.clip((left + right + 1 - side) // 2, 0, width - side))
    if bottom >= y + side or right >= x + side or top < y or left < x:
        return slice(0, height), slice(0, width)
    return slice(y, y + side), slice(x, x + side)
