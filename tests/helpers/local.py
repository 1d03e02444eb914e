"""A Segmenter that looks at one pixel at a time: windows that agree on noise and values agree on everything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modiff.methods.base import Segmenter
from modiff.nn.windows import NoiseField
from modiff.rng import fold, normal, sample_seeds, uniform
from modiff.types import Batch, DataSpec, RaterChoice, Samples


class Local(Segmenter):
    """p = sigmoid(10·(value − 1/2) + noise at the place); nothing in a window where one number exceeds `chance`.

    chance: the probability of presence, or None for the window's mean value. wiggle: how strong the noise is.
    """

    stepwise = True
    draws_panels = True
    places_noise = True

    def __init__(self, *, classes: int = 1, chance: float | None = 1.0, wiggle: float = 1.0) -> None:
        super().__init__(DataSpec.of(classes=classes, raters=3))
        self.chance, self.wiggle = chance, wiggle
        self.shown: list[Tensor] = []

    def training_loss(self, batch: Batch, *, rng: torch.Generator) -> dict[str, Tensor]:
        raise NotImplementedError

    def encode(self, image: Tensor) -> Tensor:
        self.shown.append(image)
        return image

    def sample(
        self,
        image_or_encoding: Any,
        n: int,
        *,
        seeds: Tensor,
        steps: int | None = None,
        raters: RaterChoice = "single",
        stratified: bool = False,
        origin: Tensor | None = None,
    ) -> Samples:
        image = image_or_encoding
        batch, _, height, width = image.shape
        corner = torch.zeros(batch, 2, dtype=torch.int64) if origin is None else origin
        each = sample_seeds(seeds, n)
        fields = [NoiseField(each[:, i], (height, width), corner) for i in range(n)]
        noise = torch.stack([field.draw(normal, self.classes, 1) for field in fields], 1)
        maps = torch.sigmoid(10 * (image[:, None] - 0.5) + self.wiggle * noise) / self.classes
        chance = image.mean((1, 2, 3)) if self.chance is None else torch.full((batch,), self.chance)
        present = uniform(fold(each, 2)) < chance[:, None]
        who = (uniform(fold(each, 3)) * self.raters).long()
        maps = maps * present[..., None, None, None]
        return Samples.uniform(maps, raters=who, presence=chance)
