"""Flow matching: its path and loss by hand, and the exact flow between two Gaussians."""

from __future__ import annotations

import pytest
import torch

from modiff.diffusion.flow import FlowProcess
from modiff.errors import ConfigError
from modiff.nn.windows import NoiseField

PROCESS = FlowProcess(2)


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_path_is_straight_from_the_label_map_to_noise() -> None:
    labels = torch.rand(3, 2, 4, 5, generator=_rng())
    x0 = PROCESS.from_labels(labels)
    noise = PROCESS.noise(x0, _rng())
    x_t = PROCESS.diffuse(x0, torch.tensor([0.0, 0.25, 1.0]), noise)
    torch.testing.assert_close(x_t[0], 2 * labels[0] - 1)
    torch.testing.assert_close(x_t[1], 0.75 * x0[1] + 0.25 * noise[1])
    torch.testing.assert_close(x_t[2], noise[2])
    torch.testing.assert_close(PROCESS.to_labels(x0), labels)


def test_the_loss_is_that_of_the_velocity() -> None:
    x0, noise, guess = (torch.randn(3, 2, 4, 5, generator=_rng()) + shift for shift in (0, 1, 2))
    found = PROCESS.loss(guess, x0, x0, torch.zeros(3), noise)
    expected = torch.stack([((guess[i] - x0[i] + noise[i]) ** 2).mean() for i in range(3)])
    torch.testing.assert_close(found, expected)


def test_sampling_follows_the_exact_velocity_to_the_data() -> None:
    """x_0 ~ N(m, s²) at every pixel: E[x_0 − ε | x_t] is linear in x_t, and the flow is the affine map from ε."""
    m, s = 0.2, 0.1

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, b = 1 - t, t
        gain = (a * s**2 - b) / (a**2 * s**2 + b**2)
        return m + gain * (x - a * m)

    field = NoiseField(torch.arange(4), (16, 16))
    drawn = PROCESS.sample(velocity, field, 400)
    one = PROCESS.sample(velocity, field, 1)
    assert float((2 * drawn - 1).mean()) == pytest.approx(m, abs=0.01)
    assert float((2 * drawn - 1).std()) == pytest.approx(s, rel=0.05)
    torch.testing.assert_close(one, torch.full_like(one, (m + 1) / 2))  # a single step ends in the mean


def test_an_impossible_number_of_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="sampling steps"):
        PROCESS.times(0)
