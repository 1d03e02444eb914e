"""Training batches: which rows, which flips, and that a batch is a function of the seed and its number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modiff.data.loading import batch_rows, dihedral, dihedral_point, random_turns, turned_batch
from modiff.types import Batch


def points(height: int, width: int) -> Batch:
    """Three images with one bright pixel each, which is also the mask and the prompt."""
    image, masks = torch.zeros(3, 1, height, width), torch.zeros(3, 2, 1, height, width, dtype=torch.bool)
    centre = torch.tensor([[1, 2], [0, width - 1], [height - 1, 3]])
    for item, (row, column) in enumerate(centre.tolist()):
        image[item, 0, row, column] = 1
        masks[item, :, 0, row, column] = True
    return Batch(image, masks, torch.ones(3, 2, dtype=torch.bool), ("a", "b", "c"), centre.float())


@given(seed=st.integers(0, 5), size=st.integers(1, 7), count=st.integers(1, 12))
def test_every_row_comes_once_before_any_comes_twice(seed, size, count):
    batches = [batch_rows(seed, index, size, count) for index in range(12)]
    rows = torch.cat(batches)
    for start in range(0, len(rows) - count + 1, count):
        assert sorted(rows[start : start + count].tolist()) == list(range(count))


def test_a_batch_is_a_function_of_seed_and_number():
    assert torch.equal(batch_rows(3, 8, 4, 10), batch_rows(3, 8, 4, 10))
    assert not torch.equal(batch_rows(3, 8, 4, 1000), batch_rows(4, 8, 4, 1000))


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("shape", [(6, 6), (5, 7)])
def test_image_masks_and_prompt_move_together(index, shape):
    batch = points(*shape)
    image, masks = dihedral(batch.image, index), dihedral(batch.masks, index)
    moved = dihedral_point(batch.centre, index, *shape).long()
    for item, (row, column) in enumerate(moved.tolist()):
        assert image[item, 0, row, column] == 1
        assert masks[item, 0, 0, row, column]


def test_the_eight_views_are_different():
    views = {tuple(dihedral(torch.arange(9).view(3, 3), index).flatten().tolist()) for index in range(8)}
    assert len(views) == 8


@pytest.mark.parametrize("shape", [(6, 6), (5, 7)])
def test_random_views_keep_the_shape_and_the_prompt(shape):
    batch = points(*shape)
    for seed in range(20):
        turned = turned_batch(batch, random_turns(3, shape, torch.Generator().manual_seed(seed)))
        assert turned.image.shape == batch.image.shape
        rows, columns = turned.centre.long().unbind(1)
        assert (turned.image[torch.arange(3), 0, rows, columns] == 1).all()
        assert (turned.masks.flatten(2).sum(-1) == 1).all()


def test_without_a_prompt_there_is_none_afterwards():
    batch = replace(points(6, 6), centre=None)
    assert turned_batch(batch, random_turns(3, (6, 6), torch.Generator().manual_seed(0))).centre is None
