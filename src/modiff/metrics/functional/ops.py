"""What metrics share: checks of their input, overlaps of all pairs of masks counted once, mean maps, correlation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from modiff.errors import MetricError

# Working copies of at most 8 MiB: larger blocks are returned to the OS and page-fault on every reuse.
_COPY_BYTES = 2**23
_EXACT_FLOAT32 = 2**24  # counts up to here are exact in float32
_IMAGES_PER_PRODUCT = 16


def as_bool(maps: Tensor, field: str, shape: str, hint: str | None = None) -> Tensor:
    """Five axes and only 0 and 1, as bool; raises MetricError."""
    if maps.ndim != 5:
        raise MetricError("wrong shape", field=field, found=tuple(maps.shape), expected=shape)
    if maps.dtype == torch.bool:
        return maps
    binary = maps != 0
    if not torch.equal(binary.to(maps.dtype), maps):
        raise MetricError("values other than 0 and 1", field=field, expected="masks", hint=hint)
    return binary


def check_masks(masks: Tensor, read: Tensor | None) -> tuple[Tensor, Tensor]:
    """masks as bool (B,R,K,H,W) and read as bool (B,R), all true where it is None; raises MetricError."""
    masks = as_bool(masks, "masks", "(B,R,K,H,W)")
    if masks.shape[1] == 0:
        raise MetricError("no raters", field="masks", found=tuple(masks.shape), expected="R >= 1")
    if read is None:
        return masks, torch.ones(masks.shape[:2], dtype=torch.bool, device=masks.device)
    if read.shape != masks.shape[:2]:
        raise MetricError("does not fit the masks", field="read", found=tuple(read.shape), expected=masks.shape[:2])
    return masks, read.to(device=masks.device, dtype=torch.bool)


def check_sets(
    samples: Tensor, masks: Tensor, read: Tensor | None, *, maps: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, masks and read of the same images, classes and pixels, the last two as bool; raises MetricError.

    samples: masks as bool; maps: or probability maps as float32 or float64.
    """
    masks, read = check_masks(masks, read)
    if maps and samples.is_floating_point() and samples.ndim == 5:
        check_probabilities(samples)
        samples = samples if samples.dtype == torch.float64 else samples.float()
    else:
        samples = as_bool(samples, "samples", "(B,N,K,H,W)", hint="Binarise probability maps first.")
    if samples.shape[0] != masks.shape[0] or samples.shape[2:] != masks.shape[2:]:
        found = f"{tuple(samples.shape)} and {tuple(masks.shape)}"
        raise MetricError("samples and masks do not fit", found=found, expected="equal B, K, H, W")
    if samples.shape[1] == 0:
        raise MetricError("no samples", field="samples", found=tuple(samples.shape), expected="N >= 1")
    return samples, masks, read


def check_probabilities(samples: Tensor) -> None:
    """All values in [0,1], so none NaN; raises MetricError."""
    if samples.numel():
        low, high = samples.aminmax()
        if not bool((low >= 0) & (high <= 1)):
            raise MetricError("values outside [0,1]", field="samples", expected="probabilities")


def check_weights(weights: Tensor | None, samples: Tensor) -> Tensor:
    """(B,N) float64 weights that sum to 1 per image, uniform where None; raises MetricError."""
    if weights is None:
        return torch.full(samples.shape[:2], 1.0 / samples.shape[1], dtype=torch.float64, device=samples.device)
    if weights.shape != samples.shape[:2]:
        raise MetricError("do not fit", field="weights", found=tuple(weights.shape), expected=tuple(samples.shape[:2]))
    weights = weights.to(device=samples.device, dtype=torch.float64)
    total = weights.sum(1, keepdim=True)
    if not bool((weights >= 0).all() & (total > 0).all() & total.isfinite().all()):
        expected = "weights >= 0 with a sum > 0"
        raise MetricError("negative, or zero for a whole image", field="weights", expected=expected)
    return weights / total


