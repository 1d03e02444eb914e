"""A Gaussian over a latent vector, the network that gives it, its decoder, and flows that an image amortises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.errors import ConfigError
from modiff.nn.layers import bounded, full_precision
from modiff.nn.unet import Norm, conv_block, initialise

_LOG_2PI = 1.8378770664093453
_LOG_SIGMA = 8.0  # σ stays within e^±8: beyond, float32's KL overflows and a run is lost
_LOG_SCALE = 2.0  # log-scales stay within ±2: a step applies two exponentials, which must not overflow


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
        return -(0.5 * scaled**2 + self.log_sigma + 0.5 * _LOG_2PI).sum(-1)


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
        with torch.no_grad():  # orthogonal weights, those of the first layer over features and z together
            joint = nn.init.orthogonal_(self.image.weight.new_empty(features, features + latent_dim))
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


def planar_step(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """z' = z + û·tanh(wᵀz + b), and (B,) log|det ∂z'/∂z| (Rezende & Mohamed 2015, Eq. 10 to 12).

    z, u, w: (B,D); b: (B,). û is u moved along w until wᵀû = softplus(wᵀu) − 1 > −1, which makes the step invertible
    (their appendix A.1).
    """
    inner, norm = (w * u).sum(-1), (w**2).sum(-1)
    whole = norm / norm.clamp_min(1e-8)  # one, but where w vanishes and the step is a translation
    lifted = F.softplus(inner)
    u = u + ((lifted - 1 - inner) / norm.clamp_min(1e-8))[:, None] * w
    activation = torch.tanh((w * z).sum(-1) + b)
    # 1 + (1 − a²)·wᵀû, written without the cancellation that would lose a determinant near zero.
    determinant = activation**2 + (1 - activation**2) * ((1 - whole) * (1 + inner) + whole * lifted)
    return z + u * activation[:, None], torch.log(determinant.clamp_min(torch.finfo(z.dtype).tiny))


class PlanarFlow(nn.Module):
    """K planar steps; u, w and b of each are read off the features h (Selvan et al. 2020)."""

    def __init__(self, features: int, dim: int, steps: int) -> None:
        super().__init__()
        self.dim, self.steps = dim, steps
        self.u = self._network(features, steps * dim)
        self.w = self._network(features, steps * dim)
        self.b = self._network(features, steps)

    @staticmethod
    def _network(features: int, outputs: int) -> nn.Sequential:
        hidden = nn.Linear(outputs, outputs)
        return nn.Sequential(nn.Linear(features, outputs), nn.ReLU(), hidden, nn.BatchNorm1d(outputs))

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """z: (B,D) and h: (B,features) -> z_K (B,D) and (B,) summed log-determinants."""
        shape = (-1, self.steps, self.dim)
        u, w, b = self.u(h).view(shape), self.w(h).view(shape), self.b(h)
        total = torch.zeros_like(z[:, 0])
        for step in range(self.steps):
            z, log_det = planar_step(z, u[:, step], w[:, step], b[:, step])
            total = total + log_det
        return z, total


class Coupling(nn.Module):
    """Affine coupling on even and odd dimensions, conditioned on features (Dinh et al. 2017)."""

    def __init__(self, features: int, dim: int, *, odd: bool, hidden: int = 4) -> None:
        super().__init__()
        self.odd = odd
        self.condition = nn.Linear(features, dim // 2)
        self.log_scale, self.shift = self._network(dim, hidden), self._network(dim, hidden)

    @staticmethod
    def _network(dim: int, hidden: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for inputs in (dim, hidden, hidden):
            layers += [nn.Linear(inputs, hidden), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, _small(nn.Linear(hidden, dim // 2)))

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = z[:, int(self.odd) :: 2], z[:, int(not self.odd) :: 2]
        inputs = torch.cat([kept, self.condition(h)], 1)
        log_scale = bounded(self.log_scale(inputs), _LOG_SCALE)
        moved = moved * log_scale.exp() + self.shift(inputs)
        pair = (moved, kept) if self.odd else (kept, moved)
        return torch.stack(pair, -1).flatten(1), log_scale.sum(1)


class GlowFlow(nn.Module):
    """K steps of conditional ActNorm, dense linear map and affine coupling (Kingma & Dhariwal 2018; as in Selvan 2020).

    Every step starts near the identity: scales are exponentials, the linear map is I plus what the features say.
    """

    def __init__(self, features: int, dim: int, steps: int) -> None:
        super().__init__()
        if dim % 2:
            raise ConfigError("cannot be halved", field="model.latent_dim", found=dim, expected="an even number")
        self.dim, self.steps = dim, steps
        self.matrix = nn.Sequential(nn.Linear(features, 4), nn.ReLU(), _small(nn.Linear(4, steps * dim**2)))
        self.log_scale = _small(nn.Linear(features, steps * dim))
        self.shift = _small(nn.Linear(features, steps))
        self.couplings = nn.ModuleList([Coupling(features, dim, odd=bool(step % 2)) for step in range(steps)])

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """z: (B,D) and h: (B,features) -> z_K (B,D) and (B,) summed log-determinants."""
        matrix = self.matrix(h).view(-1, self.steps, self.dim, self.dim) + torch.eye(self.dim, device=z.device)
        log_scale, shift = bounded(self.log_scale(h), _LOG_SCALE).view(-1, self.steps, self.dim), self.shift(h)
        total = torch.linalg.slogdet(matrix).logabsdet.sum(1) + log_scale.sum((1, 2))
        for step, coupling in enumerate(self.couplings):
            z = z * log_scale[:, step].exp() + shift[:, step, None]
            z = (z[:, None] @ matrix[:, step])[:, 0]
            z, log_det = coupling(z, h)
            total = total + log_det
        return z, total


@torch.no_grad()
def _small(layer: nn.Linear) -> nn.Linear:
    """The layer with its initial parameters a tenth: not zero, so that gradients pass it from the first step on."""
    layer.weight.mul_(0.1)
    layer.bias.mul_(0.1)
    return layer
