"""Gaussian diffusion: forward process, what a network may predict of it, samplers, learned variance; as a `Process`.

Throughout, alpha and sigma are tensors of one value, (B,) tensors, or anything that broadcasts with x.

A sampler's step is x_s = a·x̂_0 + b·x_t + c·z with three numbers that follow from the schedule at t and s alone; they
are computed in float64 before the first evaluation of the model. Formulas are written so that α_t = 0 (zero terminal
SNR) is an ordinary value and s = 0 gives x̂_0 itself.

Where the variance is learned (Nichol & Dhariwal 2021), the network's second output v places the log-variance of a
reverse step between those of the two extremes: that of the posterior, β̃ = β·(1 − ᾱ_s)/(1 − ᾱ_t), at v = −1, and that of
the forward step, β = 1 − ᾱ_t/ᾱ_s, at v = 1 (their Eq. 15 with the fraction (v + 1)/2).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modiff.devices import constant
from modiff.diffusion.process import START, STEP, Diffusion, Field, Noise, Predict, SignedMaps, reverse
from modiff.diffusion.schedule import Schedule, expand, without_float64
from modiff.rng import normal

Prediction = Literal["eps", "v", "x0"]
Sampler = Literal["ancestral", "ddim", "dpm++"]

_BIN = 1 / 255  # half the width of a grey value of 8 bits on [−1, 1], in which the decoder of the bound counts
_SMALLEST = 1e-12


def diffuse(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t = α·x_0 + σ·ε, of x0's shape (Ho et al. 2020, Eq. 4)."""
    return expand(alpha, x0) * x0 + expand(sigma, x0) * noise


def target(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, kind: Prediction) -> Tensor:
    """What the network learns: ε, v = α·ε − σ·x_0 (Salimans & Ho 2022, §4), or x_0."""
    if kind == "v":
        return expand(alpha, x0) * noise - expand(sigma, x0) * x0
    return noise if kind == "eps" else x0


def to_x0(prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, kind: Prediction) -> Tensor:
    """The clean map x̂_0 that a prediction implies, of x_t's shape.

    "eps" divides by α and so needs α > 0 (no zero terminal SNR), and a clip where α is small; the others need neither.
    """
    if kind == "eps":
        return (x_t - expand(sigma, x_t) * prediction) / expand(alpha, x_t)
    return expand(alpha, x_t) * x_t - expand(sigma, x_t) * prediction if kind == "v" else prediction


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


def _step(sampler: Sampler, r: _Level | None, t: _Level, s: _Level) -> _Step:
    """From t to s; r: the time before t, for what is extrapolated along the log-SNR."""
    if sampler == "ancestral":  # q(x_s | x_t, x̂_0): Ho et al. 2020, Eq. 7, with the transition from s to t as one step
        ratio = t.alpha / s.alpha
        fresh = 1 - ratio**2
        kept = ratio * s.sigma**2 / t.sigma**2
        return _Step(s.alpha * fresh / t.sigma**2, kept, noise=s.sigma * math.sqrt(fresh) / t.sigma)
    # Song et al. 2021, Eq. 12 and 16, without noise.
    step = _Step(s.alpha - t.alpha * (s.sigma / t.sigma), kept=s.sigma / t.sigma)
    if sampler == "ddim" or r is None or s.sigma == 0:  # DPM-Solver++ too is of first order there
        return step
    # Lu et al. 2022 (DPM-Solver++), Algorithm 2: DDIM's step with x̂_0 extrapolated. After a start at α = 0 the last
    # interval is infinite, and the slope is 0: first order once more.
    last, this = t.half_log_snr - r.half_log_snr, s.half_log_snr - t.half_log_snr
    return step._replace(slope=this / (2 * last))


def sample(
    denoise: Predict, x_T: Tensor, times: Tensor, schedule: Schedule, *, sampler: Sampler, noise: Noise
) -> Tensor:
    """Runs the reverse process from x_T at times[0] to times[-1]; returns a map of x_T's shape.

    denoise(x_t, t) -> x̂_0, brought to x_T's dtype, with t a 0-dim float32 tensor on x_T's device. times: (n+1,)
    float64, strictly descending within [0, 1], as `time_steps` gives them. noise(i) -> standard normal of x_T's shape
    for step i = 0 … n−1; asked for only where the step adds noise. sampler: "ancestral" (Ho et al. 2020, Eq. 7, with
    α_{t|s} = α_t/α_s, hence exact on any times), "ddim" (Song et al. 2021, Eq. 16), "dpm++" (second-order multistep
    DPM-Solver++, Lu et al. 2022, Algorithm 2).
    """
    columns = schedule.alpha(times), schedule.sigma(times), torch.logit(schedule.alpha_bar(times)) / 2
    levels = [_Level(*map(float, row)) for row in zip(*columns, strict=True)]
    steps = [_step(sampler, r, t, s) for r, (t, s) in zip([None, *levels], itertools.pairwise(levels), strict=False)]
    before = x_T

    def advance(index: int, x: Tensor, x0: Tensor) -> Tensor:
        nonlocal before
        step, x0 = steps[index], x0.to(x.dtype)
        clean = x0 if step.slope == 0 else (1 + step.slope) * x0 - step.slope * before
        before = x0
        x = step.clean * clean + step.kept * x if step.kept else step.clean * clean
        return x + step.noise * noise(index) if step.noise else x

    return reverse(denoise, x_T, times, advance)


