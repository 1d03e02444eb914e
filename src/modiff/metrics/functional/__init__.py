"""Pure, batched metrics: one float64 value per image, NaN where it is undefined; reductions come after.

Shapes everywhere: samples (B,N,K,H,W), masks (B,R,K,H,W), read (B,R) or None, K foreground classes.
"""

# ruff: noqa: F401  what is imported here is what the package offers
from modiff.metrics.functional.maps import (
    QUBIQ_LEVELS,
    NccResult,
    Presence,
    brier,
    calibration_bins,
    calibration_gaps,
    expected_calibration_error,
    ncc,
    ncc_result,
    pooled_calibration_error,
    presence_bins,
    presence_calibration_error,
    presence_fractions,
    presence_gaps,
    soft_dice,
    uncertainty_auroc,
    uncertainty_map,
    uncertainty_ncc,
)
from modiff.metrics.functional.ops import PairwiseDistances, majority_vote, pairwise_iou
from modiff.metrics.functional.sets import (
    CollectiveInsight,
    SurfaceDistances,
    average_surface_distance,
    best_dice,
    collective_insight,
    crps,
    dmax,
    ged,
    hd95,
    hm_iou,
    iid_reference,
    rater_diversity,
    sample_diversity,
    size_crps,
    surface_distances,
)
