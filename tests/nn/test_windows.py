"""Squares of training images: where there is no prompt, half of those that may lie near a mark do."""

from __future__ import annotations

import torch

from modiff.nn.windows import cut, marked_pixel, random_corner


def test_a_marked_pixel_is_any_of_those_marked_or_any_at_all() -> None:
    label, rng = torch.zeros(3, 2, 9, 12), torch.Generator().manual_seed(0)
    label[0, 1, 4, 11] = 0.2
    label[1, 0, 2, 3] = label[1, 1, 8, 0] = 1
    found = torch.stack([marked_pixel(label, rng) for _ in range(200)])
    assert {tuple(place) for place in found[:, 0].tolist()} == {(4, 11)}
    assert {tuple(place) for place in found[:, 1].tolist()} == {(2, 3), (8, 0)}
    assert len({tuple(place) for place in found[:, 2].tolist()}) > 60
    assert found[:, 2].amax(0).tolist() == [8, 11]


def test_half_of_the_squares_about_a_small_mark_show_it() -> None:
    images, label, rng = torch.zeros(500, 1, 256, 256), torch.zeros(500, 1, 256, 256), torch.Generator().manual_seed(1)
    label[..., 200:204, 30:34] = 1
    near = random_corner(images, marked_pixel(label, rng), (32, 32), jitter=8, anywhere=0.5, rng=rng)
    shown = cut(label, near, (32, 32)).flatten(1).any(1).float().mean()
    free = cut(label, random_corner(images, None, (32, 32), jitter=8, anywhere=0.5, rng=rng), (32, 32))
    assert 0.44 < shown < 0.6
    assert free.flatten(1).any(1).float().mean() < 0.05
