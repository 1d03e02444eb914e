"""A Segmenter whose law is known: discs about the brightest spot, of random radius, or nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modiff.methods.base import Segmenter
from modiff.rng import fold, sample_seeds, uniform
from modiff.types import Batch, DataSpec, RaterChoice, Samples


class Discs(Segmenter):
    """Class k of K is a disc of radius r/(k+1) about channel 0's brightest pixel; r in {4, 10}; nothing at `absent`.

    Counts its calls: the image is to be encoded once.
    """

    stepwise = True
    draws_panels = True

    def __init__(self, channels: int = 1, classes: int = 1, raters: int = 4, absent: float = 0.25) -> None:
        super().__init__(DataSpec.of(channels=channels, classes=classes, raters=raters))
        self.absent = absent
        self.encoded: list[Tensor] = []
        self.asked: list[dict[str, Any]] = []
        self.tells_presence = False

    def training_loss(self, batch: Batch, *, rng: torch.Generator) -> dict[str, Tensor]:
        raise NotImplementedError

    def encode(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        assert torch.is_inference_mode_enabled()
        self.encoded.append(image)
        height, width = image.shape[2:]
        # Of equally bright pixels the one nearest to the centre, which is the prompt.
        rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
        away = (rows[:, None] ** 2 + columns**2).sqrt()
        return (image[:, 0] - 1e-3 * away).flatten(1).argmax(1), (height, width)

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
        assert torch.is_inference_mode_enabled()
        self.asked.append({"n": n, "steps": steps, "raters": raters})
        brightest, (height, width) = image_or_encoding
        each = sample_seeds(seeds, n)
        present = uniform(fold(each, 0)) > self.absent
        radius = torch.where(uniform(fold(each, 1)) > 0.5, 10.0, 4.0) + uniform(fold(each, 2))
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        row, column = brightest // width, brightest % width
        distance = ((rows - row[:, None, None]) ** 2 + (columns - column[:, None, None]) ** 2).sqrt()
        maps = torch.zeros(*each.shape, self.classes, height, width)
        inner = torch.zeros_like(maps[:, :, 0])
        for kind in reversed(range(self.classes)):
            disc = torch.sigmoid(radius[..., None, None] / (kind + 1) - distance[:, None])
            maps[:, :, kind] = (disc - inner).clamp(min=0)
            inner = torch.maximum(inner, disc)
        maps = maps * present[..., None, None, None]
        own = torch.full((len(seeds),), 1 - self.absent) if self.tells_presence else None
        return Samples.uniform(maps, presence=own)
