"""Gaussian diffusion: the forward process, and what a network may predict of it.

Throughout, alpha and sigma are numbers, tensors of one value, (B,) tensors, or anything that broadcasts with x.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from modiff.errors import ConfigError

Prediction = Literal["eps", "v", "x0"]
Factor = Tensor | float


def diffuse(x0: Tensor, noise: Tensor, alpha: Factor, sigma: Factor) -> Tensor:
    """x_t = α·x_0 + σ·ε, of x0's shape (Ho et al. 2020, Eq. 4)."""
    return _expand(alpha, x0) * x0 + _expand(sigma, x0) * noise


def target(x0: Tensor, noise: Tensor, alpha: Factor, sigma: Factor, kind: Prediction) -> Tensor:
    """What the network learns: ε, v = α·ε − σ·x_0 (Salimans & Ho 2022, §4), or x_0."""
    if kind == "eps":
        return noise
    if kind == "v":
        return _expand(alpha, x0) * noise - _expand(sigma, x0) * x0
    if kind == "x0":
        return x0
    raise _unknown(kind)


def to_x0(
    prediction: Tensor,
    x_t: Tensor,
    alpha: Factor,
    sigma: Factor,
    kind: Prediction,
    *,
    clip: float | None = None,
) -> Tensor:
    """The clean map x̂_0 that a prediction implies, of x_t's shape, within ±clip if given.

    "eps" divides by α and so needs α > 0 (no zero terminal SNR), and a clip where α is small; the others need neither.
    """
    if kind == "eps":
        x0 = (x_t - _expand(sigma, x_t) * prediction) / _expand(alpha, x_t)
    elif kind == "v":
        x0 = _expand(alpha, x_t) * x_t - _expand(sigma, x_t) * prediction
    elif kind == "x0":
        x0 = prediction
    else:
        raise _unknown(kind)
    return x0 if clip is None else x0.clamp(-clip, clip)


def to_eps(prediction: Tensor, x_t: Tensor, alpha: Factor, sigma: Factor, kind: Prediction) -> Tensor:
    """The noise ε̂ that a prediction implies, of x_t's shape; "x0" divides by σ and so needs t > 0."""
    if kind == "eps":
        return prediction
    if kind == "v":
        return _expand(sigma, x_t) * x_t + _expand(alpha, x_t) * prediction
    if kind == "x0":
        return (x_t - _expand(alpha, x_t) * prediction) / _expand(sigma, x_t)
    raise _unknown(kind)


def _expand(factor: Factor, x: Tensor) -> Factor:
    """(B,) -> (B,1,…,1), so that a factor an item meets maps of any rank."""
    if isinstance(factor, Tensor) and factor.ndim == 1 and x.ndim > 1:
        return factor.view(-1, *[1] * (x.ndim - 1))
    return factor


def _unknown(kind: object) -> ConfigError:
    return ConfigError("no such prediction", field="prediction", found=repr(kind), expected="eps, v or x0")
