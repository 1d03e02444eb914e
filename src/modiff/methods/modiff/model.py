"""MoDiff (Ahn et al., MICCAI 2025): diffusion over probability label maps with rater presence, LDF and MCA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.config import MoDiffConfig
from modiff.diffusion import categorical, gaussian, samplers
from modiff.diffusion.schedule import Schedule, time_steps
from modiff.errors import ConfigError
from modiff.methods.base import Segmenter
from modiff.methods.modiff.ldf import edge_target
from modiff.methods.modiff.mca import LABEL_PATCH, MCA, ImageShare, attention_spread_loss
from modiff.methods.presence import head as presence
from modiff.methods.presence.draw import draw_markers
from modiff.methods.presence.slices import join_laws
from modiff.nn import losses, windows
from modiff.nn.layers import image_centre, position_channels
from modiff.nn.unet import UNet
from modiff.rng import fold, normal, sample_seeds, uniform
from modiff.types import Batch, DataSpec, RaterChoice, Samples

# Streams of a sample's seed; panel.py has the others.
_START, _STEP = 3, 4
_RIM = 0.1  # mean label at the window's border from which on an image is denoised whole
_PIXELS_AT_ONCE = 1 << 20  # of noisy maps denoised together: bounds memory whatever n is


@dataclass
class _Group:
    """Images whose denoised windows have one size. rows: (G,) among the batch; corner: (G,2); condition: per image."""

    rows: Tensor
    corner: Tensor
    size: tuple[int, int]
    image_share: Tensor
    mca: ImageShare | None


@dataclass
class Encoding:
    """What depends on the images only. law: (B,R+1) of how many raters mark, (B,R) each rater's, or None."""

    shape: tuple[int, int, int]  # B, H, W of the images as given
    padded: tuple[int, int]  # H, W that the networks see
    law: Tensor | None
    groups: list[_Group]


