"""Noise schedules in continuous time, and the times at which a sampler visits them.

t runs from 0 (clean) to 1 (noise); x_t = α(t)·x_0 + σ(t)·ε with α² = ᾱ and σ² = 1 − ᾱ (variance preserving). The chain
of T steps is the same function read at t = k/T, so that a model trained on either is sampled on any times in between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modiff.devices import constant
from modiff.errors import ConfigError

ScheduleName = Literal["cosine", "linear", "sigmoid"]
Spacing = Literal["uniform", "trailing", "quadratic"]

_COSINE_OFFSET = 0.008  # s of Nichol & Dhariwal 2021, Eq. 17
_MAX_BETA = 0.999  # the same, §3.2: no step of the chain may erase everything
_LINEAR_STEPS, _LINEAR_FIRST, _LINEAR_LAST = 1000, 1e-4, 0.02  # Ho et al. 2020, §4
_SIGMOID_START, _SIGMOID_END = -3.0, 3.0  # Jabri et al. 2022 as in Chen 2023, Algorithm 1


def _cosine(t: Tensor) -> Tensor:
    """Nichol & Dhariwal 2021, Eq. 17."""
    quarter = math.pi / 2 / (1 + _COSINE_OFFSET)
    return (torch.cos((t + _COSINE_OFFSET) * quarter) / math.cos(_COSINE_OFFSET * quarter)) ** 2


def _linear(t: Tensor) -> Tensor:
    """Ho et al. 2020: ᾱ of the chain of 1000 steps, Π_{k≤n}(1 − β_1 − (k−1)·c), continued to real n = 1000·t.

    The product of an arithmetic sequence is a quotient of gamma functions, which is defined between the integers and
    equals the chain on them. A chain of T steps reads every (1000/T)-th value: its betas are 1000/T times those of the
    original to first order, and its ᾱ_T is the original's exactly.
    """
    slope = (_LINEAR_LAST - _LINEAR_FIRST) / (_LINEAR_STEPS - 1)
    n, top = t * _LINEAR_STEPS, torch.full_like(t, (1 - _LINEAR_FIRST) / slope + 1)
    log_product = n * math.log(slope) + torch.lgamma(top) - torch.lgamma(top - n)
    return log_product.exp()


def _sigmoid(t: Tensor) -> Tensor:
    """Jabri et al. 2022: a slice of the logistic function, moved and scaled to run from 1 to 0."""
    low, high = (torch.sigmoid(torch.full_like(t, end)) for end in (_SIGMOID_START, _SIGMOID_END))
    return (high - torch.sigmoid(t * (_SIGMOID_END - _SIGMOID_START) + _SIGMOID_START)) / (high - low)


_CURVES = {"cosine": _cosine, "linear": _linear, "sigmoid": _sigmoid}


@dataclass(frozen=True)
class Schedule:
    """How much signal is left at time t.

    name: the curve. steps: T of the discrete chain. input_scale: b multiplies the SNR by b² (arXiv 2504.05977); b < 1:
    more noise at every t. zero_terminal_snr: moves and scales √ᾱ so that nothing is left at t = 1 (Lin et al. 2024,
    Algorithm 1, with ᾱ(0) = 1 held).

    Times t are in [0,1], or int64 steps 0 … T of the chain. All is float64, on the times' device or, where
    that has none, on the CPU; what is read at float32 times is float32, on their device.
    """

    name: ScheduleName
    steps: int = 250
    input_scale: float = 1.0
    zero_terminal_snr: bool = False

    def alpha_bar(self, t: Tensor) -> Tensor:
        """ᾱ(t) of t's shape, falling from 1 at t = 0."""
        return _narrow(self._alpha_bar(t), t)

    def alpha(self, t: Tensor) -> Tensor:
        """√ᾱ(t), the factor of the clean map."""
        return _narrow(self._alpha_bar(t).sqrt(), t)

    def sigma(self, t: Tensor) -> Tensor:
        """√(1 − ᾱ(t)), the noise's standard deviation."""
        return _narrow((1 - self._alpha_bar(t)).sqrt(), t)

    def grid(self) -> Tensor:
        """(T+1,) float64: ᾱ at t = 0, 1/T … 1, the cumulative products of 1 − β; the first is 1."""
        return self._alpha_bar(torch.arange(self.steps + 1, dtype=torch.float64) / self.steps)

    def betas(self) -> Tensor:
        """(T,) float64: β_k = 1 − ᾱ_k/ᾱ_{k−1} of the chain; at most 0.999 for cosine and sigmoid, 1 at zero SNR."""
        grid = self.grid()
        return 1 - grid[1:] / grid[:-1]

    def _alpha_bar(self, t: Tensor) -> Tensor:
        """ᾱ in float64."""
        if not t.is_floating_point():
            t = without_float64(t)
            return _grid(t.device, self)[t]
        t, curve = without_float64(t).to(torch.float64), _CURVES[self.name]
        # Exactly 1 at t = 0 whatever the last digit of a machine's cosine: 1 − ᾱ stands under square roots.
        alpha_bar = torch.where(t <= 0, 1.0, curve(t).clamp(0, 1))
        if self.zero_terminal_snr:
            alpha = alpha_bar.sqrt()
            end = curve(torch.ones_like(t)).sqrt()
            alpha_bar = torch.where(t >= 1, 0.0, ((alpha - end) / (1 - end)).clamp(min=0) ** 2)
        elif self.name != "linear":
            # These curves end at 0. The papers' chains clip β at 0.999; here that is a floor under the last step.
            before_last = torch.tensor(1 - 1 / self.steps, dtype=torch.float64)
            alpha_bar = alpha_bar.clamp(min=(1 - _MAX_BETA) * float(curve(before_last)))
        scale = self.input_scale**2
        return alpha_bar if scale == 1 else scale * alpha_bar / (scale * alpha_bar + (1 - alpha_bar))


