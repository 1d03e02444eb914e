"""Small CCDM, CIMD and MedFM networks and batches whose true distribution is known."""

from __future__ import annotations

from typing import Any

import torch

from modiff.config.run import build_config
from modiff.methods.base import Segmenter
from modiff.methods.registry import build
from modiff.types import Batch, DataSpec

TINY = {
    "unet": {"base": 16, "multipliers": [1, 2], "attention": [2], "blocks": 1, "head_width": 0, "groups": 4},
    "steps": 20,
    "sampling_steps": 4,
}


def small(method: str, *, channels: int = 1, classes: int = 1, raters: int = 2, **changes: Any) -> Segmenter:
    """A narrow network with fixed weights."""
    torch.manual_seed(0)
    settings = {name: value for name, value in TINY.items() if name != "steps" or method != "medfm"}  # it has no chain
    config = build_config(method=method, changes={"model": {**settings, **changes}}).model
    return build(method, config, DataSpec.of(channels=channels, classes=classes, raters=raters))


def random_batch(*, channels: int = 1, classes: int = 1, raters: int = 2, side: int = 16, images: int = 3) -> Batch:
    """Images and masks without structure; the last rater did not read the last image."""
    rng = torch.Generator().manual_seed(1)
    index = torch.randint(0, classes + 1, (images, raters, side, side), generator=rng)
    masks = torch.stack([index == k + 1 for k in range(classes)], 2)
    read = torch.ones(images, raters, dtype=torch.bool)
    read[-1, -1] = False
    return Batch(torch.rand(images, channels, side, side, generator=rng), masks & read[:, :, None, None, None], read)


def two_opinions(side: int = 8) -> Batch:
    """Four images with a mark in one corner each; four raters: one marks nothing, one its upper half, two all of it."""
    image = torch.zeros(4, 1, side, side)
    masks = torch.zeros(4, 4, 1, side, side, dtype=torch.bool)
    half = side // 2
    for i in range(4):
        top, left = (i // 2) * half, (i % 2) * half
        image[i, 0, top : top + half, left : left + half] = 1.0
        masks[i, 1, 0, top : top + half // 2, left : left + half] = True
        masks[i, 2:, 0, top : top + half, left : left + half] = True
    return Batch(image, masks, torch.ones(4, 4, dtype=torch.bool))


def opinion_shares(model: Segmenter, batch: Batch, n: int = 64) -> torch.Tensor:
    """(4,4) share of samples of each image less than four pixels from: nothing, the half, the whole, none of these."""
    seeds = torch.arange(len(batch))
    drawn = model.sample(batch.image, n, seeds=seeds).maps > 0.5
    targets = batch.masks[:, [0, 1, 2]]
    wrong = (drawn[:, :, None] != targets[:, None]).flatten(3).sum(-1).min(-1)
    kind = torch.where(wrong.values < 4, wrong.indices, 3)
    return torch.stack([(kind == k).float().mean(1) for k in range(4)], 1)


def train(model: Segmenter, batch: Batch, *, steps: int, rate: float, repeat: int = 4) -> None:
    """Adam with a linearly falling rate; the batch is seen `repeat` times over in a step."""
    many = Batch(
        batch.image.repeat(repeat, 1, 1, 1), batch.masks.repeat(repeat, 1, 1, 1, 1), batch.read.repeat(repeat, 1)
    )
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    rng = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        model.training_loss(many, rng=rng)["loss"].backward()
        optimiser.step()


def parameter_count(method: str, *, channels: int, **changes: Any) -> tuple[int, dict[str, int]]:
    """Parameters in all and of each part, of a network without memory."""
    config = build_config(method=method, changes={"model": changes}).model
    with torch.device("meta"):
        model = build(method, config, DataSpec.of(channels=channels, classes=1, raters=4))
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    return sum(p.numel() for p in model.parameters()), parts