class MoDiff(Segmenter):
    """Gaussian (or categorical) diffusion of p_r, the mean mask of a subset r of the raters who marked something."""

    stepwise = True
    draws_panels = True
    draws_stratified = True
    places_noise = True

    def __init__(self, config: MoDiffConfig, data: DataSpec) -> None:
        super().__init__(data)
        _check(config)
        self.config, self.exchangeable = config, data.exchangeable_raters
        self.prompt = data.prompted and config.prompt
        self.head = None
        if config.presence.mode == "hurdle":
            self.head = presence.PresenceHead(
                data,
                config.presence,
                ce_weight=config.diffusion.ce_weight,
                dice_weight=config.diffusion.dice_weight,
            )
        mca_used = config.mca.enabled or config.ldf.enabled
        self.mca = MCA(self.channels, self.classes, config.mca, config.ldf) if mca_used else None
        extra = config.mca.condition_channels if mca_used else 0
        self.unet = UNet(self.classes + extra, self.channels + (3 if self.prompt else 0), self.classes, config.unet)
        width = 4 * config.unet.base
        # Exchangeable raters: how many; identifiable: which. Zero is the null token.
        self.subset: nn.Module = (
            nn.Embedding(self.raters + 1, width) if self.exchangeable else nn.Linear(self.raters, width, False)
        )
        settings = config.diffusion
        self.schedule = Schedule(
            settings.schedule,
            steps=settings.steps,
            input_scale=settings.input_scale,
            zero_terminal_snr=settings.kind == "gaussian" and settings.prediction != "eps",
        )

    @property
    def default_steps(self) -> int:
        """The sampler's, as configured."""
        return self.config.diffusion.sampling_steps

    @property
    def stride(self) -> int:
        """Images are padded to multiples of this."""
        strides = [self.unet.stride, LABEL_PATCH * 2 if self.mca is not None else 1]
        return math.lcm(*strides, *([self.head.stride] if self.head is not None else []))

    # Training

    def training_loss(self, batch: Batch, *, rng: torch.Generator) -> dict[str, Tensor]:
        """Eq. 8, plus the presence head's two terms; Eq. 8's L_simple, L_LDF and L_MCA are logged apart."""
        terms: dict[str, Tensor] = {}
        image = windows.pad_to_multiple(batch.image, self.stride, edge=True)
        masks = windows.pad_to_multiple(batch.masks.flatten(1, 2).float(), self.stride, edge=False)
        masks = masks.unflatten(1, batch.masks.shape[1:3]) * batch.read[:, :, None, None, None]
        centre = batch.centre if batch.centre is not None else image_centre(batch.image)
        if self.head is not None:
            terms |= self.head.losses(image, masks, batch, centre, rng=rng)
        terms |= self._denoising_terms(image, masks, batch, centre, rng)
        weights = {
            "simple": 1.0,
            "ldf": self.config.ldf.weight,
            "mca": self.config.mca.weight,
            "presence": self.config.presence.weight,
            "map": self.config.presence.map_weight,
        }
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}

    def _denoising_terms(
        self, image: Tensor, masks: Tensor, batch: Batch, centre: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        chosen, rows, weights = self._draw_label_subsets(batch, rng)
        if rows.numel() == 0:  # nobody marked anything in the whole batch: a zero with a graph
            zero = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0.0
            return dict.fromkeys(self._denoising_names, zero)
        image, masks, centre, chosen = image[rows], masks[rows], centre[rows], chosen[rows]
        height, width = image.shape[-2:]
        size = windows.window_size(self.config.crop, height, width, self.stride)
        corner = windows.random_corner(
            centre if self.prompt else None,
            size,
            (len(rows), height, width),
            jitter=self.config.crop_jitter,
            anywhere=self.config.crop_anywhere,
            rng=rng,
        ).to(image.device)
        mean_mask = (masks * chosen[:, :, None, None, None]).sum(1) / chosen.sum(1)[:, None, None, None]
        label, image = windows.cut(mean_mask, corner, size), windows.cut(image, corner, size)
        t = self._draw_times(len(rows), rng).to(image.device)
        hidden = torch.rand(len(rows), generator=rng, device=rng.device) < self.config.presence.null_share
        context = self._subset_context(chosen, hidden.to(image.device))
        x_t, noise = self._diffuse(label, t, rng)
        image_share, mca_share = self._encode_window(image, centre - corner)
        prediction, features = self._predict(x_t, t, context, image_share, mca_share)
        terms = {"simple": losses.weighted_mean(self._error(prediction, label, noise, x_t, t), weights)}
        if "edges" in features:
            everybody = windows.cut(self._mean_label(masks, batch.read[rows]), corner, size)
            target = edge_target(image, everybody, self.config.ldf.target)
            target = F.interpolate(target, size=features["edges"].shape[-2:], mode="area")
            terms["ldf"] = losses.squared_error(features["edges"].float(), target).mean()
        if "query" in features:
            terms["mca"] = attention_spread_loss(features["query"].float(), features["key"].float())
        return terms

    @property
    def _denoising_names(self) -> tuple[str, ...]:
        ldf = ("ldf",) if self.config.ldf.enabled else ()
        return ("simple", *ldf, *(("mca",) if self.config.mca.enabled else ()))

    @staticmethod
    def _mean_label(masks: Tensor, read: Tensor) -> Tensor:
        return masks.sum(1) / read.sum(1).clamp_min(1)[:, None, None, None]

    def _draw_label_subsets(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """The subset r of each image (B,R), the rows that have one, and their weights (rows,) of mean one."""
        config = self.config.presence
        candidates = batch.marked if config.mode == "hurdle" else batch.read
        chosen = presence.draw_subsets(candidates, single_share=config.single_share, rng=rng)
        rows = chosen.any(1).nonzero().squeeze(1)
        if not (config.weight_by_markers and config.mode == "hurdle") or rows.numel() == 0:
            return chosen, rows, None
        # A reader who marks something is met k times as often on an image that k readers mark.
        share = batch.marked[rows].sum(1) / batch.read[rows].sum(1)
        weights = torch.where(chosen[rows].sum(1) == 1, share, torch.ones_like(share))
        return chosen, rows, weights / weights.mean()

    def _draw_times(self, count: int, rng: torch.Generator) -> Tensor:
        """(B,) in (0,1], one in each of B equal parts so that a batch sees all noise levels."""
        order = torch.randperm(count, generator=rng, device=rng.device)
        t = (order + 1 - torch.rand(count, generator=rng, device=rng.device)) / count
        if self.config.diffusion.time == "discrete":
            return torch.ceil(t * self.config.diffusion.steps) / self.config.diffusion.steps
        return t.clamp_min(1e-4)

    def _subset_context(self, chosen: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B,4·base) embedding of a subset (B,R) bool; the null token where hidden."""
        if hidden is not None:
            chosen = chosen & ~hidden[:, None]
        return self.subset(chosen.sum(1)) if self.exchangeable else self.subset(chosen.float())

    def _diffuse(self, label: Tensor, t: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """x_t, K channels, and the noise that made it."""
        if self.config.diffusion.kind == "categorical":
            soft = torch.cat([(1 - label.sum(1, keepdim=True)).clamp_min(0), label], 1)
            probs = categorical.q_probs(soft, self.schedule.alpha_bar(t))
            shape = (label.shape[0], *label.shape[2:])
            field = torch.rand(shape, generator=rng, device=rng.device).to(label.device)
            x_t = categorical.sample_categorical(probs, field)
            return x_t[:, 1:] * 2 - 1, x_t
        noise = torch.randn(label.shape, generator=rng, device=rng.device).to(label.device)
        return gaussian.diffuse(label * 2 - 1, noise, self.schedule.alpha(t), self.schedule.sigma(t)), noise

    def _error(self, prediction: Tensor, label: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """(B,) the denoising loss: squared error of the predicted quantity, or cross-entropy and soft Dice."""
        settings = self.config.diffusion
        if settings.loss == "ce":
            entropy = losses.cross_entropy(prediction, label)
            dice = losses.soft_dice_loss(losses.probabilities(prediction), label)
            return settings.ce_weight * entropy + settings.dice_weight * dice
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        target = gaussian.target(label * 2 - 1, noise, alpha, sigma, settings.prediction)
        return losses.squared_error(prediction, target)

    # The network

    def _encode_window(self, image: Tensor, centre: Tensor) -> tuple[Tensor, ImageShare | None]:
        """Image windows (B,C,h,w) -> their share of the U-Net's first convolution and of MCA."""
        inputs = image * 2 - 1
        if self.prompt:
            inputs = torch.cat([inputs, position_channels(image.shape[-2], image.shape[-1], centre)], 1)
        return self.unet.encode(inputs), self.mca.encode(image * 2 - 1) if self.mca is not None else None

    def _predict(
        self, x_t: Tensor, t: Tensor, context: Tensor, image_share: Tensor, mca: ImageShare | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features: dict[str, Tensor] = {}
        inputs = x_t
        if self.mca is not None and mca is not None:
            condition, features = self.mca(mca, x_t)
            inputs = torch.cat([x_t, condition.to(x_t.dtype)], 1)
        return self.unet(inputs, image_share, t, context), features

    def _clean(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x̂_0 in [−1,1] from the network's output."""
        settings = self.config.diffusion
        if settings.loss == "ce":
            return losses.probabilities(prediction) * 2 - 1
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return gaussian.to_x0(prediction, x_t, alpha, sigma, settings.prediction, clip=1.0)

    # Sampling

    def reach(self, height: int, width: int) -> tuple[int, int]:
        """Sides of the part about an image's centre that every sample may mark: samples of an image whose lesion stays
        within `window` are background outside it."""
        padded = height + -height % self.stride, width + -width % self.stride
        size = self._window_size(*padded)
        return min(size[0], height), min(size[1], width)

    def _window_size(self, height: int, width: int) -> tuple[int, int]:
        """Sides of the smallest part of a padded image that is denoised."""
        side = self.config.window if self.prompt and self.head is not None else 0
        return windows.window_size(side, height, width, self.stride)

    def encode(self, image: Tensor) -> Encoding:
        """(B,C,H,W) images -> presence law, windows and image shares, once an image for all samples and steps."""
        centre = image_centre(image)
        padded = windows.pad_to_multiple(image, self.stride, edge=True)
        height, width = padded.shape[-2:]
        small = self._window_size(height, width)
        law, wide = None, torch.zeros(image.shape[0], dtype=torch.bool, device=image.device)
        if self.head is not None:
            law, label_map = self.head.law(padded, centre)
            seen = (label_map.shape[-2], label_map.shape[-1])
            outside = windows.outside(seen, small, centre[:1], height, width)
            wide = (label_map * outside > _RIM).flatten(1).any(1)
        groups = []
        for rows, size in ((~wide, small), (wide, (height, width))):
            index = rows.nonzero().squeeze(1)
            if index.numel():
                corner = windows.window_corner(centre[index], size, height, width)
                shares = self._encode_window(windows.cut(padded[index], corner, size), centre[index] - corner)
                groups.append(_Group(index, corner, size, *shares))
        return Encoding((image.shape[0], *image.shape[-2:]), (height, width), law, groups)

    def join_slices(self, encodings: Sequence[Encoding]) -> list[Encoding]:
        """Encodings of one lesion's slices, in order: its presence is judged such that no sample has a hole in it."""
        laws = [encoding.law for encoding in encodings]
        known = [law for law in laws if law is not None]
        if len(known) != len(laws):
            return list(encodings)
        joined = join_laws(torch.cat(known), exchangeable=self.exchangeable).split([len(law) for law in known])
        return [replace(encoding, law=law) for encoding, law in zip(encodings, joined, strict=True)]

    def surely_present(self, encoding: Encoding) -> Encoding:
        """With the law of raters who are sure to mark something."""
        return (
            encoding
            if encoding.law is None
            else replace(encoding, law=presence.certain(encoding.law, exchangeable=self.exchangeable))
        )

    @torch.no_grad()
    def sample(
        self,
        image_or_encoding: Tensor | Encoding,
        n: int,
        *,
        seeds: Tensor,
        steps: int | None = None,
        raters: RaterChoice = "single",
        stratified: bool = False,
        origin: Tensor | None = None,
    ) -> Samples:
        """n hypotheses an image; only those that mark something are denoised (reference: paper abstract, §1).

        raters: "single" is one reader's reading; "all" the panel's consensus probability; a list, that panel's.
        stratified: presence from a low-discrepancy sequence in place of independent draws; say so beside its scores.
        origin: (B,2) int64, where each image's pixel (0,0) lies in a larger field: noise is then a function of (seed,
        sample, row and column in that field), so that images cut from it with one seed share it where they overlap.
        """
        encoding = image_or_encoding
        if isinstance(encoding, Tensor):
            encoding = self.encode(encoding)
        batch, height, width = encoding.shape
        each = sample_seeds(seeds, n)
        markers, panel, who = draw_markers(
            encoding.law, each, raters, count=self.raters, exchangeable=self.exchangeable, stratified=stratified
        )
        maps = torch.zeros(batch, n, self.classes, *encoding.padded, device=each.device)
        steps = self.config.diffusion.sampling_steps if steps is None else steps
        for group in encoding.groups:
            member, index = markers[group.rows].any(-1).nonzero(as_tuple=True)
            chunk = max(1, _PIXELS_AT_ONCE // math.prod(group.size))
            for part in range(0, len(member), chunk):
                here, i = member[part : part + chunk], index[part : part + chunk]
                row = group.rows[here]
                subset = markers[row, i]
                place = None if origin is None else origin.to(each.device)[row] + group.corner[here]
                made = self._denoise_group(group, here, subset, each[row, i], steps, encoding.padded, place)
                scale = subset.sum(-1) / panel[row, i]
                windows.paste(maps, row, i, made * scale[:, None, None, None], group.corner[here])
        result = Samples.uniform(maps[..., :height, :width], raters=who)
        if encoding.law is not None:
            result.presence = presence.marking_probability(encoding.law, exchangeable=self.exchangeable).mean(1)
        return result

    def _denoise_group(
        self,
        group: _Group,
        member: Tensor,
        subset: Tensor,
        seeds: Tensor,
        steps: int,
        padded: tuple[int, int],
        place: Tensor | None,
    ) -> Tensor:
        """(M,K,h,w) probability maps of the images `member` of a group, one row a sample, under subsets (M,R).

        place: (M,2) of the windows' corners in the field of noise; None for a field an image.
        """
        corner, share = group.corner[member], group.image_share[member]
        mca = None if group.mca is None else group.mca.rows(member)
        context = self._subset_context(subset)
        settings = self.config.diffusion

        def field(draw: windows.Draw, stream: Tensor, channels: int) -> Tensor:
            if place is not None:
                return windows.field(draw, stream, channels, place, group.size)
            return windows.cut(draw(stream, (channels, *padded)), corner, group.size)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            prediction, _ = self._predict(x_t, t.expand(len(member)), context, share, mca)
            return self._clean(prediction, x_t, t)

        times = time_steps(steps, steps_total=settings.steps, spacing=settings.spacing)
        # Noise is drawn over the whole image and cut: a sample does not depend on the window.
        if settings.kind == "categorical":
            return self._denoise_categorical(denoise, field, seeds, times)
        x_T = field(normal, fold(seeds, _START), self.classes)
        clean = samplers.sample(
            denoise,
            x_T,
            times,
            self.schedule,
            sampler=settings.sampler,
            noise=lambda step: field(normal, fold(seeds, _STEP, step), self.classes),
        )
        return ((clean + 1) / 2).clamp(0, 1)

    def _denoise_categorical(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor],
        field: Callable[[windows.Draw, Tensor, int], Tensor],
        seeds: Tensor,
        times: Tensor,
    ) -> Tensor:
        def belief(x_t: Tensor, t: Tensor) -> Tensor:
            p = (denoise(x_t[:, 1:] * 2 - 1, t) + 1) / 2
            return torch.cat([(1 - p.sum(1, keepdim=True)).clamp_min(0), p], 1)

        def uniforms(stream: Tensor) -> Tensor:
            return field(uniform, stream, 1)[:, 0]

        x_T = categorical.uniform_noise(uniforms(fold(seeds, _START)), self.classes + 1)
        made = categorical.sample(
            belief, x_T, times, self.schedule, uniform=lambda step: uniforms(fold(seeds, _STEP, step))
        )
        return made[:, 1:]


def _check(config: MoDiffConfig) -> None:
    """ConfigError for settings that contradict each other."""
    diffusion = config.diffusion
    if diffusion.loss == "ce" and diffusion.prediction != "x0":
        raise ConfigError(
            "cross-entropy needs x0-prediction", field="model.diffusion.prediction", found=diffusion.prediction
        )
    if diffusion.kind == "categorical" and diffusion.loss != "ce":
        raise ConfigError(
            "categorical diffusion is trained by cross-entropy", field="model.diffusion.loss", expected="ce"
        )
