"""The U-Nets of all methods: two denoisers whose image features are computed once per image, and a plain one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.config.methods import GuidedUNetConfig, UNetConfig
from modiff.errors import ConfigError
from modiff.nn.layers import ResBlock, SpatialAttention, group_norm, time_features, zero

Norm = Literal["none", "block", "layer"]
"""Batch normalisation: nowhere (Probabilistic U-Net), after each block (cFlow), after each convolution (MoSE)."""


class _Denoiser(nn.Module, ABC):
    """(noisy maps, image features, time) -> prediction, all at the image's resolution.

    inputs: channels of what changes with every step; image_inputs: channels of what does not; outputs: channels of the
    prediction; steps: of the chain, the unit of time. A convolution of a concatenation is the sum of two, so the
    image's part of the first convolution is computed once per image and the number of parameters is that of the
    concatenation.
    """

    stage_names: ClassVar[tuple[str, str]] = ("0", "1")  # of a block and its attention in the state dict
    middle_last: ClassVar[bool] = False  # the order in which initial weights are drawn

    def __init__(
        self, inputs: int, image_inputs: int, outputs: int, config: UNetConfig | GuidedUNetConfig, *, steps: float = 1e3
    ) -> None:
        super().__init__()
        self.config, self.steps = config, steps
        self.groups = config.groups if isinstance(config, GuidedUNetConfig) else None  # of a group norm
        self.stride = config.stem * 2 ** (len(config.multipliers) - 1)  # image sides must be multiples of this
        base, patch = config.base, config.stem**2
        self.time = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
        widths = [base * multiplier for multiplier in config.multipliers]
        self.conv_image = nn.Conv2d(image_inputs * patch, widths[0], 3, padding=1)
        self.conv_in = nn.Conv2d(inputs * patch, widths[0], 3, padding=1, bias=False)
        self.down, self.up, self.shrink, self.grow = (nn.ModuleList() for _ in range(4))
        skips, current = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(self._stage(current, width, level))
                skips.append(current := width)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
                skips.append(current)
        if not self.middle_last:
            self._make_middle(current)
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(self._stage(current + skips.pop(), width, level))
                current = width
            if level:
                self.grow.append(nn.Conv2d(current, current, 3, padding=1))
        if self.middle_last:
            self._make_middle(widths[-1])
        self.norm_out = group_norm(widths[0], self.groups)
        self.conv_out = zero(nn.Conv2d(widths[0], outputs * patch, 3, padding=1))

    @abstractmethod
    def _block(self, inputs: int, outputs: int) -> nn.Module:
        """A residual block: (h, embedding) -> h."""

    @abstractmethod
    def _attention(self, channels: int) -> SpatialAttention: ...

    def _stage(self, inputs: int, outputs: int, level: int) -> nn.Module:
        attend = self.config.stem * 2**level in self.config.attention
        modules = [self._block(inputs, outputs), self._attention(outputs) if attend else nn.Identity()]
        return _Stage(OrderedDict(zip(self.stage_names, modules, strict=True)))

    def _make_middle(self, channels: int) -> None:
        block = self._block(channels, channels)
        self.middle: nn.Module = _Stage(block, self._attention(channels), self._block(channels, channels))

    def encode(self, image_inputs: Tensor) -> Tensor:
        """The image's part of the first convolution (B,base,H/stem,W/stem): computed once per image."""
        return self.conv_image(F.pixel_unshuffle(image_inputs, self.config.stem))

    def _first(self, x: Tensor, image_features: Tensor) -> Tensor:
        return self.conv_in(x) + image_features

    def _middle(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.middle(h, embedding)

    def forward(self, x: Tensor, image_features: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """x: (B,inputs,H,W); image_features: of `encode`; t: (B,) in [0,1]; context: (B,4·base); returns float32."""
        embedding = self.time(time_features(t, self.config.base, scale=self.steps))
        embedding = F.silu(embedding if context is None else embedding + context)
        h = self._first(F.pixel_unshuffle(x, self.config.stem), image_features)
        skips, last = [h], len(self.config.multipliers) - 1
        down, up = iter(self.down), iter(self.up)
        for level in range(last + 1):
            for _ in range(self.config.blocks):
                h = next(down)(h, embedding)
                skips.append(h)
            if level < last:
                h = self.shrink[level](h)
                skips.append(h)
        h = self._middle(h, embedding)
        for level in range(last + 1):
            for _ in range(self.config.blocks + 1):
                h = next(up)(torch.cat([h, skips.pop()], 1), embedding)
            if level < last:
                h = self.grow[level](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(h.float(), self.config.stem)


class _Stage(nn.Sequential):
    """Residual blocks, which take the embedding, and attention, which does not."""

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for module in self:
            h = module(h, embedding) if isinstance(module, (ResBlock, GuidedBlock)) else module(h)
        return h


class UNet(_Denoiser):
    """MoDiff's: its residual blocks are scaled and shifted by the embedding of time and subset."""

    config: UNetConfig

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        return ResBlock(inputs, outputs, embedding=4 * self.config.base, dropout=self.config.dropout)

    def _attention(self, channels: int) -> SpatialAttention:
        return SpatialAttention(channels, self.config.heads)


class GuidedBlock(nn.Module):
    """GroupNorm–SiLU–conv twice with a skip; the time's embedding is added in between."""

    def __init__(self, inputs: int, outputs: int, config: GuidedUNetConfig) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs, config.groups), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(4 * config.base, outputs)
        self.norm2, self.conv2 = group_norm(outputs, config.groups), zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.dropout = nn.Dropout(config.dropout)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.embed(embedding)[:, :, None, None]
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class GuidedUNet(_Denoiser):
    """That of guided diffusion (Dhariwal & Nichol 2021), for CCDM, CIMD and MedFM."""

    config: GuidedUNetConfig
    stage_names = ("block", "attention")
    middle_last = True

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        return GuidedBlock(inputs, outputs, self.config)

    def _attention(self, channels: int) -> SpatialAttention:
        width = self.config.head_width
        if width and channels % width:
            what, expected = "does not divide the channels where there is attention", f"a divisor of {channels}"
            raise ConfigError(what, field="model.unet.head_width", found=width, expected=expected)
        return SpatialAttention(channels, channels // width if width else 1, self.groups)

    def _make_middle(self, channels: int) -> None:
        self.before, self.after = (self._block(channels, channels) for _ in range(2))
        self.middle = self._attention(channels)

    def _middle(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.after(self.middle(self.before(h, embedding)), embedding)

    def _first(self, x: Tensor, image_features: Tensor) -> Tensor:
        if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            # In float32 all layers are faster this way; in bfloat16, CPUs' GroupNorm is several times slower. On other
            # devices GroupNorm would copy its input back at every layer.
            image_features = image_features.contiguous(memory_format=torch.channels_last)
        return image_features + self.conv_in(x)


def initialise(module: nn.Module) -> None:
    """He-normal weights, truncated normal biases of 0.001, as Kohl et al. have it."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.trunc_normal_(module.bias, std=0.001, a=-0.002, b=0.002)


def conv_block(inputs: int, outputs: int, *, norm: Norm = "none") -> nn.Sequential:
    """Three 3×3 convolutions with ReLU. (B,inputs,H,W) -> (B,outputs,H,W)."""
    layers: list[nn.Module] = []
    for index in range(3):
        layers.append(nn.Conv2d(inputs if index == 0 else outputs, outputs, 3, padding=1))
        if norm == "layer":
            layers.append(nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01))
        layers.append(nn.ReLU(inplace=True))
    if norm == "block":
        layers.append(nn.BatchNorm2d(outputs))
    block = nn.Sequential(*layers)
    block.apply(initialise)
    return block


def hourglass(
    x: Tensor, down: Iterable[nn.Module], up: Iterable[nn.Module], *, mode: str, align_corners: bool | None = None
) -> tuple[Tensor, Tensor]:
    """Down by average pooling, up by interpolation with skips: the bottleneck (B,C',H/s,W/s), features (B,C,H,W)."""
    skips: list[Tensor] = []
    for level, block in enumerate(down):
        x = block(F.avg_pool2d(x, 2) if level else x)
        skips.append(x)
    bottleneck = skips.pop()
    for block in up:
        x = F.interpolate(x, scale_factor=2.0, mode=mode, align_corners=align_corners)
        x = block(torch.cat([x, skips.pop()], 1))
    return bottleneck, x


class ConvUNet(nn.Module):
    """The U-Net of the latent-variable methods: blocks of three convolutions, average pooling, bilinear up-sampling.

    (B,inputs,H,W) -> bottleneck (B,C_last,H/stride,W/stride) and features (B,C_0,H,W). norm_last: whether the last
    block is normalised too (cFlow's is not).
    """

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        *,
        norm: Norm = "none",
        norm_last: bool = True,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.align_corners, self.stride = align_corners, 2 ** (len(channels) - 1)
        self.down = nn.ModuleList([conv_block(a, b, norm=norm) for a, b in pairwise([inputs, *channels])])
        self.up = nn.ModuleList()
        for level in reversed(range(len(channels) - 1)):
            width, here = channels[level], norm if level or norm_last else "none"
            self.up.append(conv_block(channels[level + 1] + width, width, norm=here))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return hourglass(x, self.down, self.up, mode="bilinear", align_corners=self.align_corners)
