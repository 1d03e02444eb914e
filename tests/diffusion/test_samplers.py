"""Samplers of Gaussian diffusion: exact moments with the exact denoiser, other libraries, and the ends of the way.

With a Gaussian target N(m, v) the exact denoiser is affine, so that a sampler's result is an affine function of x_T and
of the noise of its steps. Running it once with everything 0 and once with each of these numbers set to 1 gives the
result's mean and variance without a single random number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from modiff.diffusion.gaussian import sample
from modiff.diffusion.schedule import Schedule, time_steps

MEAN, VARIANCE = 0.3, 0.25
SCHEDULES = {
    "cosine": Schedule("cosine"),
    "linear": Schedule("linear"),
    "sigmoid": Schedule("sigmoid"),
    "cosine, zero SNR": Schedule("cosine", zero_terminal_snr=True),
    "linear, zero SNR": Schedule("linear", zero_terminal_snr=True),
    "cosine, b=0.5": Schedule("cosine", input_scale=0.5),
}
SAMPLERS = ["ancestral", "ddim", "dpm++"]


def gain(alpha: float, sigma: float, variance: float) -> float:
    """E[x_0 | x_t] = m + gain·(x_t − α·m)."""
    return alpha * variance / (alpha**2 * variance + sigma**2)


def unasked(i: int) -> torch.Tensor:
    raise AssertionError("a sampler without noise asked for it")


def exact_denoiser(schedule: Schedule, times: torch.Tensor, mean: float, variance: float) -> Callable:
    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        exact = times[(times - t.double()).abs().argmin()]  # the sampler's t is float32
        alpha, sigma = float(schedule.alpha(exact)), float(schedule.sigma(exact))
        return mean + gain(alpha, sigma, variance) * (x - alpha * mean)

    return denoise


def moments(
    schedule: Schedule,
    times: torch.Tensor,
    start: tuple[float, float] = (0.0, 1.0),
    target: tuple[float, float] = (MEAN, VARIANCE),
    **settings: object,
) -> tuple[float, float]:
    """Mean and variance of the sampler's result for x_T ~ N(*start)."""
    mean, variance = start
    inputs = torch.eye(len(times) + 1, dtype=torch.float64)
    inputs[0] = 0  # row 0: nothing; row 1: x_T; row 2 + i: the noise of step i
    result = sample(
        exact_denoiser(schedule, times, *target),
        mean + math.sqrt(variance) * torch.cat([torch.zeros(1), torch.ones(1), torch.zeros(len(times) - 1)]).double(),
        times,
        schedule,
        noise=lambda i: inputs[:, 2 + i],
        **settings,
    )
    return float(result[0]), float(((result[1:] - result[0]) ** 2).sum())


def conditioned(t: tuple[float, float], s: tuple[float, float]) -> tuple[float, float, float]:
    """x_s | x_t, x_0 by the rule for Gaussians: precisions add, means weigh by them. (of x_0, of x_t, variance)"""
    (alpha_t, _), (alpha_s, sigma_s) = t, s
    ratio = alpha_t / alpha_s
    if sigma_s == 0:
        return 1.0, 0.0, 0.0
    prior, likelihood = 1 / sigma_s**2, ratio**2 / (1 - ratio**2)
    variance = 1 / (prior + likelihood)
    return variance * prior * alpha_s, variance * ratio / (1 - ratio**2), variance


