"""Values of the original implementations: each metric equals the code it is defined by."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modiff.metrics import functional as F
from modiff.metrics.protocols import binarise

CASES = [
    "c1_m4_n16_generic",
    "c2_m4_n16_two_raters_empty",
    "c3_m2_n16",
    "c4_m4_n2",
    "c5_m4_n16_all_gt_empty",
    "c6_m4_n16_everything_empty",
    "x7_m4_n16_identical_samples",
    "x8_m4_n16_oracle_exact",
    "x9_m4_n6_lcm12",
    "x10_m4_n16_one_pred_empty_vs_all_gt_nonempty_disjoint",
]


def with_background(masks: Tensor) -> Tensor:
    return torch.cat([masks, ~masks], dim=2)


# key: (the metric that has the same definition, tolerance)
MATCHED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "ccdm.ged": (F.ged, 1e-10),
    "phiseg.ged": (F.ged, 1e-10),
    "medicalmatting.ged": (F.ged, 1e-10),
    "ssn.ged": (F.ged, 1e-10),
    "mose.ged": (F.ged, 1e-6),
    "kohl.ged_fg": (F.ged, 1e-6),
    "dpersona.ged": (F.ged, 1e-6),
    "cimd.ged_numpy": (F.ged, 1e-5),
    "cimd.ged_tensor": (F.ged, 1e-5),
    "phiseg.ged_allclasses": (lambda s, y: F.ged(with_background(s), with_background(y)), 1e-10),
    "kohl.ged_2cls": (lambda s, y: F.ged(with_background(s), with_background(y)), 1e-6),
    "modiff.ged": (lambda s, y: F.ged(s, y, estimator="u"), 1e-10),
    "dpersona.gedx_unbiased": (lambda s, y: F.ged(s, y, estimator="u"), 1e-6),
    "ccdm.div_experts": (lambda s, y: F.rater_diversity(y), 1e-10),
    "ccdm.div_samples": (lambda s, y: F.sample_diversity(s), 1e-10),
    "ccdm.hm_iou": (F.hm_iou, 1e-10),
    "mose.m_iou": (F.hm_iou, 1e-6),
    "modiff.hm_iou_greedy": (lambda s, y: F.hm_iou(s, y, matching="greedy"), 1e-10),
    "phiseg.ncc_hard": (F.ncc, 1e-10),
    "cflow.ncc_onehot": (F.ncc, 1e-6),
    "modiff.ncc": (lambda s, y: F.ncc(s, y, kind="row"), 1e-10),
    "cflow.ncc_noclass": (lambda s, y: F.ncc(s, y, kind="row"), 1e-6),
    "modiff.ci": (lambda s, y: F.collective_insight(s, y).ci, 1e-10),
    "modiff.ci.combined_sensitivity": (lambda s, y: F.collective_insight(s, y).sensitivity, 1e-10),
    "modiff.ci.max_dice": (F.dmax, 1e-10),
    "modiff.ci.diversity_agreement": (lambda s, y: F.collective_insight(s, y).agreement, 1e-10),
    "dpersona.dice_max_reverse": (F.dmax, 1e-6),
    "dpersona.dice_soft": (F.soft_dice, 1e-6),
}
SOFT: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "phiseg.ncc_soft": (F.ncc, 1e-10),
    "cflow.ncc_soft_onehot": (F.ncc, 1e-6),
    "modiff.ncc_soft": (lambda p, y: F.ncc(p, y, kind="row"), 1e-10),
    "cflow.ncc_soft_noclass": (lambda p, y: F.ncc(p, y, kind="row"), 1e-6),
    "dpersona.dice_soft_probs": (F.soft_dice, 1e-6),
}
NOT_MATCHED = {
    "cflow.ged": "misses pairs of its sums",
    "ccdm.hm_iou_no_lcm": "assignment of a rectangle: uses as many samples as there are raters",
    "dpersona.dice_max": "mean over samples of their best rater; D_max is over raters of their best sample",
    "dpersona.dice_match": "one-to-one matching by Dice",
    "values.ncc_of_variance_maps": "variance between soft samples, without the uncertainty within each",
}
UNDEFINED = 14  # values that are NaN or an exception in the original
# A single case where the original has a known fault or divides 0 by 0 and the documented definition stands instead.
EMPTY_SETS = (
    "c2_m4_n16_two_raters_empty",
    "c5_m4_n16_all_gt_empty",
    "x10_m4_n16_one_pred_empty_vs_all_gt_nonempty_disjoint",
)
EXCEPTIONS = {("dpersona.ged", case): "counts IoU(∅,∅) as 0" for case in EMPTY_SETS}


FOLDER = Path(__file__).parents[1] / "golden/metrics"
GOLDEN: dict[str, Any] = json.loads((FOLDER / "golden.json").read_text())


def load(name: str, samples: str) -> tuple[Tensor, Tensor]:
    """One image, one class: samples (1,N,1,H,W) and masks (1,M,1,H,W)."""
    arrays = np.load(FOLDER / f"{name}.npz")
    found, raters = (torch.from_numpy(arrays[key])[None, :, None] for key in (samples, "raters"))
    return found if found.is_floating_point() else found.bool(), raters.bool()


def undefined(value: object) -> bool:
    """NaN (0/0, or a rule of ours where the original has none) or an exception."""
    return isinstance(value, str) or math.isnan(float(str(value)))


def comparable() -> list[tuple[str, str]]:
    """(case, key) of the values that the original defines and that have no documented exception."""
    pairs = [(case, key) for case in CASES for key in MATCHED]
    return [
        (case, key)
        for case, key in pairs
        if (key, case) not in EXCEPTIONS and not undefined(GOLDEN["cases"][case]["values"][key])
    ]


@pytest.mark.parametrize(("case", "key"), comparable())
def test_a_metric_equals_the_original_code(case: str, key: str) -> None:
    expected = GOLDEN["cases"][case]["values"][key]
    metric, tolerance = MATCHED[key]
    assert metric(*load(case, "samples")).item() == pytest.approx(expected, abs=tolerance, rel=0)


def test_few_values_are_undefined_in_the_originals() -> None:
    undefined_or_excepted = len(CASES) * len(MATCHED) - len(comparable())
    assert undefined_or_excepted == UNDEFINED + len(EXCEPTIONS)


@pytest.mark.parametrize("key", MATCHED)
@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_a_metric_of_thresholded_maps_equals_the_original_code(threshold: float, key: str) -> None:
    expected = GOLDEN["soft"][f"thresh_{threshold}"].get(key)
    maps, masks = load("soft", "probs")
    metric, tolerance = MATCHED[key]
    value = metric(binarise(maps, None if threshold == 0.5 else threshold), masks).item()
    assert value == pytest.approx(expected, abs=tolerance, rel=0)


@pytest.mark.parametrize("key", SOFT)
def test_a_metric_of_probabilities_equals_the_original_code(key: str) -> None:
    metric, tolerance = SOFT[key]
    value = metric(*load("soft", "probs")).item()
    assert value == pytest.approx(GOLDEN["soft"][key], abs=tolerance, rel=0)


def test_no_original_value_is_passed_over_in_silence() -> None:
    keys = {key for case in GOLDEN["cases"].values() for key in case["values"]}
    keys |= {key for key in GOLDEN["soft"] if not key.startswith("thresh")}
    keys |= {key for name, part in GOLDEN["soft"].items() if name.startswith("thresh") for key in part}
    assert keys == set(MATCHED) | set(SOFT) | set(NOT_MATCHED)


def test_every_case_of_the_originals_is_compared() -> None:
    assert sorted(GOLDEN["cases"]) == sorted(CASES)
