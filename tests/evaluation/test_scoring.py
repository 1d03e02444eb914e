"""All metrics as columns and records: equal to the functional core, pooled errors pooled, references beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import IidRaters, Soft, discs

from modiff.errors import ConfigError
from modiff.evaluation.bootstrap import pooled_error_interval
from modiff.evaluation.evaluate import evaluate
from modiff.evaluation.records import Quantity, select
from modiff.evaluation.scoring import EvaluationSettings, score_references, score_samples
from modiff.metrics import PROTOCOLS
from modiff.metrics import functional as F
from modiff.metrics.protocols import SampleSet, binarise
from modiff.metrics.registry import COLUMNS, GAP, NAMES, POOLED, pooled

ALL = EvaluationSettings(ns=(3, 6), metrics=("all",), one_rater=True, resamples=50)


@pytest.fixture(scope="module")
def batch():
    return discs(12).batch(range(12))


@pytest.fixture(scope="module")
def maps(batch):
    """Soft maps that have something to do with the raters."""
    noise = torch.rand(12, 6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return (batch.masks[:, [0, 1, 2, 3, 0, 1]].float() * 0.6 + 0.4 * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def scored(batch, maps):
    return score_samples(maps, batch.masks, batch.read, ALL)


def test_all_metrics_are_asked_for_by_one_word():
    assert ALL.metrics == tuple(COLUMNS)


def test_a_metric_that_there_is_not_is_refused_by_name():
    with pytest.raises(ConfigError, match="dise"):
        EvaluationSettings(metrics=("ged", "dise"))


def test_metrics_asked_for_in_any_order_are_the_same_setting():
    assert EvaluationSettings(metrics=("hm_iou", "ged")) == EvaluationSettings(metrics=("ged", "hm_iou"))


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("n", [3, 6])
def test_columns_of_masks_are_those_of_the_functional_core(batch, maps, scored, name, n):
    protocol = PROTOCOLS[name]
    binary, masks = protocol.binarise(maps[:, :n]), batch.masks
    insight = F.collective_insight(binary, masks)
    surface = F.surface_distances(binary, masks)
    fractions = F.presence_fractions(binary, masks)
    expected = {
        "ged": F.ged(binary, masks, estimator=protocol.ged_estimator),
        "hm_iou": F.hm_iou(binary, masks, matching=protocol.matching),
        "dmax": F.dmax(binary, masks),
        "sample_diversity": F.sample_diversity(binary, estimator=protocol.ged_estimator),
        "rater_diversity": F.rater_diversity(masks, estimator=protocol.ged_estimator),
        "ci": insight.ci,
        "ci_sensitivity": insight.sensitivity,
        "ci_agreement": insight.agreement,
        "hd95": surface.hd95,
        "average_surface_distance": surface.average,
        "presence_samples": fractions.samples,
        "presence_raters": fractions.raters,
    }
    for metric, values in expected.items():
        found = scored[Quantity(name, protocol.threshold, n, None, "model", metric)]
        torch.testing.assert_close(found, values, equal_nan=True, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("n", [3, 6])
def test_columns_of_maps_are_those_of_the_functional_core(batch, maps, scored, name, n):
    protocol, some = PROTOCOLS[name], maps[:, :n]
    expected = {
        "ncc": F.ncc(some, batch.masks, kind=protocol.ncc),
        "soft_dice": F.soft_dice(some, batch.masks),
        "brier": F.brier(some, batch.masks),
        "uncertainty_ncc": F.uncertainty_ncc(some, batch.masks),
        "uncertainty_auroc": F.uncertainty_auroc(some, batch.masks),
    }
    for metric, values in expected.items():
        found = scored[Quantity(name, protocol.threshold, n, None, "model", metric)]
        torch.testing.assert_close(found, values, equal_nan=True, rtol=0, atol=1e-12)


def test_every_metric_has_a_column():
    table = evaluate(IidRaters(), discs(8, 4), ALL, split="test")
    of_model = {quantity.metric for quantity in table.columns if quantity.predictor == "model"}
    plain = {column for columns in COLUMNS.values() for column in columns} - {GAP}
    assert plain <= of_model
    assert sum(metric.startswith(GAP) for metric in of_model) == 10


def test_pooled_errors_are_those_of_the_functional_core(batch, maps, scored):
    records = evaluate(Soft(), discs(12), ALL, split="test").records(resamples=ALL.resamples)
    split = discs(12).batch(range(12))
    from modiff.rng import seeds_for

    own = Soft().draw(split.image, 6, seeds_for(0, split.case)).maps
    wanted = {"protocol": "standard", "n": 6, "predictor": "model", "stratum": "all"}
    (ece,) = select(records, metric="ece", **wanted)
    (presence,) = select(records, metric="presence_ece", **wanted)
    assert ece.value == pytest.approx(float(F.pooled_calibration_error(F.calibration_bins(own, split.masks))), abs=1e-9)
    fractions = F.presence_fractions(binarise(own, None), split.masks)
    assert presence.value == pytest.approx(float(F.presence_calibration_error(fractions)), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=30))
def test_presence_is_pooled_as_the_functional_core_pools_it(counts):
    fractions = np.array(counts) / 10
    found = pooled({"presence_samples": fractions[:, 0], "presence_raters": fractions[:, 1]})["presence_ece"]
    value = pooled_error_interval(found.gaps, ["p"] * len(counts)).value
    expected = F.presence_calibration_error(F.Presence(*(torch.from_numpy(x) for x in fractions.T.copy())))
    assert value == pytest.approx(float(expected), abs=1e-9)


def test_what_no_threshold_enters_stands_once(batch, maps):
    settings = replace(ALL, thresholds=(0.25, 0.75))
    found = {(q.metric, q.threshold) for q in score_samples(maps, batch.masks, batch.read, settings)}
    assert {threshold for metric, threshold in found if metric == "soft_dice"} == {0.5, 0.9}
    assert {threshold for metric, threshold in found if metric == "dmax"} == {0.25, 0.5, 0.75, 0.9}


def test_masks_score_as_their_probabilities(batch):
    masks = batch.masks[:, [0, 1, 2, 3, 0, 1]]
    hard = score_samples(masks, batch.masks, batch.read, ALL)
    soft = score_samples(masks.double(), batch.masks, batch.read, ALL)
    for quantity, values in hard.items():
        torch.testing.assert_close(soft[quantity], values, equal_nan=True, rtol=0, atol=1e-9)


def test_unequal_weights_leave_metrics_without_a_weighted_form_undefined(batch, maps):
    weights = torch.tensor([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]]).expand(12, -1)
    found = score_samples(maps, batch.masks, batch.read, ALL, weights=weights)
    undefined = {q.metric for q, values in found.items() if q.protocol == "standard" and bool(values.isnan().all())}
    assert undefined == {"ncc", "ci", "ci_sensitivity", "ci_agreement", "hd95", "average_surface_distance"}


def test_rows_of_oblong_images_have_no_correlation(batch, maps):
    found = score_samples(maps[..., :12], batch.masks[..., :12], batch.read, ALL)
    assert bool(found[Quantity("paper", 0.9, 6, None, "model", "ncc")].isnan().all())


def test_one_rater_is_the_mean_of_each_rater_against_the_others(batch):
    found = score_references(batch.masks, batch.read, ALL)
    rest = [[j for j in range(4) if j != i] for i in range(4)]
    parts = [F.ged(batch.masks[:, i : i + 1], batch.masks[:, rest[i]]) for i in range(4)]
    value = found[Quantity("standard", 0.5, 6, None, "one_rater", "ged")]
    torch.testing.assert_close(value, torch.stack(parts).mean(0))


def test_what_is_undefined_lies_where_the_masks_are():
    """The rows' NCC is not defined off squares: on a GPU its NaN must lie there too."""
    maps, masks = torch.zeros(1, 3, 1, 8, 10, device="meta"), torch.zeros(1, 2, 1, 8, 10, device="meta").bool()
    view = SampleSet(maps, masks).view(PROTOCOLS["paper"], 0.9, 3)
    assert view.undefined().device == masks.device


