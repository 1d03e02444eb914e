"""What every metric asks of its input, and how a large batch is cut so that copies stay small."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from modiff.errors import MetricError

# Working copies of 8 MiB at most: the allocator keeps blocks of this size, larger ones cost a page fault a page.
_COPY_BYTES = 2**23


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


def check_sets(samples: Tensor, masks: Tensor, read: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Binary samples, masks and read as bool, of shapes that fit each other; raises MetricError."""
    masks, read = check_masks(masks, read)
    samples = as_bool(samples, "samples", "(B,N,K,H,W)", hint="Binarise probability maps first.")
    check_fit(samples, masks)
    return samples, masks, read


def check_maps(samples: Tensor, masks: Tensor, read: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Probability maps as float32, float64 or bool, masks and read as bool; raises MetricError."""
    masks, read = check_masks(masks, read)
    if samples.ndim != 5:
        raise MetricError("wrong shape", field="samples", found=tuple(samples.shape), expected="(B,N,K,H,W)")
    check_fit(samples, masks)
    if not samples.is_floating_point():
        return as_bool(samples, "samples", "(B,N,K,H,W)"), masks, read
    check_probabilities(samples)
    return samples if samples.dtype == torch.float64 else samples.float(), masks, read


def check_probabilities(samples: Tensor) -> None:
    """All values in [0,1], so none NaN; raises MetricError."""
    if samples.numel():
        low, high = samples.aminmax()
        if not bool((low >= 0) & (high <= 1)):
            raise MetricError("values outside [0,1]", field="samples", expected="probabilities")


def check_fit(samples: Tensor, masks: Tensor) -> None:
    """Samples and masks show the same images, classes and pixels, and there is a sample; raises MetricError."""
    if samples.shape[0] != masks.shape[0] or samples.shape[2:] != masks.shape[2:]:
        raise MetricError(
            "samples and masks do not fit",
            found=f"{tuple(samples.shape)} and {tuple(masks.shape)}",
            expected="equal B, K, H, W",
        )
    if samples.shape[1] == 0:
        raise MetricError("no samples", field="samples", found=tuple(samples.shape), expected="N >= 1")


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


def check_weights(weights: Tensor | None, samples: Tensor) -> Tensor:
    """(B,N) float64 weights that sum to 1 an image, uniform where None; raises MetricError."""
    if weights is None:
        return torch.full(samples.shape[:2], 1.0 / samples.shape[1], dtype=torch.float64, device=samples.device)
    if weights.shape != samples.shape[:2]:
        raise MetricError("do not fit", field="weights", found=tuple(weights.shape), expected=tuple(samples.shape[:2]))
    weights = weights.to(device=samples.device, dtype=torch.float64)
    total = weights.sum(1, keepdim=True)
    if not bool((weights >= 0).all() & (total > 0).all() & total.isfinite().all()):
        raise MetricError(
            "negative, or zero for a whole image", field="weights", expected="weights >= 0 with a sum > 0"
        )
    return weights / total


def image_chunks(images: int, bytes_per_image: int) -> Iterator[slice]:
    """Slices of the batch whose working copies stay under 8 MiB."""
    step = max(1, _COPY_BYTES // max(1, bytes_per_image))
    for start in range(0, images, step):
        yield slice(start, start + step)


def reader_weights(read: Tensor) -> Tensor:
    """(B,R) float64: equal weights of the raters who read the image; NaN for an image that nobody read."""
    share = read.to(torch.float64)
    return share / share.sum(1, keepdim=True)


def reader_mean(masks: Tensor, read: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """(B,K,H,W): the share of the readers who marked each pixel; NaN for an image that nobody read."""
    return torch.einsum("brkhw,br->bkhw", masks.to(dtype), reader_weights(read).to(dtype))


def any_of(masks: Tensor, dim: int) -> Tensor:
    """`masks.any(dim)` of bool with a size above 0: torch reduces bytes by vector instructions, bools one by one."""
    return masks.view(torch.uint8).amax(dim).bool()


def votes(masks: Tensor) -> Tensor:
    """(B,M,K,H,W) bool -> (B,K,H,W) int32: how many masks have the pixel."""
    exact = torch.uint8 if masks.shape[1] <= 255 else torch.int32
    return masks.view(torch.uint8).sum(1, dtype=exact).to(torch.int32)
