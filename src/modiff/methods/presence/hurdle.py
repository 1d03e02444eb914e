"""MoDiff's presence hurdle beside another method: whether a reader marks anything is decided before any denoising.

A control: what the idea is worth without the rest of MoDiff.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modiff.config import PresenceConfig
from modiff.methods.presence import head as presence
from modiff.methods.presence.draw import presence_uniforms
from modiff.types import Batch, DataSpec


class PresenceHurdle(nn.Module):
    """The presence head of `modiff.methods.presence.head` with its training terms and its draw."""

    def __init__(self, data: DataSpec, config: PresenceConfig, *, ce_weight: float) -> None:
        super().__init__()
        self.config, self.exchangeable = config, data.exchangeable_raters
        self.head = presence.PresenceHead(data, config, ce_weight=ce_weight)

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return self.head.stride

    def losses(
        self, image: Tensor, masks: Tensor, batch: Batch, centre: Tensor, *, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """The head's two terms, "presence" and "map"."""
        return self.head.losses(image, masks, batch, centre, rng=rng)

    def law(self, image: Tensor, centre: Tensor) -> Tensor:
        """(B,R+1) law of the number of markers where raters are exchangeable, else (B,R) each rater's probability."""
        return self.head.law(image, centre)[0]

    def probability(self, law: Tensor) -> Tensor:
        """(B,) π, that a reader drawn at random marks anything."""
        return presence.marking_probability(law, exchangeable=self.exchangeable).mean(1)

    def draw(self, law: Tensor, seeds: Tensor) -> Tensor:
        """(B,N) bool from (B,N) seeds of samples: the reader whose hypothesis this is marks something."""
        return presence_uniforms(seeds, False) >= 1 - self.probability(law)[:, None]
