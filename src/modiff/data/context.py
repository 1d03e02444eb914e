"""Neighbouring slices as channels: for each channel of a scan its slices -K … 0 … +K, K being the context of a store.

Stores hold the neighbours. A slice's neighbours are then there however slices were chosen, cropped or resized, and
methods, batches on either device, checks and copies of a store see nothing but channels. It costs the images' bytes
2K + 1 times. Channels of a scan lie one behind the other, of each the lowest neighbour first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from modiff.errors import DataError

_Channels = TypeVar("_Channels", tuple[str, ...], np.ndarray)


def named(channels: Sequence[str], context: int) -> tuple[str, ...]:
    """Names of a scan's channels with their neighbours', such as CT[-1], CT, CT[+1]."""
    steps = range(-context, context + 1)
    return tuple(f"{name}[{step:+d}]" if step else name for name in channels for step in steps)


def near(index: int, count: int, context: int) -> list[int]:
    """The slice `index` of `count` with its neighbours; where the volume ends, its last slice stands for them."""
    return [min(max(place, 0), count - 1) for place in range(index - context, index + context + 1)]


def own_slice(channels: _Channels, context: int) -> _Channels:
    """Of names, or of an image (C,…), the channels of the slice itself."""
    return channels[context :: 2 * context + 1]


def check_enough(context: int, needed: int) -> None:
    """DataError where a store has fewer neighbours of its slices than a model needs."""
    if context < needed:
        hint = f"Import the volumes with --context {needed}"
        what = "has too few neighbours of its slices for the model"
        raise DataError(what, field="context", found=context, expected=needed, hint=hint)


def narrowed(images: np.ndarray, context: int, to: int) -> np.ndarray:
    """(…,C,H,W) with `context` neighbours -> those of `to` of them."""
    each = images.reshape(*images.shape[:-3], -1, 2 * context + 1, *images.shape[-2:])
    kept = each[..., context - to : context + to + 1, :, :]
    return np.ascontiguousarray(kept.reshape(*images.shape[:-3], -1, *images.shape[-2:]))


def reversed_slices(images: np.ndarray, context: int) -> np.ndarray:
    """(…,C,H,W) as of volumes whose last slice comes first."""
    each = images.reshape(*images.shape[:-3], -1, 2 * context + 1, *images.shape[-2:])
    return np.ascontiguousarray(each[..., ::-1, :, :].reshape(images.shape))
