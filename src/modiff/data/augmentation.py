"""Random changes of training images: deformations, the same for an image and its masks, and of intensity."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from modiff.devices import numbers_on
from modiff.types import Batch


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed at random. turns: flips and quarter turns. deformation, intensity: strengths."""

    turns: bool = True
    deformation: float = 0.0
    intensity: float = 0.0


# Standard deviations at strength 1: radians, logarithms of factors, and fractions of the image's sides.
_ANGLE, _SCALE, _ASPECT, _SHIFT, _BEND = 0.35, 0.12, 0.06, 0.05, 0.02
_KNOTS = 5  # of the bending field along each side
_NUMBERS = 5 + 2 * _KNOTS**2
_GAMMA, _CONTRAST, _BRIGHTNESS = 0.25, 0.15, 0.08  # standard deviations at strength 1: the first of a logarithm


def draw_deformations(count: int, strength: float, rng: torch.Generator) -> Tensor:
    """(count,55) what `deformed_batch` takes: angle, scale, aspect, shift and the knots of the bending field."""
    deviation = torch.full((_NUMBERS,), _BEND)
    deviation[:5] = torch.tensor([_ANGLE, _SCALE, _ASPECT, _SHIFT, _SHIFT])
    return strength * deviation * torch.randn(count, _NUMBERS, generator=rng)


def deformed_batch(batch: Batch, drawn: Tensor) -> Batch:
    """The batch with its images (bilinear) and masks (nearest) deformed; beyond the border both are mirrored.

    drawn: (B,55) of `draw_deformations`. Where there is a prompt, the image's middle, it stays where it is.
    """
    height, width = batch.image.shape[-2:]
    grid = _sources(drawn, height, width, fixed=batch.centre is not None)
    masks = batch.masks.flatten(1, 2).to(batch.image.dtype)
    image = F.grid_sample(batch.image, grid, padding_mode="reflection", align_corners=False)
    taken = F.grid_sample(masks, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return replace(batch, image=image, masks=(taken > 0.5).view_as(batch.masks))


def draw_intensities(count: int, strength: float, rng: torch.Generator) -> Tensor:
    """(count,3) what `changed_intensity` takes: gamma, contrast and brightness."""
    return strength * torch.stack([torch.randn(count, generator=rng, device=rng.device) for _ in range(3)], 1)


def changed_intensity(image: Tensor, drawn: Tensor) -> Tensor:
    """Images (B,C,H,W) in [0,1] with the gamma, contrast and brightness `drawn` (B,3); values may leave [0,1]."""
    gamma, contrast, brightness = drawn[:, :, None, None, None].unbind(1)
    image = image.clamp_min(0) ** torch.exp(_GAMMA * gamma)
    return image * (1 + _CONTRAST * contrast) + _BRIGHTNESS * brightness


def _sources(drawn: Tensor, height: int, width: int, *, fixed: bool) -> Tensor:
    """(B,H,W,2) where each pixel's value comes from, as `grid_sample` counts: x and y from −1 to 1."""
    count = len(drawn)
    angle, scale, aspect = drawn[:, :3].unbind(1)
    shift, knots = drawn[:, 3:5], drawn[:, 5:].view(count, 2, _KNOTS, _KNOTS)
    factors = torch.stack([(scale + aspect).exp(), (scale - aspect).exp()], 1)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(count, 2, 2)
    sides = numbers_on(drawn.device, float(width), float(height)).to(drawn.dtype)
    matrix = turn * factors[:, None] * sides / sides[:, None]  # angles are of pixels, also in a rectangle
    bend = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)
    if fixed:
        middle = drawn.new_zeros(count, 1, 1, 2)
        shift = -F.grid_sample(bend, middle, align_corners=False)[:, :, 0, 0]
    matrix = torch.cat([matrix, 2 * shift[:, :, None]], 2)
    straight = F.affine_grid(matrix, [count, 1, height, width], align_corners=False)
    return straight + 2 * bend.permute(0, 2, 3, 1)
