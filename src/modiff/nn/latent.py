"""What the latent-variable baselines share: their convolution blocks, U-Net, encoders, f_comb and Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.errors import ConfigError
from modiff.nn.layers import bounded
from modiff.types import Batch

Norm = Literal["none", "block", "layer"]
"""Batch normalisation: nowhere (Probabilistic U-Net), after each block (cFlow), after each convolution (MoSE)."""

PIXELS_AT_ONCE = 1 << 20  # of maps decoded together: bounds memory whatever n is
_LOG_SIGMA = 8.0  # σ stays within e^±8: beyond, float32's KL overflows and a run is lost


def initialise(module: nn.Module) -> None:
    """He-normal weights, truncated normal biases of 0.001, as Kohl et al. have it."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.trunc_normal_(module.bias, std=0.001, a=-0.002, b=0.002)


def channels_last(model: nn.Module) -> None:
    """Stores the weights of convolutions as the fast kernels read them; these networks train 1.4 to 1.8 times as fast.

    GroupNorm is slow that way on CPUs in bfloat16: networks that have it (MoDiff, CCDM, CIMD) keep their weights as
    they are; `GuidedUNet.forward` says what it does in float32.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No autocast on x's device: latents, flows and sums over pixels need float32."""
    return torch.autocast(x.device.type, enabled=False)


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


class ConvUNet(nn.Module):
    """The U-Net of these papers: blocks of three convolutions, average pooling, bilinear up-sampling.

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
        self.align_corners = align_corners
        self.stride = 2 ** (len(channels) - 1)
        widths = [inputs, *channels]
        self.down = nn.ModuleList([conv_block(a, b, norm=norm) for a, b in pairwise(widths)])
        self.up = nn.ModuleList()
        current = channels[-1]
        for level in reversed(range(len(channels) - 1)):
            here: Norm = norm if level or norm_last else "none"
            self.up.append(conv_block(current + channels[level], channels[level], norm=here))
            current = channels[level]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x)
            skips.append(x)
        bottleneck = skips.pop()
        for block in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=self.align_corners)
            x = block(torch.cat([x, skips.pop()], 1))
        return bottleneck, x


@dataclass
class Gaussian:
    """A normal distribution with independent dimensions. mean, log_sigma: (...,D)."""

    mean: Tensor
    log_sigma: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """The value that standard normal noise (...,D) becomes."""
        return self.mean + self.log_sigma.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """(...) log-density of z (...,D)."""
        scaled = (z - self.mean) * torch.exp(-self.log_sigma)
        log_2pi = 1.8378770664093453
        return -(0.5 * scaled**2 + self.log_sigma + 0.5 * log_2pi).sum(-1)


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """(...) KL(q‖p) in closed form."""
    ratio = torch.exp(2 * (q.log_sigma - p.log_sigma))
    distance = ((q.mean - p.mean) * torch.exp(-p.log_sigma)) ** 2
    return (0.5 * (ratio + distance - 1) + p.log_sigma - q.log_sigma).sum(-1)


class GaussianNet(nn.Module):
    """VGG-like encoder, global average, one linear layer: (B,inputs,H,W) -> a Gaussian over z, and h (B,C_last).

    Kohl et al. 2018; CIMD has it too.
    """

    def __init__(self, inputs: int, channels: Sequence[int], latent_dim: int, *, norm: Norm = "none") -> None:
        super().__init__()
        widths = [inputs, *channels]
        self.blocks = nn.ModuleList(
            [
                conv_block(a, b, norm=norm if level < len(channels) - 1 else "none")
                for level, (a, b) in enumerate(pairwise(widths))
            ]
        )
        self.out = nn.Linear(channels[-1], 2 * latent_dim)
        initialise(self.out)

    def forward(self, x: Tensor) -> tuple[Gaussian, Tensor]:
        for level, block in enumerate(self.blocks):
            x = block(F.avg_pool2d(x, 2, ceil_mode=True) if level else x)
        with full_precision(x):
            h = x.float().mean((2, 3))
            mean, log_sigma = self.out(h).chunk(2, 1)
        return Gaussian(mean, bounded(log_sigma, _LOG_SIGMA)), h


class FComb(nn.Module):
    """f_comb: 1×1 convolutions on features joined with z. The first layer's image share is computed once an image."""

    def __init__(self, features: int, latent_dim: int, outputs: int, *, depth: int = 4, norm: bool = False) -> None:
        super().__init__()
        if depth < 2:
            raise ConfigError("is too small", field="model.combine_depth", found=depth, expected="at least 2")
        self.image = nn.Conv2d(features, features, 1)
        self.latent = nn.Linear(latent_dim, features, bias=False)
        layers: list[nn.Module] = [nn.ReLU()]
        for _ in range(depth - 2):
            if norm:
                layers.append(nn.BatchNorm2d(features))
            layers += [nn.Conv2d(features, features, 1), nn.ReLU()]
        self.rest = nn.Sequential(*layers, nn.Conv2d(features, outputs, 1))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Orthogonal weights, those of the first layer over features and z together."""
        features, latent = self.image.in_channels, self.latent.in_features
        joint = torch.empty(features, features + latent, device=self.image.weight.device)
        nn.init.orthogonal_(joint)
        self.image.weight.copy_(joint[:, :features, None, None])
        self.latent.weight.copy_(joint[:, features:])
        for module in (self.image, *self.rest):
            if isinstance(module, nn.Conv2d):
                if module is not self.image:
                    nn.init.orthogonal_(module.weight)
                assert module.bias is not None
                nn.init.trunc_normal_(module.bias, std=0.001, a=-0.002, b=0.002)

    def forward(self, share: Tensor, z: Tensor) -> Tensor:
        """share: (B,F,H,W) of `image`; z: (B,N,D) -> logits (B,N,outputs,H,W)."""
        h = share[:, None] + self.latent(z)[..., None, None].to(share.dtype)
        return self.rest(h.flatten(0, 1)).float().unflatten(0, h.shape[:2])


# Values, labels, probabilities


def normalise(image: Tensor, how: Literal["unit", "centred", "zscore"]) -> Tensor:
    """(B,C,H,W) in [0,1] as the networks see it; z-scores an image and channel, zero where the image is flat."""
    if how == "unit":
        return image
    if how == "centred":
        return image - 0.5
    mean = image.mean((2, 3), keepdim=True)
    return (image - mean) / image.std((2, 3), keepdim=True, correction=0).clamp_min(1e-3)


def draw_reader(batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """One rater's masks (B,K,H,W) float32, uniform among those who read the image; and (B,) whether anybody did."""
    order = torch.rand(batch.read.shape, generator=rng, device=rng.device).to(batch.read.device)
    who = torch.where(batch.read, order, -1.0).argmax(1)
    rows = torch.arange(len(batch), device=who.device)
    known = batch.read.any(1)
    return batch.masks[rows, who].float() * known[:, None, None, None], known


