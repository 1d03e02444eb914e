"""Noise schedules: closed forms of the papers, and what every schedule promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modiff.diffusion.schedule import Schedule, time_steps
from modiff.errors import ConfigError

NAMES = ("cosine", "linear", "sigmoid")
VARIANTS = [Schedule(name, 250, b, zero) for name in NAMES for b in (1.0, 0.25) for zero in (False, True)]
unit = st.floats(0, 1)


def at(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def log_snr(schedule: Schedule, t: float) -> float:
    return float(torch.logit(schedule.alpha_bar(at(t))))


def ddpm_chain(steps: int, scale: float = 1.0) -> torch.Tensor:
    betas = torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64)
    return torch.cumprod(1 - betas, 0)


@given(t=st.floats(0, 0.99))
def test_cosine_is_nichol_and_dhariwal_equation_17(t: float) -> None:
    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    assert float(Schedule("cosine").alpha_bar(at(t))) == pytest.approx(f(t) / f(0), rel=1e-9)


def test_cosine_betas_are_the_papers_clipped_at_0_999() -> None:
    k = torch.arange(251, dtype=torch.float64)
    f = torch.cos((k / 250 + 0.008) / 1.008 * torch.pi / 2) ** 2
    torch.testing.assert_close(Schedule("cosine").betas(), (1 - f[1:] / f[:-1]).clamp(max=0.999), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["cosine", "sigmoid"])
@pytest.mark.parametrize("steps", [1, 2, 10, 250, 1000])
def test_no_beta_exceeds_the_clip(name: str, steps: int) -> None:
    assert float(Schedule(name, steps).betas().max()) <= 0.999 + 1e-12


def test_linear_of_1000_steps_is_ddpms_chain() -> None:
    torch.testing.assert_close(Schedule("linear", 1000).grid()[1:], ddpm_chain(1000), rtol=1e-9, atol=0)


@pytest.mark.parametrize("steps", [10, 50, 100, 250])
def test_rescaled_linear_ends_where_ddpm_ends(steps: int) -> None:
    assert float(Schedule("linear", steps).grid()[-1]) == pytest.approx(float(ddpm_chain(1000)[-1]), rel=1e-9)


def test_rescaled_linear_visits_ddpms_own_marginals() -> None:
    torch.testing.assert_close(Schedule("linear", 250).grid()[1:], ddpm_chain(1000)[3::4], rtol=1e-9, atol=0)


def test_rescaled_linear_has_betas_1000_over_T_times_ddpms() -> None:
    # Four betas of DDPM make one here; 1 − Π(1 − β) = Σβ up to products of two betas.
    betas = Schedule("linear", 250).betas()
    sums = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).view(250, 4).sum(1)
    assert bool(((sums - betas) <= sums**2 / 2).all())
    assert bool((betas <= sums).all())


@given(t=st.floats(0, 0.99))
def test_sigmoid_is_a_slice_of_the_logistic_function(t: float) -> None:
    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = (logistic(3) - logistic(6 * t - 3)) / (logistic(3) - logistic(-3))
    assert float(Schedule("sigmoid").alpha_bar(at(t))) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("schedule", VARIANTS, ids=str)
@given(earlier=unit, later=unit)
def test_signal_never_grows(schedule: Schedule, earlier: float, later: float) -> None:
    low, high = sorted((earlier, later))
    assert float(schedule.alpha_bar(at(low))) >= float(schedule.alpha_bar(at(high))) - 1e-12


@pytest.mark.parametrize("schedule", VARIANTS, ids=str)
def test_every_step_of_the_chain_loses_signal(schedule: Schedule) -> None:
    assert bool((schedule.grid().diff() < 0).all())


@pytest.mark.parametrize("schedule", VARIANTS, ids=str)
def test_the_chain_is_the_cumulative_product_of_its_betas(schedule: Schedule) -> None:
    torch.testing.assert_close(torch.cumprod(1 - schedule.betas(), 0), schedule.grid()[1:], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("schedule", VARIANTS, ids=str)
def test_the_chain_is_continuous_time_at_k_over_T(schedule: Schedule) -> None:
    assert torch.equal(schedule.grid(), schedule.alpha_bar(time_steps(250).flip(0)))


@pytest.mark.parametrize("schedule", VARIANTS, ids=str)
def test_nothing_is_lost_at_time_0(schedule: Schedule) -> None:
    zero = torch.zeros(())
    assert (float(schedule.alpha(zero)), float(schedule.sigma(zero))) == (1.0, 0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("zero", [False, True])
def test_nothing_is_lost_at_time_0_at_any_input_scale(name: str, zero: bool) -> None:
    for hundredths in range(1, 201):
        schedule = Schedule(name, 250, hundredths / 100, zero)
        ends = torch.zeros(1, dtype=torch.float64)
        assert (float(schedule.alpha(ends)), float(schedule.sigma(ends))) == (1.0, 0.0)


@pytest.mark.parametrize("schedule", VARIANTS, ids=str)
@given(t=unit)
def test_variance_is_preserved(schedule: Schedule, t: float) -> None:
    assert float(schedule.alpha(at(t)) ** 2 + schedule.sigma(at(t)) ** 2) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("zero", [False, True])
@given(t=st.floats(0.001, 0.999), scale=st.floats(0.05, 2))
def test_input_scale_multiplies_the_snr_by_its_square(name: str, zero: bool, t: float, scale: float) -> None:
    plain, scaled = Schedule(name, 250, 1.0, zero), Schedule(name, 250, scale, zero)
    expected = log_snr(plain, t) + 2 * math.log(scale)
    assert log_snr(scaled, t) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_zero_terminal_snr_leaves_nothing(name: str) -> None:
    schedule = Schedule(name, zero_terminal_snr=True)
    assert float(schedule.alpha(torch.ones(()))) == 0


def test_zero_terminal_snr_is_the_published_rescaling() -> None:
    # Lin et al. 2024, Algorithm 1, on the chain with ᾱ_0 = 1 as its first value.
    root = torch.cat([torch.ones(1, dtype=torch.float64), ddpm_chain(1000)]).sqrt()
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    actual = Schedule("linear", 1000, zero_terminal_snr=True).grid()
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-15)


def test_without_zero_terminal_snr_some_signal_is_left() -> None:
    assert all(float(Schedule(name).alpha(torch.ones(()))) > 1e-5 for name in NAMES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_results_are_float32_unless_times_are_float64(dtype: torch.dtype) -> None:
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert Schedule("cosine").alpha_bar(torch.rand(3, 2).to(dtype)).dtype == expected


def test_results_have_the_shape_of_the_times() -> None:
    assert Schedule("sigmoid").sigma(torch.rand(3, 2)).shape == (3, 2)


@pytest.mark.parametrize("spacing", ["uniform", "trailing", "quadratic"])
@given(n=st.integers(1, 250))
def test_times_fall_strictly_from_1_to_0(spacing: str, n: int) -> None:
    times = time_steps(n, spacing=spacing)
    assert times.shape == (n + 1,)
    assert (float(times[0]), float(times[-1])) == (1.0, 0.0)
    assert bool((times.diff() < 0).all())


@pytest.mark.parametrize("spacing", ["uniform", "trailing", "quadratic"])
@pytest.mark.parametrize("total", [10, 250, 1000])
def test_all_steps_are_the_chain_itself(spacing: str, total: int) -> None:
    chain = torch.tensor([k / total for k in range(total, -1, -1)], dtype=torch.float64)
    assert torch.equal(time_steps(total, steps_total=total, spacing=spacing), chain)


@pytest.mark.parametrize("spacing", ["trailing", "quadratic"])
@given(n=st.integers(1, 250))
def test_spacings_of_the_chain_visit_its_steps_only(spacing: str, n: int) -> None:
    k = time_steps(n, spacing=spacing) * 250
    assert float((k - k.round()).abs().max()) < 1e-9


def test_quadratic_times_are_closer_near_the_clean_map() -> None:
    gaps = -time_steps(10, spacing="quadratic").diff()
    assert bool((gaps.diff() < 0).all())


@pytest.mark.parametrize(("n", "spacing"), [(0, "uniform"), (251, "trailing"), (251, "quadratic")])
def test_impossible_numbers_of_steps_are_refused(n: int, spacing: str) -> None:
    with pytest.raises(ConfigError, match="steps"):
        time_steps(n, spacing=spacing)
