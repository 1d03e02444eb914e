"""MedFM: flow matching of a rater's mask, given the image."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from modiff.config.methods import MedFMConfig
from modiff.diffusion.flow import FlowProcess
from modiff.methods.pixel.frame import PixelDiffusion
from modiff.types import Batch, DataSpec

_SCALE = 1000  # of times in the network's embedding


class MedFM(PixelDiffusion):
    """MedFM (Nguyen et al., "Aleatoric Uncertainty Medical Image Segmentation Estimation via Flow Matching", UNSURE
    2025): a network learns the velocity from noise to a rater's mask along straight paths, given the image.

    Times are drawn evenly from [0,1]. For classifier-free guidance some labels are learnt without the image. The
    network is CCDM's, so that the two differ in the process alone.
    """

    config: MedFMConfig

    _guided = True

    def __init__(self, config: MedFMConfig, data: DataSpec) -> None:
        classes = len(data.classes)
        super().__init__(config, data, FlowProcess(classes), inputs=classes, outputs=classes, scale=_SCALE)

    def _draw_times(self, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
        t = 1 - torch.rand(count, generator=rng, device=rng.device)
        return t, t

    def _training_features(self, image: Tensor, centre: Tensor, rng: Generator) -> Tensor:
        features = super()._training_features(image, centre, rng)
        dropped = torch.rand(len(image), generator=rng, device=rng.device) < self.config.drop
        return torch.where(dropped.to(image.device)[:, None, None, None], torch.zeros_like(features), features)

    def training_loss(self, batch: Batch, *, rng: Generator) -> dict[str, Tensor]:
        """That of the velocity without guidance, also on validation images."""
        self._guided = False
        try:
            return super().training_loss(batch, rng=rng)
        finally:
            self._guided = True

    def _predict(self, x_t: Tensor, t: Tensor, features: Tensor) -> Tensor:
        velocity = super()._predict(x_t, t, features)
        if not self._guided or not self.config.guidance:
            return velocity
        alone = super()._predict(x_t, t, torch.zeros_like(features))
        return velocity + self.config.guidance * (velocity - alone)
