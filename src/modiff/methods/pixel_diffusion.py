"""CCDM and CIMD: one rater's mask diffuses at full resolution under a U-Net that sees the image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modiff.config.baselines import CCDMConfig, CIMDConfig
from modiff.diffusion.categorical import CategoricalProcess
from modiff.diffusion.gaussian import LearnedVarianceProcess
from modiff.diffusion.process import Process
from modiff.diffusion.schedule import Schedule
from modiff.methods.denoising import DenoisingSegmenter, Labels, Windows
from modiff.methods.presence import PresenceHead, marking_probability, presence_uniforms
from modiff.nn import latent, losses
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
        super().__init__(config, data, process, inputs=classes + 1, outputs=classes + 1)

    def _predict(self, x_t: Tensor, t: Tensor, features: Tensor) -> Tensor:
        """(M,1+K,H,W) float32 belief about x_0, the background first."""
        return super()._predict(x_t, t, features).softmax(1)


class CIMD(PixelDiffusion):
    """CIMD (Rahman et al., "Ambiguous Medical Image Segmentation using Diffusion Models", CVPR 2023).

    Gaussian diffusion of a rater's mask as ±1; the network predicts the noise and the variance's place.

    Two networks stand beside it: the posterior (their ambiguity modelling network) sees the image and the rater's mask,
    the prior (ambiguity controlling network) the image and the predicted noise; the divergence between their two
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
        super().__init__(config, data, process, inputs=classes, outputs=2 * classes)
        self.prior = latent.GaussianNet(self.channels + self.classes, config.latent_widths, config.latent)
        self.posterior = latent.GaussianNet(self.channels + self.classes, config.latent_widths, config.latent)
        if config.behaviour == "released":
            self.prior.requires_grad_(False)
            self.posterior.requires_grad_(False)

    @property
    def term_weights(self) -> Mapping[str, float]:
        """L_simple, the variational bound, and the latents' divergence."""
        return {"simple": 1.0, "vlb": self.config.vlb_weight, "kl": self.config.kl_weight}

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
