"""The baselines that denoise a rater's mask at full resolution: CCDM (categorical) and CIMD (Gaussian)."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from modiff.config.methods import CCDMConfig, CIMDConfig
from modiff.diffusion.categorical import CategoricalProcess
from modiff.diffusion.gaussian import LearnedVarianceProcess
from modiff.diffusion.process import Process
from modiff.diffusion.schedule import Schedule
from modiff.methods.denoising import DenoisingSegmenter, Labels, Windows
from modiff.methods.presence import PresenceHead
from modiff.nn import latent
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
