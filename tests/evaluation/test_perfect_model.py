"""A model that is right scores what the i.i.d. reference says, on data whose raters' true distribution is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modiff.data.phantom.case import PhantomConfig, make_case
from modiff.evaluation.bootstrap import mean_interval, pooled_error_interval
from modiff.evaluation.records import Quantity, assemble, select, strata_of
from modiff.evaluation.scoring import EvaluationSettings, rows_of, score_references, score_samples
from modiff.metrics.registry import pooled

PATIENTS, IMAGES = 50, 3
NS = (4, 16, 64)
SETTINGS = EvaluationSettings(ns=NS, metrics=("ged", "ece"), resamples=1000)
RATERS = 4


@pytest.fixture(scope="module")
def table():
    """150 simulated images of 64×64, four raters, 64 fresh raters as samples, in chunks of one patient."""
    config = PhantomConfig(patients=PATIENTS, images_per_patient=IMAGES, size=64, raters=RATERS)
    rng = np.random.default_rng(7)
    finished = []
    for patient in range(PATIENTS):
        cases = [make_case(config, patient, index) for index in range(IMAGES)]
        masks = torch.from_numpy(np.stack([case.masks for case in cases]))[:, :, None]
        fresh = torch.from_numpy(np.stack([case.draw_masks(max(NS), rng) for case in cases]))[:, :, None]
        read = torch.ones(IMAGES, RATERS, dtype=torch.bool)
        columns = score_references(masks, read, SETTINGS) | score_samples(fresh, masks, read, SETTINGS)
        strata = strata_of(masks.flatten(2).any(-1), read)
        for case, stratum, values in zip(cases, strata, rows_of(columns, IMAGES), strict=True):
            row = {"case": case.name, "patient": case.patient, "stratum": stratum, "raters": RATERS}
            finished.append({**row, "values": values})
    return assemble("test", finished)


def values(table, protocol, n, predictor, metric="ged"):
    return table.columns[Quantity(protocol, {"standard": 0.5, "paper": 0.9}[protocol], n, None, predictor, metric)]


@pytest.mark.parametrize("protocol", ["standard", "paper"])
@pytest.mark.parametrize("n", NS)
def test_a_perfect_models_ged_is_the_iid_reference_within_its_interval(table, protocol, n):
    model, reference = (values(table, protocol, n, predictor) for predictor in ("model", "iid_reference"))
    own = mean_interval(model, table.patients)
    assert own.ci_low <= reference.mean() <= own.ci_high
    paired = mean_interval(model - reference, table.patients)
    assert paired.ci_low <= 0 <= paired.ci_high


def test_the_reference_falls_with_n_to_what_four_raters_leave(table):
    means = [values(table, "standard", n, "iid_reference").mean() for n in NS]
    distance = means[0] / (1 / NS[0] + 1 / RATERS)
    np.testing.assert_allclose(means, [distance * (1 / n + 1 / RATERS) for n in NS])


def test_the_unbiased_estimator_expects_nothing_of_a_perfect_model(table):
    for n in NS:
        assert set(values(table, "paper", n, "iid_reference")) == {0.0}


def test_its_pooled_calibration_error_goes_to_zero_with_n(table):
    records = table.records(resamples=200)
    wanted = {"metric": "ece", "protocol": "standard", "predictor": "model", "stratum": "all"}
    errors = [select(records, n=n, **wanted)[0].value for n in NS]
    assert errors[0] > errors[1] > errors[2]
    # Pixels are sorted by the samples' own mean, which is too extreme where n is small; what 600 masks leave is added.
    assert errors[2] < 0.35 * errors[0]
    (majority,) = select(records, n=64, **{**wanted, "predictor": "majority_vote"})
    assert errors[2] < 0.2 * majority.value


def test_a_wrong_model_keeps_its_calibration_error(table):
    """The same gaps of every image in one direction do not cancel, however many images there are."""
    gaps = {name: np.full(len(table), 0.01) for name in ("calibration_gap_1_0", "calibration_gap_1_5")}
    found = pooled_error_interval(pooled(gaps)["ece"].gaps, table.patients, resamples=100)
    assert found.value == pytest.approx(0.02)
