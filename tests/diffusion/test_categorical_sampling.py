"""The categorical sampler with the exact denoiser of a known distribution of one-pixel maps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from modiff.diffusion import categorical
from modiff.diffusion.schedule import Schedule, time_steps

TARGET = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
SCHEDULE = Schedule("cosine", zero_terminal_snr=True)
SAMPLERS = ["ancestral", "ddim"]


def exact_denoiser(x: Tensor, t: Tensor) -> Tensor:
    """P(x_0 | x_t) for pixels that are independent draws of TARGET."""
    alpha_bar = SCHEDULE.alpha_bar(t.double())
    likelihood = alpha_bar * x + (1 - alpha_bar) / len(TARGET)
    joint = likelihood * TARGET.to(x).view(1, -1, 1, 1)
    return joint / joint.sum(1, keepdim=True)


def draw(seed: int, pixels: int = 40_000) -> Tensor:
    return torch.rand(1, 1, pixels, generator=torch.Generator().manual_seed(seed))


def run(steps: int, denoise=exact_denoiser, **settings) -> Tensor:
    x_T = categorical.uniform_noise(draw(999), 3)
    return categorical.sample(denoise, x_T, time_steps(steps), SCHEDULE, uniform=draw, **settings)


def transition(t: float, s: float, sampler: str) -> Tensor:
    """(K,K) of x_s given x_t under the exact denoiser, from matrices."""
    eye = torch.eye(3, dtype=torch.float64)

    def q(alpha: float) -> Tensor:
        return alpha * eye + (1 - alpha) / 3

    belief = TARGET[:, None] * q(t)  # x_0 × x_t
    belief = belief / belief.sum(0)
    if sampler == "ancestral":
        path = q(s)[:, :, None] * q(t / s)[None]  # x_0 × x_s × x_t
        return torch.einsum("ki,kji->ij", belief, path / path.sum(1, keepdim=True))
    kept = (1 - s) / (1 - t)
    return kept * eye + (s - kept * t) * belief.T + ((1 - s) - kept * (1 - t)) / 3


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frequencies_follow_the_chain_of_transition_matrices(sampler: str, steps: int) -> None:
    state = torch.full((3,), 1 / 3, dtype=torch.float64)
    for t, s in pairwise(SCHEDULE.alpha_bar(time_steps(steps)).tolist()):
        state = state @ transition(t, s, sampler)
    # "confidence" ends with probabilities: their mean is the last step's expectation.
    frequency = run(steps, sampler=sampler).double().mean((0, 2, 3))
    torch.testing.assert_close(frequency, state, rtol=0, atol=0.01)


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_ancestral_sampling_of_independent_pixels_is_exact_in_any_number_of_steps(steps: int) -> None:
    frequency = run(steps).double().mean((0, 2, 3))
    torch.testing.assert_close(frequency, TARGET, rtol=0, atol=0.01)


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_target_of_one_map_is_returned_exactly(sampler: str, steps: int) -> None:
    target = categorical.uniform_noise(draw(5), 3)
    assert torch.equal(run(steps, lambda x, t: target, sampler=sampler, output="majority"), target)


def test_confidence_is_the_last_prediction() -> None:
    predictions = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        predictions.append(exact_denoiser(x, t))
        return predictions[-1]

    result = run(4, denoise)
    assert torch.equal(result, predictions[-1])


def test_majority_is_the_likeliest_class_of_confidence() -> None:
    assert torch.equal(run(4, output="majority"), categorical.majority(run(4)))


def test_the_model_sees_one_hot_maps_and_falling_times() -> None:
    seen = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        seen.append((bool(((x == 0) | (x == 1)).all() and (x.sum(1) == 1).all()), t.dtype, float(t)))
        return exact_denoiser(x, t)

    run(4, denoise)
    assert seen == [(True, torch.float32, t) for t in (1.0, 0.75, 0.5, 0.25)]


def test_a_model_in_half_precision_is_sampled_in_full() -> None:
    result = run(4, lambda x, t: exact_denoiser(x, t).bfloat16())
    assert result.dtype == torch.float32
