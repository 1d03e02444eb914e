"""CIMD: Gaussian diffusion of a rater's mask with a learned variance."""

from __future__ import annotations

import torch
from torch import Tensor

from modiff.config.methods import CIMDConfig
from modiff.diffusion.gaussian import LearnedVarianceProcess
from modiff.diffusion.schedule import Schedule
from modiff.methods.denoising import Labels
from modiff.methods.pixel.frame import PixelDiffusion
from modiff.nn import latent
from modiff.types import DataSpec


class CIMD(PixelDiffusion):
    """CIMD (Rahman et al., "Ambiguous Medical Image Segmentation using Diffusion Models", CVPR 2023).

    Gaussian diffusion of a rater's mask as ±1; the network predicts the noise and the variance's place.

    Two networks are trained with it: the posterior (their ambiguity modelling network) sees the image and the rater's
    mask, the prior (ambiguity controlling network) the image and the predicted noise; the divergence between their two
    distributions of z is a third loss. z enters nothing else, in the paper's figure as in the released code, so that
    nothing but the two networks themselves keeps the term from vanishing.

    Differences from the released code, each as the paper has it or where the code contradicts itself: both networks are
    trained (`behaviour`); masks are ±1, the interval that x̂_0 is clipped to (theirs are 0 and 1); an image of C
    channels is taken as it is (theirs is repeated to four).
    """

    config: CIMDConfig
    process: LearnedVarianceProcess

    def __init__(self, config: CIMDConfig, data: DataSpec) -> None:
        classes, schedule = len(data.classes), Schedule(config.schedule, steps=config.steps)
        process = LearnedVarianceProcess(schedule, classes, config.spacing, sampler=config.sampler)
        super().__init__(config, data, process, inputs=classes, outputs=2 * classes, scale=config.steps)
        # L_simple, the variational bound, and the latents' divergence.
        self.term_weights = {"simple": 1.0, "vlb": config.vlb_weight, "kl": config.kl_weight}
        of = self.channels + self.classes, config.latent_widths, config.latent
        self.prior, self.posterior = latent.GaussianNet(*of), latent.GaussianNet(*of)
        if config.behaviour == "released":
            self.prior.requires_grad_(False)
            self.posterior.requires_grad_(False)

    def _losses(self, labels: Labels, prediction: Tensor, x0: Tensor, x_t: Tensor, **at: Tensor) -> dict[str, Tensor]:
        """The bound trains the variance alone: its mean is detached."""
        return super()._losses(labels, prediction, x0, x_t, **at) | {
            "vlb": self.process.bound(prediction, x0, x_t, at["t"]),
            "kl": self._latent_kl(labels.image, labels.label, prediction.chunk(2, 1)[0]),
        }

    def _latent_kl(self, image: Tensor, mask: Tensor, eps: Tensor) -> Tensor:
        """(M,) KL(posterior(z | image, mask) ‖ prior(z | image, ε̂)), summed over z."""
        posterior, _ = self.posterior(torch.cat([image, mask], 1))
        prior, _ = self.prior(torch.cat([image, eps], 1))
        return latent.kl_divergence(posterior, prior)
