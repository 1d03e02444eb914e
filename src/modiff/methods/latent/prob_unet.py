"""The Probabilistic U-Net: a conditional VAE whose latent vector is fed to a U-Net's end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from modiff.config.methods import ProbUNetConfig
from modiff.methods.latent.frame import LatentEncoding, LatentSegmenter, check_batch
from modiff.nn.latent import FComb, Gaussian, GaussianNet, kl_divergence
from modiff.nn.layers import channels_last
from modiff.nn.losses import mean_of_known
from modiff.nn.unet import ConvUNet, Norm
from modiff.nn.windows import pad_to_multiple, sides
from modiff.rng import fold, normal
from modiff.types import Batch, DataSpec

_LATENT = 1  # stream of a sample's seed


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

    def _draw_latents(self, latent: Gaussian, seeds: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """z from the prior."""
        prior = Gaussian(latent.mean[:, None], latent.log_sigma[:, None])
        return prior.draw(normal(fold(seeds, _LATENT), (self.config.latent_dim,))), {}

    def _decode(self, encoding: LatentEncoding, z: Tensor) -> Tensor:
        height, width = encoding.size
        return probabilities(self.combine(encoding.features, z))[..., :height, :width]


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
