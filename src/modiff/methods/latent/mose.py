"""Mixture of Stochastic Experts (Gao et al., ICLR 2023): a few Gaussians in latent space, an optimal-transport loss."""

from __future__ import annotations

import math
from itertools import pairwise, product

import torch
from torch import Tensor, distributed, nn

from modiff.config.methods import MoSEConfig
from modiff.errors import ConfigError
from modiff.methods.latent.frame import LatentEncoding, LatentSegmenter, check_batch
from modiff.nn.layers import channels_last, full_precision
from modiff.nn.losses import CapSchedule, greedy_coupling, iou_cost, mean_of_known
from modiff.nn.unet import ConvUNet
from modiff.nn.windows import sides
from modiff.rng import fold, normal, uniform
from modiff.types import Batch, DataSpec

# Streams of a sample's seed: what each random number is for.
_LATENT, _EXPERT = 1, 2


class Fuse(nn.Module):
    """(features + residual(z)) ⊙ scale(z), then 1×1 convolutions: (B,F,H,W) and z (B,N,D) -> logits (B,N,K+1,H,W)."""

    def __init__(self, features: int, latent_dim: int, outputs: int, *, depth: int) -> None:
        super().__init__()
        self.residual, self.scale = nn.Linear(latent_dim, features), nn.Linear(latent_dim, features)
        for layer in (self.residual, self.scale):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        widths = [features + latent_dim, *[features] * depth]
        layers: list[nn.Module] = [nn.Conv2d(features, widths[0], 1)]
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 1), nn.BatchNorm2d(b, eps=1e-3, momentum=0.01), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(features, outputs, 1))

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        residual, scale = self.residual(z)[..., None, None], self.scale(z)[..., None, None] + 1e-5
        h = ((features[:, None] + residual) * scale).to(features.dtype)
        return self.layers(h.flatten(0, 1)).float().unflatten(0, z.shape[:2])


class MoSE(LatentSegmenter):
    """p(y|x) = Σ_e π_e(x) E_{z~N(μ_e,σ_e²)} p(y|x,z); learns from all raters of an image at every step."""

    config: MoSEConfig

    def __init__(self, config: MoSEConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        count = config.experts * config.samples_per_expert
        for field, cap in (("cap_start", config.cap_start), ("cap_end", config.cap_end)):
            if not 1 / count <= cap:
                expected = f"between 1/{count}, so that {count} samples hold all raters' mass, and 1"
                raise ConfigError("is out of range", field=f"model.{field}", found=cap, expected=expected)
        width = config.channels[-1]
        self.unet = ConvUNet(self.channels, config.channels, norm="layer", align_corners=False)
        self.stride = self.unet.stride
        self.fewest = config.experts if config.sampling == "compact" else 1  # a sample of each
        hidden = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.gating = nn.Sequential(*hidden, nn.Linear(width, config.experts, bias=False))
        self.mean = nn.Parameter(_initial_means(config.experts, config.latent_dim))
        self.log_sigma = nn.Parameter(torch.full_like(self.mean, math.log(1 / 8)))
        self.fuse = Fuse(config.channels[0], config.latent_dim, self.classes + 1, depth=config.combine_depth)
        channels_last(self)
        self.cap = CapSchedule(config.cap_start, config.cap_end, window=config.cap_window, patience=config.cap_patience)

    # Training

    def training_loss(self, batch: Batch, *, rng: torch.Generator) -> dict[str, Tensor]:
        """Σ P·c + β·KL(P's row sums ‖ the samples' weights), batch mean; P is the greedy capped coupling."""
        check_batch(batch, training=self.training)
        each = self.config.samples_per_expert
        encoding = self.encode(batch.image)
        shape = (len(batch), each, *self.mean.shape)
        noise = torch.randn(shape, generator=rng, device=rng.device).to(self.mean.device)
        z = (self.mean + self.log_sigma.exp() * noise).flatten(1, 2)
        maps = self._decode(encoding, z)
        weights = (encoding.latent / each).repeat(1, each)
        known = batch.read.any(1)
        with full_precision(maps):
            cost = iou_cost(maps, batch.masks & batch.read[:, :, None, None, None])
            mass = batch.read.float() / batch.read.sum(1, keepdim=True).clamp_min(1)
            with torch.no_grad():
                coupling = greedy_coupling(cost, mass, self.cap.cap)
            transport = mean_of_known((coupling * cost).sum((1, 2)), known)
            divergence = mean_of_known(mass_divergence(coupling.sum(2), weights), known)
        if self.config.kl_reduction == "mean":
            divergence = divergence / weights.shape[1]
        loss = transport + self.config.beta * divergence
        if self.training:
            self.cap.update(*_over_processes(loss, len(batch)))
        return {"loss": loss, "transport": transport.detach(), "kl": divergence.detach()}

    # Sampling

    def encode(self, image: Tensor) -> LatentEncoding:
        """(B,C,H,W) -> features and the experts' probabilities, once per image for all its samples."""
        x = self._prepare(image)
        bottleneck, features = self.unet(x)
        with full_precision(x):
            experts = self.gating(bottleneck.float().mean((2, 3))).softmax(1)
        return LatentEncoding(sides(image), features, experts)

    def _decode(self, encoding: LatentEncoding, z: Tensor) -> Tensor:
        height, width = encoding.size
        return self.fuse(encoding.features, z)[..., :height, :width].softmax(2)[:, :, 1:]

    def _draw_latents(self, latent: Tensor, seeds: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compact sampling takes experts in turn and gives weights."""
        who = self._experts_of(latent, seeds)
        z = self.mean[who] + self.log_sigma.exp()[who] * normal(fold(seeds, _LATENT), (self.config.latent_dim,))
        if self.config.sampling == "standard":
            return z, {}
        times = torch.bincount(who[0], minlength=self.config.experts)
        return z, {"weights": (latent / times)[:, who[0]], "part": who}

    def _experts_of(self, probability: Tensor, seeds: Tensor) -> Tensor:
        """(B,N) which expert draws each sample: by the gating's probabilities (B,E), or in turn."""
        batch, n = seeds.shape
        if self.config.sampling == "standard":
            steps = probability.cumsum(1)[:, None, :-1]
            return (uniform(fold(seeds, _EXPERT))[..., None] >= steps).sum(-1)
        return (torch.arange(n, device=seeds.device) % self.config.experts).expand(batch, n)


def mass_divergence(received: Tensor, weights: Tensor) -> Tensor:
    """(B,) KL of the mass that samples received (B,N) from their weights (B,N); both sum to one."""
    weights = weights.clamp_min(1e-8)
    return (torch.xlogy(received, received) - received * weights.log()).sum(1)


def _initial_means(experts: int, dim: int) -> Tensor:
    """(E,D): the corners of a cube with sides 1, 2, 4, … for the first 2^D experts, the others at random in [0,1)."""
    means, sides = torch.rand(experts, dim), [(0.0, 2.0**axis) for axis in range(dim)]
    for expert, corner in zip(range(experts), product(*sides[::-1]), strict=False):
        means[expert] = torch.tensor(corner[::-1])  # the short sides first
    return means


def _over_processes(loss: Tensor, images: int) -> tuple[Tensor, int]:
    """A step's mean loss and number of images over all processes of a training, the same in each of them."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return loss, images
    both = torch.stack([loss.detach().double() * images, loss.new_tensor(images, dtype=torch.float64)])
    distributed.all_reduce(both)
    return both[0] / both[1], int(both[1])
