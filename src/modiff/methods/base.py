"""The one interface of every method: `training_loss`, `encode`, `sample`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from modiff.types import Batch, RaterChoice, Samples


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
        self, image_or_encoding: Any, n: int, *, seeds: Tensor, steps: int | None = None, raters: RaterChoice = "single"
    ) -> Samples:
        """n hypotheses an image. seeds: (B,) int64, one a case; sample i is a function of (weights, image, seed, i).

        What a method may add, and callers ask its signature for: `stratified`, presence from a low-discrepancy
        sequence; `origin`, (B,2) int64, the row and column of each image's first pixel in a larger one: noise is then a
        function of (seed, i, place in that one), so that windows of a scan which share a seed agree where they overlap.
        """
