"""What CCDM and CIMD share: one rater's mask diffuses at full resolution under a U-Net that sees the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modiff.config.baselines import CCDMConfig, CIMDConfig
from modiff.diffusion.process import Process
from modiff.methods.denoising import DenoisingSegmenter, Labels, Windows
from modiff.methods.presence import PresenceHead, marking_probability, presence_uniforms
from modiff.nn import losses
from modiff.nn.unet import GuidedUNet
from modiff.nn.windows import NoiseField
from modiff.types import DataSpec, RaterChoice


class PixelDiffusion(DenoisingSegmenter):
    """A diffusion trained on one rater drawn at random per image; each sample is one rater's hypothesis.

    With presence.mode hurdle, whether a rater marks anything is decided before any denoising: a control that says what
    MoDiff's idea is worth without the rest of MoDiff.
    """

    config: CCDMConfig | CIMDConfig
    unet: GuidedUNet

    def __init__(
        self, config: CCDMConfig | CIMDConfig, data: DataSpec, process: Process, *, inputs: int, outputs: int
    ) -> None:
        super().__init__(config, data)
        self.process = process
        process.times(config.sampling_steps)  # refuses an impossible number
        self.unet = GuidedUNet(inputs, self.channels + 3 * self.prompt, outputs, config.unet, steps=config.steps)
        self.hurdle: nn.ModuleDict | None = None
        if config.presence.mode == "hurdle":
            self.hurdle = nn.ModuleDict({"head": PresenceHead(data, config.presence, ce_weight=config.map_ce_weight)})

    @property
    def default_steps(self) -> int:
        """Network evaluations per sample where `steps` is not given."""
        return self.config.sampling_steps

    @property
    def presence_head(self) -> PresenceHead | None:
        """With the hurdle, its head."""
        head = None if self.hurdle is None else self.hurdle["head"]
        return head if isinstance(head, PresenceHead) else None

    def _predict(self, x_t: Tensor, t: Tensor, features: Tensor) -> Tensor:
        """The network's prediction from x_t of M samples, as the process takes it; t: (M,) in [0,1]."""
        return self.unet(x_t, features, t)

    def _losses(self, labels: Labels, prediction: Tensor, x0: Tensor, x_t: Tensor, **at: Tensor) -> dict[str, Tensor]:
        """(M,) terms of the paper's loss, by default the process's own; at: the step `t` and its `noise`."""
        return {"simple": self.process.loss(prediction, x0, x_t, **at)}

    def _denoising_terms(self, labels: Labels, rng: torch.Generator) -> dict[str, Tensor]:
        """The paper's terms at steps of the chain, 1 to T alike, which are kept on the CPU and read in float64."""
        x0, count = self.process.from_labels(labels.label), len(labels.label)
        step = torch.randint(1, self.config.steps + 1, (count,), generator=rng, device=rng.device).cpu()
        noise = self.process.noise(x0, rng)
        x_t = self.process.diffuse(x0, step, noise)
        features = self._image_features(labels.image, labels.centre)
        prediction = self._predict(x_t, (step / self.config.steps).to(x0.device), features)
        found = self._losses(labels, prediction, x0, x_t, t=step, noise=noise)
        return {name: losses.weighted_mean(value, labels.weights) for name, value in found.items()}

    def _denoise(self, window: Windows, markers: Tensor, field: NoiseField, steps: int) -> Tensor:
        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self._predict(x_t, t.expand(len(x_t)), window.features[0])

        return self.process.sample(predict, field, steps)

    def _draw_markers(
        self, presence: Tensor | None, seeds: Tensor, raters: RaterChoice, stratified: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A panel of one rater, of whom it is not said who."""
        present = torch.ones_like(seeds, dtype=torch.bool)
        if presence is not None:
            probability = marking_probability(presence, exchangeable=self.exchangeable).mean(1)
            present = presence_uniforms(seeds, stratified) >= 1 - probability[:, None]
        return present[..., None], torch.ones_like(seeds), None
