"""The latent-variable methods' frame, image features once and a decoder for each latent vector; two of its methods.

They are the Probabilistic U-Net, a conditional VAE whose latent vector is fed to a U-Net's end, and cFlow, which has a
normalising flow in it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from modiff.config.baselines import CFlowConfig, MoSEConfig, ProbUNetConfig
from modiff.config.run import check_model
from modiff.errors import ConfigError
from modiff.methods.base import Segmenter, at_once
from modiff.nn.latent import FComb, Gaussian, GaussianNet, GlowFlow, PlanarFlow, kl_divergence
from modiff.nn.layers import channels_last, full_precision
from modiff.nn.losses import mean_of_known
from modiff.nn.unet import ConvUNet, Norm
from modiff.nn.windows import Size, pad_to_multiple, sides
from modiff.rng import fold, normal
from modiff.types import Batch, DataSpec, Samples

_LATENT = 1  # stream of a sample's seed


@dataclass
class LatentEncoding:
    """What depends on the images only: features (B,F,h,w) that the decoder takes, and what z is drawn by."""

    size: Size  # of the images as given
    features: Tensor
    latent: Any  # the prior over z (Probabilistic U-Net, cFlow); the experts' probabilities (B,E) (MoSE)


class LatentSegmenter(Segmenter):
    """Draws latent vectors and decodes each in one pass. It tells no rater from another and does not use a prompt."""

    config: ProbUNetConfig | MoSEConfig

    def __init__(self, config: ProbUNetConfig | MoSEConfig, data: DataSpec) -> None:
        super().__init__(data)
        check_model(config)
        self.config = config

    @abstractmethod
    def _draw_latents(self, latent: Any, seeds: Tensor) -> tuple[Tensor, Tensor | None]:
        """z (B,N,D) by LatentEncoding.latent for seeds (B,N); the samples' weights (B,N), None where all are equal."""

    @abstractmethod
    def _decode(self, encoding: LatentEncoding, z: Tensor) -> Tensor:
        """(B,N,K,H,W) probabilities of the foreground classes for latents z (B,N,D)."""

    def _prepare(self, image: Tensor) -> Tensor:
        """Images in [0,1] as the networks see them, padded to the stride."""
        return pad_to_multiple(normalise(image, self.config.intensity), self.stride, edge=True)

    def _draw(self, encoding: LatentEncoding, each: Tensor, *_: Any) -> Samples:
        z, weights = self._draw_latents(encoding.latent, each)
        maps = torch.cat([self._decode(encoding, part) for part in z.split(at_once(encoding.features), 1)], 1)
        samples = Samples.uniform(maps.contiguous())
        if weights is not None:
            samples.weights = weights
        return samples


