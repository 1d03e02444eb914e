"""Samples given that a rater marks: those that mark nothing are drawn anew."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from modiff.types import Samples

MOST_DRAWN = 16  # samples drawn for each that is wanted, at most
_SPARE = 8  # one more at first for so many: a map that was drawn to be there may still mark nothing


def draw_marking(draw: Callable[[int], Samples], n: int) -> tuple[Samples, Tensor]:
    """The first n samples that mark something, of at most 16·n of each image, and (B,) how many differ.

    draw: the first so many samples; the first of more are the same. Where fewer than n mark, they are repeated in turn;
    where none does, the first n stay as they are.
    """
    count = n + math.ceil(n / _SPARE)
    while int((samples := draw(count)).present.sum(1).min()) < n and count < MOST_DRAWN * n:
        count = min(2 * count, MOST_DRAWN * n)
    return first_marking(samples, n)


def first_marking(samples: Samples, n: int) -> tuple[Samples, Tensor]:
    """The first n samples that mark something, as `draw_marking` has them; equal weights stay equal.

    A mixture's part keeps as much of its probability as of its samples, up to the last that is kept, mark something.
    """
    found = samples.present.sum(1)
    order = (~samples.present).to(torch.uint8).argsort(dim=1, stable=True)
    turn = torch.arange(n, device=order.device) % found.clamp(1, n)[:, None]
    turn = torch.where(found[:, None] > 0, turn, torch.arange(n, device=order.device))
    kept, rows = order.gather(1, turn), torch.arange(len(order), device=order.device)[:, None]
    raters = None if samples.raters is None else samples.raters[rows, kept]
    drawn = torch.where(found >= n, kept.max(1).values + 1, order.shape[1])
    weights = samples.weights_among(drawn)[rows, kept]
    parts = samples.maps[rows, kept], weights / weights.sum(1, keepdim=True), samples.present[rows, kept], raters
    return Samples(*parts, part=None if samples.part is None else samples.part[rows, kept]), found.clamp(max=n)
