"""Distances of boundaries between the samples' consensus and the readers': HD95 and average surface distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional._checks import any_of, check_sets
from modiff.metrics.functional.consensus import majority_vote


class SurfaceDistances(NamedTuple):
    """Each (B,) float64, in pixels or in the spacing's unit. hd95: larger of the two directions. average: symmetric."""

    hd95: Tensor
    average: Tensor


def surface_distances(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, spacing: Sequence[float] | Tensor | None = None
) -> SurfaceDistances:
    """HD95 and average symmetric surface distance of the samples' majority and the readers' majority; lower is better.

    samples: (B,N,K,H,W) masks; masks: (B,R,K,H,W); read: (B,R). spacing: (row, column) size of a pixel, one for all
    images or (B,2); None counts pixels. Boundaries and distances are MONAI's. A class is scored where both majorities
    mark it, the image's value is the mean over these classes, and NaN where there is none (no boundary, no distance).
    Raises MetricError.
    """
    samples, masks, read = check_sets(samples, masks, read)
    ours, theirs = majority_vote(samples).cpu(), majority_vote(masks, read).cpu()
    sizes = _spacings(spacing, len(masks))
    both = (any_of(ours.flatten(2), -1) & any_of(theirs.flatten(2), -1)).tolist()
    found = torch.full((len(masks), 2), torch.nan, dtype=torch.float64)
    for i, defined in enumerate(both):
        classes = [_of_class(ours[i, k], theirs[i, k], sizes[i]) for k, yes in enumerate(defined) if yes]
        if classes:
            found[i] = torch.tensor(classes, dtype=torch.float64).mean(0)
    found = found.to(masks.device)
    return SurfaceDistances(found[:, 0], found[:, 1])


def hd95(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, spacing: Sequence[float] | Tensor | None = None
) -> Tensor:
    """95th percentile of the Hausdorff distance of the consensus: (B,) float64; see `surface_distances`."""
    return surface_distances(samples, masks, read=read, spacing=spacing).hd95


def average_surface_distance(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, spacing: Sequence[float] | Tensor | None = None
) -> Tensor:
    """Average symmetric surface distance of the consensus: (B,) float64; see `surface_distances`."""
    return surface_distances(samples, masks, read=read, spacing=spacing).average


def _spacings(spacing: Sequence[float] | Tensor | None, images: int) -> list[list[float]]:
    if spacing is None:
        return [[1.0, 1.0]] * images
    sizes = torch.as_tensor(spacing, dtype=torch.float64)
    if sizes.shape not in ((2,), (images, 2)) or not bool((sizes > 0).all() & sizes.isfinite().all()):
        raise MetricError("not a pixel size", field="spacing", found=spacing, expected="(2,) or (B,2) numbers > 0")
    return sizes.expand(images, 2).tolist()


def _of_class(ours: Tensor, theirs: Tensor, spacing: list[float]) -> tuple[float, float]:
    """HD95 and average distance of two masks (H,W) that both mark something."""
    from monai.metrics.utils import get_mask_edges, get_surface_distance  # takes seconds to import

    # Cropping first, MONAI's default, takes five times as long at this size and changes nothing.
    edges = get_mask_edges(ours, theirs, crop=False)
    there = torch.as_tensor(get_surface_distance(edges[0], edges[1], spacing=spacing)).double()
    back = torch.as_tensor(get_surface_distance(edges[1], edges[0], spacing=spacing)).double()
    return max(float(x.quantile(0.95)) for x in (there, back)), float(torch.cat([there, back]).mean())
