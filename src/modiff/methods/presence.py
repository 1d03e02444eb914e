"""The presence hurdle: how many raters mark anything at all (paper abstract and §1), its network and its draws."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from itertools import pairwise
from math import comb

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from modiff.config.methods import PRESENCE_DROPOUT, PRESENCE_HIDDEN, PresenceConfig
from modiff.data.augmentation import changed_intensity, draw_intensities
from modiff.data.loading import dihedral
from modiff.errors import ConfigError, DataError
from modiff.nn import losses, windows
from modiff.nn.layers import ResBlock, full_precision, position_channels
from modiff.nn.unet import hourglass
from modiff.rng import fold, uniform
from modiff.types import Batch, DataSpec, RaterChoice

# Streams of a sample's seed.
_MARKERS, _RATER = 1, 2
_MOST_MARKERS = 62  # of one image: a subset of them is an int64


def rater_subsets(raters: int, read: int) -> Tensor:
    """(R+1, R+1): P(k' of the `read` who read mark | k of all R would), hypergeometric: raters are exchangeable."""
    ways, k = _binomials(raters), np.arange(raters + 1)
    left = read - k  # of those who read, who do not mark
    chance = ways[:, k] * ways[::-1][:, left.clip(0)] / ways[raters, read]
    return torch.tensor(np.where(left >= 0, chance, 0.0), dtype=torch.float32)


@lru_cache(maxsize=4)
def _binomials(most: int) -> np.ndarray:
    """(n+1, n+1) of n choose k."""
    return np.array([[float(comb(n, k)) for k in range(most + 1)] for n in range(most + 1)])


def log_likelihood(logits: Tensor, marked: Tensor, read: Tensor, *, tables: Tensor | None) -> Tensor:
    """(B,) log-probability of who marked something among those who read; 0 where nobody did.

    tables: (R+1,R+1,R+1) `rater_subsets` of 0 to R who read, where raters are exchangeable: the distribution of k' of
    R' follows from that of k of R by leaving raters out at random. None: logits are those of each rater.
    """
    if tables is None:
        return -(F.binary_cross_entropy_with_logits(logits, marked.float(), reduction="none") * read).sum(1)
    distribution = logits.softmax(1)  # in float32 whatever the autocast: the caller's logits are
    seen = (distribution[:, :, None] * tables[read.sum(1)]).sum(1)
    return torch.log(seen.gather(1, marked.sum(1, keepdim=True)).squeeze(1).clamp_min(1e-12))


def marking_probability(distribution: Tensor, *, exchangeable: bool) -> Tensor:
    """(B,R) probability that each rater marks something; the same π = E[k]/R for all where they are exchangeable."""
    if not exchangeable:
        return distribution
    raters = distribution.shape[1] - 1
    expected = (distribution * torch.arange(raters + 1, device=distribution.device)).sum(1, keepdim=True)
    return (expected / raters).expand(-1, raters)


def draw_markers(
    distribution: Tensor | None, seeds: Tensor, raters: RaterChoice, *, count: int, exchangeable: bool, stratified: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Which raters of each sample's panel mark something (B,N,R) bool, its size (B,N), whose reading it is.

    distribution: (B,R+1) of the number of markers where raters are exchangeable, else (B,R) each rater's probability;
    None where presence is left to the denoiser. seeds: (B,N) of the samples. count: R. Whose reading it is: (B,N) the
    rater drawn where raters are identifiable, else None.
    """
    panel, who = draw_panel(seeds, raters, count=count, exchangeable=exchangeable)
    size = panel.sum(-1)
    if distribution is None:
        return panel, size, who
    u = hurdle_noise(seeds, stratified)
    if not exchangeable:
        each = uniform(fold(seeds, _MARKERS), (count,))
        if who is not None:  # one rater: the stratified draw applies
            each = u[..., None].expand_as(each)
        return panel & (each < distribution[:, None]), size, who
    table = rater_subsets(count, int(size.flatten()[0])).to(distribution.device)
    with full_precision(distribution):
        marking = distribution @ table
    markers = (u[..., None] >= marking.cumsum(-1)[:, None, :-1]).sum(-1)
    places = torch.arange(count, device=distribution.device)
    # Rounded sums end below 1, and the largest u lies beyond them: no panel has more markers than raters.
    return places < torch.minimum(markers, size)[..., None], size, None


def draw_panel(seeds: Tensor, raters: RaterChoice, *, count: int, exchangeable: bool) -> tuple[Tensor, Tensor | None]:
    """(B,N,R) bool: whose reading a sample is; and the rater drawn, where raters are identifiable."""
    places = torch.arange(count, device=seeds.device)
    if raters == "single":
        who = (uniform(fold(seeds, _RATER)) * count).long().clamp_max(count - 1)
        return places == who[..., None], None if exchangeable else who
    numbers = range(count) if raters == "all" else () if isinstance(raters, str) else raters
    chosen = [int(rater) for rater in numbers]
    if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(count)):
        expected = f"'single', 'all' or different numbers from 0 to {count - 1}"
        raise ConfigError("no such raters", field="raters", found=repr(raters), expected=expected)
    mask = torch.zeros(count, dtype=torch.bool, device=seeds.device)
    mask[chosen] = True
    return mask.expand(*seeds.shape, -1), None


def hurdle_noise(seeds: Tensor, stratified: bool) -> Tensor:
    """(B,N) in (0,1) that decide on presence: independent, or frac(u + i·φ), which needs no n."""
    u = uniform(fold(seeds, _MARKERS))
    if not stratified:
        return u
    golden = (math.sqrt(5) - 1) / 2
    return (u[:, :1].double() + torch.arange(seeds.shape[1], device=u.device) * golden).frac().float()


def draw_subsets(marked: Tensor, *, single_fraction: float, rng: Generator) -> Tensor:
    """(B,R) bool: with probability `single_fraction` one marker, else a uniform non-empty subset of the markers.

    Rows without a marker come back empty. Raises DataError for more markers than bits.
    """
    batch, raters = marked.shape
    order = torch.rand(batch, raters, generator=rng, device=rng.device).to(marked.device)
    one = F.one_hot(torch.where(marked, order, -1.0).argmax(1), raters).bool() & marked
    # A non-empty subset of k markers is a number from 1 to 2^k − 1, its bits the markers in order.
    number = torch.randint(1 << _MOST_MARKERS, (batch,), generator=rng, device=rng.device).to(marked.device)
    count, rank = marked.sum(1), (marked.cumsum(1) - 1).clamp_min(0)
    if raters > _MOST_MARKERS and count.max() > _MOST_MARKERS:
        found = int(count.max())
        raise DataError("too many raters mark one image", field="masks", found=found, expected=f"≤ {_MOST_MARKERS}")
    several = marked & ((number % (2**count - 1).clamp_min(1) + 1)[:, None] >> rank & 1).bool()
    single = torch.rand(batch, generator=rng, device=rng.device).to(marked.device) < single_fraction
    return torch.where(single[:, None], one, several)


def without_valleys(values: Tensor) -> Tensor:
    """(Z,…) values along slices, each valley filled to the lower of the peaks on its two sides."""
    before = values.cummax(0).values
    after = values.flip(0).cummax(0).values.flip(0)
    return torch.minimum(before, after)


def join_slices(distribution: Tensor, *, exchangeable: bool) -> Tensor:
    """Presence (Z,R+1) or (Z,R) of a lesion's slices in order, made such that a draw marks slices in a row.

    A sample marks the slices whose probability exceeds its one number, so a slice judged a little less likely than its
    neighbours on both sides would be a hole in the middle of a lesion. Where raters are exchangeable such a slice takes
    the whole distribution of the slice that limits it.
    """
    if not exchangeable:
        return without_valleys(distribution)
    chance = marking_probability(distribution, exchangeable=True)[:, 0]
    filled = without_valleys(chance)
    # Every filled value is the chance of some slice: the first of those.
    source = (chance[None, :] == filled[:, None]).int().argmax(1)
    return torch.where((filled > chance)[:, None], distribution[source], distribution)


class PresenceHead(nn.Module):
    """A small U-Net around the prompt that reads off how many raters mark something.

    The mean label map is predicted densely beside it: that supervises far more than one number per image, and its
    features are pooled where a lesion is thought to be. ce_weight, dice_weight: of that map's loss.
    """

    def __init__(self, data: DataSpec, config: PresenceConfig, *, ce_weight: float, dice_weight: float = 1.0) -> None:
        super().__init__()
        raters, self.exchangeable, self.prompt = len(data.raters), data.exchangeable_raters, data.prompted
        self.config, self.ce_weight, self.dice_weight = config, ce_weight, dice_weight
        tables = torch.stack([rater_subsets(raters, n) for n in range(raters + 1)]) if self.exchangeable else None
        self.tables = None if tables is None else nn.Buffer(tables, persistent=False)
        widths = [config.base * multiplier for multiplier in config.multipliers]
        self.stride = config.stem * 2 ** (len(widths) - 1)  # window sides are multiples of this
        inputs = len(data.channels) + 3 * self.prompt
        self.stem = nn.Conv2d(inputs * config.stem**2, widths[0], 3, padding=1)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        block = partial(ResBlock, dropout=config.dropout)
        for before, width in pairwise([widths[0], *widths]):
            self.encoder.append(nn.Sequential(block(before, width), block(width, width)))
        for below, width in pairwise(reversed(widths)):
            self.decoder.append(block(below + width, width))
        self.map_out = nn.Conv2d(widths[0], len(data.classes) * config.stem**2, 1)
        features, (times, most) = 2 * widths[-1] + 2 * widths[0] + 2, PRESENCE_DROPOUT
        drop = min(most, times * config.dropout)
        hidden = [nn.LayerNorm(features), nn.Dropout(drop), nn.Linear(features, PRESENCE_HIDDEN), nn.SiLU()]
        self.head = nn.Sequential(*hidden, nn.Dropout(drop), nn.Linear(PRESENCE_HIDDEN, raters + self.exchangeable))

    def forward(self, image: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B,R+1) of the number of markers, or (B,R) of each rater's marking; (B,K,H,W) of the mean label map.

        image: (B,C,H,W); centre: (B,2) of the prompt in pixels.
        """
        inputs = image * 2 - 1
        if self.prompt:
            inputs = torch.cat([inputs, position_channels(image.shape[-2], image.shape[-1], centre)], 1)
        x = self.stem(F.pixel_unshuffle(inputs, self.config.stem))
        bottom, fine = hourglass(x, self.encoder, self.decoder, mode="nearest")
        label_map = self.map_out(fine)
        logits = self.head(self._pool(bottom, fine, label_map, centre))
        return logits.float(), F.pixel_shuffle(label_map.float(), self.config.stem)

    def window_size(self, image: Tensor) -> tuple[int, int]:
        """Sides of the part of (B,C,H,W) images that the head looks at."""
        return windows.window_size(self.config.window if self.prompt else 0, windows.sides(image), self.stride)

    def losses(self, image: Tensor, label: Tensor, batch: Batch, centre: Tensor, rng: Generator) -> dict[str, Tensor]:
        """ "presence": cross-entropy of who marked something; "map": of the mean label map, with soft Dice.

        image: (B,C,H,W) padded to the stride; label: (B,K,H,W), the mean mask of all who read.
        """
        size = self.window_size(image)
        corner = windows.random_corner(image, centre, size, jitter=self.config.jitter, anywhere=0.0, rng=rng)
        seen = intensity_noise(windows.cut(image, corner, size), self.config.intensity_augmentation, rng)
        logits, label_map = self(seen, centre - corner)
        label = windows.cut(label, corner, size)
        known = batch.read.any(1).float()
        known = known / known.mean().clamp_min(1e-6)
        log_p = log_likelihood(logits, batch.marked, batch.read, tables=self.tables)
        dense = self.ce_weight * losses.cross_entropy(label_map, label)
        dense = dense + self.dice_weight * losses.soft_dice_loss(losses.probabilities(label_map), label)
        return {"presence": -(log_p * known).mean(), "map": (dense * known).mean()}

    def distribution(self, image: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """(B,R+1) of the number of markers, or (B,R) each rater's probability; and (B,K,h,w) the mean label map.

        Averaged over the window's eight views where the prompt is in its middle, so that a flip leaves it there.
        """
        size = self.window_size(image)
        corner = windows.window_corner(centre, size, windows.sides(image))
        middle = centre - corner
        return self.of_views(windows.cut(image, corner, size), middle, self.views(middle, size))

    def views(self, middle: Tensor, size: windows.Size) -> int:
        """How many views of windows of this size are averaged whose prompts are at `middle` (B,2)."""
        offset = middle - (torch.tensor(size, device=middle.device) - 1) / 2
        return 8 if self.config.dihedral_average and size[0] == size[1] and bool((offset.abs() < 1e-3).all()) else 1

    def of_views(self, seen: Tensor, middle: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """`distribution` of windows (B,C,h,w) as they are, averaged over the first `count` views."""
        batch = seen.shape[0]  # len() would fix it where it is traced
        views = torch.cat([dihedral(seen, turn) for turn in range(count)])
        logits, label_map = self(views, middle.repeat(count, 1))
        each = logits.softmax(1) if self.exchangeable else torch.sigmoid(logits)
        return each.unflatten(0, (count, batch)).mean(0), torch.sigmoid(label_map[:batch])

    def _pool(self, bottom: Tensor, fine: Tensor, label_map: Tensor, centre: Tensor) -> Tensor:
        """Features of the whole window, of its middle or strongest place, and of where the label map is."""
        lesion = torch.sigmoid(label_map.float()).mean(1, keepdim=True)
        area = lesion.sum((2, 3))
        where = torch.ones(fine.shape[0], 1, *fine.shape[-2:], device=fine.device)
        if self.prompt:  # a soft disc of about two patches around the prompt
            middle = (centre + 0.5) / self.config.stem - 0.5
            rows = torch.arange(fine.shape[-2], device=fine.device)[None, :, None] - middle[:, 0, None, None]
            columns = torch.arange(fine.shape[-1], device=fine.device)[None, None, :] - middle[:, 1, None, None]
            where = torch.exp(-(rows**2 + columns**2) / 2)[:, None].clamp_min(1e-6)
        where_coarse = F.adaptive_avg_pool2d(where, windows.sides(bottom))
        parts = [
            bottom.mean((2, 3)),
            (bottom * where_coarse).sum((2, 3)) / where_coarse.sum((2, 3)),
            (lesion * fine).sum((2, 3)) / (area + 0.1),
            (fine * where).sum((2, 3)) / where.sum((2, 3)),
            area.log1p(),
            lesion.amax((1, 2, 3))[:, None],
        ]
        return torch.cat([part.float() for part in parts], 1)


def intensity_noise(image: Tensor, strength: float, rng: Generator) -> Tensor:
    """Random gamma, contrast, brightness and noise on (B,C,H,W) images in [0,1]: the head must not learn a scanner."""
    if strength <= 0:
        return image

    count = len(image)
    image = changed_intensity(image, draw_intensities(count, strength, rng).to(image.device))
    level = 0.03 * strength * torch.rand(count, 1, 1, 1, generator=rng, device=rng.device)
    noise = torch.randn(image.shape, generator=rng, device=rng.device)
    return image + (level * noise).to(image.device)
