"""Categorical diffusion with the uniform kernel (Hoogeboom et al. 2021; CCDM, Zbinden et al. 2023).

Maps are (B,K,H,W), K classes in all with the background first, one-hot or probabilities on dimension 1. A step keeps a
pixel's class with probability α and else draws any of the K alike, so that x_t | x_0 ~ Cat(ᾱ_t·x_0 + (1 − ᾱ_t)/K) with
ᾱ the cumulative product; from s to any later t, α_{t|s} = ᾱ_t/ᾱ_s. ᾱ is a tensor of one value or (B,); pass float64,
since 1 − ᾱ of little noise is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor

from modiff import rng
from modiff.diffusion.process import START, STEP, Diffusion, Field, Noise, Predict, reverse
from modiff.diffusion.schedule import Schedule, expand

CategoricalSampler = Literal["ancestral", "ddim"]
Output = Literal["confidence", "majority"]

_SMALLEST = 1e-12  # CCDM clamps probabilities here before the logarithm


def q_probs(x0_probs: Tensor, alpha_bar: Tensor) -> Tensor:
    """(B,K,H,W) probabilities of x_t given x_0: Cat(ᾱ·x_0 + (1 − ᾱ)/K)."""
    return expand(alpha_bar, x0_probs) * x0_probs + expand((1 - alpha_bar) / x0_probs.shape[1], x0_probs)


def posterior(x_t: Tensor, x0_probs: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor) -> Tensor:
    """(B,K,H,W) probabilities of x_s for s < t, given one-hot x_t and a belief about x_0.

    Exact for any s < t: the mixture of posteriors Σ_k q(x_s | x_t, x_0 = k)·P(x_0 = k), not the posterior of the mixed
    x_0. With ᾱ_s = 1 it is the belief itself; with ᾱ_t = 0 it is q(x_s | x_0) under the belief.
    """
    # By Bayes, q(x_s = j | x_t = i, x_0 = k) = q(i|j)·q(j|k)/q(i|k). Only q(i|k) and P depend on k, and q(j|k) is a
    # multiple of [j = k] plus a constant: the sum over k takes one pass.
    weight = x0_probs / q_probs(x_t, alpha_bar_t)
    constant = expand((1 - alpha_bar_s) / x0_probs.shape[1], weight)
    from_clean = expand(alpha_bar_s, weight) * weight + constant * weight.sum(1, keepdim=True)
    return q_probs(x_t, alpha_bar_t / alpha_bar_s) * from_clean


def low_noise_probs(x_t: Tensor, x0_probs: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor) -> Tensor:
    """(B,K,H,W) probabilities of x_s for s < t by the non-Markov step of multinomial DDIM (Song et al. 2021, App. A).

    x_s ~ Cat(σ·x_t + (ᾱ_s − σ·ᾱ_t)·x̂_0 + ((1 − ᾱ_s) − σ·(1 − ᾱ_t))/K) has the marginals of the forward process for any
    σ up to (1 − ᾱ_s)/(1 − ᾱ_t). This takes the largest, which flips the fewest pixels and leaves no constant.
    """
    kept = (1 - alpha_bar_s) / (1 - alpha_bar_t)
    return expand(kept, x_t) * x_t + expand(alpha_bar_s - kept * alpha_bar_t, x0_probs) * x0_probs


def posterior_kl(x_t: Tensor, x0: Tensor, x0_probs: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor) -> Tensor:
    """(B,) loss: KL(q(x_s | x_t, x_0) ‖ posterior under the predicted x0_probs), summed over pixels, in nats.

    x_t and x0 are one-hot. With ᾱ_s = 1 (the chain's first step) it is the cross-entropy of x0_probs (CCDM, Eq. 9).
    """
    belief = x0_probs.float()
    true = posterior(x_t, x0.to(belief), alpha_bar_t, alpha_bar_s)
    predicted = posterior(x_t, belief, alpha_bar_t, alpha_bar_s)
    divergence = torch.xlogy(true, true) - true * predicted.clamp(min=_SMALLEST).log()
    return divergence.flatten(1).sum(1)


def sample_categorical(probs: Tensor, uniform: Tensor) -> Tensor:
    """One-hot draw of probs' shape and dtype from (B,K,H,W) probabilities and a (B,H,W) field of uniforms in (0, 1).

    Inverts the cumulative distribution over classes, so smooth fields give smooth draws. Probabilities need not be
    normalised; a class of probability 0 is never drawn.
    """
    cumulative = probs.cumsum(1)
    index = (uniform[:, None] * cumulative[:, -1:] > cumulative[:, :-1]).sum(1)
    return _one_hot(index, probs)


def uniform_noise(uniform: Tensor, classes: int) -> Tensor:
    """One-hot (B,K,H,W) of classes drawn alike, the x_T of a sampler, from a (B,H,W) field of uniforms in (0, 1)."""
    index = (uniform * classes).long().clamp(max=classes - 1)
    return _one_hot(index, uniform[:, None].expand(-1, classes, *uniform.shape[1:]))


def majority(probs: Tensor) -> Tensor:
    """One-hot map of the likeliest class of (B,K,H,W) probabilities; ties go to the first, which is the background."""
    return _one_hot(probs.argmax(1), probs)


def sample(
    denoise: Predict,
    x_T: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    uniform: Noise,
    sampler: CategoricalSampler = "ancestral",
    output: Output = "confidence",
) -> Tensor:
    """Runs the reverse process from one-hot x_T at times[0] to times[-1] = 0; returns a (B,K,H,W) map.

    denoise(x_t, t) -> probabilities of x_0, brought to x_T's dtype, with t a 0-dim float32 tensor on x_T's device.
    times: (n+1,) float64, strictly descending to 0. uniform(i) -> (B,H,W) field for step i = 0 … n−2; the last step
    draws nothing. sampler: "ancestral" (`posterior`, exact on any times) or "ddim" (`low_noise_probs`). output: the
    last prediction as it is ("confidence") or its likeliest class ("majority").
    """
    levels = schedule.alpha_bar(times)
    step = posterior if sampler == "ancestral" else low_noise_probs

    def advance(index: int, x: Tensor, x0_probs: Tensor) -> Tensor:
        x0_probs = x0_probs.to(x.dtype)
        if index == len(levels) - 2:
            return x0_probs if output == "confidence" else majority(x0_probs)
        return sample_categorical(step(x, x0_probs, levels[index], levels[index + 1]), uniform(index))

    return reverse(denoise, x_T, times, advance)


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device).scatter_(1, index[:, None], 1)


@dataclass(frozen=True)
class CategoricalProcess(Diffusion):
    """x_0 is (B,1+K,H,W), the background first; a prediction is the belief P(x_0 | x_t), of x_0's shape.

    `loss` needs t as steps of the chain. sampler, output: of `sample`.
    """

    sampler: CategoricalSampler = "ancestral"
    output: Output = "confidence"

    def from_labels(self, labels: Tensor) -> Tensor:
        return torch.cat([(1 - labels.sum(1, keepdim=True)).clamp_min(0), labels], 1)

    def to_labels(self, x0: Tensor) -> Tensor:
        return x0[:, 1:]

    def to_network(self, x: Tensor) -> Tensor:
        return x[:, 1:] * 2 - 1

    def from_network(self, maps: Tensor) -> Tensor:
        return self.from_labels((maps + 1) / 2)

    def noise(self, x0: Tensor, rng: Generator) -> Tensor:
        """(B,H,W) uniform in [0,1)."""
        return torch.rand((len(x0), *x0.shape[2:]), generator=rng, device=rng.device).to(x0.device)

    def diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """One-hot x_t."""
        return sample_categorical(q_probs(x0, self.schedule.alpha_bar(t)), noise)

    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(B,) KL of the posteriors of step t to t − 1, summed over pixels (`posterior_kl`)."""
        return posterior_kl(x_t, x0, prediction, self.schedule.alpha_bar(t), self.schedule.alpha_bar(t - 1))

    def sample(self, predict: Predict, field: Field, steps: int) -> Tensor:
        def draw(*stream: int) -> Tensor:
            return field.draw(rng.uniform, 1, *stream)[:, 0]

        way = uniform_noise(draw(START), self.classes + 1), self.times(steps), self.schedule
        uniform, sampler, output = partial(draw, STEP), self.sampler, self.output
        return self.to_labels(sample(predict, *way, uniform=uniform, sampler=sampler, output=output))
