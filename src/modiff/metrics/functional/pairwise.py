"""Overlaps of all pairs of masks, counted once: most set metrics follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics.functional import _matching
from modiff.metrics.functional._checks import (
    as_bool,
    check_masks,
    check_sets,
    check_weights,
    image_chunks,
    reader_weights,
)

_EXACT_FLOAT32 = 2**24  # counts up to here are exact in float32
_IMAGES_A_PRODUCT = 16


def _common(a: Tensor, b: Tensor) -> Tensor:
    """Pixels common to each pair of all masks: bool (B,N,K,H,W) and (B,M,K,H,W) -> (B,K,N+M,N+M) int32."""
    size = a.shape[1] + b.shape[1]
    common = torch.empty(len(a), a.shape[2], size, size, dtype=torch.int32, device=a.device)
    if a.device.type == "cpu":
        for start in range(0, len(a), _IMAGES_A_PRODUCT):
            part = slice(start, start + _IMAGES_A_PRODUCT)
            common[part] = _products(_marked(a[part].numpy(), b[part].numpy()))
        return common
    for part in image_chunks(len(a), 4 * size * a[0, 0].numel() if a.numel() else 1):
        common[part] = _products(torch.cat([a[part], b[part]], dim=1).flatten(3))
    return common


def _products(flat: Tensor) -> Tensor:
    """Matrix products of bool (B,M,K,P) -> (B,K,M,M) int32."""
    exact = torch.float32 if flat.shape[-1] < _EXACT_FLOAT32 else torch.float64
    rows = flat.transpose(1, 2).to(exact)
    return torch.matmul(rows, rows.transpose(-1, -2)).to(torch.int32)


def _marked(a: np.ndarray, b: np.ndarray) -> Tensor:
    """Both sets on the pixels that somebody marks, (B,N,K,H,W) and (B,M,K,H,W) -> bool (B,N+M,K,p).

    Most of an image is nobody's. Images with fewer pixels than others are filled with background. In NumPy: pieces this
    small are not worth torch's threads, which wait for each other where the machine does other work as well.
    """
    kept = []
    for pair in zip(a, b, strict=True):
        masks = np.concatenate(pair)
        flat = masks.reshape(len(masks), masks.shape[1], -1)
        kept.append(flat[..., flat.any((0, 1))])
    filled = np.zeros((*kept[0].shape[:2], max(masks.shape[-1] for masks in kept)), dtype=bool)
    together = np.repeat(filled[None], len(kept), axis=0)
    for image, masks in zip(together, kept, strict=True):
        image[..., : masks.shape[-1]] = masks
    return torch.from_numpy(together)


def _jaccard(common: Tensor, area_a: Tensor, area_b: Tensor) -> Tensor:
    """IoU of counts, in float64, with IoU(∅,∅) = 1."""
    union = area_a + area_b - common
    return torch.where(union == 0, 1.0, common.double() / union.clamp(min=1).double())


def _dice(common: Tensor, area_a: Tensor, area_b: Tensor) -> Tensor:
    """Dice of counts, in float64, with Dice(∅,∅) = 1."""
    total = area_a + area_b
    return torch.where(total == 0, 1.0, 2.0 * common.double() / total.clamp(min=1).double())


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each mask of `a` with each of `b`: (B,N,K,H,W) and (B,M,K,H,W) masks -> (B,N,M,K) float64.

    IoU(∅,∅) = 1. Raises MetricError for shapes that do not fit or values other than 0 and 1.
    """
    a, b = as_bool(a, "a", "(B,N,K,H,W)"), as_bool(b, "b", "(B,M,K,H,W)")
    if a.shape[0] != b.shape[0] or a.shape[2:] != b.shape[2:]:
        raise MetricError(
            "masks do not fit", found=f"{tuple(a.shape)} and {tuple(b.shape)}", expected="equal B, K, H, W"
        )
    common, n = _common(a, b), a.shape[1]
    areas = common.diagonal(dim1=-2, dim2=-1)
    return _jaccard(common[..., :n, n:], areas[..., :n, None], areas[..., None, n:]).permute(0, 2, 3, 1)