def ddim_step(t: tuple[float, float], s: tuple[float, float]) -> tuple[float, float, float]:
    """Song et al. 2021, Eq. 12: x_s = α_s·x̂_0 + σ_s·ε̂ with ε̂ = (x_t − α_t·x̂_0)/σ_t."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = t, s
    return alpha_s - sigma_s * alpha_t / sigma_t, sigma_s / sigma_t, 0.0


def levels(schedule: Schedule, times: torch.Tensor) -> list[tuple[float, float]]:
    return list(zip(schedule.alpha(times).tolist(), schedule.sigma(times).tolist(), strict=True))


def one_step_recursion(way: list[tuple[float, float]], coefficients: Callable) -> tuple[float, float]:
    mean, variance = 0.0, 1.0
    for t, s in pairwise(way):
        clean, kept, fresh = coefficients(t, s)
        slope = gain(*t, VARIANCE)
        mean = clean * (MEAN + slope * (mean - t[0] * MEAN)) + kept * mean
        variance = (clean * slope + kept) ** 2 * variance + fresh
    return mean, variance


def two_step_recursion(way: list[tuple[float, float]]) -> tuple[float, float]:
    """DPM-Solver++(2M), Lu et al. 2022, Algorithm 2, on the mean and covariance of (x, x̂_0 of the step before)."""

    def half_log_snr(level: tuple[float, float]) -> float:
        alpha, sigma = level
        return -math.inf if alpha == 0 else math.inf if sigma == 0 else math.log(alpha / sigma)

    mean = torch.zeros(2, dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    for i, (t, s) in enumerate(pairwise(way)):
        h = half_log_snr(s) - half_log_snr(t)
        extrapolate = 0.0
        if i > 0 and s[1] > 0:
            r = (half_log_snr(t) - half_log_snr(way[i - 1])) / h
            extrapolate = 1 / (2 * r)
        slope = gain(*t, VARIANCE)
        constant = MEAN * (1 - slope * t[0])
        weight = -s[0] * math.expm1(-h)
        # x' = (σ_s/σ_t)·x + weight·((1 + e)·x̂ − e·x̂_before), x̂ = slope·x + constant
        matrix = torch.tensor(
            [[s[1] / t[1] + weight * (1 + extrapolate) * slope, -weight * extrapolate], [slope, 0.0]],
            dtype=torch.float64,
        )
        offset = torch.tensor([weight * (1 + extrapolate) * constant, constant], dtype=torch.float64)
        mean, covariance = matrix @ mean + offset, matrix @ covariance @ matrix.T
    return float(mean[0]), float(covariance[0, 0])


def closed_form(schedule: Schedule, times: torch.Tensor, sampler: str) -> tuple[float, float]:
    way = levels(schedule, times)
    if sampler == "dpm++":
        return two_step_recursion(way)
    return one_step_recursion(way, conditioned if sampler == "ancestral" else ddim_step)


@pytest.mark.parametrize("steps", [250, 50, 10])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_moments_follow_the_closed_form_recursion(name: str, sampler: str, steps: int) -> None:
    schedule, times = SCHEDULES[name], time_steps(steps)
    actual = moments(schedule, times, sampler=sampler)
    assert actual == pytest.approx(closed_form(schedule, times, sampler), rel=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_250_steps_reach_the_target(name: str, sampler: str) -> None:
    mean, variance = moments(SCHEDULES[name], time_steps(250), sampler=sampler)
    assert mean == pytest.approx(MEAN, rel=0.03)
    assert math.sqrt(variance) == pytest.approx(math.sqrt(VARIANCE), rel=0.03)


def skipping_without_respacing(schedule: Schedule, times: torch.Tensor) -> tuple[float, float]:
    """The error to avoid: the posterior of one step of the chain, used to go from one visited time to the next."""

    def one_step_posterior(t: tuple[float, float], s: tuple[float, float]) -> tuple[float, float, float]:
        k = round(float(times[levels(schedule, times).index(t)]) * schedule.steps)
        neighbour = torch.tensor((k - 1) / schedule.steps, dtype=torch.float64)
        return conditioned(t, (float(schedule.alpha(neighbour)), float(schedule.sigma(neighbour))))

    return one_step_recursion(levels(schedule, times), one_step_posterior)


def test_the_one_step_posterior_is_right_where_no_step_is_skipped() -> None:
    schedule, times = SCHEDULES["linear"], time_steps(250)
    expected = moments(schedule, times, sampler="ancestral")
    assert skipping_without_respacing(schedule, times) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("steps", [50, 10])
@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_skipped_steps_need_the_respaced_posterior(name: str, steps: int) -> None:
    schedule, times = SCHEDULES[name], time_steps(steps)
    _, naive = skipping_without_respacing(schedule, times)
    _, ours = moments(schedule, times, sampler="ancestral")
    assert naive > 2 * VARIANCE  # too much noise, by a factor; ours errs by losing some
    assert VARIANCE / 3 < ours < VARIANCE


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "trailing"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_time_on_the_way_has_the_forward_marginal(name: str, sampler: str, spacing: str) -> None:
    # The target is one point, of which the denoiser is exact: then x_s must be N(α_s·x_0, σ_s²) whatever was skipped.
    schedule, times = SCHEDULES[name], time_steps(7, spacing=spacing)[:-2]
    (alpha_T, sigma_T), (alpha, sigma) = levels(schedule, times)[0], levels(schedule, times)[-1]
    start = (alpha_T * MEAN, sigma_T**2)
    mean, variance = moments(schedule, times, start, target=(MEAN, 0.0), sampler=sampler)
    assert (mean, variance) == pytest.approx((alpha * MEAN, sigma**2), rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 10, 250])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_target_of_one_point_is_returned_exactly(name: str, sampler: str, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(2, 1, 4, 4, generator=generator)
    result = sample(
        lambda x, t: point,
        torch.randn(2, 1, 4, 4, generator=generator),
        time_steps(steps),
        SCHEDULES[name],
        sampler=sampler,
        noise=lambda i: torch.randn(2, 1, 4, 4, generator=generator),
    )
    assert torch.equal(result, point)


@pytest.mark.parametrize("steps", [250, 50, 10])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["cosine, zero SNR", "linear, zero SNR"])
def test_a_start_without_signal_gives_the_exact_mean(name: str, sampler: str, steps: int) -> None:
    # x_T ~ N(0, 1) is then the true marginal, and samplers that are exact for means keep it.
    mean, _ = moments(SCHEDULES[name], time_steps(steps), sampler=sampler)
    assert mean == pytest.approx(MEAN, rel=1e-9)


def test_the_second_order_sampler_converges_faster() -> None:
    schedule = SCHEDULES["cosine"]
    error = {
        name: abs(math.sqrt(moments(schedule, time_steps(20), sampler=name)[1] / VARIANCE) - 1)
        for name in ("ddim", "dpm++")
    }
    assert error["dpm++"] < error["ddim"] / 3


def test_the_model_sees_time_as_one_float32_number() -> None:
    seen = []

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return x

    sample(denoise, torch.zeros(1), time_steps(4), SCHEDULES["cosine"], sampler="ddim", noise=unasked)
    assert [(t.ndim, t.dtype, float(t)) for t in seen] == [(0, torch.float32, t) for t in (1.0, 0.75, 0.5, 0.25)]


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_a_model_in_half_precision_is_sampled_in_full(sampler: str) -> None:
    x_T = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    result = sample(
        lambda x, t: x.tanh().bfloat16(), x_T, time_steps(4), SCHEDULES["cosine"], sampler=sampler, noise=unasked
    )
    assert result.dtype == torch.float32


def test_noise_is_asked_for_by_step_and_not_for_the_last() -> None:
    asked = []

    def noise(i: int) -> torch.Tensor:
        asked.append(i)
        return torch.zeros(1)

    sample(lambda x, t: x, torch.zeros(1), time_steps(4), SCHEDULES["cosine"], sampler="ancestral", noise=noise)
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_deterministic_samplers_ask_for_no_noise(sampler: str) -> None:
    sample(lambda x, t: x, torch.zeros(1), time_steps(4), SCHEDULES["cosine"], sampler=sampler, noise=unasked)
