"""Cropping and padding: windows around the prompt, random training crops, padding to the network stride, noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modiff.devices import numbers_on
from modiff.rng import Draw, fold

Size = tuple[int, int]  # rows and columns


def sides(x: Tensor) -> Size:
    """H, W of (…,H,W)."""
    return x.shape[-2], x.shape[-1]


def pad_to_multiple(x: Tensor, multiple: int, *, edge: bool) -> Tensor:
    """(B,C,H,W) padded at the right and the bottom: by the border's values (images) or by 0 (masks)."""
    pad = (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple)
    if not any(pad):
        return x
    return F.pad(x, pad, mode="replicate") if edge else F.pad(x, pad)


def window_size(side: int, image: Size, multiple: int) -> Size:
    """A square of `side` pixels made a multiple of the stride and cut to the image; the whole image for side 0."""
    side = side + -side % multiple if side > 0 else max(image)
    return min(side, image[0]), min(side, image[1])


def window_corner(centre: Tensor, size: Size, image: Size) -> Tensor:
    """(B,2) int64 upper left corners of windows around `centre` (B,2), moved to lie inside the image."""
    span = numbers_on(centre.device, *size)
    limit = numbers_on(centre.device, *image) - span
    corner = torch.floor(centre - (span - 1) / 2 + 0.5).long()
    return torch.minimum(corner.clamp_min(0), limit)


def outside(seen: Size, size: Size, centre: Tensor, image: Size) -> Tensor:
    """(h,w) bool over a window of `seen` pixels around `centre` (1,2): what is beyond the window of `size` pixels.

    Two pixels within the border of either count as beyond: a mark there may go on.
    """
    top, left = (window_corner(centre, size, image) - window_corner(centre, seen, image))[0].tolist()
    beyond = torch.ones(seen, dtype=torch.bool, device=centre.device)
    rows = slice(max(2, top + 2), max(0, min(seen[0] - 2, top + size[0] - 2)))
    columns = slice(max(2, left + 2), max(0, min(seen[1] - 2, left + size[1] - 2)))
    beyond[rows, columns] = False
    return beyond


def _places(corner: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """(M,h) rows and (M,w) columns of windows."""
    rows, columns = (torch.arange(side, device=corner.device) for side in size)
    return corner[:, 0, None] + rows, corner[:, 1, None] + columns


def cut(x: Tensor, corner: Tensor, size: Size) -> Tensor:
    """(B,C,h,w): each item's window of (B,C,H,W)."""
    rows, columns = _places(corner, size)
    items = torch.arange(x.shape[0], device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[items, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class NoiseField:
    """Random numbers of M samples: a function of (seed, stream, channel, row and column).

    seeds: (M,). size: (h,w). corner: (M,2) of the samples' first pixels in the plane, None for (0,0). plane: (H,W) that
    is drawn as a whole, so that a sample does not depend on its window; None: a plane without borders, in which windows
    of one seed that overlap see the same numbers.
    """

    seeds: Tensor
    size: Size
    corner: Tensor | None = None
    plane: Size | None = None

    def draw(self, distribution: Draw, channels: int, *stream: int) -> Tensor:
        """(M,channels,h,w) of `uniform` or `normal` of modiff.rng."""
        seeds = fold(self.seeds, *stream)
        if self.corner is None:
            return distribution(seeds, (channels, *self.size))
        if self.plane is not None:
            return cut(distribution(seeds, (channels, *self.plane)), self.corner, self.size)
        rows, columns = _places(self.corner, self.size)
        lines = fold(seeds[:, None, None], torch.arange(channels, device=seeds.device)[:, None], rows[:, None])
        return distribution(fold(lines[..., None], columns[:, None, None]), ())


def random_corner(
    images: Tensor, centre: Tensor | None, size: Size, *, jitter: int, anywhere: float, rng: torch.Generator
) -> Tensor:
    """(B,2) corners of crops of (B,C,H,W): around the prompt up to `jitter` pixels off, or anywhere in the image.

    Without a prompt every crop lies anywhere.
    """
    batch, image = len(images), sides(images)
    limit = numbers_on(rng.device, *image) - numbers_on(rng.device, *size)
    free = (torch.rand(batch, 2, generator=rng, device=rng.device) * (limit + 1)).long()
    if centre is None:
        return free.to(images.device)
    shift = torch.randint(-jitter, jitter + 1, (batch, 2), generator=rng, device=rng.device)
    near = window_corner(centre.to(rng.device) + shift, size, image)
    far = torch.rand(batch, 1, generator=rng, device=rng.device) < anywhere
    return torch.where(far, free, near).to(images.device)


def marked_pixel(label: Tensor, rng: torch.Generator) -> Tensor:
    """(B,2) row and column of a random pixel that is marked in (B,K,H,W), each as likely; any pixel where none is."""
    chance = torch.rand(len(label), generator=rng, device=rng.device).to(label.device)
    marked = label.amax(1) > 0
    marked = marked | ~marked.any((1, 2), keepdim=True)
    # The pixel at which the count of marked ones exceeds `wanted`: first its row, then its column.
    rows = marked.sum(2)
    until, total = rows.cumsum(1), rows.sum(1)
    wanted = torch.minimum((chance * total).long(), total - 1)[:, None]
    row = (until <= wanted).sum(1, keepdim=True)
    wanted = wanted - until.gather(1, row) + rows.gather(1, row)
    line = marked.gather(1, row[:, :, None].expand(-1, -1, marked.shape[2]))[:, 0]
    column = (line.cumsum(1) <= wanted).sum(1, keepdim=True)
    return torch.cat([row, column], 1).to(torch.float32)


def paste(maps: Tensor, row: Tensor, index: Tensor, made: Tensor, corner: Tensor | None) -> None:
    """Writes windows (M,K,h,w) into (B,N,K,H,W) maps at `row`, `index` and their corners (M,2); the rest stays.

    corner: None for whole images.
    """
    if corner is None:
        maps[row, index] = made
        return
    rows, columns = _places(corner, sides(made))
    where = row[:, None, None], index[:, None, None], rows[:, :, None], columns[:, None, :]
    maps.permute(0, 1, 3, 4, 2)[where] = made.permute(0, 2, 3, 1)
