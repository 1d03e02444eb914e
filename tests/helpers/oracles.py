"""Segmenters whose samples are known, and a split in memory small enough to score by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from modiff.methods.base import Segmenter
from modiff.rng import fold, sample_seeds, uniform
from modiff.types import Batch, DataSpec, Samples


class Analytic(Segmenter):
    """Sees the raters' masks as the channels of its image; `calls` counts what was asked of it."""

    def __init__(self, raters: int = 4) -> None:
        super().__init__(DataSpec.of(channels=raters, raters=raters))
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.calls: list[tuple[int, int, int | None]] = []

    def training_loss(self, batch: Batch, *, rng: torch.Generator) -> dict[str, Tensor]:
        raise NotImplementedError

    def encode(self, image: Tensor) -> Tensor:
        return image

    def sample(self, image_or_encoding, n, *, seeds, steps=None, raters="single") -> Samples:  # type: ignore[no-untyped-def]
        self.calls.append((len(image_or_encoding), n, steps))
        return self.draw(image_or_encoding, n, seeds)

    def draw(self, image: Tensor, n: int, seeds: Tensor) -> Samples:
        raise NotImplementedError


class IidRaters(Analytic):
    """Draws one of the raters for each sample, each equally likely: the best that a model can do."""

    def draw(self, image: Tensor, n: int, seeds: Tensor) -> Samples:
        which = (uniform(sample_seeds(seeds, n)) * image.shape[1]).long()
        rows = torch.arange(len(image))[:, None]
        return Samples.uniform(image[rows, which][:, :, None].clamp(0, 1))


class Majority(Analytic):
    """The majority vote n times."""

    def draw(self, image: Tensor, n: int, seeds: Tensor) -> Samples:
        vote = (image.mean(1, keepdim=True) > 0.5).float()
        return Samples.uniform(vote[:, None].expand(-1, n, -1, -1, -1))


class Soft(Analytic):
    """Random probabilities, so that thresholds matter."""

    def draw(self, image: Tensor, n: int, seeds: Tensor) -> Samples:
        return Samples.uniform(uniform(fold(sample_seeds(seeds, n), 1), (1, *image.shape[-2:])))


@dataclass
class Split:
    """Images whose channels are the masks of R raters."""

    masks: np.ndarray
    cases: Sequence[str]
    patients: Sequence[str]
    read: np.ndarray
    asked: list[list[int]] = field(default_factory=list)

    @property
    def packed(self) -> np.ndarray:
        """(n,R,1,bytes) as `MemoryStore` has them."""
        return np.packbits(self.masks.reshape(*self.masks.shape[:2], 1, -1), axis=-1)

    def batch(self, rows: Sequence[int]) -> Batch:
        self.asked.append(list(rows))
        masks = torch.from_numpy(self.masks[list(rows)])
        return Batch(
            image=masks.float(),
            masks=masks[:, :, None],
            read=torch.from_numpy(self.read[list(rows)]),
            case=tuple(self.cases[row] for row in rows),
        )


def discs(images: int = 24, patients: int = 8, raters: int = 4, size: int = 16, seed: int = 0) -> Split:
    """Discs whose radius and presence differ between raters; image 0 is marked by all, image 1 by nobody."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    radius = rng.uniform(2, size / 3, (images, 1)) * rng.uniform(0.8, 1.25, (images, raters))
    present = rng.random((images, raters)) < rng.uniform(0.2, 1.0, (images, 1))
    present[0], present[1] = True, False
    masks = (np.hypot(x, y) < radius[..., None, None]) & present[..., None, None]
    owner = np.arange(images) * patients // images
    names = [f"p{p:02d}/slice-{i}" for i, p in enumerate(owner)]
    return Split(masks, names, [f"p{p:02d}" for p in owner], np.ones((images, raters), dtype=bool))
