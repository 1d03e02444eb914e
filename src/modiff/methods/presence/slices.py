"""One lesion through the slices of a scan: who marks it may change from slice to slice, but leaves no holes."""

from __future__ import annotations

import torch
from torch import Tensor

from modiff.methods.presence.head import marking_probability


def without_valleys(values: Tensor) -> Tensor:
    """(Z,…) values along slices, each valley filled to the lower of the peaks on its two sides."""
    before = values.cummax(0).values
    after = values.flip(0).cummax(0).values.flip(0)
    return torch.minimum(before, after)


def join_laws(law: Tensor, *, exchangeable: bool) -> Tensor:
    """The presence laws (Z, R+1) or (Z, R) of a lesion's slices in order, made such that a draw marks slices in a row.

    A sample marks the slices whose probability exceeds its one number, so a slice judged a little less likely than its
    neighbours on both sides would be a hole in the middle of a lesion. Where raters are exchangeable such a slice takes
    the whole law of the slice that limits it.
    """
    if not exchangeable:
        return without_valleys(law)
    chance = marking_probability(law, exchangeable=True)[:, 0]
    filled = without_valleys(chance)
    # Every filled value is the chance of some slice: the first of those.
    source = (chance[None, :] == filled[:, None]).int().argmax(1)
    return torch.where((filled > chance)[:, None], law[source], law)