@dataclass(frozen=True)
class GaussianProcess(SignedMaps, Diffusion):
    """x_t = α·x_0 + σ·ε with x_0 = 2·labels − 1. prediction: what the network gives; sampler: of `sample`."""

    prediction: Prediction = "eps"
    sampler: Sampler = "ancestral"

    def diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return diffuse(x0, noise, *self.factors(t))

    def factors(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α(t) and σ(t)."""
        return self.schedule.alpha(t), self.schedule.sigma(t)

    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(B,) L_simple: mean squared error of the predicted quantity (Ho et al. 2020, Eq. 14)."""
        return (prediction - target(x0, noise, *self.factors(t), self.prediction)).square().mean((1, 2, 3))

    def clean(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x̂_0 that a prediction implies, held within [−1,1]."""
        return to_x0(prediction, x_t, *self.factors(t), self.prediction).clamp(-1, 1)

    def sample(self, predict: Predict, field: Field, steps: int) -> Tensor:
        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return self.clean(predict(x_t, t), x_t, t)

        draw = partial(field.draw, normal, self.classes)
        way = draw(START), self.times(steps), self.schedule
        return self.to_labels(sample(denoise, *way, sampler=self.sampler, noise=partial(draw, STEP)))


def log_variance_bounds(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """(T,), (T,) float64: log β̃_k and log β_k for steps k = 1 … T of the chain.

    β̃_1 is 0 and its logarithm is replaced by that of β̃_2, as in the paper's code.
    """
    grid, beta = schedule.grid(), schedule.betas()
    posterior = beta * (1 - grid[:-1]) / (1 - grid[1:])
    if len(posterior) > 1:
        posterior[0] = posterior[1]
    return posterior.clamp_min(_SMALLEST).log(), beta.log()


@constant
def _bounds(device: torch.device, schedule: Schedule) -> tuple[Tensor, Tensor]:
    low, high = log_variance_bounds(schedule)
    return low.to(device), high.to(device)


def interpolate(v: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Log-variance between `low` (v = −1) and `high` (v = 1); beyond them where the network says so."""
    return (v + 1) / 2 * high + (1 - (v + 1) / 2) * low


def decoder_nll(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """−log P(x) in nats, element by element, of a Gaussian counted in 8-bit bins on [−1, 1] (Ho et al. 2020, Eq. 13).

    The bins of −1 and 1 reach to infinity, so that a mask's values have their whole half line.
    """
    scale = torch.exp(-0.5 * log_var)
    upper, lower = (x - mean + _BIN) * scale, (x - mean - _BIN) * scale
    # Each probability from the tail where it is not 1 minus something tiny.
    ndtr = torch.special.ndtr
    inside = torch.where(lower > 0, ndtr(-lower) - ndtr(-upper), ndtr(upper) - ndtr(lower))
    log_inside = inside.clamp_min(_SMALLEST).log()
    log_p = torch.where(x > 0.999, torch.special.log_ndtr(-lower), log_inside)
    return -torch.where(x < -0.999, torch.special.log_ndtr(upper), log_p)


def bound_term(x0: Tensor, x_t: Tensor, x0_predicted: Tensor, v: Tensor, step: Tensor, schedule: Schedule) -> Tensor:
    """(B,) one term of the variational bound, in bits per value (Ho et al. 2020, Eq. 5; Nichol & Dhariwal 2021, §3.1).

    KL(q(x_{k−1} | x_k, x_0) ‖ p(x_{k−1} | x_k)) for a step k > 1, the decoder's −log P(x_0) for k = 1. step: (B,)
    int64 from 1 to T. Maps (B,K,H,W); the mean depends on x0_predicted alone (detach it to train v only).
    """
    now, before = schedule.alpha_bar(step), schedule.alpha_bar(step - 1)
    clean, kept = before.sqrt() * (1 - now / before) / (1 - now), (now / before).sqrt() * (1 - before) / (1 - now)
    step = without_float64(step)
    low, high = (expand(bound[step - 1], x0) for bound in _bounds(step.device, schedule))
    clean, kept = expand(clean, x0), expand(kept, x0)
    predicted, log_var = clean * x0_predicted + kept * x_t, interpolate(v, low, high)
    squared = (clean * x0 + kept * x_t - predicted).square()
    divergence = 0.5 * (torch.exp(low - log_var) - 1 + log_var - low + squared * torch.exp(-log_var))
    first = (step == 1).to(x0.device).view(-1, *[1] * (x0.ndim - 1))
    value = torch.where(first, decoder_nll(x0, predicted, log_var), divergence)
    return value.flatten(1).mean(1) / math.log(2)


def sample_learned(
    denoise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x_T: Tensor,
    times: Tensor,
    schedule: Schedule,
    noise: Noise,
) -> Tensor:
    """Ancestral sampling with the learned variance along any descending times; returns a map of x_T's shape.

    denoise(x_t, t) -> (x̂_0, v), v held within [−1, 1] here. times: (n+1,) strictly descending to 0. noise(i) ->
    standard normal of x_T's shape for step i = 0 … n−2; the last step gives the mean. Steps that are skipped use the
    transition between the steps taken, α_{t|s} = α_t/α_s, whose marginals are exact.
    """
    steps = list(itertools.pairwise(map(float, schedule.alpha_bar(times))))

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

    def sample(self, predict: Predict, field: Field, steps: int) -> Tensor:
        if self.sampler == "ddim":
            return super().sample(predict, field, steps)

        def denoise(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            prediction = predict(x_t, t)
            return self.clean(prediction, x_t, t), prediction.chunk(2, 1)[1]

        draw = partial(field.draw, normal, self.classes)
        way = draw(START), self.times(steps), self.schedule
        return self.to_labels(sample_learned(denoise, *way, noise=partial(draw, STEP)))
