"""Deformations move images and masks alike, as SciPy does, and leave the prompt where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from modiff.data.augmentation import deformed_batch, draw_deformations
from modiff.data.loading import generator
from modiff.types import Batch

SIZE = 24, 33  # a rectangle, so that axes cannot be taken for one another
NUMBERS = draw_deformations(1, 1.0, generator(0)).shape[1]


def batch_of(image: Tensor, *, centre: Tensor | None = None) -> Batch:
    """A batch of images whose two raters mark where they are above a half, and where they are not."""
    marked = image > 0.5
    masks = torch.stack([marked, ~marked], 1)
    return Batch(image, masks, torch.ones(len(image), 2, dtype=torch.bool), (), centre)


def smooth(count: int = 3) -> Tensor:
    noise = np.random.default_rng(0).random((count, 1, *SIZE))
    image = ndimage.gaussian_filter(noise, (0, 0, 2, 2), mode="reflect")
    return torch.from_numpy((image - image.min()) / np.ptp(image)).float()


def only(**parts: float) -> Tensor:
    drawn = torch.zeros(3, NUMBERS)
    for place, name in enumerate(("angle", "scale", "aspect", "shift_x", "shift_y")):
        drawn[:, place] = parts.get(name, 0.0)
    return drawn


def test_nothing_drawn_changes_nothing():
    batch = batch_of(smooth())
    found = deformed_batch(batch, only())
    torch.testing.assert_close(found.image, batch.image, atol=1e-5, rtol=0)
    assert torch.equal(found.masks, batch.masks)


@pytest.mark.parametrize(
    "parts", [{"angle": 0.4}, {"scale": 0.2}, {"aspect": -0.15}, {"shift_x": 0.1, "shift_y": -0.2}, {"angle": -2.0}]
)
def test_scipy_makes_the_same_image(parts):
    image = smooth()
    found = deformed_batch(batch_of(image), only(**parts)).image[0, 0].numpy()
    angle, scale, aspect = (parts.get(name, 0.0) for name in ("angle", "scale", "aspect"))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # of row and column
    matrix = turn * np.exp([scale - aspect, scale + aspect])
    middle = (np.array(SIZE) - 1) / 2
    moved = middle + np.array(SIZE) * [parts.get("shift_y", 0.0), parts.get("shift_x", 0.0)]
    expected = ndimage.affine_transform(
        image[0, 0].numpy(), matrix, offset=moved - matrix @ middle, order=1, mode="reflect"
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_masks_move_with_the_image():
    image = smooth(8)
    found = deformed_batch(batch_of(image), draw_deformations(8, 1.0, generator(1)))
    marked, rest = found.masks.unbind(1)
    assert torch.equal(rest, ~marked)
    moved = found.image > 0.5
    assert (moved == marked).float().mean() > 0.95  # bilinear and nearest differ along outlines
    assert (moved == (image > 0.5)).float().mean() < 0.8


@pytest.mark.parametrize("prompted", [True, False])
def test_the_prompt_stays_in_the_middle(prompted):
    ramps = torch.stack(torch.meshgrid(torch.linspace(0, 1, 25), torch.linspace(0, 1, 33), indexing="ij"))
    image = ramps[None].repeat(20, 1, 1, 1)
    centre = torch.tensor([12.0, 16.0]).expand(20, 2) if prompted else None
    batch = Batch(image, torch.zeros(20, 1, 1, 25, 33, dtype=torch.bool), torch.ones(20, 1).bool(), (), centre)
    found = deformed_batch(batch, draw_deformations(20, 1.0, generator(2))).image[:, :, 12, 16]
    assert torch.allclose(found, torch.full((20, 2), 0.5), atol=2e-3) == prompted


def test_bending_moves_by_what_its_knots_say():
    drawn = torch.zeros(1, NUMBERS)
    drawn[:, 5 + 12] = 0.1  # the middle knot of x
    ramp = torch.linspace(0, 1, 41).expand(1, 1, 41, 41)
    moved = deformed_batch(replace(batch_of(ramp), centre=None), drawn).image[0, 0] - ramp[0, 0]
    assert float(moved[20, 20]) == pytest.approx(0.1 * 41 / 40, abs=0.005)  # a tenth of the width to the right
    assert float(moved[0].abs().max()) < 1e-4


def test_strength_scales_what_is_drawn():
    one, half = (draw_deformations(5, strength, generator(3)) for strength in (1.0, 0.5))
    torch.testing.assert_close(one, 2 * half)
