"""CCDM, the conditional categorical diffusion model (Zbinden et al., "Stochastic Segmentation with Conditional
Categorical Diffusion Models", ICCV 2023).

The released code differs in two points, in which this follows the paper: ᾱ is the cumulative product of 1 − β (theirs
is shifted by one step), and fewer steps use the posterior between the steps taken, α_{t|s} = ᾱ_t/ᾱ_s (theirs keeps
that of neighbouring steps).
"""

from __future__ import annotations

import torch
from torch import Tensor

from modiff.config.baselines import CCDMConfig
from modiff.diffusion import categorical
from modiff.methods.pixel_diffusion import Labels, NoiseField, PixelDiffusion
from modiff.nn import losses
from modiff.rng import uniform
from modiff.types import DataSpec

_START, _STEP = 3, 4  # streams of a sample's seed


class CCDM(PixelDiffusion):
    """Categorical diffusion of a reader's label map; the network predicts P(x_0 | x_t, image)."""

    def __init__(self, config: CCDMConfig, data: DataSpec) -> None:
        both = len(data.classes) + 1
        super().__init__(config, data, inputs=both, outputs=both)
        self.config = config

    def _belief(self, x_t: Tensor, t: Tensor, share: Tensor) -> Tensor:
        """(M,1+K,H,W) float32 probabilities of x_0, background first."""
        return self.unet(x_t, share, t).softmax(1)

    def _denoising_terms(self, labels: Labels, rng: torch.Generator) -> dict[str, tuple[float, Tensor]]:
        """KL of posteriors summed over pixels, mean over images (Eq. 9); at the first step it is the cross-entropy."""
        x0 = torch.cat([1 - labels.mask.sum(1, keepdim=True), labels.mask], 1)
        step = self._draw_steps(len(x0), rng)
        grid = self.schedule.grid()
        level, level_before = grid[step], grid[step - 1]
        field = torch.rand((len(x0), *x0.shape[2:]), generator=rng, device=rng.device).to(x0.device)
        x_t = categorical.sample_categorical(categorical.q_probs(x0, level), field)
        t = (step / self.config.steps).to(x0.device)
        divergence = categorical.posterior_kl(x_t, x0, self._belief(x_t, t, labels.share), level, level_before)
        return {"simple": (1.0, losses.weighted_mean(divergence, labels.weights))}

    def _denoise(self, share: Tensor, field: NoiseField, times: Tensor) -> Tensor:
        made = categorical.sample(
            lambda x_t, t: self._belief(x_t, t.expand(len(share)), share),
            categorical.uniform_noise(field.draw(uniform, 1, _START)[:, 0], self.classes + 1),
            times,
            self.schedule,
            uniform=lambda step: field.draw(uniform, 1, _STEP, step)[:, 0],
            sampler=self.config.sampler,
            output=self.config.output,
        )
        return made[:, 1:]