def images_at_once(bytes_per_image: int) -> int:
    """How many images have working copies of at most 8 MiB together, at least one."""
    return max(1, _COPY_BYTES // max(1, bytes_per_image))


def any_of(masks: Tensor, dim: int) -> Tensor:
    """`masks.any(dim)` of bool with a size above 0: torch reduces bytes by vector instructions, bools one by one."""
    return masks.view(torch.uint8).amax(dim).bool()


def _votes(masks: Tensor) -> Tensor:
    """(B,M,K,H,W) bool -> (B,K,H,W) int32: how many masks have the pixel."""
    exact = torch.uint8 if masks.shape[1] <= 255 else torch.int32
    return masks.view(torch.uint8).sum(1, dtype=exact).to(torch.int32)


def majority_vote(masks: Tensor, read: Tensor | None = None) -> Tensor:
    """Pixels that more than half of the raters marked: (B,R,K,H,W) masks, (B,R) read -> (B,K,H,W) bool.

    Ties are background, as is an image that nobody read; classes exclude each other if each rater's do. Repeated n
    times it is the simplest predictor to compare a model with. Raises MetricError.
    """
    masks, read = check_masks(masks, read)
    return 2 * _votes(masks & read[:, :, None, None, None]) > read.sum(1)[:, None, None, None]


def rater_weights(read: Tensor) -> Tensor:
    """(B,R) float64: equal weights of the raters who read the image; NaN for an image that nobody read."""
    there = read.to(torch.float64)
    return there / there.sum(1, keepdim=True)


def sample_mean(samples: Tensor, weights: Tensor | None) -> Tensor:
    """(B,K,H,W) float64: the mean of maps (B,N,K,H,W), bool or float, weighted by (B,N) where given."""
    if weights is not None:
        return torch.einsum("bnkhw,bn->bkhw", samples.double(), check_weights(weights, samples))
    # The sum, not the mean, in the maps' own precision: it is exact for maps of 0 and 1, and then so is the fraction.
    total = _votes(samples) if samples.dtype == torch.bool else samples.sum(1)
    return total.double() / samples.shape[1]


def correlation(a: Tensor, b: Tensor, constant: float) -> tuple[Tensor, Tensor]:
    """Pearson correlation over the last axis with population deviations, and whether a map was constant.

    A map whose range is at most `constant` counts as constant; two constant maps correlate by 1, one with another map
    by 0 (the formula would divide 0, or rounding noise, by 0). NaN stays NaN.
    """
    flat_a, flat_b = (x.amax(-1) - x.amin(-1) <= constant for x in (a, b))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    scale = (a.square().mean(-1) * b.square().mean(-1)).sqrt()
    degenerate = flat_a | flat_b
    value = (a * b).mean(-1) / torch.where(degenerate, 1.0, scale)
    return torch.where(degenerate & ~value.isnan(), (flat_a & flat_b).to(value.dtype), value), degenerate


def _common(a: Tensor, b: Tensor) -> Tensor:
    """Pixels common to each pair of all masks: bool (B,N,K,H,W) and (B,M,K,H,W) -> (B,K,N+M,N+M) int32."""
    cpu, copy = a.device.type == "cpu", 4 * (a.shape[1] + b.shape[1]) * a.shape[2:].numel()
    step = _IMAGES_PER_PRODUCT if cpu else images_at_once(copy)
    found = []
    for parts in zip(a.split(step), b.split(step), strict=True):
        found.append(_products(_marked(*(x.numpy() for x in parts)) if cpu else torch.cat(parts, 1).flatten(3)))
    return torch.cat(found)


def _products(flat: Tensor) -> Tensor:
    """Matrix products of bool (B,M,K,P) -> (B,K,M,M) int32."""
    exact = torch.float32 if flat.shape[-1] < _EXACT_FLOAT32 else torch.float64
    rows = flat.transpose(1, 2).to(exact)
    return torch.matmul(rows, rows.transpose(-1, -2)).to(torch.int32)


def _marked(a: np.ndarray, b: np.ndarray) -> Tensor:
    """Both sets on the pixels that any mask has, (B,N,K,H,W) and (B,M,K,H,W) -> bool (B,N+M,K,p).

    Most pixels are background in every mask. Images with fewer pixels than others are filled with background. In
    NumPy: pieces this small do not pay for torch's threads, which contend where the machine does other work as well.
    """
    kept = []
    for pair in zip(a, b, strict=True):
        masks = np.concatenate(pair)
        flat = masks.reshape(len(masks), masks.shape[1], -1)
        kept.append(flat[..., flat.any((0, 1))])
    size = max((masks.shape[-1] for masks in kept), default=0)
    together = np.zeros((len(a), a.shape[1] + b.shape[1], a.shape[2], size), dtype=bool)
    for image, masks in zip(together, kept, strict=True):
        image[..., : masks.shape[-1]] = masks
    return torch.from_numpy(together)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole in float64, and 1 where both are empty: IoU(∅,∅) = Dice(∅,∅) = 1."""
    return torch.where(whole == 0, 1.0, part.double() / whole.where(whole > 0, 1).double())


def _iou(common: Tensor) -> Tensor:
    """IoU of each pair of masks, (…,M,M), from the pixels that they have in common; the diagonal holds their own."""
    areas = common.diagonal(dim1=-2, dim2=-1)
    return ratio(common, areas[..., :, None] + areas[..., None, :] - common)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each mask of `a` with each of `b`: (B,N,K,H,W) and (B,M,K,H,W) masks -> (B,N,M,K) float64.

    IoU(∅,∅) = 1. Raises MetricError for shapes that do not fit or values other than 0 and 1.
    """
    a, b = as_bool(a, "a", "(B,N,K,H,W)"), as_bool(b, "b", "(B,M,K,H,W)")
    if a.shape[0] != b.shape[0] or a.shape[2:] != b.shape[2:]:
        found = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise MetricError("masks do not fit", found=found, expected="equal B, K, H, W")
    n = a.shape[1]
    return _iou(_common(a, b))[..., :n, n:].permute(0, 2, 3, 1)


@dataclass(frozen=True, eq=False)
class PairwiseDistances:
    """What all pairs of samples and raters of a batch have in common, counted once.

    Metrics of masks take it in place of samples and masks: `ged(pairs)`, `hm_iou(pairs.subset(4))`.
    common: (B,K,N+R,N+R) int32, pixels in both masks, samples first; its diagonal holds the areas. n: N.
    read: (B,R) bool. pixels: H·W. Distances are class means of 1 − IoU with IoU(∅,∅) = 1, in float64.
    """

    common: Tensor
    n: int
    read: Tensor
    pixels: int

    @classmethod
    def of(
        cls, samples: Tensor | PairwiseDistances, masks: Tensor | None = None, *, read: Tensor | None = None
    ) -> PairwiseDistances:
        """From masks (B,N,K,H,W) of samples and (B,R,K,H,W) of raters, or the pairs themselves; raises MetricError.

        Without masks only the samples can be asked about: their diversity.
        """
        if isinstance(samples, PairwiseDistances):
            return samples
        if masks is None:
            samples = as_bool(samples, "samples", "(B,N,K,H,W)")
            return cls._count(samples, samples[:, :0], samples.new_zeros((len(samples), 0)))
        return cls._count(*check_sets(samples, masks, read))

    @classmethod
    def of_raters(cls, masks: Tensor | PairwiseDistances, *, read: Tensor | None = None) -> PairwiseDistances:
        """Of the raters alone (N = 0): only what needs no sample can be asked of it."""
        if isinstance(masks, PairwiseDistances):
            return masks
        masks, read = check_masks(masks, read)
        return cls._count(masks[:, :0], masks, read)

    @classmethod
    def _count(cls, samples: Tensor, masks: Tensor, read: Tensor) -> PairwiseDistances:
        return cls(_common(samples, masks), samples.shape[1], read, masks.shape[-2] * masks.shape[-1])

    def subset(self, which: int | Tensor) -> PairwiseDistances:
        """The same images with fewer samples: the first `which`, or those at the indices (n,) or (B,n)."""
        if isinstance(which, int):
            if not 1 <= which <= self.n:
                raise MetricError("not that many samples", field="n", found=which, expected=f"1 to {self.n}")
            which = torch.arange(which)
        batch, classes, size, _ = self.common.shape
        chosen, raters = (x.to(self.common.device).expand(batch, -1) for x in (which, torch.arange(self.n, size)))
        index = torch.cat([chosen, raters], dim=1)[:, None]
        rows = self.common.gather(2, index[..., None].expand(-1, classes, -1, size))
        columns = index[..., None, :].expand(-1, classes, index.shape[-1], -1)
        return replace(self, common=rows.gather(3, columns), n=chosen.shape[1])

    @cached_property
    def areas(self) -> Tensor:
        """(B,K,N+R) int32: pixels of each mask."""
        return self.common.diagonal(dim1=-2, dim2=-1)

    @cached_property
    def distances(self) -> Tensor:
        """(B,N+R,N+R) float64: class mean of 1 − IoU."""
        return (1.0 - _iou(self.common)).mean(1)

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
        total = self.areas[..., : self.n, None] + self.areas[..., None, self.n :]
        return ratio(2 * self.common[..., : self.n, self.n :], total).mean(1)
