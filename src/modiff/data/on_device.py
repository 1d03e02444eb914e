"""Batches made on the device that trains, equal to the bit to those of `loading`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from modiff.data.augmentation import Augmentation
from modiff.data.loading import (
    MemoryStore,
    batch_turns,
    changed_batch,
    dihedral,
    hidden_context,
    process_rows,
    to_unit,
    without_context,
)
from modiff.types import Batch


class DeviceStore:
    """A `MemoryStore` whose batches are made on a device.

    Of a batch, the CPU draws which rows, which of the eight views, whose neighbouring slices are hidden and how images
    change. All else happens on the device, in shapes that depend on the size of the batch alone; nothing waits for it.
    resident: whether images and packed masks lie on the device; else each batch's are copied there.
    """

    def __init__(self, store: MemoryStore, device: torch.device, *, resident: bool = True) -> None:
        self.store, self.device = store, device
        (channels, height, width), kind = store.shape, store.image.dtype
        image, self.values = store.image, None
        if kind.kind in "iu" and kind.itemsize <= 2:  # each bit pattern's value by a table: exact on any device
            patterns = np.arange(1 << 8 * kind.itemsize, dtype=f"u{kind.itemsize}")
            self.values = to_unit(patterns.view(kind)).to(device)
            image = image.view(np.uint8 if kind.itemsize == 1 else np.int16)
        self.image = image.reshape(len(store), channels, height * width)
        self.held: tuple[Tensor, ...] | None = None
        if resident:
            self.held = tuple(part.to(device) for part in self._in_memory(slice(None)))
        places = torch.arange(height * width).view(height, width)
        usable = range(8) if height == width else range(0, 8, 2)
        # (8,HW): which pixel comes to each place. Quarter turns of a rectangle are never drawn.
        views = [dihedral(places, turn if turn in usable else 0).flatten() for turn in range(8)]
        self.sources = torch.stack(views).to(device)
        # The prompt is the image's middle, where every view leaves it.
        middle = torch.tensor([(height - 1) / 2, (width - 1) / 2])
        self.middle = middle.to(device) if store.info.prompt == "centre" else None

    @staticmethod
    def needed(store: MemoryStore) -> int:
        """Bytes that the store takes on a device."""
        kind, each = store.image.dtype, 4
        if kind.kind in "iu" and kind.itemsize <= 2:
            each = kind.itemsize
        return store.image.size * each + store.packed.nbytes + store.read.nbytes

    def training_batch(
        self, index: int, *, seed: int, size: int, augment: Augmentation, rank: int = 0, world: int = 1
    ) -> Batch:
        """As `loading.training_batch`, without the cases' names."""
        rows = process_rows(len(self.store), index, seed=seed, size=size, rank=rank, world=world)
        turns = torch.zeros_like(rows)
        if augment.turns:
            turns = batch_turns(len(rows), self.store.shape[1:], index, seed=seed, rank=rank)
        drawn, context = [rows, turns], self.store.info.context
        if context:
            drawn.append(hidden_context(len(rows), index, seed=seed, rank=rank).long())
        image, bits, read = self._copied(rows) if self.held is None else self.held
        rows, turns, *hidden = torch.stack(drawn).to(self.device, non_blocking=True)
        if self.held is not None:
            image, bits, read = image[rows], bits[rows], read[rows]
        made = self._made(image, bits, read, turns)
        if context:
            made = replace(made, image=without_context(made.image, hidden[0].bool(), context))
        return changed_batch(made, augment, index, seed=seed, rank=rank)

    def _in_memory(self, rows: slice | np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Image (B,C,HW), packed masks (B,RK,⌈HW/8⌉) and read (B,R) of some rows, as the device is to have them."""
        image = self.image[rows]
        held = torch.from_numpy(image) if self.values is not None else to_unit(image)
        bits = torch.from_numpy(self.store.packed[rows]).flatten(1, 2)
        return held, bits, torch.from_numpy(self.store.read[rows])

    def _copied(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The same on the device. Copies from pinned memory do not wait for what the device still does."""
        parts = self._in_memory(rows.numpy())
        if self.device.type == "cuda":
            return tuple(part.pin_memory().to(self.device, non_blocking=True) for part in parts)
        return tuple(part.to(self.device) for part in parts)

    def _made(self, image: Tensor, bits: Tensor, read: Tensor, turns: Tensor) -> Batch:
        (_, height, width), info, count = self.store.shape, self.store.info, len(turns)
        source = self.sources[turns][:, None]
        image = self._taken(image, source)
        if self.values is not None:
            image = self.values[image.long() & (len(self.values) - 1)]
        bits = self._taken(bits, source >> 3) >> (7 - (source & 7)).to(torch.uint8)  # as NumPy packs them
        masks = (bits & 1).bool().view(count, len(info.raters), len(info.classes), height, width)
        centre = None if self.middle is None else self.middle.expand(count, 2)
        return Batch(image.view(count, -1, height, width), masks, read, (), centre)

    @staticmethod
    def _taken(maps: Tensor, source: Tensor) -> Tensor:
        """(B,M,P) the values of maps (B,M,·) at places `source` (B,1,P)."""
        return maps.gather(2, source.expand(-1, maps.shape[1], -1))
