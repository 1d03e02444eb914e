"""Distances of boundaries between the samples' consensus and the raters': HD95 and average surface distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional.ops import any_of, check_sets, majority_vote


class SurfaceDistances(NamedTuple):
    """Each (B,) float64, in pixels or in the spacing's unit. hd95: larger of the two directions. average: symmetric."""

    hd95: Tensor
    average: Tensor


def surface_distances(
    samples: Tensor, masks: Tensor, *, read: Tensor | None = None, spacing: Sequence[float] | Tensor | None = None
) -> SurfaceDistances:
    """HD95 and average symmetric surface distance of the samples' majority and the raters' majority; lower is better.

    samples: (B,N,K,H,W) masks; masks: (B,R,K,H,W); read: (B,R). spacing: (row, column) size of a pixel, one for all
    images or (B,2); None counts pixels. A boundary is the mask's pixels with a neighbour outside it, of four, or at the
    image's border, as MONAI has it. A class is scored where both majorities mark it, the image's value is the mean over
    these classes, and NaN where there is none (no boundary, no distance). Raises MetricError.
    """
    samples, masks, read = check_sets(samples, masks, read)
    ours, theirs = majority_vote(samples).cpu(), majority_vote(masks, read).cpu()
    sizes = _spacings(spacing, len(masks))
    both = (any_of(ours.flatten(2), -1) & any_of(theirs.flatten(2), -1)).tolist()
    found = torch.full((len(masks), 2), torch.nan, dtype=torch.float64)
    for i, defined in enumerate(both):
        classes = []
        for k in (k for k, there in enumerate(defined) if there):
            pair = ours[i, k].numpy(), theirs[i, k].numpy()
            ways = [_distances(*pair, sizes[i]), _distances(*pair[::-1], sizes[i])]
            classes.append((max(float(way.quantile(0.95)) for way in ways), float(torch.cat(ways).mean())))
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


def _distances(mask: np.ndarray, other: np.ndarray, spacing: list[float]) -> Tensor:
    """From each pixel of a mask's boundary to the nearest of the other's: (P,) float64, rounded to single precision.

    Rounded as MONAI rounds them, so that a percentile does not fall between distances that are equal.
    """
    edge, far = (x & ~binary_erosion(x) for x in (mask, other))
    to_other = distance_transform_edt(~far, sampling=spacing)
    return torch.from_numpy(np.asarray(to_other)[edge].astype(np.float32)).double()
