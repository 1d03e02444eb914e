"""MoDiff (Ahn et al., MICCAI 2025): diffusion over probability label maps with rater presence, LDF and MCA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.config.methods import MoDiffConfig
from modiff.diffusion.categorical import CategoricalProcess
from modiff.diffusion.gaussian import GaussianProcess
from modiff.diffusion.process import Predict
from modiff.diffusion.schedule import Schedule
from modiff.errors import ConfigError
from modiff.methods.denoising import DenoisingSegmenter, Encoding, Labels, Windows
from modiff.methods.modiff.ldf import edge_target
from modiff.methods.modiff.mca import MCA, ImageFeatures, attention_spread_loss
from modiff.methods.presence import PresenceHead, join_slices
from modiff.nn import losses, windows
from modiff.nn.unet import UNet
from modiff.types import DataSpec

_RIM = 0.1  # mean label at the window's border from which on an image is denoised whole


class MoDiff(DenoisingSegmenter):
    """Gaussian (or categorical) diffusion of p_r, the mean mask of a subset r of the raters who marked something."""

    draws_panels = True
    config: MoDiffConfig
    unet: UNet

    def __init__(self, config: MoDiffConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        self.process, self.default_steps = _process(config, self.classes), config.diffusion.sampling_steps
        self.process.times(self.default_steps)  # refuses an impossible number
        self.single_fraction = config.presence.single_share
        self.head = None
        if config.presence.mode == "hurdle":
            weights = {"ce_weight": config.diffusion.ce_weight, "dice_weight": config.diffusion.dice_weight}
            self.head = PresenceHead(data, config.presence, **weights)
        mca_used = config.mca.enabled or config.ldf.enabled
        self.mca = MCA(self.channels, self.classes, config.mca, config.ldf) if mca_used else None
        extra = config.mca.condition_channels if mca_used else 0
        self.unet = UNet(self.classes + extra, self.channels + 3 * self.prompt, self.classes, config.unet)
        width = 4 * config.unet.base
        parts = self.unet, self.head, self.mca
        self.stride = math.lcm(*(part.stride for part in parts if part is not None))
        for name, term in (("ldf", config.ldf), ("mca", config.mca)):  # Eq. 8
            self.term_weights |= {name: term.weight} if term.enabled else {}
        # Exchangeable raters: how many; identifiable: which. Zero is the null token.
        self.subset: nn.Module = (
            nn.Embedding(self.raters + 1, width) if self.exchangeable else nn.Linear(self.raters, width, False)
        )

    # Training

    def _denoising_terms(self, labels: Labels, rng: torch.Generator) -> dict[str, Tensor]:
        config, count, centre = self.config, len(labels.image), labels.centre if self.prompt else None
        size = windows.window_size(config.crop, windows.sides(labels.image), self.stride)
        anywhere = config.crop_anywhere
        if centre is None and size != windows.sides(labels.image):
            centre, anywhere = windows.marked_pixel(labels.label, rng), (1 + anywhere) / 2
        corner = windows.random_corner(
            labels.image, centre, size, jitter=config.crop_jitter, anywhere=anywhere, rng=rng
        )
        label, image = windows.cut(labels.label, corner, size), windows.cut(labels.image, corner, size)
        chain, t = config.diffusion.steps, _stratified_times(labels.known > 0, rng)
        t = torch.ceil(t * chain) / chain if config.diffusion.time == "discrete" else t.clamp_min(1e-4)
        hidden = torch.rand(count, generator=rng, device=rng.device) < config.presence.null_share
        context = self._subset_context(labels.chosen & ~hidden.to(image.device)[:, None])
        x0 = self.process.from_labels(label)
        noise = self.process.noise(x0, rng)
        x_t = self.process.diffuse(x0, t, noise)
        features = self.encode_window(image, labels.centre - corner)
        prediction, parts = self._predict(self.process.to_network(x_t), t, context, features)
        if config.diffusion.loss == "ce":
            dice = losses.soft_dice_loss(losses.probabilities(prediction), label)
            entropy = losses.cross_entropy(prediction, label)
            error = config.diffusion.ce_weight * entropy + config.diffusion.dice_weight * dice
        else:
            error = self.process.loss(prediction, x0, x_t, t, noise)
        terms = {"simple": (error * labels.weights).mean()}
        if "edges" in parts:
            target = edge_target(image, windows.cut(labels.mean, corner, size), config.ldf.target)
            target = F.interpolate(target, size=parts["edges"].shape[-2:], mode="area")
            terms["ldf"] = (parts["edges"].float() - target).square().mean((1, 2, 3))
            terms["ldf"] = (terms["ldf"] * labels.known).mean()
        if "query" in parts:
            spread = attention_spread_loss(parts["query"].float(), parts["key"].float())
            terms["mca"] = (spread * labels.known).mean()
        return terms

    # The network

    def _subset_context(self, chosen: Tensor) -> Tensor:
        """(B,4·base) embedding of a subset (B,R) bool; the null token where it is empty."""
        return self.subset(chosen.sum(1)) if self.exchangeable else self.subset(chosen.float())

    def encode_window(self, image: Tensor, centre: Tensor) -> tuple[Tensor, ...]:
        """Image windows (B,C,h,w) -> the features that the U-Net and MCA take of them."""
        of_mca = () if self.mca is None else self.mca.encode(image * 2 - 1)
        return (*super().encode_window(image, centre), *(part for part in of_mca if part is not None))

    def _predict(
        self, maps: Tensor, t: Tensor, context: Tensor, features: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The U-Net's output for noisy maps (B,K,h,w), and the parts of MCA that the losses look at."""
        parts: dict[str, Tensor] = {}
        inputs, (image, *of_mca) = maps, features
        if self.mca is not None:
            condition, parts = self.mca(ImageFeatures(*of_mca), maps)
            inputs = torch.cat([maps, condition.to(maps.dtype)], 1)
        return self.unet(inputs, image, t, context), parts

    # Sampling

    def reach(self, height: int, width: int) -> tuple[int, int]:
        """Sides of the part about an image's centre that every sample may mark: samples of an image whose lesion stays
        within `window` are background outside it."""
        size = self.window_size((height + -height % self.stride, width + -width % self.stride))
        return min(size[0], height), min(size[1], width)

    def window_size(self, padded: windows.Size) -> windows.Size:
        """The window's, where there is a prompt and a presence head."""
        side = self.config.window if self.prompt and self.head is not None else 0
        return windows.window_size(side, padded, self.stride)

    def _windows(self, image: Tensor, centre: Tensor, label_map: Tensor | None) -> list[Windows]:
        """A window about the centre, or the whole image where the label map reaches the window's border."""
        whole = windows.sides(image)
        small = self.window_size(whole)
        wide = torch.zeros(len(image), dtype=torch.bool, device=image.device)
        if label_map is not None:
            outside = windows.outside(windows.sides(label_map), small, centre[:1], whole)
            wide = reaches(label_map, outside)
        groups = []
        for rows, size in ((~wide, small), (wide, whole)):
            index = rows.nonzero().squeeze(1)
            if index.numel():
                corner = windows.window_corner(centre[index], size, whole)
                features = self.encode_window(windows.cut(image[index], corner, size), centre[index] - corner)
                groups.append(Windows(index, corner, size, features))
        return groups

    def join_slices(self, encodings: Sequence[Encoding]) -> list[Encoding]:
        """Encodings of one lesion's slices, in order: its presence is judged such that no sample has a hole in it."""
        known = [encoding.presence for encoding in encodings if encoding.presence is not None]
        if len(known) != len(encodings):
            return list(encodings)
        joined = join_slices(torch.cat(known), exchangeable=self.exchangeable).split([len(one) for one in known])
        return [replace(encoding, presence=one) for encoding, one in zip(encodings, joined, strict=True)]

    def predictor(self, features: tuple[Tensor, ...], markers: Tensor) -> Predict:
        """The U-Net, told which raters; of a network that is trained by cross-entropy its probabilities as x_0."""
        context = self._subset_context(markers)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            maps = self.process.to_network(x_t)
            prediction, _ = self._predict(maps, t.expand(maps.shape[0]), context, features)
            if self.config.diffusion.loss == "ce":
                return self.process.from_network(losses.probabilities(prediction) * 2 - 1)
            return prediction

        return predict