@constant
def _grid(device: torch.device, schedule: Schedule) -> Tensor:
    return schedule.grid().to(device)


def without_float64(t: Tensor) -> Tensor:
    """Times, on the CPU where their device has no float64 (Apple's GPU): they are few."""
    return t.cpu() if t.device.type == "mps" else t


def _narrow(value: Tensor, t: Tensor) -> Tensor:
    return value.to(torch.float32).to(t.device) if t.is_floating_point() and t.dtype != torch.float64 else value


def expand(factor: Tensor, x: Tensor) -> Tensor:
    """In x's type; (B,) -> (B,1,…,1) on x's device, so that each item's factor meets maps of any rank.

    A 0-dim tensor stays where it is: the CPU's meet tensors of any device.
    """
    factor = factor.to(x.dtype)
    return factor.to(x.device).view(-1, *[1] * (x.ndim - 1)) if factor.ndim == 1 and x.ndim > 1 else factor


def time_steps(n: int, *, steps_total: int = 250, spacing: Spacing = "uniform") -> Tensor:
    """(n+1,) float64 times from 1 down to 0, for n evaluations of a model; k/T exactly where n = T = `steps_total`.

    uniform: k/n, in continuous time. trailing: the nearest steps of the chain of T (Lin et al. 2024, Table 2).
    quadratic: steps of the chain at T·(k/n)², close together where little noise is left (Song et al. 2021, App. D.2).
    Raises ConfigError for n < 1, and for more steps than the chain has where times are steps of the chain.
    """
    if n < 1 or (n > steps_total and spacing != "uniform"):
        limit = "≥ 1" if spacing == "uniform" else f"from 1 to {steps_total}, the chain's length"
        raise ConfigError("impossible number of sampling steps", field="steps", found=n, expected=limit)
    k = torch.arange(n, -1, -1, dtype=torch.float64)
    if spacing == "uniform":
        return k / n
    if spacing == "trailing":
        return torch.round(k * steps_total / n) / steps_total
    # At least k steps: times stay distinct near zero, and n = T gives the whole chain.
    return torch.maximum(torch.round(steps_total * (k / n) ** 2), k) / steps_total
