"""Gaussian diffusion: the three predictions say the same thing of the same map."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modiff.diffusion import gaussian
from modiff.diffusion.schedule import Schedule

KINDS = ("eps", "v", "x0")
# Away from both ends, where one of the divisions is by nothing.
angles = st.floats(0.05, math.pi / 2 - 0.05)


def level(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def maps(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x0 = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return x0, torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@given(angle=angles)
def test_the_clean_map_comes_back_from_each_target(kind: str, angle: float) -> None:
    alpha, sigma = level(math.cos(angle)), level(math.sin(angle))
    x0, noise = maps(2, 1, 3, 3)
    prediction = gaussian.target(x0, noise, alpha, sigma, kind)
    x_t = gaussian.diffuse(x0, noise, alpha, sigma)
    torch.testing.assert_close(gaussian.to_x0(prediction, x_t, alpha, sigma, kind), x0)


def test_v_is_the_derivative_of_x_along_the_angle() -> None:
    x0, noise = maps(2, 1, 3, 3)
    angle, step = 0.7, 1e-6

    def x(phi: float) -> torch.Tensor:
        return gaussian.diffuse(x0, noise, level(math.cos(phi)), level(math.sin(phi)))

    slope = (x(angle + step) - x(angle - step)) / (2 * step)
    v = gaussian.target(x0, noise, level(math.cos(angle)), level(math.sin(angle)), "v")
    torch.testing.assert_close(v, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["v", "x0"])
def test_v_and_x0_need_no_signal(kind: str) -> None:
    x0, noise = maps(2, 1, 3, 3)
    prediction = gaussian.target(x0, noise, level(0.0), level(1.0), kind)
    torch.testing.assert_close(gaussian.to_x0(prediction, noise, level(0.0), level(1.0), kind), x0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_level_an_item_equals_items_one_by_one(kind: str) -> None:
    x0, noise = maps(3, 2, 4, 4)
    angle = torch.tensor([0.2, 0.8, 1.4], dtype=torch.float64)
    alpha, sigma = angle.cos(), angle.sin()
    x_t = gaussian.diffuse(x0, noise, alpha, sigma)
    together = gaussian.to_x0(noise, x_t, alpha, sigma, kind)
    apart = [gaussian.to_x0(noise[i], x_t[i], alpha[i], sigma[i], kind) for i in range(3)]
    torch.testing.assert_close(together, torch.stack(apart))


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_holds_clean_maps_within_their_interval(kind: str) -> None:
    x_t, prediction = maps(2, 1, 8, 8)
    process, t = gaussian.GaussianProcess(Schedule("cosine"), 1, prediction=kind), level(0.7)
    free = gaussian.to_x0(prediction, x_t, *process.factors(t), kind)
    assert float(free.abs().max()) > 1
    assert torch.equal(process.clean(prediction, x_t, t), free.clamp(-1, 1))
