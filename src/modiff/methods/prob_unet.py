"""Probabilistic U-Net (Kohl et al., NeurIPS 2018): a conditional VAE whose latent vector is fed to a U-Net's end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modiff.config.baselines import CFlowConfig, ProbUNetConfig
from modiff.methods.base import Segmenter
from modiff.nn import latent
from modiff.nn.windows import pad_to_multiple
from modiff.rng import fold, normal, sample_seeds
from modiff.types import Batch, DataSpec, RaterChoice, Samples

_LATENT = 1  # stream of a sample's seed


@dataclass
class Encoding:
    """What depends on the images only: f_comb's share of their features (B,F,h,w) and the prior over z."""

    size: tuple[int, int]  # H, W of the images as given
    share: Tensor
    prior: latent.Gaussian


class ProbUNet(Segmenter):
    """p(y|x) = ∫ p(y|x,z) p(z|x) dz; trained by the evidence lower bound with a posterior q(z|x,y) (paper Eq. 4).

    Each step sees one random rater's masks an image. K = 1 has one logit (sigmoid), K > 1 a softmax with background.
    It tells no rater from another and does not use a prompt.
    """

    norm: latent.Norm = "none"

    def __init__(self, config: ProbUNetConfig | CFlowConfig, data: DataSpec) -> None:
        super().__init__(data)
        latent.check_widths(config.channels, "model.channels")
        self.config = config
        encoders = config.prior_channels or config.channels
        self.unet = latent.ConvUNet(self.channels, config.channels, norm=self.norm, norm_last=False)
        self.prior = latent.GaussianNet(self.channels, encoders, config.latent_dim, norm=self.norm)
        self.posterior = latent.GaussianNet(self.channels + self.classes, encoders, config.latent_dim, norm=self.norm)
        self.combine = latent.FComb(
            config.channels[0],
            config.latent_dim,
            latent.logits_needed(self.classes),
            depth=config.combine_depth,
            norm=self.norm != "none",
        )
        latent.channels_last(self)

    @property
    def stride(self) -> int:
        """Images are padded to multiples of this."""
        levels = max(len(self.config.channels), len(self.config.prior_channels))
        return 2 ** (levels - 1)

    # Training

    def training_loss(self, batch: Batch, *, rng: torch.Generator) -> dict[str, Tensor]:
        """Per-image sum of the pixels' cross-entropy + β·KL(q(z|x,y)‖p(z|x)), batch mean of both."""
        if self.norm != "none":
            latent.check_batch(batch, training=self.training)
        label, known = latent.draw_reader(batch, rng)
        image = self._prepare(batch.image)
        share, prior = self._image_work(image)
        z, kl = self._draw_posterior(image, pad_to_multiple(label, self.stride, edge=False), prior, rng)
        height, width = batch.image.shape[-2:]
        logits = self.combine(share, z[:, None])[:, 0, :, :height, :width]
        entropy = latent.weighted_mean(latent.pixel_cross_entropy(logits, label), known)
        divergence = latent.weighted_mean(kl, known)
        scale = len(batch) if self.config.reduction == "batch" else 1
        loss = scale * entropy + self.config.beta * divergence
        if self.config.norm_penalty:
            norms = [parameter.norm() for part in self._penalised() for parameter in part.parameters()]
            loss = loss + self.config.norm_penalty * torch.stack(norms).sum()
        return {"loss": loss, "cross_entropy": entropy.detach(), "kl": divergence.detach()}

    def _draw_posterior(
        self, image: Tensor, label: Tensor, prior: latent.Gaussian, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """z (B,D) of the posterior q(z|x,y), and (B,) its divergence from the prior, in closed form."""
        q, _ = self.posterior(torch.cat([image, label], 1))
        return q.draw(self._noise(q.mean, rng)), latent.kl_divergence(q, prior)

    @staticmethod
    def _noise(like: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=rng, device=rng.device).to(like.device)

    def _penalised(self) -> list[nn.Module]:
        return [self.posterior, self.prior, self.combine]

    # Sampling

    def _prepare(self, image: Tensor) -> Tensor:
        return pad_to_multiple(latent.normalise(image, self.config.intensity), self.stride, edge=True)

    def _image_work(self, image: Tensor) -> tuple[Tensor, latent.Gaussian]:
        """f_comb's share of the U-Net's features, and the prior."""
        prior, _ = self.prior(image)
        _, features = self.unet(image)
        return self.combine.image(features), prior

    def encode(self, image: Tensor) -> Encoding:
        """(B,C,H,W) -> U-Net features and prior, once an image for all its samples."""
        return Encoding((image.shape[-2], image.shape[-1]), *self._image_work(self._prepare(image)))

    @torch.no_grad()
    def sample(
        self,
        image_or_encoding: Tensor | Encoding,
        n: int,
        *,
        seeds: Tensor,
        steps: int | None = None,
        raters: RaterChoice = "single",
        stratified: bool = False,
        origin: Tensor | None = None,
    ) -> Samples:
        """n hypotheses an image, z from the prior. ConfigError for raters but "single" and for more steps than one."""
        self.check_request(steps=steps, raters=raters, stratified=stratified)
        encoding = self.encode(image_or_encoding) if isinstance(image_or_encoding, Tensor) else image_or_encoding
        share, (height, width) = encoding.share, encoding.size
        noise = normal(fold(sample_seeds(seeds, n), _LATENT), (self.config.latent_dim,))
        z = latent.Gaussian(encoding.prior.mean[:, None], encoding.prior.log_sigma[:, None]).draw(noise)
        chunk = max(1, latent.PIXELS_AT_ONCE // (share.shape[0] * share.shape[-2] * share.shape[-1]))
        parts = [latent.probabilities(self.combine(share, part)) for part in z.split(chunk, 1)]
        maps = torch.cat(parts, 1)[..., :height, :width].contiguous()
        return Samples.uniform(maps)
