"""Who of a panel of readers marks something: what a sample's presence is drawn from (paper abstract and §1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modiff.errors import ConfigError
from modiff.methods.presence.head import reader_subsets
from modiff.rng import fold, uniform
from modiff.types import RaterChoice

# Streams of a sample's seed.
_MARKERS, _READER = 1, 2


def draw_markers(
    law: Tensor | None, seeds: Tensor, raters: RaterChoice, *, count: int, exchangeable: bool, stratified: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Which raters of the panel mark something (B,N,R) bool, the panel's size (B,N), and who read (B,N) or None.

    law: (B,R+1) of the number of markers where raters are exchangeable, (B,R) each rater's probability otherwise; None
    where presence is left to the denoiser. seeds: (B,N) of the samples. count: R.
    """
    panel, who = draw_panel(seeds, raters, count=count, exchangeable=exchangeable)
    size = panel.sum(-1)
    u = presence_uniforms(seeds, stratified)
    if law is None:
        return panel, size, who
    if not exchangeable:
        each = uniform(fold(seeds, _MARKERS), (count,))
        if who is not None:  # one reader: the stratified draw applies
            each = u[..., None].expand_as(each)
        return panel & (each < law[:, None]), size, who
    table = reader_subsets(count, int(size.flatten()[0])).to(law.device)
    markers = (u[..., None] >= (law @ table).cumsum(-1)[:, None, :-1]).sum(-1)
    places = torch.arange(count, device=law.device)
    return places < markers[..., None], size, None


def draw_panel(seeds: Tensor, raters: RaterChoice, *, count: int, exchangeable: bool) -> tuple[Tensor, Tensor | None]:
    """(B,N,R) bool: whose reading a sample is; and the reader drawn, where raters are identifiable."""
    places = torch.arange(count, device=seeds.device)
    if raters == "single":
        who = (uniform(fold(seeds, _READER)) * count).long().clamp_max(count - 1)
        return places == who[..., None], None if exchangeable else who
    chosen = list(range(count)) if raters == "all" else _numbers(raters)
    if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(count)):
        expected = f"'single', 'all' or different numbers from 0 to {count - 1}"
        raise ConfigError("no such readers", field="raters", found=repr(raters), expected=expected)
    mask = torch.zeros(count, dtype=torch.bool, device=seeds.device)
    mask[chosen] = True
    return mask.expand(*seeds.shape, -1), None


def _numbers(raters: RaterChoice) -> list[int]:
    return [] if isinstance(raters, str) else [int(rater) for rater in raters]


def presence_uniforms(seeds: Tensor, stratified: bool) -> Tensor:
    """(B,N) in (0,1): independent, or frac(u + i·φ), which needs no n."""
    u = uniform(fold(seeds, _MARKERS))
    if not stratified:
        return u
    golden = (math.sqrt(5) - 1) / 2
    return (u[:, :1].double() + torch.arange(seeds.shape[1], device=u.device) * golden).frac().float()
