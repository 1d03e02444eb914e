"""Representative sets: of many samples the n whose distribution is nearest to that of them all (support points).

n independent draws carry a sampling error that is not the model's. Of N > n candidates those n are kept, with equal
weights, whose energy distance to all candidates is least: herding, then swaps. Source: Mak and Joseph, "Support points"
(Annals of Statistics 2018); the distance is that of GED. Weights that lower the energy distance further were measured:
they do not lower GED to the raters (docs/metrics.md), and NCC, CI and surface distances have no weighted form.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from modiff.errors import MetricError
from modiff.metrics.functional import PairwiseDistances
from modiff.metrics.protocols import binarise
from modiff.types import Pool, Samples

_STARTS = 16  # first points of the herding, from each of which swaps begin
_SWAPS = 1 << 24  # looked at together, at most: 128 MiB
_GAIN = 1e-12  # what a swap must lower the distance by: rounding is not a gain
Floats = NDArray[np.float64]


def support_points(distances: Floats, n: int, *, weights: Floats | None = None) -> NDArray[np.int64]:
    """(n,) rising indices of the candidates whose equally weighted set has the least energy distance to all of them.

    distances: (N,N), symmetric, 0 on the diagonal. weights: (N,) of the candidates, by default equal. It is a local
    minimum over swaps of one, the best of several starts. Another order of the candidates gives the same set, up to
    candidates whose distances to all others are the same. Raises MetricError for n outside 1 to N or other shapes.
    """
    count = len(distances)
    if distances.shape != (count, count) or (weights is not None and weights.shape != (count,)):
        raise MetricError("not distances of pairs", field="distances", found=distances.shape, expected="(N,N)")
    if not 1 <= n <= count:
        raise MetricError("not that many candidates", field="n", found=n, expected=f"1 to {count}")
    weights = np.full(count, 1 / count) if weights is None else weights / weights.sum()
    # In an order that does not depend on the one given: rows of sorted distances, compared from their first value on.
    rows = np.column_stack([weights, np.sort(distances, 1)])
    order = np.lexsort(rows.T[::-1])
    distances, cross = distances[np.ix_(order, order)], distances[np.ix_(order, order)] @ weights[order]
    starts = max(1, min(count, _STARTS, _SWAPS // (n * (count - n) + 1)))
    first = np.unique(np.linspace(0, count - 1, starts).astype(int))
    kept = _swapped(distances, cross, _herded(distances, cross, n, first))
    energy = 2 * (kept @ cross) / n - np.einsum("ki,ij,kj->k", kept, distances, kept, optimize=True) / n**2
    best = int(np.flatnonzero(energy <= energy.min() + _GAIN)[0])
    return np.sort(order[kept[best]])


def _herded(distances: Floats, cross: Floats, n: int, first: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(starts,N): from each first point, point by point what lowers the energy distance most."""
    starts = np.arange(len(first))
    kept, near = np.zeros((len(first), len(distances)), dtype=bool), distances[first]
    kept[starts, first] = True
    for size in range(2, n + 1):
        point = np.where(kept, np.inf, cross - near / size).argmin(1)
        kept[starts, point] = True
        near = near + distances[point]
    return kept


def _swapped(distances: Floats, cross: Floats, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Each set with the swap of one point that lowers its energy distance most, until none does."""
    n, left = int(kept[0].sum()), np.arange(len(kept) if kept.shape[1] > kept[0].sum() else 0)
    while len(left):
        own, free = (which.nonzero()[1].reshape(len(left), -1) for which in (kept[left], ~kept[left]))
        rest = cross - (kept[left] @ distances) / n
        change = np.take_along_axis(rest, free, 1)[:, None] - np.take_along_axis(rest, own, 1)[..., None]
        change += distances[own[..., None], free[:, None]] / n
        flat = change.reshape(len(left), -1)
        best = flat.argmin(1)
        gains = flat[np.arange(len(left)), best] < -_GAIN
        out, into = np.divmod(best[gains], free.shape[1])
        own, free, left = own[gains], free[gains], left[gains]
        rows = np.arange(len(left))
        kept[left, own[rows, out]], kept[left, free[rows, into]] = False, True
    return kept


def representative(samples: Samples, n: int, *, pool: bool = False) -> Samples:
    """n of the N candidates of each image, with equal weights, by `support_points` of their masks (argmax).

    Distances are those of GED: the mean over classes of 1 − IoU, of two empty masks 0; of scans (maps (B,N,K,z,h,w))
    over the whole volume. pool: also what all candidates say together, as `Samples.pool`. Raises MetricError.
    """
    pairs = PairwiseDistances.of(binarise(samples.maps.detach().flatten(3, -2), None))
    distances, weights = pairs.sample_sample.cpu().numpy(), samples.weights.detach().cpu().double().numpy()
    chosen = [support_points(one, n, weights=weight) for one, weight in zip(distances, weights, strict=True)]
    kept = torch.from_numpy(np.stack(chosen)).to(samples.maps.device)
    rows = torch.arange(len(kept), device=kept.device)[:, None]
    raters = None if samples.raters is None else samples.raters[rows, kept]
    equal = torch.full(kept.shape, 1 / n, device=kept.device)
    together = _pool(samples, distances, weights, chosen) if pool else None
    shown = samples.maps[rows, kept], equal, samples.present[rows, kept], raters
    return Samples(*shown, presence=samples.presence, pool=together)


def _pool(samples: Samples, distances: Floats, weights: Floats, chosen: list[NDArray[np.int64]]) -> Pool:
    """Of all candidates. A candidate counts for the kept sample that is nearest to it, or for those that are."""
    fractions = []
    for apart, weight, kept in zip(distances, weights, chosen, strict=True):
        nearest = apart[:, kept] <= apart[:, kept].min(1, keepdims=True) + _GAIN
        fractions.append((weight / weight.sum()) @ (nearest / nearest.sum(1, keepdims=True)))
    mean = torch.zeros_like(samples.maps[:, 0], dtype=torch.float64)
    each = torch.from_numpy(weights / weights.sum(1, keepdims=True)).to(mean.device)
    for maps, weight in zip(samples.maps.unbind(1), each.unbind(1), strict=True):  # large scans fill the memory
        mean += maps * weight.reshape(-1, *[1] * (maps.ndim - 1))
    marking = (each * samples.present).sum(1)
    return Pool(samples.maps.shape[1], mean.clamp_(0, 1), torch.from_numpy(np.stack(fractions)), marking)
