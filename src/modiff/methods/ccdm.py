"""CCDM, the conditional categorical diffusion model (Zbinden et al., "Stochastic Segmentation with Conditional
Categorical Diffusion Models", ICCV 2023).

The released code differs in two points, in which this follows the paper: ᾱ is the cumulative product of 1 − β (theirs
is shifted by one step), and fewer steps use the posterior between the steps taken, α_{t|s} = ᾱ_t/ᾱ_s (theirs keeps
that of neighbouring steps).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from modiff.config.baselines import CCDMConfig
from modiff.diffusion.categorical import CategoricalProcess
from modiff.diffusion.schedule import Schedule
from modiff.methods.denoising import Labels
from modiff.methods.pixel_diffusion import PixelDiffusion
from modiff.types import DataSpec


class CCDM(PixelDiffusion):
    """Categorical diffusion of a rater's label map; the network predicts P(x_0 | x_t, image)."""

    config: CCDMConfig

    def __init__(self, config: CCDMConfig, data: DataSpec) -> None:
        classes, schedule = len(data.classes), Schedule(config.schedule, steps=config.steps)
        process = CategoricalProcess(schedule, classes, config.spacing, config.sampler, config.output)
        super().__init__(config, data, process, inputs=classes + 1, outputs=classes + 1)

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The paper's loss alone."""
        return {"simple": 1.0}

    def _predict(self, x_t: Tensor, t: Tensor, features: Tensor) -> Tensor:
        """(M,1+K,H,W) float32 belief about x_0, the background first."""
        return super()._predict(x_t, t, features).softmax(1)

    def _losses(self, labels: Labels, prediction: Tensor, x0: Tensor, x_t: Tensor, **at: Tensor) -> dict[str, Tensor]:
        """KL of posteriors summed over pixels (Eq. 9); at the first step it is the cross-entropy."""
        return {"simple": self.process.loss(prediction, x0, x_t, **at)}
