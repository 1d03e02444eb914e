"""Layers that several methods share."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.devices import numbers_on


def group_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    """GroupNorm of so many groups or as many of them as divide the channels; None: the largest number up to 32 that
    leaves at least four channels per group."""
    fitting = (g for g in range(1, 33) if channels % g == 0 and (channels // g >= 4 or g == 1))
    return nn.GroupNorm(max(fitting) if groups is None else math.gcd(groups, channels), channels)


def zero(module: nn.Module) -> nn.Module:
    """The module with all its parameters set to zero: a residual branch that starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def bounded(x: Tensor, limit: float) -> Tensor:
    """x near 0, and never beyond ±limit; its slope is nowhere 0, so that training finds the way back from there."""
    return x / (1 + x.abs() / limit)


def time_features(t: Tensor, width: int, scale: float = 1000.0) -> Tensor:
    """(B,) times in [0,1] -> (B,width) sinusoids of scale·t (Ho et al. 2020)."""
    half = -(-width // 2)
    frequency = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000.0) / half))
    angle = (t * scale)[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)[:, :width]


class ResBlock(nn.Module):
    """GroupNorm–SiLU–conv twice with a skip, (B,C,H,W) -> (B,C',H,W); an embedding scales and shifts the second."""

    def __init__(self, inputs: int, outputs: int, *, embedding: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = group_norm(outputs), zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.dropout = nn.Dropout2d(dropout)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.embed = nn.Linear(embedding, 2 * outputs) if embedding else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.embed is not None and embedding is not None:
            scale, shift = self.embed(embedding)[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """Softmax attention over (...,N,d), in v's type; scale: 1/√d unless given.

    On CPUs in float32 whatever the type: the backward pass of bfloat16 is there 6 to 15 times as slow.
    """
    if v.device.type == "cpu" and v.dtype != torch.float32:
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=scale).to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class SpatialAttention(nn.Module):
    """Multi-head softmax self-attention over positions, with a skip. (B,C,H,W) -> (B,C,H,W)."""

    def __init__(self, channels: int, heads: int, groups: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(-2, -1).unbind(1)
        y = attend(q, k, v)
        return x + self.out(y.transpose(-2, -1).reshape(batch, channels, height, width))


def position_channels(height: int, width: int, centre: Tensor) -> Tensor:
    """(B,3,H,W): rows and columns from the prompt in units of 32 pixels, and a soft distance exp(−r/8 px).

    centre: (B,2) row and column of the prompt in pixels, (H−1)/2 and (W−1)/2 for the image's middle.
    """
    rows = torch.arange(height, device=centre.device, dtype=torch.float32)[None, :, None] - centre[:, 0, None, None]
    columns = torch.arange(width, device=centre.device, dtype=torch.float32)[None, None, :] - centre[:, 1, None, None]
    distance = torch.sqrt(rows**2 + columns**2)
    shape = (centre.shape[0], height, width)
    return torch.stack([(rows / 32).expand(shape), (columns / 32).expand(shape), torch.exp(-distance / 8)], 1)


def image_centre(image: Tensor) -> Tensor:
    """(B,2) the middle of (B,C,H,W) images in pixels."""
    middle = numbers_on(image.device, (image.shape[-2] - 1) / 2, (image.shape[-1] - 1) / 2)
    return middle.expand(image.shape[0], 2)


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No autocast on x's device: latents, flows and sums over pixels need float32."""
    return torch.autocast(x.device.type, enabled=False)


def channels_last(model: nn.Module) -> None:
    """Stores the weights of convolutions as the fast kernels read them; these networks train 1.4 to 1.8 times as fast.

    GroupNorm is slow that way on CPUs in bfloat16: networks that have it (MoDiff, CCDM, CIMD) keep their weights as
    they are; `GuidedUNet.forward` says what it does in float32.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