class ProbUNet(LatentSegmenter):
    """Probabilistic U-Net (Kohl et al., NeurIPS 2018).

    p(y|x) = ∫ p(y|x,z) p(z|x) dz; trained by the evidence lower bound with a posterior q(z|x,y) (paper Eq. 4).

    Each step sees one random rater's masks per image. K = 1 has one logit (sigmoid), K > 1 a softmax with background.
    """

    norm: Norm = "none"

    config: ProbUNetConfig

    def __init__(self, config: ProbUNetConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        encoders = config.prior_channels or config.channels
        self.stride = 2 ** (max(len(config.channels), len(encoders)) - 1)
        self.unet = ConvUNet(self.channels, config.channels, norm=self.norm, norm_last=False)
        self.prior = GaussianNet(self.channels, encoders, config.latent_dim, norm=self.norm)
        self.posterior = GaussianNet(self.channels + self.classes, encoders, config.latent_dim, norm=self.norm)
        outputs, normed = 1 if self.classes == 1 else self.classes + 1, self.norm != "none"
        self.combine = FComb(config.channels[0], config.latent_dim, outputs, depth=config.combine_depth, norm=normed)
        self.flow: nn.Module | None = None  # cFlow's
        channels_last(self)

    # Training

    def training_loss(self, batch: Batch, *, rng: Generator) -> dict[str, Tensor]:
        """Per-image sum of the pixels' cross-entropy + β·KL(q(z|x,y)‖p(z|x)), batch mean of both."""
        if self.norm != "none":
            check_batch(batch, training=self.training)
        label, known = draw_rater(batch, rng)
        encoding, image = self.encode(batch.image), self._prepare(batch.image)
        z, kl = self._draw_posterior(image, pad_to_multiple(label, self.stride, edge=False), encoding.latent, rng)
        height, width = encoding.size
        logits = self.combine(encoding.features, z[:, None])[:, 0, :, :height, :width]
        entropy = mean_of_known(pixel_cross_entropy(logits, label), known)
        divergence = mean_of_known(kl, known)
        scale = len(batch) if self.config.reduction == "batch" else 1
        loss = scale * entropy + self.config.beta * divergence
        if self.config.norm_penalty:
            parts = [part for part in (self.posterior, self.prior, self.combine, self.flow) if part is not None]
            norms = [parameter.norm() for part in parts for parameter in part.parameters()]
            loss = loss + self.config.norm_penalty * torch.stack(norms).sum()
        return {"loss": loss, "cross_entropy": entropy.detach(), "kl": divergence.detach()}

    def _draw_posterior(self, image: Tensor, label: Tensor, prior: Gaussian, rng: Generator) -> tuple[Tensor, Tensor]:
        """z (B,D) of the posterior q(z|x,y), and (B,) its divergence from the prior, in closed form."""
        q, _ = self.posterior(torch.cat([image, label], 1))
        return q.draw(self._noise(q.mean, rng)), kl_divergence(q, prior)

    @staticmethod
    def _noise(like: Tensor, rng: Generator) -> Tensor:
        return torch.randn(like.shape, generator=rng, device=rng.device).to(like.device)

    # Sampling

    def encode(self, image: Tensor) -> LatentEncoding:
        """(B,C,H,W) -> f_comb's part of the U-Net's features, and the prior: once per image for all its samples."""
        x = self._prepare(image)
        prior, _ = self.prior(x)
        _, features = self.unet(x)
        return LatentEncoding(sides(image), self.combine.image(features), prior)

    def _draw_latents(self, latent: Gaussian, seeds: Tensor) -> tuple[Tensor, None]:
        """z from the prior."""
        prior = Gaussian(latent.mean[:, None], latent.log_sigma[:, None])
        return prior.draw(normal(fold(seeds, _LATENT), (self.config.latent_dim,))), None

    def _decode(self, encoding: LatentEncoding, z: Tensor) -> Tensor:
        height, width = encoding.size
        return probabilities(self.combine(encoding.features, z))[..., :height, :width]


class CFlow(ProbUNet):
    """cFlow (Selvan et al., UNSURE 2020): a Probabilistic U-Net whose posterior is a conditional normalising flow.

    q(z_K|x,y) is q(z_0|x,y) carried through K flow steps; the prior stays Gaussian, so sampling is as before.

    Networks are normalised in batches. KL = E[log q_0(z_0) − Σ log|det| − log p(z_K)], by one draw.
    """

    norm: Norm = "block"
    config: CFlowConfig

    def __init__(self, config: CFlowConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        features = (config.prior_channels or config.channels)[-1]
        kind = {"planar": PlanarFlow, "glow": GlowFlow, "gauss": None}[config.posterior]
        self.flow = None if kind is None else kind(features, config.latent_dim, config.flow_steps)

    def _draw_posterior(self, image: Tensor, label: Tensor, prior: Gaussian, rng: Generator) -> tuple[Tensor, Tensor]:
        """z_K (B,D), and (B,) the one-draw estimate of the posterior's divergence from the prior."""
        if self.flow is None:
            return super()._draw_posterior(image, label, prior, rng)
        q, h = self.posterior(torch.cat([image, label], 1))
        start = q.draw(self._noise(q.mean, rng))
        with full_precision(start):
            z, log_det = self.flow(start, h)
        point = start if self.config.kl_point == "z0" else z
        return z, q.log_prob(point) - log_det - prior.log_prob(z)


def draw_rater(batch: Batch, rng: Generator) -> tuple[Tensor, Tensor]:
    """One rater's masks (B,K,H,W) float32, uniform among those who read the image; and (B,) whether anybody did."""
    order = torch.rand(batch.read.shape, generator=rng, device=rng.device).to(batch.read.device)
    who = torch.where(batch.read, order, -1.0).argmax(1)
    rows = torch.arange(len(batch), device=who.device)
    known = batch.read.any(1)
    return batch.masks[rows, who].float() * known[:, None, None, None], known


def probabilities(logits: Tensor) -> Tensor:
    """(...,K',H,W) logits -> (...,K,H,W) probabilities of the foreground classes."""
    return torch.sigmoid(logits) if logits.shape[-3] == 1 else logits.softmax(-3)[..., 1:, :, :]


def pixel_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """(B,) cross-entropy of logits (B,K',H,W) with masks (B,K,H,W), summed over an image's pixels."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits, label, reduction="none").sum((1, 2, 3))
    index = torch.where(label.any(1), label.argmax(1) + 1, 0)
    return F.cross_entropy(logits, index, reduction="none").sum((1, 2))


def normalise(image: Tensor, how: Literal["unit", "centred", "zscore"]) -> Tensor:
    """(B,C,H,W) in [0,1] as the networks see it; z-scores per image and channel, zero where the image is flat."""
    if how == "unit":
        return image
    if how == "centred":
        return image - 0.5
    mean, spread = image.mean((2, 3), keepdim=True), image.std((2, 3), keepdim=True, correction=0)
    return (image - mean) / spread.clamp_min(1e-3)


def check_batch(batch: Batch, *, training: bool) -> None:
    """ConfigError where batch normalisation would have a single value to normalise."""
    if training and len(batch) < 2:
        what = "batch normalisation needs more images at once"
        raise ConfigError(what, field="training.batch_size", found=1, expected="at least 2")
