"""The U-Net of guided diffusion (Dhariwal & Nichol 2021), with the image's share of its first layer apart."""

from __future__ import annotations

from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.config.baselines import GuidedUNetConfig
from modiff.errors import ConfigError
from modiff.nn.layers import SpatialAttention, time_features, zero


def _norm(channels: int, config: GuidedUNetConfig) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(config.groups, channels), channels)


class _Block(nn.Module):
    """GroupNorm–SiLU–conv twice with a skip; the time's embedding is added in between."""

    def __init__(self, inputs: int, outputs: int, config: GuidedUNetConfig) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs, config), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(4 * config.base, outputs)
        self.norm2, self.conv2 = _norm(outputs, config), zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.dropout = nn.Dropout(config.dropout)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.embed(embedding)[:, :, None, None]
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


def _attention(channels: int, config: GuidedUNetConfig) -> SpatialAttention:
    head_width = config.head_width
    if head_width and channels % head_width:
        raise ConfigError(
            "does not divide the channels where there is attention",
            field="model.unet.head_width",
            found=head_width,
            expected=f"a divisor of {channels}",
        )
    attention = SpatialAttention(channels, channels // head_width if head_width else 1)
    attention.norm = _norm(channels, config)
    return attention


class _Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, config: GuidedUNetConfig, factor: int) -> None:
        super().__init__()
        self.block = _Block(inputs, outputs, config)
        attend = factor in config.attention
        self.attention: nn.Module = _attention(outputs, config) if attend else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


class GuidedUNet(nn.Module):
    """(noisy maps, image share, time) -> prediction, all at the image's resolution.

    inputs: channels of the noisy maps; image_inputs: channels of what does not change with the steps; outputs: channels
    of the prediction. The reference concatenates both at the first convolution; a convolution of a concatenation is the
    sum of two, so the image's is computed once an image and the number of parameters is the same.
    """

    def __init__(self, inputs: int, image_inputs: int, outputs: int, config: GuidedUNetConfig, *, steps: int) -> None:
        super().__init__()
        self.config, self.steps = config, steps
        base, stem = config.base, config.stem
        self.time = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
        widths = [base * multiplier for multiplier in config.multipliers]
        self.conv_image = nn.Conv2d(image_inputs * stem**2, widths[0], 3, padding=1)
        self.conv_in = nn.Conv2d(inputs * stem**2, widths[0], 3, padding=1, bias=False)
        self.down, self.up, self.shrink, self.grow = (nn.ModuleList() for _ in range(4))
        bottom = self._make_levels(widths)
        self.before, self.after = _Block(bottom, bottom, config), _Block(bottom, bottom, config)
        self.middle = _attention(bottom, config)
        self.norm_out = _norm(widths[0], config)
        self.conv_out = zero(nn.Conv2d(widths[0], outputs * stem**2, 3, padding=1))

    def _make_levels(self, widths: list[int]) -> int:
        config = self.config
        skips, current = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(_Stage(current, width, config, config.stem * 2**level))
                skips.append(current := width)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
                skips.append(current)
        bottom = current
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(_Stage(current + skips.pop(), width, config, config.stem * 2**level))
                current = width
            if level:
                self.grow.append(nn.Conv2d(current, current, 3, padding=1))
        return bottom

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return self.config.stem * 2 ** (len(self.config.multipliers) - 1)

    def encode(self, image_inputs: Tensor) -> Tensor:
        """The image's share of the first convolution (B,base,H/stem,W/stem): computed once an image."""
        return self.conv_image(F.pixel_unshuffle(image_inputs, self.config.stem))

    def forward(self, x: Tensor, image_share: Tensor, t: Tensor) -> Tensor:
        """x: (B,inputs,H,W); image_share: (B,base,H/stem,W/stem); t: (B,) in [0,1]; returns float32 (B,outputs,H,W)."""
        embedding = F.silu(self.time(time_features(t, self.config.base, scale=self.steps)))
        if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            # In float32 all layers are faster this way; in bfloat16, CPUs' GroupNorm is several times slower. On other
            # devices GroupNorm would copy its input back at every layer.
            image_share = image_share.contiguous(memory_format=torch.channels_last)
        h = image_share + self.conv_in(F.pixel_unshuffle(x, self.config.stem))
        skips, levels = [h], len(self.config.multipliers)
        down, up = iter(self.down), iter(self.up)
        for level in range(levels):
            for _ in range(self.config.blocks):
                h = next(down)(h, embedding)
                skips.append(h)
            if level < levels - 1:
                h = self.shrink[level](h)
                skips.append(h)
        h = self.after(self.middle(self.before(h, embedding)), embedding)
        for level in range(levels):
            for _ in range(self.config.blocks + 1):
                h = next(up)(torch.cat([h, skips.pop()], 1), embedding)
            if level < levels - 1:
                h = self.grow[level](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(h.float(), self.config.stem)
