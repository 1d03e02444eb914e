"""The one interface of every method: `training_loss`, `encode`, `sample`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modiff.types import Batch

Readers = Literal["single", "all"] | Sequence[int]


def marks(maps: Tensor) -> Tensor:
    """(…,K,H,W) probabilities -> (…) bool: a foreground class is the likeliest at some pixel.

    Ties go to the background: with one class, a pixel must exceed one half.
    """
    return (maps.amax(-3) > 1 - maps.sum(-3)).flatten(-2).any(-1)


@dataclass
class Samples:
    """Hypotheses for B images.

    maps: (B,N,K,H,W) float32 probabilities in [0,1]; binarise outside the model. weights: (B,N), sum 1 an image,
    uniform unless a method says otherwise. present: (B,N) bool, the hypothesis marks something (`marks`). raters: (B,N)
    int64, whose reading it is, where raters are identifiable; else None. presence: (B,) the model's own probability
    that a reader marks anything, where it has one; else None.
    """

    maps: Tensor
    weights: Tensor
    present: Tensor
    raters: Tensor | None = None
    presence: Tensor | None = None

    @classmethod
    def uniform(cls, maps: Tensor, **more: Tensor | None) -> Samples:
        """Samples of equal weight from (B,N,K,H,W) maps."""
        weights = torch.full(maps.shape[:2], 1.0 / maps.shape[1], device=maps.device)
        return cls(maps, weights, marks(maps), **more)


class Segmenter(nn.Module, ABC):
    """A method that learns from every rater and draws hypotheses.

    Attributes: channels C, classes K (foreground), raters R of the data it was built for.
    """

    channels: int
    classes: int
    raters: int

    @abstractmethod
    def training_loss(self, batch: Batch, *, rng: torch.Generator) -> dict[str, Tensor]:
        """Scalar `"loss"` to minimise and its named terms (detached), all random numbers drawn from `rng`."""

    @abstractmethod
    def encode(self, image: Tensor) -> Any:
        """What depends on the image (B,C,H,W) only: computed once an image, shared by all its samples and steps."""

    @abstractmethod
    def sample(
        self, image_or_encoding: Any, n: int, *, seeds: Tensor, steps: int | None = None, raters: Readers = "single"
    ) -> Samples:
        """n hypotheses an image. seeds: (B,) int64, one a case; sample i is a function of (weights, image, seed, i).

        What a method may add, and callers ask its signature for: `stratified`, presence from a low-discrepancy
        sequence; `origin`, (B,2) int64, the row and column of each image's first pixel in a larger one: noise is then a
        function of (seed, i, place in that one), so that windows of a scan which share a seed agree where they overlap.
        """
