"""DDIM and DPM-Solver++(2M) against Hugging Face diffusers, on the same cumulative products and times.

Its step k is the time (k + 1)/T here. What it does at the end is asked for: DDIM to ᾱ = 1, DPM-Solver++ to σ = 0.
"""

from __future__ import annotations

import pytest
import torch

from modiff.diffusion.gaussian import sample
from modiff.diffusion.schedule import Schedule, time_steps

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # its own, of NumPy

T = 250
SCHEDULES = [Schedule("cosine"), Schedule("linear"), Schedule("sigmoid", input_scale=0.5)]


def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Something that no sampler solves in closed form."""
    return torch.tanh(1.5 * x + torch.sin(5 * t) - 0.3 * x.roll(1, -1))


def noise() -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(T + 1, 2, 1, 6, 6, generator=generator, dtype=torch.float64)


def run_reference(scheduler, steps: int) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    expected_times = (time_steps(steps)[:-1] * T).round().long() - 1
    assert scheduler.timesteps.tolist() == expected_times.tolist()
    x = noise()[-1]
    for k in scheduler.timesteps:
        x = scheduler.step(denoise(x, (k + 1) / T), k, x).prev_sample
    return x


def common(schedule: Schedule) -> dict:
    return {
        "num_train_timesteps": T,
        "trained_betas": schedule.betas().numpy(),
        "prediction_type": "sample",
        "timestep_spacing": "trailing",
    }


@pytest.mark.parametrize("steps", [250, 50, 10])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_ddim(schedule: Schedule, steps: int) -> None:
    reference = diffusers.DDIMScheduler(**common(schedule), clip_sample=False, set_alpha_to_one=True)
    expected = run_reference(reference, steps)
    actual = sample(denoise, noise()[-1], time_steps(steps), schedule, sampler="ddim", noise=lambda i: noise()[i])
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("steps", [250, 50, 10])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_dpm_solver_plus_plus(schedule: Schedule, steps: int) -> None:
    reference = diffusers.DPMSolverMultistepScheduler(
        **common(schedule),
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        solver_order=2,
        final_sigmas_type="zero",
    )
    expected = run_reference(reference, steps)
    actual = sample(denoise, noise()[-1], time_steps(steps), schedule, sampler="dpm++", noise=lambda i: noise()[i])
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-4)
