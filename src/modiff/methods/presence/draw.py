"""The presence hurdle: the distribution of how many raters mark something, and what is drawn from it (paper §1)."""

from __future__ import annotations

import math
from math import comb

import torch
import torch.nn.functional as F
from torch import Tensor

from modiff.errors import ConfigError, DataError
from modiff.rng import fold, uniform
from modiff.types import RaterChoice

# Streams of a sample's seed.
_MARKERS, _RATER = 1, 2
_MOST_MARKERS = 62  # of one image: a subset of them is an int64


def rater_subsets(raters: int, read: int) -> Tensor:
    """(R+1, R+1): P(k' of the `read` who read mark | k of all R would), hypergeometric: raters are exchangeable."""

    def chance(k: int, seen: int) -> float:
        return 0.0 if seen > read else comb(k, seen) * comb(raters - k, read - seen) / comb(raters, read)

    return torch.tensor([[chance(k, seen) for seen in range(raters + 1)] for k in range(raters + 1)])


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


def certain(distribution: Tensor, *, exchangeable: bool) -> Tensor:
    """The distribution (B,R+1) or (B,R) of raters who are all sure to mark something."""
    sure = torch.ones_like(distribution)
    if exchangeable:
        sure[:, :-1] = 0.0
    return sure


def marking_probability(distribution: Tensor, *, exchangeable: bool) -> Tensor:
    """(B,R) probability that each rater marks something; the same π = E[k]/R for all where they are exchangeable."""
    if not exchangeable:
        return distribution
    raters = distribution.shape[1] - 1
    expected = (distribution * torch.arange(raters + 1, device=distribution.device)).sum(1, keepdim=True)
    return (expected / raters).expand(-1, raters)


def draw_markers(
    distribution: Tensor | None,
    seeds: Tensor,
    raters: RaterChoice,
    *,
    count: int,
    exchangeable: bool,
    stratified: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Which raters of the panel mark something (B,N,R) bool, the panel's size (B,N), whose reading it is (B,N) or None.

    distribution: (B,R+1) of the number of markers where raters are exchangeable, else (B,R) each rater's probability;
    None where presence is left to the denoiser. seeds: (B,N) of the samples. count: R.
    """
    panel, who = draw_panel(seeds, raters, count=count, exchangeable=exchangeable)
    size = panel.sum(-1)
    u = presence_uniforms(seeds, stratified)
    if distribution is None:
        return panel, size, who
    if not exchangeable:
        each = uniform(fold(seeds, _MARKERS), (count,))
        if who is not None:  # one rater: the stratified draw applies
            each = u[..., None].expand_as(each)
        return panel & (each < distribution[:, None]), size, who
    table = rater_subsets(count, int(size.flatten()[0])).to(distribution.device)
    markers = (u[..., None] >= (distribution @ table).cumsum(-1)[:, None, :-1]).sum(-1)
    places = torch.arange(count, device=distribution.device)
    return places < markers[..., None], size, None


def draw_panel(seeds: Tensor, raters: RaterChoice, *, count: int, exchangeable: bool) -> tuple[Tensor, Tensor | None]:
    """(B,N,R) bool: whose reading a sample is; and the rater drawn, where raters are identifiable."""
    places = torch.arange(count, device=seeds.device)
    if raters == "single":
        who = (uniform(fold(seeds, _RATER)) * count).long().clamp_max(count - 1)
        return places == who[..., None], None if exchangeable else who
    chosen = list(range(count)) if raters == "all" else _numbers(raters)
    if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(count)):
        expected = f"'single', 'all' or different numbers from 0 to {count - 1}"
        raise ConfigError("no such raters", field="raters", found=repr(raters), expected=expected)
    mask = torch.zeros(count, dtype=torch.bool, device=seeds.device)
    mask[chosen] = True
    return mask.expand(*seeds.shape, -1), None


def _numbers(raters: RaterChoice) -> list[int]:
    return [] if isinstance(raters, str) else [int(rater) for rater in raters]


def presence_uniforms(seeds: Tensor, stratified: bool) -> Tensor:
    """(B,N) in (0,1) that decide on presence: independent, or frac(u + i·φ), which needs no n."""
    u = uniform(fold(seeds, _MARKERS))
    if not stratified:
        return u
    golden = (math.sqrt(5) - 1) / 2
    return (u[:, :1].double() + torch.arange(seeds.shape[1], device=u.device) * golden).frac().float()


def draw_subsets(marked: Tensor, *, single_fraction: float, rng: torch.Generator) -> Tensor:
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
