"""The frame of the methods that denoise label maps (MoDiff, CCDM, CIMD, MedFM): training, sampling by a `Process`."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from modiff.config.methods import CCDMConfig, CIMDConfig, MedFMConfig, MoDiffConfig
from modiff.config.run import check_model
from modiff.diffusion.process import Predict, Process
from modiff.methods.base import Segmenter, at_once
from modiff.methods.presence import PresenceHead, draw_markers, draw_subsets, hurdle_noise, marking_probability
from modiff.nn import windows
from modiff.nn.layers import image_centre, position_channels
from modiff.nn.unet import GuidedUNet, UNet
from modiff.types import Batch, DataSpec, RaterChoice, Samples

_LEAST = 1e-6  # under a mean that may be 0


@dataclass
class Windows:
    """Windows of one size, a row per image, or per sample once selected.

    rows: (M,) int64 their images in the batch. corner: (M,2) int64 their first pixels, None for whole images. features:
    what the denoiser needs of each image, tensors (M,…).
    """

    rows: Tensor
    corner: Tensor | None
    size: windows.Size
    features: tuple[Tensor, ...]

    def select(self, index: Tensor) -> Windows:
        """The windows `index`, in that order."""
        corner = None if self.corner is None else self.corner[index]
        return Windows(self.rows[index], corner, self.size, tuple(part[index] for part in self.features))


@dataclass
class Encoding:
    """What depends on the images only, computed once for all samples and steps.

    presence: the distribution (B,R+1) of how many raters mark something, or (B,R) each rater's probability where raters
    are identifiable; None where presence is left to the denoiser. groups: each image's window, in one of them.
    """

    size: windows.Size  # of the images as given
    padded: windows.Size  # that the networks see
    presence: Tensor | None
    groups: list[Windows]


@dataclass
class Labels:
    """The label maps that a step learns from, M of them.

    image: (M,C,H,W). label: (M,K,H,W) float, the mean mask of the raters `chosen` (M,R). centre: (M,2) of the prompt.
    mean: (M,K,H,W) of all who read. known, weights: (M,) of mean one, 0 where there is no label: of the terms about the
    image, and of those about the label.
    """

    image: Tensor
    label: Tensor
    centre: Tensor
    chosen: Tensor
    mean: Tensor
    known: Tensor
    weights: Tensor


class DenoisingSegmenter(Segmenter):
    """Diffusion of the mean mask of some raters, and with a presence head, of those only who marked something.

    term_weights: the terms of the denoising loss, and their weights. single_fraction: of the labels that are one
    rater's; others are a subset's mean.
    """

    stepwise = True
    places_noise = True
    config: MoDiffConfig | CCDMConfig | CIMDConfig | MedFMConfig
    process: Process
    unet: UNet | GuidedUNet
    single_fraction: float = 1.0

    def __init__(self, config: MoDiffConfig | CCDMConfig | CIMDConfig | MedFMConfig, data: DataSpec) -> None:
        super().__init__(data)
        check_model(config)
        self.config, self.exchangeable = config, data.exchangeable_raters
        self.prompt = data.prompted and config.prompt
        self.term_weights = {"simple": 1.0}

    @property
    def presence_head(self) -> PresenceHead | None:
        """Decides before any denoising who marks something; None: the denoiser draws empty masks itself."""
        return next((part for part in self.modules() if isinstance(part, PresenceHead)), None)

    @abstractmethod
    def _denoising_terms(self, labels: Labels, rng: Generator) -> dict[str, Tensor]:
        """The scalar terms of the method's own loss."""

    @abstractmethod
    def predictor(self, features: tuple[Tensor, ...], markers: Tensor) -> Predict:
        """The network as the process's sampler calls it, (x_t, t) -> a prediction, for M samples of the raters
        `markers` (M,R); features: of their windows, as `encode_window` gives them."""

    def _denoise(self, window: Windows, markers: Tensor, field: windows.NoiseField, steps: int) -> Tensor:
        """(M,K,h,w) probability maps of M samples, each in its window, of the raters `markers` (M,R).

        It looks at the window's size and features alone, and at no value: a CUDA graph may hold it.
        """
        return self.process.sample(self.predictor(window.features, markers), field, steps)

    # Training

    def training_loss(self, batch: Batch, *, rng: Generator) -> dict[str, Tensor]:
        """The method's terms and, with a presence head, its two: "presence" and "map"."""
        image = windows.pad_to_multiple(batch.image, self.stride, edge=True)
        masks = windows.pad_to_multiple(batch.masks.flatten(1, 2).float(), self.stride, edge=False)
        masks = masks.unflatten(1, batch.masks.shape[1:3]) * batch.read[:, :, None, None, None]
        mean = masks.sum(1) / batch.read.sum(1).clamp_min(1)[:, None, None, None]
        centre = batch.centre if batch.centre is not None else image_centre(batch.image)
        terms: dict[str, Tensor] = {}
        if self.presence_head is not None:
            terms |= self.presence_head.losses(image, mean, batch, centre, rng)
        labels = self._draw_labels(image, masks, mean, batch, centre, rng)
        terms |= self._denoising_terms(labels, rng)
        presence = self.config.presence
        weights = {"presence": presence.weight, "map": presence.map_weight, **self.term_weights}
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}

    def _draw_labels(
        self, image: Tensor, masks: Tensor, mean: Tensor, batch: Batch, centre: Tensor, rng: Generator
    ) -> Labels:
        """Of each image some raters' mean mask: of those who read it or, with a presence head, who marked something.

        Images without a label are left out or, with `fixed_shapes` or where none has one, have no weight.
        """
        hurdle, read = self.presence_head is not None, batch.read
        marked = batch.marked if hurdle else read
        chosen = draw_subsets(marked, single_fraction=self.single_fraction, rng=rng)
        known = chosen.any(1)
        if not self.fixed_shapes and known.any():
            rows = known.nonzero().squeeze(1)
            image, masks, mean, centre = image[rows], masks[rows], mean[rows], centre[rows]
            marked, read, chosen, known = marked[rows], read[rows], chosen[rows], known[rows]
        size = chosen.sum(1)
        label = (masks * chosen[:, :, None, None, None]).sum(1) / size.clamp_min(1)[:, None, None, None]
        weights = known.to(label.dtype)
        known = weights / weights.mean().clamp_min(_LEAST)
        if hurdle and self.config.presence.weight_by_markers:
            # A rater who marks something is met k times as often on an image that k raters mark.
            weights = torch.where(size == 1, marked.sum(1) / read.sum(1).clamp_min(1), weights)
        weights = weights / weights.mean().clamp_min(_LEAST)
        return Labels(image, label, centre, chosen, mean, known, weights)

    def _image_features(self, image: Tensor, centre: Tensor) -> Tensor:
        """Of (B,C,h,w) images whose prompt is at `centre` (B,2): the U-Net's."""
        inputs = image * 2 - 1
        if self.prompt:
            inputs = torch.cat([inputs, position_channels(image.shape[-2], image.shape[-1], centre)], 1)
        return self.unet.encode(inputs)

    def encode_window(self, image: Tensor, centre: Tensor) -> tuple[Tensor, ...]:
        """What the denoiser takes of windows (B,C,h,w) whose prompts are at `centre` (B,2)."""
        return (self._image_features(image, centre),)

    def window_size(self, padded: windows.Size) -> windows.Size:
        """Sides of the smallest part of a padded image that is denoised."""
        return padded

    # Sampling

    def surely_present(self, encoding: Encoding) -> Encoding:
        """With the distribution of raters who are sure to mark something."""
        if encoding.presence is None:
            return encoding
        sure = torch.ones_like(encoding.presence)
        if self.exchangeable:  # all mark something
            sure[:, :-1] = 0.0
        return replace(encoding, presence=sure)

    @property
    def draws_stratified(self) -> bool:
        """With a presence head."""
        return self.presence_head is not None

    def most_present(self, encoding: Encoding) -> Tensor | None:
        """(B,) of the likeliest rater."""
        if encoding.presence is None:
            return None
        return marking_probability(encoding.presence, exchangeable=self.exchangeable).amax(1)

    def given_marks(self, encoding: Encoding, most: Tensor) -> Encoding:
        """With presence divided by `most`."""
        if encoding.presence is None:
            return encoding
        each = marking_probability(encoding.presence, exchangeable=self.exchangeable)
        each = torch.where(most[:, None] > 0, each / most[:, None], 1.0).clamp_max(1)
        if self.exchangeable:  # one rater of R marks with probability E[k]/R: all do, or none
            none = torch.zeros_like(encoding.presence[:, 1:-1])
            each = torch.cat([1 - each[:, :1], none, each[:, :1]], 1)
        return replace(encoding, presence=each)

    def encode(self, image: Tensor) -> Encoding:
        """(B,C,H,W) images -> distribution of presence, windows and their features."""
        centre, padded = image_centre(image), windows.pad_to_multiple(image, self.stride, edge=True)
        presence, label_map = None, None
        if self.presence_head is not None:
            presence, label_map = self.presence_head.distribution(padded, centre)
        groups = self._windows(padded, centre, label_map)
        return Encoding(windows.sides(image), windows.sides(padded), presence, groups)

    def _windows(self, image: Tensor, centre: Tensor, label_map: Tensor | None) -> list[Windows]:
        """The parts of padded images (B,C,H,W) that are denoised: the whole of each.

        label_map: (B,K,h,w) the presence head's mean label map about the centre.
        """
        rows = torch.arange(len(image), device=image.device)
        return [Windows(rows, None, windows.sides(image), self.encode_window(image, centre))]

    def _denoised(self, window: Windows, markers: Tensor, field: windows.NoiseField, steps: int, most: int) -> Tensor:
        """`_denoise`, by `replays` where they are set: then of a few numbers of samples only, `most` or less."""
        if self.replays is None:
            return self._denoise(window, markers, field, steps)
        corners = [] if field.corner is None else [field.corner]

        def work(seeds: Tensor, chosen: Tensor, *rest: Tensor) -> Tensor:
            own = replace(field, seeds=seeds, corner=rest[0] if corners else None)
            return self._denoise(replace(window, features=rest[len(corners) :]), chosen, own, steps)

        count = len(markers)
        filled = torch.arange(min(most, 1 << (count - 1).bit_length()), device=markers.device).clamp_max(count - 1)
        inputs = (part[filled] for part in (field.seeds, markers, *corners, *window.features))
        return self.replays(work, (field.size, field.plane, steps, len(corners)), *inputs)[:count]

    def _draw(
        self, encoding: Encoding, each: Tensor, steps: int, raters: RaterChoice, stratified: bool, origin: Tensor | None
    ) -> Samples:
        """With a presence head only the samples that mark something are denoised.

        raters: "single" is one rater's reading; "all" the panel's consensus probability; a list, that panel's. Say that
        presence was `stratified` beside its scores.
        """
        self.process.times(steps)  # refuses a number of steps even where nothing is denoised
        presence, chance, who, alike = encoding.presence, None, None, self.exchangeable
        if presence is not None:
            chance = marking_probability(presence, exchangeable=alike).mean(1)
        if self.draws_panels:
            drawn = draw_markers(presence, each, raters, count=self.raters, exchangeable=alike, stratified=stratified)
            markers, panel, who = drawn
        else:  # a panel of one rater, of whom it is not said who
            panel = torch.ones_like(each)
            present = panel > 0 if chance is None else hurdle_noise(each, stratified) >= 1 - chance[:, None]
            markers = present[..., None]
        maps = torch.zeros(*each.shape, self.classes, *encoding.padded, device=each.device)
        for group in encoding.groups:
            image, index = markers[group.rows].any(-1).nonzero(as_tuple=True)
            chunk = at_once(*(part[0] for part in group.features), pixels=math.prod(group.size))
            for start in range(0, len(image), chunk):
                window, i = group.select(image[start : start + chunk]), index[start : start + chunk]
                # Noise over the whole image and cut, so that it does not depend on the window; or over a larger field.
                corner, plane = window.corner, encoding.padded if origin is None else None
                if origin is not None:
                    corner = origin.to(each.device)[window.rows] + (0 if corner is None else corner)
                field = windows.NoiseField(each[window.rows, i], window.size, corner, plane)
                subset = markers[window.rows, i]
                made = self._denoised(window, subset, field, steps, chunk)
                fraction = subset.sum(-1) / panel[window.rows, i]
                windows.paste(maps, window.rows, i, made * fraction[:, None, None, None], window.corner)
                if self.on_drawn is not None:
                    self.on_drawn(len(i))
        chance = chance if raters == "single" else None  # one rater's, not a panel's
        return Samples.uniform(maps[..., : encoding.size[0], : encoding.size[1]], raters=who, presence=chance)