def logits_needed(classes: int) -> int:
    """One logit for one foreground class, else one a class and one for the background."""
    return 1 if classes == 1 else classes + 1


def probabilities(logits: Tensor) -> Tensor:
    """(...,K',H,W) logits -> (...,K,H,W) probabilities of the foreground classes."""
    if logits.shape[-3] == 1:
        return torch.sigmoid(logits)
    return logits.softmax(-3)[..., 1:, :, :]


def pixel_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """(B,) cross-entropy of logits (B,K',H,W) with masks (B,K,H,W), summed over an image's pixels."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits, label, reduction="none").sum((1, 2, 3))
    index = torch.where(label.any(1), label.argmax(1) + 1, 0)
    return F.cross_entropy(logits, index, reduction="none").sum((1, 2))


# Contracts


def check_batch(batch: Batch, *, training: bool) -> None:
    """ConfigError where batch normalisation would have a single value to normalise."""
    if training and len(batch) < 2:
        raise ConfigError(
            "batch normalisation needs more images at once", field="training.batch_size", found=1, expected="at least 2"
        )


def check_widths(channels: Sequence[int], field: str) -> None:
    """ConfigError for levels without channels."""
    if not channels or min(channels) < 1:
        raise ConfigError("is not a list of channels a level", field=field, found=list(channels))


def weighted_mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean of (B,) over the rows that are known; a zero with a graph where none is."""
    weights = known.float()
    return (values * weights).sum() / weights.sum().clamp_min(1)