def reaches(label_map: Tensor, outside: Tensor) -> Tensor:
    """(B,) bool: where the mean label map (B,K,h,w) marks something `outside` (h,w) the window."""
    return (label_map * outside > _RIM).flatten(1).any(1)


def _stratified_times(known: Tensor, rng: torch.Generator) -> Tensor:
    """(M,) in (0,1], one in each of so many equal parts as labels are `known` (M,), so that a batch sees all levels."""
    order = torch.randperm(len(known), generator=rng, device=rng.device).to(known.device)
    place = (known & (order < order[:, None])).sum(1)  # among the known ones
    start = place + 1 - torch.rand(len(known), generator=rng, device=rng.device).to(known.device)
    return (start / known.sum().clamp_min(1)).clamp_max(1.0)


def _process(config: MoDiffConfig, classes: int) -> GaussianProcess | CategoricalProcess:
    """The diffusion that is configured; ConfigError for settings that contradict each other."""
    diffusion = config.diffusion
    if diffusion.loss == "ce" and diffusion.prediction != "x0":
        found = diffusion.prediction
        raise ConfigError("cross-entropy needs x0-prediction", field="model.diffusion.prediction", found=found)
    if diffusion.kind == "categorical" and diffusion.loss != "ce":
        what = "categorical diffusion is trained by cross-entropy"
        raise ConfigError(what, field="model.diffusion.loss", expected="ce")
    ends_in_noise = diffusion.kind == "gaussian" and diffusion.prediction != "eps"
    schedule = Schedule(diffusion.schedule, diffusion.steps, diffusion.input_scale, zero_terminal_snr=ends_in_noise)
    if diffusion.kind == "categorical":
        if diffusion.sampler == "dpm++":
            what = "categorical diffusion has no such sampler"
            expected = "ancestral or ddim"
            raise ConfigError(what, field="model.diffusion.sampler", found=diffusion.sampler, expected=expected)
        return CategoricalProcess(schedule, classes, diffusion.spacing, diffusion.sampler)
    return GaussianProcess(schedule, classes, diffusion.spacing, diffusion.prediction, diffusion.sampler)