def test_one_rater_counts_readers_only(batch):
    read = batch.read.clone()
    read[:, 3] = False
    read[0, 1:] = False
    found = score_references(batch.masks, read, ALL)[Quantity("standard", 0.5, 3, None, "one_rater", "hm_iou")]
    three = score_references(batch.masks[:, :3], batch.read[:, :3], ALL)
    assert bool(found[0].isnan())  # nobody else read it
    expected = three[Quantity("standard", 0.5, 3, None, "one_rater", "hm_iou")]
    torch.testing.assert_close(found[1:], expected[1:])


def test_one_rater_is_scored_only_where_asked_for(batch):
    found = score_references(batch.masks, batch.read, replace(ALL, one_rater=False))
    assert {quantity.predictor for quantity in found} == {"majority_vote", "iid_reference"}


def test_differences_stand_where_one_of_both_is_better():
    records = evaluate(IidRaters(), discs(8, 4), ALL, split="test").records(resamples=ALL.resamples)
    different = {r.metric.partition("_minus_")[0] for r in records if "_minus_" in r.metric}
    assert different == {metric for metric, (_, better) in NAMES.items() if better is not None} - set(POOLED)


def test_ged_and_hm_iou_stand_first():
    records = evaluate(IidRaters(), discs(8, 4), replace(ALL, ns=(3,)), split="test").records(resamples=ALL.resamples)
    order = list(dict.fromkeys(r.metric for r in records if r.protocol == "standard"))
    assert order[:3] == ["ged", "hm_iou", "ncc"]


