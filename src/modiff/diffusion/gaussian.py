"""Gaussian diffusion: the forward process, what a network may predict of it, and both as a `Process`.

Throughout, alpha and sigma are numbers, tensors of one value, (B,) tensors, or anything that broadcasts with x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor

from modiff.diffusion import samplers
from modiff.diffusion.process import START, STEP, Field, Predict, Process
from modiff.errors import ConfigError
from modiff.rng import normal

Prediction = Literal["eps", "v", "x0"]
Factor = Tensor | float


def diffuse(x0: Tensor, noise: Tensor, alpha: Factor, sigma: Factor) -> Tensor:
    """x_t = α·x_0 + σ·ε, of x0's shape (Ho et al. 2020, Eq. 4)."""
    return _expand(alpha, x0) * x0 + _expand(sigma, x0) * noise


def target(x0: Tensor, noise: Tensor, alpha: Factor, sigma: Factor, kind: Prediction) -> Tensor:
    """What the network learns: ε, v = α·ε − σ·x_0 (Salimans & Ho 2022, §4), or x_0."""
    if kind == "eps":
        return noise
    if kind == "v":
        return _expand(alpha, x0) * noise - _expand(sigma, x0) * x0
    if kind == "x0":
        return x0
    raise _unknown(kind)


def to_x0(
    prediction: Tensor,
    x_t: Tensor,
    alpha: Factor,
    sigma: Factor,
    kind: Prediction,
    *,
    clip: float | None = None,
) -> Tensor:
    """The clean map x̂_0 that a prediction implies, of x_t's shape, within ±clip if given.

    "eps" divides by α and so needs α > 0 (no zero terminal SNR), and a clip where α is small; the others need neither.
    """
    if kind == "eps":
        x0 = (x_t - _expand(sigma, x_t) * prediction) / _expand(alpha, x_t)
    elif kind == "v":
        x0 = _expand(alpha, x_t) * x_t - _expand(sigma, x_t) * prediction
    elif kind == "x0":
        x0 = prediction
    else:
        raise _unknown(kind)
    return x0 if clip is None else x0.clamp(-clip, clip)


def _expand(factor: Factor, x: Tensor) -> Factor:
    """(B,) -> (B,1,…,1), so that a factor an item meets maps of any rank."""
    if isinstance(factor, Tensor) and factor.ndim == 1 and x.ndim > 1:
        return factor.view(-1, *[1] * (x.ndim - 1))
    return factor


def _unknown(kind: object) -> ConfigError:
    return ConfigError("no such prediction", field="prediction", found=repr(kind), expected="eps, v or x0")


@dataclass(frozen=True)
class GaussianProcess(Process):
    """x_t = α·x_0 + σ·ε with x_0 = 2·labels − 1. prediction: what the network gives; sampler: of `samplers`."""

    prediction: Prediction = "eps"
    sampler: samplers.Sampler = "ancestral"

    def from_labels(self, labels: Tensor) -> Tensor:
        return labels * 2 - 1

    def to_labels(self, x0: Tensor) -> Tensor:
        return ((x0 + 1) / 2).clamp(0, 1)

    def noise(self, x0: Tensor, rng: Generator) -> Tensor:
        """Standard normal, of x0's shape."""
        return torch.randn(x0.shape, generator=rng, device=rng.device).to(x0.device)

    def diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return diffuse(x0, noise, *self.factors(x0, t))

    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(B,) L_simple: mean squared error of the predicted quantity (Ho et al. 2020, Eq. 14)."""
        return (prediction - target(x0, noise, *self.factors(x0, t), self.prediction)).square().mean((1, 2, 3))

    def clean(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x̂_0, held within [−1,1]."""
        return to_x0(prediction, x_t, *self.factors(x_t, t), self.prediction, clip=1.0)

    def _draw(self, field: Field, *stream: int) -> Tensor:
        return field.draw(normal, self.classes, *stream)

    def _reverse(self, predict: Predict, times: Tensor, draw: Callable[..., Tensor]) -> Tensor:
        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return self.clean(predict(x_t, t), x_t, t)

        noise = partial(draw, STEP)
        return samplers.sample(denoise, draw(START), times, self.schedule, sampler=self.sampler, noise=noise)

    def factors(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """α(t) and σ(t) in x's type, on its device."""
        return self.schedule.alpha(t).to(x), self.schedule.sigma(t).to(x)
