"""The frame of the baselines that denoise a rater's mask at full resolution: CCDM and CIMD."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from modiff.config.methods import CCDMConfig, CIMDConfig
from modiff.diffusion.process import Process
from modiff.methods.denoising import DenoisingSegmenter, Labels, Windows
from modiff.methods.presence import PresenceHead
from modiff.nn.unet import GuidedUNet
from modiff.nn.windows import NoiseField
from modiff.types import DataSpec


class PixelDiffusion(DenoisingSegmenter):
    """What CCDM and CIMD share: one rater's mask diffuses at full resolution under a U-Net that sees the image.

    It is trained on one rater drawn at random per image; each sample is one rater's hypothesis. With presence.mode
    hurdle, whether a rater marks anything is decided before any denoising: a control that says what MoDiff's idea is
    worth without the rest of MoDiff.
    """

    config: CCDMConfig | CIMDConfig

    def __init__(
        self, config: CCDMConfig | CIMDConfig, data: DataSpec, process: Process, *, inputs: int, outputs: int
    ) -> None:
        super().__init__(config, data)
        self.process, self.default_steps = process, config.sampling_steps
        process.times(config.sampling_steps)  # refuses an impossible number
        self.unet = GuidedUNet(inputs, self.channels + 3 * self.prompt, outputs, config.unet, steps=config.steps)
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

    def _denoising_terms(self, labels: Labels, rng: Generator) -> dict[str, Tensor]:
        """The paper's terms at steps of the chain, 1 to T alike, which are kept on the CPU and read in float64."""
        x0, count = self.process.from_labels(labels.label), len(labels.label)
        step = torch.randint(1, self.config.steps + 1, (count,), generator=rng, device=rng.device).cpu()
        noise = self.process.noise(x0, rng)
        x_t = self.process.diffuse(x0, step, noise)
        features = self._image_features(labels.image, labels.centre)
        prediction = self._predict(x_t, (step / self.config.steps).to(x0.device), features)
        found = self._losses(labels, prediction, x0, x_t, t=step, noise=noise)
        return {name: (value * labels.weights).mean() for name, value in found.items()}

    def _denoise(self, window: Windows, markers: Tensor, field: NoiseField, steps: int) -> Tensor:
        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self._predict(x_t, t.expand(len(x_t)), window.features[0])

        return self.process.sample(predict, field, steps)
