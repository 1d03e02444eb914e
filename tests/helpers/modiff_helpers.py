"""Small MoDiff configurations and batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from modiff.config.methods import DiffusionConfig, MCAConfig, MoDiffConfig, PresenceConfig, UNetConfig
from modiff.methods.modiff.model import MoDiff
from modiff.types import Batch, DataSpec

SMALL = MoDiffConfig(
    diffusion=DiffusionConfig(prediction="x0", loss="ce", sampler="ddim", sampling_steps=3),
    mca=MCAConfig(dim=8, heads=2),
    presence=PresenceConfig(base=8, multipliers=(1, 2), window=32),
    unet=UNetConfig(base=8, multipliers=(1, 2), blocks=1, attention=(8,), heads=2, stem=4),
)


def config(**changes: Any) -> MoDiffConfig:
    """The small configuration with changes; a group's changes as a dictionary."""
    made = SMALL
    for name, value in changes.items():
        made = replace(made, **{name: replace(getattr(made, name), **value) if isinstance(value, dict) else value})
    return made


def model(settings: MoDiffConfig = SMALL, *, seed: int = 0, **data: Any) -> MoDiff:
    """A MoDiff with weights from a seed; what starts at zero is drawn too, or its outputs would all be alike."""
    torch.manual_seed(seed)
    made = MoDiff(settings, DataSpec.of(**{"prompt": "centre"} | data))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1 and parameter.abs().max() == 0:
                parameter.normal_(std=0.1)
    return made


def disc(size: tuple[int, int], radius: float, centre: tuple[float, float] | None = None) -> torch.Tensor:
    """(H,W) bool disc."""
    row, column = centre or ((size[0] - 1) / 2, (size[1] - 1) / 2)
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def batch(
    count: int = 4, *, size: tuple[int, int] = (32, 32), channels: int = 1, classes: int = 1, raters: int = 4
) -> Batch:
    """Images of a disc with each rater's own radius; rater 0 marks nothing on every second image."""
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(count, channels, *size, generator=rng) * 0.2
    image += 0.6 * disc(size, 6).float()
    masks = torch.zeros(count, raters, classes, *size, dtype=torch.bool)
    for rater in range(raters):
        masks[:, rater, rater % classes] = disc(size, 4 + rater)
    masks[::2, 0] = False
    centre = torch.tensor([(size[0] - 1) / 2, (size[1] - 1) / 2]).repeat(count, 1)
    read = torch.ones(count, raters, dtype=torch.bool)
    return Batch(image, masks, read, tuple(str(i) for i in range(count)), centre)
