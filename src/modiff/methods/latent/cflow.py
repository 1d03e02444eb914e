"""cFlow: a Probabilistic U-Net with a normalising flow in its posterior."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from modiff.config.methods import CFlowConfig
from modiff.methods.latent.prob_unet import ProbUNet
from modiff.nn.latent import Gaussian, GlowFlow, PlanarFlow
from modiff.nn.layers import full_precision
from modiff.nn.unet import Norm
from modiff.types import DataSpec


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
