"""A store, or one split of it, in memory, and the batches made from it: batch i of a run is a function of (seed, i).

Images stay in their own type and masks are packed bits, unpacked batch by batch. Augmentation is flips and quarter
turns and, where asked for, deformations, the same for an image and all its masks, and other intensities. Where slices
have their neighbours as channels, these are hidden of some images, so that a model learns to do without: the slice
itself stands for them, as where a volume ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modiff.data.augmentation import (
    Augmentation,
    changed_intensity,
    deformed_batch,
    draw_deformations,
    draw_intensities,
)
from modiff.data.context import check_enough, named, narrowed, own_slice, reversed_slices
from modiff.data.store import Store
from modiff.data.store_format import StoreInfo, packed
from modiff.errors import DataError
from modiff.io.volume import change_of_axes, permuted, sides_of
from modiff.rng import seed_for, uniform
from modiff.types import Batch

_HIDDEN = 0.25  # of training images are seen without their neighbouring slices
_ROUNDED = 1.001  # ratio of pixel sizes that are one size: headers round them


def to_unit(image: np.ndarray) -> Tensor:
    """float32 in [0,1]: integers by their type's range (uint8 0 to 255, int16 −32768 to 32767), floats as they are."""
    if image.dtype.kind == "f":
        return torch.from_numpy(image.astype(np.float32))
    ends, exact = np.iinfo(image.dtype), np.float32 if image.dtype.itemsize < 4 else np.float64
    values = np.subtract(image, ends.min, dtype=exact)
    values /= exact(ends.max - ends.min)
    return torch.from_numpy(values.astype(np.float32, copy=False))