def test_a_pooled_interval_holds_its_value_and_is_not_negative():
    gaps = np.random.default_rng(0).normal(0, 0.01, (60, 10))
    found = pooled_error_interval(gaps, [f"p{i // 3}" for i in range(60)], resamples=500)
    assert found.value is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert 0 <= found.ci_low <= found.value <= found.ci_high


def test_a_pooled_value_ignores_noise_that_cancels():
    gaps = np.array([[0.5], [-0.5], [0.25], [-0.25]])
    assert pooled_error_interval(gaps, list("abcd")).value == 0.0


def test_the_command_asks_for_metrics_by_name():
    from modiff.cli.evaluate import _settings, parser

    words = ["run", "--data", "x.h5", "--metrics", "dmax", "ged", "--one-rater"]
    settings = _settings(parser("modiff evaluate").parse_args(words))
    assert settings.metrics == ("ged", "dmax")
    assert settings.one_rater


def test_a_page_of_results_shows_all_metrics():
    from modiff.evaluation.records import Result
    from modiff.report.run import tables_of

    table = evaluate(IidRaters(), discs(8, 4), replace(ALL, ns=(3,)), split="test")
    page = str(tables_of(Result({}, table.counts(), table.records(resamples=ALL.resamples))))
    assert "one rater against the rest" in page
    assert "uncertainty AUROC" in page


def test_calibration_errors_of_several_classes_are_their_mean():
    """Three classes on rows of one image size, equal to the functional core's pooled error."""
    generator = torch.Generator().manual_seed(3)
    maps = torch.rand(5, 4, 3, 8, 8, generator=generator) / 3
    label = torch.randint(0, 4, (5, 2, 1, 8, 8), generator=generator)
    masks = label == torch.arange(1, 4).view(1, 1, 3, 1, 1)
    settings = EvaluationSettings(ns=(4,), metrics=("ece",), protocols=("standard",))
    columns = score_samples(maps, masks, torch.ones(5, 2, dtype=torch.bool), settings)
    error = pooled({quantity.metric: values.numpy() for quantity, values in columns.items()})["ece"]
    expected = float(F.pooled_calibration_error(F.calibration_bins(maps, masks)))
    found = pooled_error_interval(error.gaps, list("abcde"), classes=error.classes, resamples=10)
    assert found.value == pytest.approx(expected)
