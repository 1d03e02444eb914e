"""The readers' majority."""

from __future__ import annotations

from torch import Tensor

from modiff.metrics.functional._checks import check_masks, votes


def majority_vote(masks: Tensor, read: Tensor | None = None) -> Tensor:
    """Pixels that more than half of the readers marked: (B,R,K,H,W) masks, (B,R) read -> (B,K,H,W) bool.

    Ties are background, as is an image that nobody read; classes exclude each other if each rater's do. Repeated n
    times it is the simplest predictor to compare a model with. Raises MetricError.
    """
    masks, read = check_masks(masks, read)
    return 2 * votes(masks & read[:, :, None, None, None]) > read.sum(1)[:, None, None, None]
