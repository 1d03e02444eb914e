"""The stochastic segmentation network: one Gaussian over all pixels' logits."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from modiff.config.methods import SSNConfig
from modiff.config.run import check_model
from modiff.errors import ConfigError
from modiff.methods.base import Segmenter, at_once
from modiff.methods.latent.frame import check_batch, normalise
from modiff.methods.latent.prob_unet import draw_rater, pixel_cross_entropy
from modiff.nn.layers import bounded, channels_last
from modiff.nn.losses import mean_of_known
from modiff.nn.unet import ConvUNet
from modiff.nn.windows import NoiseField, pad_to_multiple, sides
from modiff.rng import fold, normal
from modiff.types import Batch, DataSpec, RaterChoice, Samples

_RANK, _PIXELS = 1, 2  # streams of a sample's seed
_LEAST_VARIANCE = 1e-5
_FIRST_LOG_VARIANCE, _FIRST_FACTOR = -4.0, 0.1  # of fresh weights: nearly deterministic
_LOG_VARIANCE = 10.0  # stays within e^±10: beyond, a step's gradients overflow


class LogitDistribution(NamedTuple):
    """N(mean, factor·factorᵀ + diag(sigma²)) over the logits of all pixels and classes, the background first.

    mean, sigma: (B,1+K,H,W). factor: (B,rank,1+K,H,W).
    """

    mean: Tensor
    sigma: Tensor
    factor: Tensor

    def deviations(self, shared: Tensor, pixels: Tensor) -> Tensor:
        """(B,N,1+K,H,W) a draw minus the mean; standard normal: shared (B,N,rank), pixels (B,N,1+K,H,W)."""
        return torch.einsum("bnr,brkhw->bnkhw", shared, self.factor) + self.sigma[:, None] * pixels


class SSN(Segmenter):
    """SSN (Monteiro et al., "Stochastic Segmentation Networks", NeurIPS 2020).

    p(y|x) = E[Π p(y_i|η_i)], the logits η of all pixels jointly Gaussian with a covariance of low rank plus a diagonal.
    Each step sees one random rater's masks per image. The loss is the paper's Monte Carlo estimate of −log p(y|x); its
    draws come in pairs, η and 2μ − η, as in the released code. The mean is trained alone at first: that half of all
    draws mark everything costs the likelihood no more than log 2, and training seldom leaves such a state. Network: the
    U-Net of the Probabilistic U-Net with batch normalisation, a 1×1 convolution each for mean, log-variance and factor.
    """

    places_noise = True
    taken: Tensor

    def __init__(self, config: SSNConfig, data: DataSpec) -> None:
        super().__init__(data)
        check_model(config)
        if config.draws % 2:
            raise ConfigError("is not even", field="model.draws", found=config.draws, expected="pairs of draws")
        self.config = config
        self.unet = ConvUNet(self.channels, config.channels, norm="block")
        self.stride, width, outputs = self.unet.stride, config.channels[0], self.classes + 1
        self.mean, self.log_variance = nn.Conv2d(width, outputs, 1), nn.Conv2d(width, outputs, 1)
        self.factor = nn.Conv2d(width, config.rank * outputs, 1)
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))  # steps of training
        self.log_variance.bias = nn.Parameter(torch.full((outputs,), _FIRST_LOG_VARIANCE))
        with torch.no_grad():
            for part in self.factor.parameters():
                part.mul_(_FIRST_FACTOR)
        channels_last(self)

    def training_loss(self, batch: Batch, *, rng: Generator) -> dict[str, Tensor]:
        """−log of the mean over draws of Π_i p(y_i|η_i), batch mean; images that nobody read do not count.

        In the first steps of training the cross-entropy of the mean. Raises ConfigError for a batch of one image.
        """
        check_batch(batch, training=self.training)
        label, known = draw_rater(batch, rng)
        found = self.encode(batch.image)
        entropy = mean_of_known(pixel_cross_entropy(found.mean, label), known)
        if self.training:
            self.taken += 1
            if not self.fixed_shapes and self.taken <= self.config.mean_steps:
                # Every weight has a gradient, which several processes need.
                rest = found.sigma.sum() + found.factor.sum()
                return {"loss": entropy + 0 * rest, "mean_cross_entropy": entropy.detach()}
        shape = (len(batch), self.config.draws // 2)
        noise = [
            torch.randn(size, generator=rng, device=rng.device).to(label.device)
            for size in ((*shape, self.config.rank), (*shape, *found.mean.shape[1:]))
        ]
        deviation = found.deviations(*noise)
        if self.training and self.fixed_shapes:  # without deviations the loss is that of the mean
            deviation = deviation * (self.taken > self.config.mean_steps)
        logits = torch.cat([found.mean[:, None] + deviation, found.mean[:, None] - deviation], 1)
        labels = label[:, None].expand(-1, logits.shape[1], -1, -1, -1)
        log_p = -pixel_cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1)).unflatten(0, logits.shape[:2])
        loss = mean_of_known(math.log(logits.shape[1]) - log_p.logsumexp(1), known)
        return {"loss": loss, "mean_cross_entropy": entropy.detach()}

    def encode(self, image: Tensor) -> LogitDistribution:
        """(B,C,H,W) -> the distribution of the logits, in float32."""
        height, width = sides(image)
        padded = pad_to_multiple(normalise(image, self.config.intensity), self.stride, edge=True)
        _, features = self.unet(padded)
        mean, log_variance, factor = (
            head(features)[..., :height, :width].float() for head in (self.mean, self.log_variance, self.factor)
        )
        sigma = (bounded(log_variance, _LOG_VARIANCE).exp() + _LEAST_VARIANCE).sqrt()
        return LogitDistribution(mean, sigma, factor.unflatten(1, (self.config.rank, self.classes + 1)))

    def _draw(
        self,
        encoding: LogitDistribution,
        each: Tensor,
        steps: int,
        raters: RaterChoice,
        stratified: bool,
        origin: Tensor | None,
    ) -> Samples:
        corner = None if origin is None else origin.to(each.device)
        drawn = [self._maps(encoding, part, corner) for part in each.split(at_once(encoding.factor[0]), 1)]
        return Samples.uniform(torch.cat(drawn, 1))

    def _maps(self, found: LogitDistribution, seeds: Tensor, corner: Tensor | None) -> Tensor:
        """(B,N,K,H,W) probabilities of one draw of the logits for each seed (B,N)."""
        places = None if corner is None else corner.repeat_interleave(seeds.shape[1], 0)
        field = NoiseField(seeds.flatten(), sides(found.mean), places)
        pixels = field.draw(normal, found.mean.shape[1], _PIXELS).unflatten(0, seeds.shape)
        shared = normal(fold(seeds, _RANK), (self.config.rank,))
        return (found.mean[:, None] + found.deviations(shared, pixels)).softmax(2)[:, :, 1:]
