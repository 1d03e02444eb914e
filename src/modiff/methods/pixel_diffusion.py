"""What CCDM and CIMD share: one reader's mask diffuses at full resolution under a U-Net that sees the image."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modiff.config.baselines import CCDMConfig, CIMDConfig
from modiff.diffusion.schedule import Schedule, time_steps
from modiff.methods.base import Segmenter
from modiff.methods.presence import head as presence
from modiff.methods.presence.hurdle import PresenceHurdle
from modiff.nn import windows
from modiff.nn.guided_unet import GuidedUNet
from modiff.nn.layers import image_centre, position_channels
from modiff.rng import fold, sample_seeds
from modiff.types import Batch, DataSpec, RaterChoice, Samples

_VALUES_AT_ONCE = 1 << 25  # of the first layer's features, 16 samples of 128×128 with 128 channels: bounds memory


@dataclass
class Encoding:
    """What depends on B images only. law: of the number of markers, with the hurdle; else None."""

    shape: tuple[int, int, int]  # B, H, W of the images as given
    padded: tuple[int, int]  # H, W that the networks see
    share: Tensor  # (B,base,H/stem,W/stem), the image's part of the first convolution
    law: Tensor | None


@dataclass
class Labels:
    """The masks that a step learns from. image, mask: (M,C,H,W) and (M,K,H,W) float; weights: (M,) or None."""

    image: Tensor
    mask: Tensor
    share: Tensor
    weights: Tensor | None


@dataclass
class NoiseField:
    """Random numbers of M samples: a function of (seed, stream, row and column).

    place: (M,2) of the images' corners in a larger field, or None for a field an image.
    """

    seeds: Tensor
    size: tuple[int, int]
    place: Tensor | None

    def draw(self, law: windows.Draw, channels: int, *stream: int) -> Tensor:
        """(M,channels,H,W) of the law `uniform` or `normal` of modiff.rng."""
        seeds = fold(self.seeds, *stream)
        if self.place is not None:
            return windows.field(law, seeds, channels, self.place, self.size)
        return law(seeds, (channels, *self.size))


class PixelDiffusion(Segmenter):
    """A diffusion trained on one reader drawn at random an image; each sample is one reader's hypothesis."""

    stepwise = True
    places_noise = True

    def __init__(self, config: CCDMConfig | CIMDConfig, data: DataSpec, *, inputs: int, outputs: int) -> None:
        super().__init__(data)
        self.settings, self.prompt = config, data.prompted and config.prompt
        self.schedule = Schedule(config.schedule, steps=config.steps)
        time_steps(config.sampling_steps, steps_total=config.steps, spacing=config.spacing)  # refuses an impossible one
        self.unet = GuidedUNet(
            inputs, self.channels + (3 if self.prompt else 0), outputs, config.unet, steps=config.steps
        )
        self.hurdle = None
        if config.presence.mode == "hurdle":
            self.hurdle = PresenceHurdle(data, config.presence, ce_weight=config.map_ce_weight)

    @property
    def default_steps(self) -> int:
        """Network evaluations a sample where `steps` is not given."""
        return self.settings.sampling_steps

    @property
    def stride(self) -> int:
        """Images are padded to multiples of this."""
        return math.lcm(self.unet.stride, self.hurdle.stride if self.hurdle is not None else 1)

    term_names: tuple[str, ...] = ("simple",)

    @abstractmethod
    def _denoising_terms(self, labels: Labels, rng: torch.Generator) -> dict[str, tuple[float, Tensor]]:
        """The method's own loss: name -> (weight, scalar)."""

    @abstractmethod
    def _denoise(self, share: Tensor, field: NoiseField, times: Tensor) -> Tensor:
        """(M,K,H,W) probabilities of M samples from their images' shares, along `times`."""

    # Training

    def training_loss(self, batch: Batch, *, rng: torch.Generator) -> dict[str, Tensor]:
        """The method's terms and, with the hurdle, the presence head's two; reference: the method's own paper."""
        image = windows.pad_to_multiple(batch.image, self.stride, edge=True)
        masks = windows.pad_to_multiple(batch.masks.flatten(1, 2).float(), self.stride, edge=False)
        masks = masks.unflatten(1, batch.masks.shape[1:3]) * batch.read[:, :, None, None, None]
        centre = batch.centre if batch.centre is not None else image_centre(batch.image)
        terms: dict[str, tuple[float, Tensor]] = {}
        if self.hurdle is not None:
            found = self.hurdle.losses(image, masks, batch, centre, rng=rng)
            weights = {"presence": self.settings.presence.weight, "map": self.settings.presence.map_weight}
            terms |= {name: (weights[name], value) for name, value in found.items()}
        labels = self._draw_labels(image, masks, batch, centre, rng)
        if labels is None:  # no label in the whole batch: a zero with a graph
            zero = torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0
            terms |= dict.fromkeys(self.term_names, (1.0, zero))
        else:
            terms |= self._denoising_terms(labels, rng)
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return {"loss": loss, **{name: value.detach() for name, (_, value) in terms.items()}}

    def _draw_labels(
        self, image: Tensor, masks: Tensor, batch: Batch, centre: Tensor, rng: torch.Generator
    ) -> Labels | None:
        """One reader of each image, or with the hurdle one of those who marked something; None if there is none."""
        candidates = batch.read if self.hurdle is None else batch.marked
        chosen = presence.draw_subsets(candidates, single_share=1.0, rng=rng)
        rows = chosen.any(1).nonzero().squeeze(1)
        if rows.numel() == 0:
            return None
        mask = (masks[rows] * chosen[rows][:, :, None, None, None]).sum(1)
        weights = None
        if self.hurdle is not None and self.settings.presence.weight_by_markers:
            # A reader who marks something is met k times as often on an image that k readers mark.
            share = batch.marked[rows].sum(1) / batch.read[rows].sum(1)
            weights = share / share.mean()
        return Labels(image[rows], mask, self._share(image[rows], centre[rows]), weights)

    def _draw_steps(self, count: int, rng: torch.Generator) -> Tensor:
        """(M,) int64 steps of the chain, 1 to T alike, on the CPU: the schedule is read there in float64."""
        return torch.randint(1, self.settings.steps + 1, (count,), generator=rng, device=rng.device).cpu()

    def _share(self, image: Tensor, centre: Tensor) -> Tensor:
        inputs = image * 2 - 1
        if self.prompt:
            inputs = torch.cat([inputs, position_channels(image.shape[-2], image.shape[-1], centre)], 1)
        return self.unet.encode(inputs)

    # Sampling

    def surely_present(self, encoding: Encoding) -> Encoding:
        """With the law of raters who are sure to mark something."""
        if encoding.law is None:
            return encoding
        return replace(encoding, law=presence.certain(encoding.law, exchangeable=self.data.exchangeable_raters))

    def encode(self, image: Tensor) -> Encoding:
        """(B,C,H,W) images -> their share of the first convolution and, with the hurdle, the law of presence."""
        centre = image_centre(image)
        padded = windows.pad_to_multiple(image, self.stride, edge=True)
        law = self.hurdle.law(padded, centre) if self.hurdle is not None else None
        height, width = padded.shape[-2:]
        shape = (image.shape[0], image.shape[-2], image.shape[-1])
        return Encoding(shape, (height, width), self._share(padded, centre), law)

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
        """n hypotheses an image, each one reader's. steps: fewer than the chain's are respaced exactly.

        origin: (B,2) int64, where an image's first pixel lies in a larger field of noise that other images may share.
        Raises ConfigError for raters other than "single": the method learns no panels.
        """
        self.check_request(steps=steps, raters=raters, stratified=stratified)
        encoding = image_or_encoding if isinstance(image_or_encoding, Encoding) else self.encode(image_or_encoding)
        batch, height, width = encoding.shape
        each = sample_seeds(seeds, n)
        present = self._present(encoding, each)
        count = self.default_steps if steps is None else steps
        times = time_steps(count, steps_total=self.settings.steps, spacing=self.settings.spacing)
        row = torch.arange(batch, device=each.device).repeat_interleave(n)
        wanted = torch.arange(batch * n, device=each.device)
        if present is not None:
            wanted = present.flatten().nonzero().squeeze(1)
        maps = torch.zeros(batch * n, self.classes, *encoding.padded, device=encoding.share.device)
        at_once = max(1, _VALUES_AT_ONCE // encoding.share[0].numel())
        for part in wanted.split(at_once) if len(wanted) else ():
            place = None if origin is None else origin.to(each.device)[row[part]]
            field = NoiseField(each.flatten()[part], encoding.padded, place)
            maps[part] = self._denoise(encoding.share[row[part]], field, times)
        result = Samples.uniform(maps.unflatten(0, (batch, n))[..., :height, :width])
        if self.hurdle is not None and encoding.law is not None:
            result.presence = self.hurdle.probability(encoding.law)
        return result

    def _present(self, encoding: Encoding, seeds: Tensor) -> Tensor | None:
        if self.hurdle is None or encoding.law is None:
            return None
        return self.hurdle.draw(encoding.law, seeds)
