"""What the rooms hand to one another: a batch of multi-rater images, samples, and whose reading is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

RaterChoice = Literal["single", "all"] | Sequence[int]
"""Whose reading a sample is: one rater drawn at random, the consensus of all, or of the raters named by number."""


@dataclass
class Batch:
    """Images with every rater's masks.

    image: (B,C,H,W) float32 in [0,1]. masks: (B,R,K,H,W) bool, K foreground classes. read: (B,R) bool, the rater read
    this image (an empty mask then means "nothing there"; a rater who did not read it is ignored everywhere).
    case: B names. centre: (B,2) float32, the prompt's position (row, column) in pixels from the image's upper left
    corner, or None where the data has no prompt.
    """

    image: Tensor
    masks: Tensor
    read: Tensor
    case: tuple[str, ...] = ()
    centre: Tensor | None = None

    def __len__(self) -> int:
        return self.image.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)  # type: ignore[arg-type]

    @property
    def marked(self) -> Tensor:
        """(B,R) bool: the rater read the image and marked something, of any class."""
        return self.masks.flatten(2).any(-1) & self.read


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