@dataclass(frozen=True, eq=False)
class PairwiseDistances:
    """What all pairs of samples and raters of a batch have in common, counted once.

    common: (B,K,N+R,N+R) int32, pixels in both masks, samples first; its diagonal holds the areas. n: N.
    read: (B,R) bool. pixels: H·W. Distances are class means of 1 − IoU with IoU(∅,∅) = 1, in float64.
    """

    common: Tensor
    n: int
    read: Tensor
    pixels: int

    @classmethod
    def of(cls, samples: Tensor, masks: Tensor, *, read: Tensor | None = None) -> PairwiseDistances:
        """From masks (B,N,K,H,W) of samples and (B,R,K,H,W) of raters; raises MetricError."""
        samples, masks, read = check_sets(samples, masks, read)
        return cls._count(samples, masks, read)

    @classmethod
    def of_samples(cls, samples: Tensor) -> PairwiseDistances:
        """Of the samples alone (R = 0): only their diversity can be asked of it."""
        samples = as_bool(samples, "samples", "(B,N,K,H,W)")
        nobody = samples[:, :0]
        return cls._count(samples, nobody, nobody.flatten(2).any(-1))

    @classmethod
    def of_raters(cls, masks: Tensor, *, read: Tensor | None = None) -> PairwiseDistances:
        """Of the raters alone (N = 0): only what needs no sample can be asked of it."""
        masks, read = check_masks(masks, read)
        return cls._count(masks[:, :0], masks, read)

    @classmethod
    def _count(cls, samples: Tensor, masks: Tensor, read: Tensor) -> PairwiseDistances:
        return cls(_common(samples, masks), samples.shape[1], read, masks.shape[-2] * masks.shape[-1])

    def subset(self, which: int | Tensor) -> PairwiseDistances:
        """The same images with fewer samples: the first `which`, or those at the indices (n,) or (B,n)."""
        batch, classes, size, _ = self.common.shape
        if isinstance(which, int):
            if not 1 <= which <= self.n:
                raise MetricError("not that many samples", field="n", found=which, expected=f"1 to {self.n}")
            which = torch.arange(which)
        which = which.to(self.common.device)
        chosen = which if which.ndim == 2 else which.expand(batch, -1)
        raters = torch.arange(self.n, size, device=chosen.device).expand(batch, -1)
        index = torch.cat([chosen, raters], dim=1)[:, None, :, None].expand(-1, classes, -1, size)
        rows = self.common.gather(2, index)
        columns = index[..., 0][:, :, None, :].expand(-1, -1, index.shape[2], -1)
        return replace(self, common=rows.gather(3, columns), n=chosen.shape[1])

    @cached_property
    def areas(self) -> Tensor:
        """(B,K,N+R) int32: pixels of each mask."""
        return self.common.diagonal(dim1=-2, dim2=-1)

    @cached_property
    def distances(self) -> Tensor:
        """(B,N+R,N+R) float64: class mean of 1 − IoU."""
        return (1.0 - _jaccard(self.common, self.areas[..., :, None], self.areas[..., None, :])).mean(1)

    @property
    def sample_sample(self) -> Tensor:
        """(B,N,N) float64 distances."""
        return self.distances[:, : self.n, : self.n]

    @property
    def sample_rater(self) -> Tensor:
        """(B,N,R) float64 distances; columns of raters who did not read the image mean nothing."""
        return self.distances[:, : self.n, self.n :]

    @property
    def rater_rater(self) -> Tensor:
        """(B,R,R) float64 distances; rows and columns of raters who did not read the image mean nothing."""
        return self.distances[:, self.n :, self.n :]

    @cached_property
    def dice(self) -> Tensor:
        """(B,N,R) float64: class mean of the Dice of each sample with each rater, Dice(∅,∅) = 1."""
        common = self.common[..., : self.n, self.n :]
        return _dice(common, self.areas[..., : self.n, None], self.areas[..., None, self.n :]).mean(1)

    def ged(self, *, estimator: Literal["v", "u"], weights: Tensor | None = None) -> Tensor:
        """(B,) generalised energy distance; see `functional.ged`."""
        rater_weights = reader_weights(self.read)
        sample_weights = check_weights(weights, self.sample_rater)
        cross = torch.einsum("bn,bnr,br->b", sample_weights, self.sample_rater, rater_weights)
        within = _self_term(self.sample_sample, sample_weights, estimator)
        return 2.0 * cross - within - _self_term(self.rater_rater, rater_weights, estimator)

    def hm_iou(self, *, matching: Literal["optimal", "greedy"], weights: Tensor | None = None) -> Tensor:
        """(B,) Hungarian-matched IoU; see `functional.hm_iou`."""
        if matching == "greedy":
            if weights is not None:
                raise MetricError("greedy matching takes one sample a rater", field="weights", expected="None")
            return _matching.greedy(1.0 - self.sample_rater, self.read)
        if matching != "optimal":
            raise MetricError("no such matching", field="matching", found=matching, expected="optimal or greedy")
        normed = None if weights is None else check_weights(weights, self.sample_rater)
        return _matching.optimal(1.0 - self.sample_rater, self.read, normed)

    def sample_diversity(self, *, estimator: Literal["v", "u"], weights: Tensor | None = None) -> Tensor:
        """(B,) mean distance between two samples; see `functional.sample_diversity`."""
        return _self_term(self.sample_sample, check_weights(weights, self.sample_rater), estimator)

    def rater_diversity(self, *, estimator: Literal["v", "u"]) -> Tensor:
        """(B,) mean distance between two readers; see `functional.rater_diversity`."""
        return _self_term(self.rater_rater, reader_weights(self.read), estimator)

    def iid_reference(self, n: int, *, estimator: Literal["v", "u"]) -> Tensor:
        """(B,) expected GED of n fresh raters; see `functional.iid_reference`."""
        if n < 1:
            raise MetricError("needs a sample", field="n", found=n, expected="n >= 1")
        readers = self.read.sum(1)
        apart = torch.where(readers >= 2, self.rater_diversity(estimator="u"), torch.nan)
        if estimator == "v":
            return apart * (1.0 / n + 1.0 / readers.clamp(min=1))
        return apart if n == 1 else torch.zeros_like(apart).where(readers >= 2, torch.nan)

    def best_dice(self) -> Tensor:
        """(B,R) each reader's best Dice over the samples; see `functional.best_dice`."""
        return self.dice.amax(1).where(self.read, torch.nan)

    def dmax(self) -> Tensor:
        """(B,) mean over the readers of their best Dice; see `functional.dmax`."""
        return self.best_dice().nanmean(1)


def _self_term(distances: Tensor, weights: Tensor, estimator: str) -> Tensor:
    """Mean distance within a set, (B,M,M) and (B,M) weights -> (B,): with ("v") or without ("u") pairs i = j."""
    mean = torch.einsum("bi,bij,bj->b", weights, distances, weights)
    if estimator == "v":
        return mean
    if estimator != "u":
        raise MetricError("no such estimator", field="estimator", found=estimator, expected="v or u")
    # d(i,i) = 0: the sum over all pairs is the sum over i != j, whose weight is 1 − Σw². One element has no such pair.
    others = 1.0 - weights.square().sum(1)
    several = (weights > 0).sum(1) >= 2
    return torch.where(several | weights.isnan().any(1), mean / torch.where(several, others, 1.0), 0.0)
