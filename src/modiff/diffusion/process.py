"""A diffusion process as an object: one interface for Gaussian and categorical diffusion of label maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Generator, Tensor

from modiff.devices import numbers_on
from modiff.diffusion.schedule import Schedule, Spacing, time_steps
from modiff.rng import Draw

START, STEP = 3, 4  # streams of a sample's seed: x_T, and the noise of each step

Predict = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]
Prediction = TypeVar("Prediction")


class Field(Protocol):
    """Random numbers for M samples, each a function of its seed and the stream (`modiff.nn.windows.NoiseField`)."""

    def draw(self, distribution: Draw, channels: int, *stream: int) -> Tensor:
        """(M,channels,H,W) of `uniform` or `normal` of `modiff.rng`."""


def reverse(
    predict: Callable[[Tensor, Tensor], Prediction],
    x_T: Tensor,
    times: Tensor,
    advance: Callable[[int, Tensor, Prediction], Tensor],
) -> Tensor:
    """The loop of every sampler: x = advance(i, x, predict(x, t_i)) along `times` (n+1,); returns the last x.

    t_i is a 0-dim float32 tensor on x_T's device.
    """
    on_device = numbers_on(x_T.device, *times.tolist())
    x = x_T
    for index in range(len(times) - 1):
        x = advance(index, x, predict(x, on_device[index]))
    return x


class Process(ABC):
    """A forward process from label maps to noise, and the way back.

    Labels are (B,K,H,W) probabilities of the foreground classes in [0,1]; x_0 and x_t are the process's own maps. Times
    t are (B,) or 0-dim in [0,1], or (B,) int64 steps of a chain, which are read in float64. classes: K.
    """

    classes: int

    @abstractmethod
    def times(self, steps: int) -> Tensor:
        """(steps+1,) times that a sampler visits; ConfigError for a number that the process does not allow."""

    @abstractmethod
    def from_labels(self, labels: Tensor) -> Tensor:
        """x_0 of labels."""

    @abstractmethod
    def to_labels(self, x0: Tensor) -> Tensor:
        """Labels of x_0."""

    def to_network(self, x: Tensor) -> Tensor:
        """(B,K,H,W) x as a network of K channels takes it, ±1 for clean maps."""
        return x

    def from_network(self, maps: Tensor) -> Tensor:
        """x_0 of clean maps (B,K,H,W) in [−1,1], as such a network gives them."""
        return maps

    @abstractmethod
    def noise(self, x0: Tensor, rng: Generator) -> Tensor:
        """The random numbers of `diffuse`, drawn from rng on its device."""

    @abstractmethod
    def diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of x_0, of its shape."""

    @abstractmethod
    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(B,) the process's own loss of what a network predicted from x_t."""

    @abstractmethod
    def sample(self, predict: Predict, field: Field, steps: int) -> Tensor:
        """(M,K,H,W) labels drawn in so many steps, with the field's streams START and (STEP, i).

        predict(x_t, t) -> a prediction, as `loss` takes it; t is 0-dim.
        """


class SignedMaps(Process):
    """A process of maps with Gaussian noise: x_0 = 2·labels − 1."""

    def from_labels(self, labels: Tensor) -> Tensor:
        return labels * 2 - 1

    def to_labels(self, x0: Tensor) -> Tensor:
        return ((x0 + 1) / 2).clamp(0, 1)

    def noise(self, x0: Tensor, rng: Generator) -> Tensor:
        """Standard normal, of x0's shape."""
        return torch.randn(x0.shape, generator=rng, device=rng.device).to(x0.device)


@dataclass(frozen=True)
class Diffusion(Process):
    """A process of the noise that a schedule gives over time. spacing: how sampling steps are spaced in time."""

    schedule: Schedule
    classes: int
    spacing: Spacing = "uniform"

    def times(self, steps: int) -> Tensor:
        return time_steps(steps, steps_total=self.schedule.steps, spacing=self.spacing)
