"""The denoiser's backbone: a U-Net whose image share is computed once an image."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.config import UNetConfig
from modiff.nn.layers import ResBlock, SpatialAttention, group_norm, time_features, zero


def _stage(stage: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    block, attention = cast(nn.ModuleList, stage)
    return attention(block(h, embedding))


class UNet(nn.Module):
    """(noisy maps, condition) -> prediction, both at the image's resolution.

    inputs: channels of what changes with every step (x_t and g^B(O^B)); image_inputs: channels of what does not (the
    image, positions), which enter through their share of the first convolution; outputs: channels of the prediction.
    """

    def __init__(self, inputs: int, image_inputs: int, outputs: int, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        base, stem = config.base, config.stem
        width = 4 * base
        self.time = nn.Sequential(nn.Linear(base, width), nn.SiLU(), nn.Linear(width, width))
        self.conv_image = nn.Conv2d(image_inputs * stem**2, base, 3, padding=1)
        self.conv_in = nn.Conv2d(inputs * stem**2, base, 3, padding=1, bias=False)
        widths = [base * multiplier for multiplier in config.multipliers]
        self._make_levels(widths, width)
        self.norm_out = group_norm(base)
        self.conv_out = zero(nn.Conv2d(base, outputs * stem**2, 3, padding=1))

    def _make_levels(self, widths: list[int], embedding: int) -> None:
        config = self.config

        def stage(inputs: int, outputs: int, factor: int) -> nn.ModuleList:
            block = ResBlock(inputs, outputs, embedding=embedding, dropout=config.dropout)
            attention = SpatialAttention(outputs, config.heads) if factor in config.attention else nn.Identity()
            return nn.ModuleList([block, attention])

        self.down, self.up, self.shrink, self.grow = (nn.ModuleList() for _ in range(4))
        skips, current = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(stage(current, width, config.stem * 2**level))
                skips.append(current := width)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
                skips.append(current)
        self.middle = nn.ModuleList(
            [
                ResBlock(current, current, embedding=embedding, dropout=config.dropout),
                SpatialAttention(current, config.heads),
                ResBlock(current, current, embedding=embedding, dropout=config.dropout),
            ]
        )
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(stage(current + skips.pop(), width, config.stem * 2**level))
                current = width
            if level:
                self.grow.append(nn.Conv2d(current, current, 3, padding=1))

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return self.config.stem * 2 ** (len(self.config.multipliers) - 1)

    def encode(self, image_inputs: Tensor) -> Tensor:
        """The image's share of the first convolution (B,base,H/stem,W/stem): computed once an image."""
        x = F.pixel_unshuffle(image_inputs, self.config.stem)
        return self.conv_image(x)

    def forward(self, x: Tensor, image_share: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """x: (B,inputs,H,W); image_share: (B,base,H/stem,W/stem); t: (B,) in [0,1]; context: (B,4·base)."""
        embedding = self.time(time_features(t, self.config.base))
        if context is not None:
            embedding = embedding + context
        embedding = F.silu(embedding)
        x = F.pixel_unshuffle(x, self.config.stem)
        h = self.conv_in(x) + image_share
        skips, blocks = [h], len(self.config.multipliers)
        down, up = iter(self.down), iter(self.up)
        for level in range(blocks):
            for _ in range(self.config.blocks):
                h = _stage(next(down), h, embedding)
                skips.append(h)
            if level < blocks - 1:
                h = self.shrink[level](h)
                skips.append(h)
        before, attention, after = self.middle
        h = after(attention(before(h, embedding)), embedding)
        for level in range(blocks):
            for _ in range(self.config.blocks + 1):
                h = _stage(next(up), torch.cat([h, skips.pop()], 1), embedding)
            if level < blocks - 1:
                h = self.grow[level](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(h.float(), self.config.stem)
