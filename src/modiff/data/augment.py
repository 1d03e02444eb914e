"""Augmentation of whole batches: flips and quarter turns, the same for an image and all its masks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from modiff.types import Batch

_SQUARE = tuple(range(8))
_RECTANGLE = (0, 2, 4, 6)  # quarter turns would change the shape


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


def random_dihedral(batch: Batch, rng: torch.Generator) -> Batch:
    """Each item of the batch flipped and turned at random; the prompt's position moves along."""
    height, width = batch.image.shape[-2:]
    allowed = torch.tensor(_SQUARE if height == width else _RECTANGLE)
    choice = allowed[torch.randint(len(allowed), (len(batch),), generator=rng)]
    image, masks = batch.image.clone(), batch.masks.clone()
    centre = None if batch.centre is None else batch.centre.clone()
    for index in choice.unique().tolist():
        rows = (choice == index).nonzero().squeeze(1)
        image[rows], masks[rows] = dihedral(batch.image[rows], index), dihedral(batch.masks[rows], index)
        if centre is not None and batch.centre is not None:
            centre[rows] = dihedral_point(batch.centre[rows], index, height, width)
    return replace(batch, image=image, masks=masks, centre=centre)
