"""Pure, batched metrics: one float64 value per image, NaN where it is undefined; reductions come after.

Shapes everywhere: samples (B,N,K,H,W), masks (B,R,K,H,W), read (B,R) or None, K foreground classes.
"""

from modiff.metrics.functional.calibration import (
    Presence,
    calibration_bins,
    calibration_gaps,
    expected_calibration_error,
    pooled_calibration_error,
    presence_bins,
    presence_calibration_error,
    presence_fractions,
    presence_gaps,
)
from modiff.metrics.functional.ci import CollectiveInsight, best_dice, collective_insight, dmax
from modiff.metrics.functional.ged import ged, iid_reference, rater_diversity, sample_diversity
from modiff.metrics.functional.hm_iou import hm_iou
from modiff.metrics.functional.mean_map import (
    QUBIQ_LEVELS,
    brier,
    soft_dice,
    uncertainty_auroc,
    uncertainty_map,
    uncertainty_ncc,
)
from modiff.metrics.functional.ncc import NccResult, ncc, ncc_result
from modiff.metrics.functional.ops import PairwiseDistances, majority_vote, pairwise_iou
from modiff.metrics.functional.surface import SurfaceDistances, average_surface_distance, hd95, surface_distances

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
    "calibration_gaps",
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
    "presence_fractions",
    "presence_gaps",
    "rater_diversity",
    "sample_diversity",
    "soft_dice",
    "surface_distances",
    "uncertainty_auroc",
    "uncertainty_map",
    "uncertainty_ncc",
]
