"""A batch of multi-rater images: the one thing that goes from data to models."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


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
