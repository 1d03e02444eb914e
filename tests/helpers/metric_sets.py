"""Sets of masks for property tests."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

HUNDREDS = settings(max_examples=200, deadline=None)


@st.composite
def mask_sets(
    draw: st.DrawFn, *, max_samples: int = 5, max_raters: int = 4, max_classes: int = 2, square: bool = False
) -> tuple[Tensor, Tensor]:
    """samples (1,N,K,H,W) and masks (1,M,K,H,W), bool, few pixels; empty sets and equal masks are common."""
    n, m = draw(st.integers(1, max_samples)), draw(st.integers(1, max_raters))
    classes, height = draw(st.integers(1, max_classes)), draw(st.integers(1, 4))
    width = height if square else draw(st.integers(1, 4))
    pool = draw(hnp.arrays(np.bool_, (draw(st.integers(1, n + m)), classes, height, width)))
    which = draw(st.lists(st.integers(0, len(pool) - 1), min_size=n + m, max_size=n + m))
    everything = torch.from_numpy(pool[which])[None]
    return everything[:, :n], everything[:, n:]


def as_arrays(sets: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """The same as (N,K,H,W) and (M,K,H,W) arrays."""
    return sets[0][0].numpy(), sets[1][0].numpy()
