"""CIMD (Rahman et al., "Ambiguous Medical Image Segmentation using Diffusion Models", CVPR 2023).

A Gaussian diffusion of masks with learned variance, and two networks beside it: the posterior (their ambiguity
modelling network) sees the image and the reader's mask, the prior (ambiguity controlling network) the image and the
predicted noise; the divergence between their two laws of z is a third loss. z enters nothing else, in the paper's
figure as in the released code, so that nothing but the two networks themselves keeps the term from vanishing.

Differences from the released code, each as the paper has it or where the code contradicts itself: both networks are
trained (`behaviour`); masks are ±1, the interval that x̂_0 is clipped to (theirs are 0 and 1); an image of C channels is
taken as it is (theirs is repeated to four).
"""

from __future__ import annotations

import torch
from torch import Tensor

from modiff.config.baselines import CIMDConfig
from modiff.diffusion import gaussian, samplers
from modiff.diffusion import variance_bound as learned_variance
from modiff.methods.pixel_diffusion import Labels, NoiseField, PixelDiffusion
from modiff.nn import latent, losses
from modiff.rng import normal
from modiff.types import DataSpec

_START, _STEP = 3, 4  # streams of a sample's seed


class CIMD(PixelDiffusion):
    """Gaussian diffusion of a reader's mask as ±1; the network predicts the noise and the variance's place."""

    term_names = ("simple", "vlb", "kl")

    def __init__(self, config: CIMDConfig, data: DataSpec) -> None:
        super().__init__(config, data, inputs=len(data.classes), outputs=2 * len(data.classes))
        self.config = config
        self.prior = latent.GaussianNet(self.channels + self.classes, config.latent_widths, config.latent)
        self.posterior = latent.GaussianNet(self.channels + self.classes, config.latent_widths, config.latent)
        if config.behaviour == "released":
            self.prior.requires_grad_(False)
            self.posterior.requires_grad_(False)

    def _denoising_terms(self, labels: Labels, rng: torch.Generator) -> dict[str, tuple[float, Tensor]]:
        """L_simple, the bound (which trains the variance alone: its mean is detached) and λ·KL(posterior ‖ prior)."""
        x0 = labels.mask * 2 - 1
        step = self._draw_steps(len(x0), rng)
        grid = self.schedule.grid()[step]
        alpha, sigma = (level.sqrt().float().to(x0.device) for level in (grid, 1 - grid))
        noise = torch.randn(x0.shape, generator=rng, device=rng.device).to(x0.device)
        x_t = gaussian.diffuse(x0, noise, alpha, sigma)
        t = (step / self.config.steps).to(x0.device)
        eps, v = self.unet(x_t, labels.share, t).chunk(2, 1)
        clean = gaussian.to_x0(eps.detach(), x_t, alpha, sigma, "eps")
        bound = learned_variance.bound_term(x0, x_t, clean, v, step, self.schedule)
        values = {
            "simple": (1.0, losses.squared_error(eps, noise)),
            "vlb": (self.config.vlb_weight, bound),
            "kl": (self.config.kl_weight, self._latent_kl(labels.image, labels.mask, eps)),
        }
        return {name: (weight, losses.weighted_mean(value, labels.weights)) for name, (weight, value) in values.items()}

    def _latent_kl(self, image: Tensor, mask: Tensor, eps: Tensor) -> Tensor:
        """(M,) KL(posterior(z | image, mask) ‖ prior(z | image, ε̂)), summed over z."""
        posterior, _ = self.posterior(torch.cat([image, mask], 1))
        prior, _ = self.prior(torch.cat([image, eps], 1))
        return latent.kl_divergence(posterior, prior)

    def _denoise(self, share: Tensor, field: NoiseField, times: Tensor) -> Tensor:
        x_T = field.draw(normal, self.classes, _START)

        def predict(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            eps, v = self.unet(x_t, share, t.expand(len(share))).chunk(2, 1)
            alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
            return gaussian.to_x0(eps, x_t, alpha, sigma, "eps", clip=1.0), v

        def noise(step: int) -> Tensor:
            return field.draw(normal, self.classes, _STEP, step)

        if self.config.sampler == "ancestral":
            made = learned_variance.sample(predict, x_T, times, self.schedule, noise=noise)
        else:
            made = samplers.sample(lambda x, t: predict(x, t)[0], x_T, times, self.schedule, sampler="ddim")
        return ((made + 1) / 2).clamp(0, 1)
