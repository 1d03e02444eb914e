"""CCDM: categorical diffusion of a rater's label map."""

from __future__ import annotations

from torch import Tensor

from modiff.config.methods import CCDMConfig
from modiff.diffusion.categorical import CategoricalProcess
from modiff.diffusion.schedule import Schedule
from modiff.methods.pixel.frame import PixelDiffusion
from modiff.types import DataSpec


class CCDM(PixelDiffusion):
    """CCDM, the conditional categorical diffusion model (Zbinden et al., "Stochastic Segmentation with Conditional
    Categorical Diffusion Models", ICCV 2023): the network predicts P(x_0 | x_t, image) of a rater's label map.

    The released code differs in two points, in which this follows the paper: ᾱ is the cumulative product of 1 − β
    (theirs is shifted by one step), and fewer steps use the posterior between the steps taken, α_{t|s} = ᾱ_t/ᾱ_s
    (theirs keeps that of neighbouring steps). The loss is the KL of posteriors summed over pixels (Eq. 9).
    """

    config: CCDMConfig

    def __init__(self, config: CCDMConfig, data: DataSpec) -> None:
        classes, schedule = len(data.classes), Schedule(config.schedule, steps=config.steps)
        process = CategoricalProcess(schedule, classes, config.spacing, config.sampler, config.output)
        super().__init__(config, data, process, inputs=classes + 1, outputs=classes + 1, scale=config.steps)

    def _predict(self, x_t: Tensor, t: Tensor, features: Tensor) -> Tensor:
        """(M,1+K,H,W) float32 belief about x_0, the background first."""
        return super()._predict(x_t, t, features).softmax(1)
