"""Flow matching: straight paths from noise to label maps, and the velocity that a network learns along them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from modiff.diffusion.process import START, Field, Predict, SignedMaps, reverse
from modiff.diffusion.schedule import expand, time_steps
from modiff.rng import normal


@dataclass(frozen=True)
class FlowProcess(SignedMaps):
    """x_t = (1 − t)·x_0 + t·ε with x_0 = 2·labels − 1; a network predicts the velocity x_0 − ε towards the label map.

    The optimal-transport path of Lipman et al. (ICLR 2023, Eq. 20 with σ_min = 0), its time reversed: noise is at
    t = 1, as in a diffusion. Sampling is Euler's method.
    """

    classes: int

    def times(self, steps: int) -> Tensor:
        return time_steps(steps)

    def diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return torch.lerp(x0, noise, expand(t, x0))

    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(B,) mean squared error of the velocity (Lipman et al. 2023, Eq. 23)."""
        return (prediction - (x0 - noise)).square().mean((1, 2, 3))

    def sample(self, predict: Predict, field: Field, steps: int) -> Tensor:
        times = self.times(steps)
        lengths = [float(t - s) for t, s in pairwise(times)]

        def advance(index: int, x: Tensor, velocity: Tensor) -> Tensor:
            return x + lengths[index] * velocity

        return self.to_labels(reverse(predict, field.draw(normal, self.classes, START), times, advance))
