"""Gaussian diffusion whose reverse variance is learned (Nichol & Dhariwal 2021): its bound, sampler and `Process`.

The network's second output v places the log-variance of a reverse step between those of the two extremes: that of the
posterior, β̃ = β·(1 − ᾱ_s)/(1 − ᾱ_t), at v = −1, and that of the forward step, β = 1 − ᾱ_t/ᾱ_s, at v = 1 (their Eq. 15
with the fraction (v + 1)/2).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from modiff.diffusion.gaussian import GaussianProcess, to_x0
from modiff.diffusion.process import START, STEP, Field, Predict, reverse
from modiff.diffusion.schedule import Schedule, check_times, expand
from modiff.rng import normal

_BIN = 1 / 255  # half the width of a grey value of 8 bits on [−1, 1], in which the decoder of the bound counts
_SMALLEST = 1e-12


def log_variance_bounds(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """(T,), (T,) float64: log β̃_k and log β_k for steps k = 1 … T of the chain.

    β̃_1 is 0 and its logarithm is replaced by that of β̃_2, as in the paper's code.
    """
    grid, beta = schedule.grid(), schedule.betas()
    posterior = beta * (1 - grid[:-1]) / (1 - grid[1:])
    if len(posterior) > 1:
        posterior[0] = posterior[1]
    return posterior.clamp_min(_SMALLEST).log(), beta.log()


def interpolate(v: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Log-variance between `low` (v = −1) and `high` (v = 1); beyond them where the network says so."""
    fraction = (v + 1) / 2
    return fraction * high + (1 - fraction) * low


def gaussian_kl(mean_1: Tensor, log_var_1: Tensor, mean_2: Tensor, log_var_2: Tensor) -> Tensor:
    """KL(N(μ1, σ1²) ‖ N(μ2, σ2²)) in nats, element by element."""
    ratio = torch.exp(log_var_1 - log_var_2)
    return 0.5 * (ratio - 1 + log_var_2 - log_var_1 + (mean_1 - mean_2).square() * torch.exp(-log_var_2))


def decoder_nll(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """−log P(x) in nats, element by element, of a Gaussian counted in 8-bit bins on [−1, 1] (Ho et al. 2020, Eq. 13).

    The bins of −1 and 1 reach to infinity, so that a mask's values have their whole half line.
    """
    scale = torch.exp(-0.5 * log_var)
    upper, lower = (x - mean + _BIN) * scale, (x - mean - _BIN) * scale
    # Each probability from the tail where it is not 1 minus something tiny.
    inside = torch.where(
        lower > 0,
        torch.special.ndtr(-lower) - torch.special.ndtr(-upper),
        torch.special.ndtr(upper) - torch.special.ndtr(lower),
    )
    log_inside = inside.clamp_min(_SMALLEST).log()
    log_p = torch.where(x > 0.999, torch.special.log_ndtr(-lower), log_inside)
    return -torch.where(x < -0.999, torch.special.log_ndtr(upper), log_p)


def bound_term(x0: Tensor, x_t: Tensor, x0_predicted: Tensor, v: Tensor, step: Tensor, schedule: Schedule) -> Tensor:
    """(B,) one term of the variational bound, in bits a value (Ho et al. 2020, Eq. 5; Nichol & Dhariwal 2021, §3.1).

    KL(q(x_{k−1} | x_k, x_0) ‖ p(x_{k−1} | x_k)) for a step k > 1, the decoder's −log P(x_0) for k = 1. step: (B,)
    int64 from 1 to T on the CPU. Maps (B,K,H,W); the mean depends on x0_predicted alone (detach it to train v only).
    """
    grid = schedule.grid()
    now, before = grid[step], grid[step - 1]
    clean, kept = before.sqrt() * (1 - now / before) / (1 - now), (now / before).sqrt() * (1 - before) / (1 - now)
    low, high = (expand(bound[step - 1], x0) for bound in log_variance_bounds(schedule))
    clean, kept = expand(clean, x0), expand(kept, x0)
    predicted, log_var = clean * x0_predicted + kept * x_t, interpolate(v, low, high)
    divergence = gaussian_kl(clean * x0 + kept * x_t, low, predicted, log_var)
    first = (step == 1).to(x0.device).view(-1, *[1] * (x0.ndim - 1))
    value = torch.where(first, decoder_nll(x0, predicted, log_var), divergence)
    return value.flatten(1).mean(1) / math.log(2)


def sample(
    denoise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x_T: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    noise: Callable[[int], Tensor],
) -> Tensor:
    """Ancestral sampling with the learned variance along any descending times; returns a map of x_T's shape.

    denoise(x_t, t) -> (x̂_0, v), v held within [−1, 1] here. times: (n+1,) strictly descending to 0. noise(i) ->
    standard normal of x_T's shape for step i = 0 … n−2; the last step gives the mean. Steps that are skipped use the
    transition between the steps taken, α_{t|s} = α_t/α_s, whose marginals are exact.
    """
    steps = list(itertools.pairwise(map(float, schedule.alpha_bar(check_times(times)))))

    def advance(index: int, x: Tensor, prediction: tuple[Tensor, Tensor]) -> Tensor:
        (now, before), (x0, v) = steps[index], prediction
        fresh = 1 - now / before
        clean, kept = math.sqrt(before) * fresh / (1 - now), math.sqrt(now / before) * (1 - before) / (1 - now)
        x = clean * x0.to(x.dtype) + kept * x
        if before == 1:
            return x
        low, high = math.log(fresh * (1 - before) / (1 - now)), math.log(fresh)
        return x + torch.exp(0.5 * interpolate(v.clamp(-1, 1).to(x.dtype), low, high)) * noise(index)

    return reverse(denoise, x_T, times, advance)


@dataclass(frozen=True)
class LearnedVarianceProcess(GaussianProcess):
    """A prediction is (B,2K,H,W): ε̂, and the place v of the variance. sampler "ddim" does without the variance."""

    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(B,) L_simple of ε̂; v learns from `bound`."""
        return super().loss(prediction.chunk(2, 1)[0], x0, x_t, t, noise)

    def bound(self, prediction: Tensor, x0: Tensor, x_t: Tensor, step: Tensor) -> Tensor:
        """(B,) the bound's term of a step of the chain (`bound_term`); ε̂ is detached, so that it trains v alone."""
        eps, v = prediction.chunk(2, 1)
        clean = to_x0(eps.detach(), x_t, *self.factors(step), "eps")
        return bound_term(x0, x_t, clean, v, step, self.schedule)

    def clean(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return super().clean(prediction.chunk(2, 1)[0], x_t, t)

    def _reverse(self, predict: Predict, field: Field, times: Tensor) -> Tensor:
        if self.sampler == "ddim":
            return super()._reverse(predict, field, times)

        def denoise(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            prediction = predict(x_t, t)
            return self.clean(prediction, x_t, t), prediction.chunk(2, 1)[1]

        draw = partial(field.draw, normal, self.classes)
        return sample(denoise, draw(START), times, self.schedule, noise=partial(draw, STEP))
