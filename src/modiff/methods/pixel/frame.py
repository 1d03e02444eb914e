"""The frame of the baselines that denoise a rater's mask at full resolution: CCDM, CIMD and MedFM."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from modiff.config.methods import CCDMConfig, CIMDConfig, MedFMConfig
from modiff.diffusion.process import Predict, Process
from modiff.methods.denoising import DenoisingSegmenter, Labels
from modiff.methods.presence import PresenceHead
from modiff.nn.unet import GuidedUNet
from modiff.types import DataSpec


class PixelDiffusion(DenoisingSegmenter):
    """What CCDM, CIMD and MedFM share: one rater's mask diffuses at full resolution under a U-Net that sees the image.

    It is trained on one rater drawn at random per image; each sample is one rater's hypothesis. With presence.mode
    hurdle, whether a rater marks anything is decided before any denoising: a control that says what MoDiff's idea is
    worth without the rest of MoDiff.
    """

    config: CCDMConfig | CIMDConfig | MedFMConfig

    def __init__(
        self,
        config: CCDMConfig | CIMDConfig | MedFMConfig,
        data: DataSpec,
        process: Process,
        *,
        inputs: int,
        outputs: int,
        scale: int,
    ) -> None:
        """inputs, outputs: channels of the network. scale: of times in its embedding, a chain's length."""
        super().__init__(config, data)
        self.process, self.default_steps = process, config.sampling_steps
        process.times(config.sampling_steps)  # refuses an impossible number
        self.unet = GuidedUNet(inputs, self.channels + 3 * self.prompt, outputs, config.unet, steps=scale)
        self.scale = scale
        self.hurdle: nn.ModuleDict | None = None
        if config.presence.mode == "hurdle":
            self.hurdle = nn.ModuleDict({"head": PresenceHead(data, config.presence, ce_weight=config.map_ce_weight)})
        self.stride = math.lcm(self.unet.stride, 1 if self.presence_head is None else self.presence_head.stride)

    def _predict(self, x_t: Tensor, t: Tensor, features: Tensor) -> Tensor:
        """The network's prediction from x_t of M samples, as the process takes it; t: (M,) in [0,1]."""
        return self.unet(x_t, features, t)

    def _losses(self, labels: Labels, prediction: Tensor, x0: Tensor, x_t: Tensor, **at: Tensor) -> dict[str, Tensor]:
        """(M,) terms of the paper's loss, by default the process's own; at: the step `t` and its `noise`."""
        return {"simple": self.process.loss(prediction, x0, x_t, **at)}

    def _draw_times(self, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """(M,) as the process takes them, a chain's steps, 1 to T alike; and in [0,1]."""
        step = torch.randint(1, self.scale + 1, (count,), generator=rng, device=rng.device)
        return step, step / self.scale

    def _training_features(self, image: Tensor, centre: Tensor, rng: Generator) -> Tensor:
        """What the network sees of the images in training."""
        return self._image_features(image, centre)

    def _denoising_terms(self, labels: Labels, rng: Generator) -> dict[str, Tensor]:
        """The paper's terms, each label at a time of its own."""
        x0 = self.process.from_labels(labels.label)
        at, t = self._draw_times(len(x0), rng)
        noise = self.process.noise(x0, rng)
        x_t = self.process.diffuse(x0, at, noise)
        features = self._training_features(labels.image, labels.centre, rng)
        prediction = self._predict(x_t, t.to(x0.device), features)
        found = self._losses(labels, prediction, x0, x_t, t=at, noise=noise)
        return {name: (value * labels.weights).mean() for name, value in found.items()}

    def predictor(self, features: tuple[Tensor, ...], markers: Tensor) -> Predict:
        """It is not said whose reading a sample is: `markers` change nothing."""

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self._predict(x_t, t.expand(x_t.shape[0]), features[0])

        return predict
