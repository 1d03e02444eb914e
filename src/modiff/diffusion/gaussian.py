"""Gaussian diffusion: the forward process, what a network may predict of it, and both as a `Process`.

Throughout, alpha and sigma are numbers, tensors of one value, (B,) tensors, or anything that broadcasts with x.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from modiff.diffusion import samplers
from modiff.diffusion.process import START, STEP, Field, Predict, Process
from modiff.diffusion.schedule import Factor, check_choice, expand
from modiff.rng import normal

Prediction = Literal["eps", "v", "x0"]


def diffuse(x0: Tensor, noise: Tensor, alpha: Factor, sigma: Factor) -> Tensor:
    """x_t = α·x_0 + σ·ε, of x0's shape (Ho et al. 2020, Eq. 4)."""
    return expand(alpha, x0) * x0 + expand(sigma, x0) * noise


def target(x0: Tensor, noise: Tensor, alpha: Factor, sigma: Factor, kind: Prediction) -> Tensor:
    """What the network learns: ε, v = α·ε − σ·x_0 (Salimans & Ho 2022, §4), or x_0."""
    check_choice("prediction", kind, get_args(Prediction))
    if kind == "v":
        return expand(alpha, x0) * noise - expand(sigma, x0) * x0
    return noise if kind == "eps" else x0


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
    check_choice("prediction", kind, get_args(Prediction))
    x0 = prediction
    if kind == "eps":
        x0 = (x_t - expand(sigma, x_t) * prediction) / expand(alpha, x_t)
    elif kind == "v":
        x0 = expand(alpha, x_t) * x_t - expand(sigma, x_t) * prediction
    return x0 if clip is None else x0.clamp(-clip, clip)


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
        return diffuse(x0, noise, *self.factors(t))

    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(B,) L_simple: mean squared error of the predicted quantity (Ho et al. 2020, Eq. 14)."""
        return (prediction - target(x0, noise, *self.factors(t), self.prediction)).square().mean((1, 2, 3))

    def clean(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x̂_0, held within [−1,1]."""
        return to_x0(prediction, x_t, *self.factors(t), self.prediction, clip=1.0)

    def _reverse(self, predict: Predict, field: Field, times: Tensor) -> Tensor:
        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return self.clean(predict(x_t, t), x_t, t)

        draw = partial(field.draw, normal, self.classes)
        noise = partial(draw, STEP)
        return samplers.sample(denoise, draw(START), times, self.schedule, sampler=self.sampler, noise=noise)

    def factors(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α(t) and σ(t)."""
        return self.schedule.alpha(t), self.schedule.sigma(t)