@dataclass
class MemoryStore:
    """Cases in memory. LIDC (14,452 images of 128×128, four raters) takes 355 MB.

    image: (n,C,H,W) in the store's type. packed: (n,R,K,⌈HW/8⌉) uint8, one bit per pixel. read: (n,R) bool.
    place: what `DataSpec` says of where these images lie, by its names (`place_of`).
    """

    info: StoreInfo
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    read: np.ndarray
    image: np.ndarray
    packed: np.ndarray
    fingerprint: str
    place: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C,H,W)."""
        return self.image.shape[1:]

    def masks(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(B,R,K,H,W) bool of some rows."""
        packed = self.packed[np.asarray(rows, dtype=np.int64)]
        height, width = self.shape[1:]
        bits = np.unpackbits(packed, axis=-1, count=height * width).view(np.bool_)
        return bits.reshape(*packed.shape[:3], height, width)

    def batch(self, rows: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """Rows as a batch on the CPU: image float32 in [0,1], masks bool, the centre where the data has that prompt."""
        numbers = np.asarray(rows, dtype=np.int64).reshape(-1)
        height, width = self.shape[1:]
        centre = None
        if self.info.prompt == "centre":
            centre = torch.tensor([(height - 1) / 2, (width - 1) / 2]).repeat(len(numbers), 1)
        return Batch(
            image=to_unit(self.image[numbers]),
            masks=torch.from_numpy(self.masks(numbers)),
            read=torch.from_numpy(self.read[numbers]),
            case=tuple(self.cases[row] for row in numbers),
            centre=centre,
        )


def load(store: str | Path | Store, split: str | None = None) -> MemoryStore:
    """Reads a store, or one split of it, into memory; raises DataError for a bad store or a split that is not there."""
    if not isinstance(store, Store):
        with Store.open(store) as opened:
            return load(opened, split)
    rows = store.rows(split)
    _, height, width = store.shape
    info, classes = store.info, len(store.info.classes)
    try:
        image = np.empty((len(rows), *store.shape), store.dtype)
        bits = np.empty((len(rows), len(info.raters), classes, -(-height * width // 8)), np.uint8)
    except MemoryError as error:
        found = f"{len(rows)} images {store.shape}"
        raise DataError("does not fit into memory", path=store.path, found=found) from error
    start = 0
    for images, masks in store.blocks(rows):
        end = start + len(images)
        image[start:end] = images
        bits[start:end] = packed(masks, classes)
        start = end
    cases, patients = (tuple(names[rows].tolist()) for names in (store.cases, store.patients))
    return MemoryStore(info, cases, patients, store.read[rows], image, bits, store.fingerprint(), place_of(store, rows))


def turned(store: MemoryStore, own: str, to: str) -> MemoryStore:
    """The cases with rows and columns turned so that they run as those of `to`, where both are slices of one plane.

    own, to: the sides of the patient towards which column, row and slice run, such as LPS.
    """
    change = change_of_axes(own, to)
    context = store.info.context if change[2, 1] < 0 else 0  # else it does not matter which slice comes first
    if change[2, 0] != 2 or (own[:2] == to[:2] and not context):
        return store
    change[2] = 2, 1
    count, classes = len(store), len(store.info.classes)
    bits = np.empty_like(store.packed)
    for start in range(0, count, 128):
        rows = np.arange(start, min(start + 128, count))
        masks = np.ascontiguousarray(permuted(store.masks(rows), change))
        bits[rows] = np.packbits(masks.reshape(*bits[rows].shape[:2], classes, -1), axis=-1)
    place = store.place | {"orientation": to if context else to[:2] + own[2]}
    if change[0, 0] != 0 and place.get("spacing") is not None:
        place["spacing"] = place["spacing"][::-1]  # rows and columns change places
    image = np.ascontiguousarray(permuted(store.image, change))
    image = reversed_slices(image, context) if context else image
    return replace(store, image=image, packed=bits, place=place)


def with_context(store: MemoryStore, context: int) -> MemoryStore:
    """The cases with as many neighbours of each slice; DataError where the store has fewer."""
    info = store.info
    check_enough(info.context, context)
    if info.context == context:
        return store
    channels = named(own_slice(info.channels, info.context), context)
    image = narrowed(store.image, info.context, context)
    return replace(store, image=image, info=replace(info, channels=channels, context=context))


def place_of(store: Store, rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """What `DataSpec` says of where images lie: spacing, spacing_range, orientation and slice_range, each None
    where it is not known."""
    found = [store.geometry(int(row)) for row in rows]
    sizes = np.array([geometry.spacing for geometry in found if geometry.spacing is not None]).reshape(-1, 2)
    axes = [None if geometry.affine is None else geometry.affine[:3, :3].round(6) for geometry in found]
    each = {None if one is None else one.tobytes(): one for one in axes}  # few differ, and asking takes long
    sides = {"none" if one is None else sides_of(np.pad(one, (0, 1))) or "none" for one in each.values()}
    median = tuple(np.median(sizes, axis=0).tolist()) if len(sizes) else None
    alike = not len(sizes) or sizes.max() <= sizes.min() * _ROUNDED or np.ptp(sizes, axis=0).max() == 0
    ends = None if alike else (float(sizes.min()), float(sizes.max()))
    made = {"spacing": median, "spacing_range": ends, "orientation": sides.pop() if len(sides) == 1 else "mixed"}
    steps = [float(np.linalg.norm(one[:, 2])) for one in each.values() if one is not None] if store.info.context else []
    return made | {"slice_range": (min(steps), max(steps)) if steps else None}


def dihedral(x: Tensor, index: int) -> Tensor:
    """One of the eight flips and quarter turns of the last two axes: turn `index` % 4 times, then mirror from 4 on."""
    x = torch.rot90(x, index % 4, (-2, -1))
    return x.flip(-1) if index >= 4 else x


def dihedral_point(point: Tensor, index: int, height: int, width: int) -> Tensor:
    """Where `dihedral` moves a point (B,2) of row and column in pixels."""
    row, column = point[:, 0], point[:, 1]
    for _ in range(index % 4):
        row, column = width - 1 - column, row
        height, width = width, height
    if index >= 4:
        column = width - 1 - column
    return torch.stack([row, column], 1)


def random_turns(count: int, size: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """(count,) int64 views of `dihedral`; quarter turns, which would change a rectangle's shape, of squares alone."""
    allowed = torch.arange(0, 8, 1 if size[0] == size[1] else 2)
    return allowed[torch.randint(len(allowed), (count,), generator=rng)]


def turned_batch(batch: Batch, turns: Tensor) -> Batch:
    """Each item of the batch in its view `turns` (B,) of `dihedral`; the prompt's position moves along."""
    height, width = batch.image.shape[-2:]
    image, masks = batch.image.clone(), batch.masks.clone()
    centre = None if batch.centre is None else batch.centre.clone()
    for index in turns.unique().tolist():
        rows = (turns == index).nonzero().squeeze(1)
        image[rows], masks[rows] = dihedral(batch.image[rows], index), dihedral(batch.masks[rows], index)
        if centre is not None and batch.centre is not None:
            centre[rows] = dihedral_point(batch.centre[rows], index, height, width)
    return replace(batch, image=image, masks=masks, centre=centre)


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator whose state is a function of `parts`."""
    return torch.Generator(device=device).manual_seed(seed_for(*parts))


def batch_rows(seed: int, index: int, size: int, count: int) -> torch.Tensor:
    """(size,) rows of batch `index`: consecutive pieces of one new permutation of `count` rows after another."""
    start, end = index * size, (index + 1) * size
    epochs = range(start // count, -(-end // count))
    order = torch.cat([_epoch_order(seed, epoch, count) for epoch in epochs])
    return order[start % count :][:size]


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> torch.Tensor:
    return torch.randperm(count, generator=generator(seed, "order", epoch))


def process_rows(count: int, index: int, *, seed: int, size: int, rank: int = 0, world: int = 1) -> Tensor:
    """A process's rows of batch `index`, of `count` in all."""
    return batch_rows(seed, index, size, count)[rank::world]


def batch_turns(count: int, size: tuple[int, ...], index: int, *, seed: int, rank: int = 0) -> Tensor:
    """(count,) the views of a process's part of batch `index`, whose images are of `size` (H,W)."""
    return random_turns(count, size, generator(seed, "augment", index, rank))


def hidden_context(count: int, index: int, *, seed: int, rank: int = 0) -> Tensor:
    """(count,) bool: which of a process's part of batch `index` are seen without their neighbours."""
    return uniform(torch.tensor(seed_for(seed, "context", index, rank)), (count,)) < _HIDDEN


def without_context(image: Tensor, hidden: Tensor, context: int) -> Tensor:
    """Images (B,C,H,W) of which those `hidden` (B,) have the slice itself in place of its neighbours."""
    each = 2 * context + 1
    own = torch.arange(image.shape[1], device=image.device) // each * each + context
    return torch.where(hidden[:, None, None, None], image[:, own], image)


def changed_batch(batch: Batch, augment: Augmentation, index: int, *, seed: int, rank: int = 0) -> Batch:
    """A process's part of batch `index`, on any device, with the deformations and intensities drawn for it."""
    count, device = len(batch), batch.image.device
    if augment.deformation:
        drawn = draw_deformations(count, augment.deformation, generator(seed, "deformation", index, rank))
        batch = deformed_batch(batch, drawn.to(device, non_blocking=True))
    if augment.intensity:
        drawn = draw_intensities(count, augment.intensity, generator(seed, "intensity", index, rank))
        batch = replace(batch, image=changed_intensity(batch.image, drawn.to(device, non_blocking=True)))
    return batch


def training_batch(
    store: MemoryStore, index: int, *, seed: int, size: int, augment: Augmentation, rank: int = 0, world: int = 1
) -> Batch:
    """This process's part of batch `index` of a run. size: images over all processes."""
    made = store.batch(process_rows(len(store), index, seed=seed, size=size, rank=rank, world=world))
    if context := store.info.context:
        hidden = hidden_context(len(made), index, seed=seed, rank=rank)
        made = replace(made, image=without_context(made.image, hidden, context))
    if augment.turns:
        made = turned_batch(made, batch_turns(len(made), store.shape[1:], index, seed=seed, rank=rank))
    return changed_batch(made, augment, index, seed=seed, rank=rank)


def validation_batches(store: MemoryStore, *, images: int, size: int, rank: int = 0, world: int = 1) -> list[Batch]:
    """Fixed batches of evenly spaced rows of a split, each row in one process only."""
    count = min(images, len(store))
    rows = torch.linspace(0, len(store) - 1, count).round().long()[rank::world]
    return [store.batch(part) for part in rows.split(size) if len(part)]
