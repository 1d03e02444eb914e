"""Pure, batched metrics: one float64 value an image, NaN where it is undefined; reductions come after.

Shapes everywhere: samples (B,N,K,H,W), masks (B,R,K,H,W), read (B,R) or None, K foreground classes.
"""

from modiff.metrics.functional.consensus import majority_vote
from modiff.metrics.functional.pairwise import PairwiseDistances, pairwise_iou
from modiff.metrics.functional.sets import (
    best_dice,
    dmax,
    ged,
    hm_iou,
    iid_reference,
    rater_diversity,
    sample_diversity,
)

__all__ = [
    "PairwiseDistances",
    "best_dice",
    "dmax",
    "ged",
    "hm_iou",
    "iid_reference",
    "majority_vote",
    "pairwise_iou",
    "rater_diversity",
    "sample_diversity",
]
