"""Store in memory -> training and validation batches: batch i of a run is a function of (seed, i)."""

from __future__ import annotations

import torch

from modiff.data.augment import random_dihedral
from modiff.data.loading import MemoryStore
from modiff.rng import seed_for
from modiff.types import Batch


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator whose state is a function of `parts`."""
    return torch.Generator(device=device).manual_seed(seed_for(*parts))


def batch_rows(seed: int, index: int, size: int, count: int) -> torch.Tensor:
    """(size,) rows of batch `index`: consecutive pieces of one new permutation of `count` rows after another."""
    places = torch.arange(index * size, (index + 1) * size)
    epochs = torch.div(places, count, rounding_mode="floor")
    rows = torch.empty_like(places)
    for epoch in epochs.unique().tolist():
        order = torch.randperm(count, generator=generator(seed, "order", epoch))
        here = epochs == epoch
        rows[here] = order[places[here] % count]
    return rows


class TrainingBatches:
    """Batch i of a run for any i, each process its own share of every batch.

    size: images a batch over all processes. augment: flips and quarter turns.
    """

    def __init__(
        self, store: MemoryStore, *, seed: int, size: int, augment: bool, rank: int = 0, world: int = 1
    ) -> None:
        self.store, self.seed, self.size, self.augment = store, seed, size, augment
        self.rank, self.world = rank, world

    def batch(self, index: int) -> Batch:
        """Batch `index` of the run, this process's share of it."""
        rows = batch_rows(self.seed, index, self.size, len(self.store))[self.rank :: self.world]
        made = self.store.batch(rows)
        return random_dihedral(made, generator(self.seed, "augment", index, self.rank)) if self.augment else made


def validation_batches(store: MemoryStore, *, images: int, size: int, rank: int = 0, world: int = 1) -> list[Batch]:
    """Fixed batches of evenly spaced rows of a split, each row in one process only."""
    count = min(images, len(store))
    rows = torch.linspace(0, len(store) - 1, count).round().long()[rank::world]
    return [store.batch(part) for part in rows.split(size) if len(part)]
