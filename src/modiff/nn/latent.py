"""A Gaussian over a latent vector, the network that gives it, and the decoder that takes the vector in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.nn.layers import bounded, full_precision
from modiff.nn.unet import Norm, conv_block, initialise

_LOG_SIGMA = 8.0  # σ stays within e^±8: beyond, float32's KL overflows and a run is lost


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
        norms: list[Norm] = [norm] * (len(channels) - 1) + ["none"]
        widths = pairwise([inputs, *channels])
        self.blocks = nn.ModuleList([conv_block(a, b, norm=c) for (a, b), c in zip(widths, norms, strict=True)])
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
    """f_comb: 1×1 convolutions on features joined with z; the first layer's part of the features is apart, `image`."""

    def __init__(self, features: int, latent_dim: int, outputs: int, *, depth: int = 4, norm: bool = False) -> None:
        super().__init__()
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

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """features: (B,F,H,W) of `image`; z: (B,N,D) -> logits (B,N,outputs,H,W)."""
        h = features[:, None] + self.latent(z)[..., None, None].to(features.dtype)
        return self.rest(h.flatten(0, 1)).float().unflatten(0, h.shape[:2])
