"""Samplers of Gaussian diffusion (ancestral, DDIM, DPM-Solver++); `categorical` has those of categorical diffusion.

Every step is x_s = a·x̂_0 + b·x_t + c·z with three numbers that follow from the schedule at t and s alone; they are
computed in float64 before the first evaluation of the model. Formulas are written so that α_t = 0 (zero terminal SNR)
is an ordinary value and s = 0 gives x̂_0 itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from modiff.diffusion.process import reverse
from modiff.diffusion.schedule import Schedule, check_choice, check_times
from modiff.errors import ConfigError

Sampler = Literal["ancestral", "ddim", "dpm++"]


class _Step(NamedTuple):
    """x_s = clean·((1 + slope)·x̂_0 − slope·x̂_0 of the step before) + kept·x_t + noise·z."""

    clean: float
    kept: float
    noise: float = 0.0
    slope: float = 0.0


class _Level(NamedTuple):
    alpha: float
    sigma: float
    half_log_snr: float


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x_T: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    sampler: Sampler = "ddim",
    eta: float = 0.0,
    noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Runs the reverse process from x_T at times[0] to times[-1]; returns a map of x_T's shape.

    denoise(x_t, t) -> x̂_0, brought to x_T's dtype, with t a 0-dim float32 tensor on x_T's device. times: (n+1,)
    strictly descending within [0, 1], as `time_steps` gives them. noise(i) -> standard normal of x_T's shape for step
    i = 0 … n−1; asked for only where the step adds noise. sampler: "ancestral" (Ho et al. 2020, Eq. 7, with α_{t|s} =
    α_t/α_s, hence exact on any times), "ddim" (Song et al. 2021, Eq. 16; eta = 1 is ancestral), "dpm++" (second-order
    multistep DPM-Solver++, Lu et al. 2022, Algorithm 2; first order at the first step and where s = 0). Raises
    ConfigError for settings that contradict each other.
    """
    steps = _steps(_levels(times, schedule), sampler, eta)
    if noise is None and any(step.noise for step in steps):
        raise ConfigError("this sampler adds noise at each step and was given none", field="noise", found=sampler)
    before = x_T

    def advance(index: int, x: Tensor, x0: Tensor) -> Tensor:
        nonlocal before
        step, x0 = steps[index], x0.to(x.dtype)
        clean = x0 if step.slope == 0 else (1 + step.slope) * x0 - step.slope * before
        before = x0
        x = step.clean * clean + step.kept * x if step.kept else step.clean * clean
        return x + step.noise * noise(index) if step.noise and noise is not None else x

    return reverse(denoise, x_T, times, advance)


def _levels(times: Tensor, schedule: Schedule) -> list[_Level]:
    t = check_times(times)
    columns = schedule.alpha(t), schedule.sigma(t), schedule.log_snr(t) / 2
    return [_Level(*map(float, row)) for row in zip(*columns, strict=True)]


def _steps(levels: list[_Level], sampler: Sampler, eta: float) -> list[_Step]:
    check_choice("sampler", sampler, get_args(Sampler))
    if not 0 <= eta <= 1 or (eta and sampler == "dpm++"):
        expected = "0: DPM-Solver++ adds no noise" if sampler == "dpm++" else "a number from 0 to 1"
        raise ConfigError("impossible fraction of fresh noise", field="eta", found=eta, expected=expected)
    pairs = list(itertools.pairwise(levels))
    if sampler == "ancestral":
        return [_ancestral(t, s) for t, s in pairs]
    if sampler == "ddim":
        return [_ddim(t, s, eta) for t, s in pairs]
    before = [None, *levels[:-2]]
    return [_multistep(r, t, s) for r, (t, s) in zip(before, pairs, strict=True)]


def _ancestral(t: _Level, s: _Level) -> _Step:
    """The posterior q(x_s | x_t, x̂_0): Ho et al. 2020, Eq. 7, with the transition from s to t in place of one step."""
    ratio = t.alpha / s.alpha
    fresh = 1 - ratio**2
    return _Step(
        clean=s.alpha * fresh / t.sigma**2,
        kept=ratio * s.sigma**2 / t.sigma**2,
        noise=s.sigma * math.sqrt(fresh) / t.sigma,
    )


def _ddim(t: _Level, s: _Level, eta: float) -> _Step:
    """Song et al. 2021, Eq. 12 and 16."""
    noise = eta * s.sigma * math.sqrt(1 - (t.alpha / s.alpha) ** 2) / t.sigma
    kept = math.sqrt(max(s.sigma**2 - noise**2, 0.0)) / t.sigma
    return _Step(clean=s.alpha - t.alpha * kept, kept=kept, noise=noise)


def _multistep(r: _Level | None, t: _Level, s: _Level) -> _Step:
    """Lu et al. 2022 (DPM-Solver++), Algorithm 2: DDIM's step with x̂_0 extrapolated along the log-SNR."""
    first_order = _ddim(t, s, eta=0.0)
    if r is None or s.sigma == 0:
        return first_order
    last, this = t.half_log_snr - r.half_log_snr, s.half_log_snr - t.half_log_snr
    # After a start at α = 0 the last interval is infinite, and the slope is 0: first order once more.
    return first_order._replace(slope=this / (2 * last))
