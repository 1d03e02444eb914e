"""Pure, batched metrics: one float64 value an image, NaN where it is undefined; reductions come after.

Shapes everywhere: samples (B,N,K,H,W), masks (B,R,K,H,W), read (B,R) or None, K foreground classes.
"""

from modiff.metrics.functional.agreement import (
    QUBIQ_LEVELS,
    brier,
    soft_dice,
    uncertainty_auroc,
    uncertainty_map,
    uncertainty_ncc,
)
from modiff.metrics.functional.calibration import (
    Presence,
    calibration_bins,
    expected_calibration_error,
    pooled_calibration_error,
    presence_bins,
    presence_calibration_error,
    presence_shares,
)
from modiff.metrics.functional.consensus import majority_vote
from modiff.metrics.functional.insight import CollectiveInsight, collective_insight
from modiff.metrics.functional.ncc import NccResult, ncc, ncc_result
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
from modiff.metrics.functional.surface import (
    SurfaceDistances,
    average_surface_distance,
    hd95,
    surface_distances,
)

__all__ = [
    "QUBIQ_LEVELS",
    "CollectiveInsight",
    "NccResult",
    "PairwiseDistances",
    "Presence",
    "SurfaceDistances",
    "average_surface_distance",
    "best_dice",
    "brier",
    "calibration_bins",
    "collective_insight",
    "dmax",
    "expected_calibration_error",
    "ged",
    "hd95",
    "hm_iou",
    "iid_reference",
    "majority_vote",
    "ncc",
    "ncc_result",
    "pairwise_iou",
    "pooled_calibration_error",
    "presence_bins",
    "presence_calibration_error",
    "presence_shares",
    "rater_diversity",
    "sample_diversity",
    "soft_dice",
    "surface_distances",
    "uncertainty_auroc",
    "uncertainty_map",
    "uncertainty_ncc",
]
