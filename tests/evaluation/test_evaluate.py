"""What is drawn, what is scored, and that neither batches nor the order of work show in the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import IidRaters, Majority, Soft, Split, discs

from modiff.errors import ConfigError, DataError
from modiff.evaluation.evaluate import evaluate
from modiff.evaluation.records import ImageTable, Quantity, select
from modiff.evaluation.scoring import EvaluationSettings
from modiff.metrics import functional
from modiff.metrics.protocols import binarise
from modiff.rng import seeds_for

SMALL = EvaluationSettings(ns=(4, 8), resamples=200)


def columns(table: ImageTable) -> dict[str, list[float]]:
    return {quantity.name: values.tolist() for quantity, values in table.columns.items()}


def test_every_image_has_one_row_in_the_order_of_the_split():
    split = discs()
    assert evaluate(IidRaters(), split, SMALL, split="test").cases == list(split.cases)


def test_scores_are_those_of_the_metrics_on_the_models_own_samples():
    split, model = discs(), Soft()
    table = evaluate(model, split, SMALL, split="test")
    batch = split.batch(range(24))
    maps = model.draw(batch.image, 8, seeds_for(0, batch.case)).maps
    for n in (4, 8):
        samples = binarise(maps[:, :n], None)
        expected = functional.ged(samples, batch.masks, estimator="v").numpy()
        np.testing.assert_allclose(table.columns[Quantity("standard", 0.5, n, 1, "model", "ged")], expected)
        samples = binarise(maps[:, :n], 0.9)
        expected = functional.hm_iou(samples, batch.masks, matching="greedy").numpy()
        np.testing.assert_allclose(table.columns[Quantity("paper", 0.9, n, 1, "model", "hm_iou")], expected)


def test_the_largest_n_is_drawn_once_for_each_image():
    split, model = discs(), IidRaters()
    evaluate(model, split, SMALL, split="test", batch_size=6)
    assert [n for _, n, _ in model.calls].count(8) == 4


def test_smaller_n_are_the_first_samples_of_the_largest():
    split = discs()
    both = columns(evaluate(Soft(), split, SMALL, split="test"))
    alone = columns(evaluate(Soft(), split, replace(SMALL, ns=(4,)), split="test"))
    assert {name: both[name] for name in alone} == alone


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_batch_size_does_not_show(batch_size):
    split = discs()
    whole = columns(evaluate(IidRaters(), split, replace(SMALL, control=True), split="test", batch_size=5))
    other = columns(evaluate(IidRaters(), split, replace(SMALL, control=True), split="test", batch_size=batch_size))
    assert other == whole


def test_another_seed_draws_other_samples():
    split = discs()
    a = evaluate(Soft(), split, SMALL, split="test")
    b = evaluate(Soft(), split, replace(SMALL, seed=1), split="test")
    quantity = Quantity("standard", 0.5, 8, 1, "model", "ged")
    assert not np.allclose(a.columns[quantity], b.columns[quantity])


def test_a_majority_model_scores_as_the_majority_vote():
    table = evaluate(Majority(), discs(), SMALL, split="test")
    for quantity, values in table.columns.items():
        if quantity.predictor == "model":
            np.testing.assert_allclose(
                values, table.columns[replace(quantity, predictor="majority_vote", steps=None)], atol=1e-12
            )


def test_with_fewer_samples_than_raters_the_majority_model_still_does():
    table = evaluate(Majority(), discs(), replace(SMALL, ns=(1, 3)), split="test")
    for quantity, values in table.columns.items():
        if quantity.predictor == "model":
            np.testing.assert_allclose(
                values, table.columns[replace(quantity, predictor="majority_vote", steps=None)], atol=1e-12
            )


def test_raters_drawn_at_random_are_better_than_the_majority_with_certainty():
    records = evaluate(IidRaters(), discs(60, 20), replace(SMALL, ns=(16,)), split="test").records(resamples=200)
    (found,) = select(records, metric="ged_minus_majority_vote", protocol="standard", stratum="all", predictor="model")
    assert found.ci_high is not None
    assert found.ci_high < 0


def test_samples_of_another_patient_are_not():
    settings = replace(SMALL, ns=(16,), control=True)
    records = evaluate(IidRaters(), discs(60, 20), settings, split="test").records(resamples=200)
    wanted = {"protocol": "standard", "stratum": "all", "predictor": "shuffled"}
    (found,) = select(records, metric="ged_minus_majority_vote", **wanted)
    assert found.ci_high is not None
    assert found.ci_high > 0


def test_the_control_scores_the_raters_of_one_image_against_samples_of_another_patient():
    split = discs()
    table = evaluate(IidRaters(), split, replace(SMALL, control=True), split="test")
    quantity = Quantity("standard", 0.5, 8, 1, "shuffled", "ged")
    batch = split.batch(range(24))
    samples = IidRaters().draw(batch.image, 8, seeds_for(0, batch.case)).maps > 0.5
    for i in range(24):
        of_others = [
            functional.ged(samples[j : j + 1], batch.masks[i : i + 1]).item()
            for j in range(24)
            if split.patients[j] != split.patients[i]
        ]
        assert min(abs(value - table.columns[quantity][i]) for value in of_others) < 1e-12


def test_the_iid_reference_is_only_there_for_all_images():
    records = evaluate(IidRaters(), discs(), SMALL, split="test").records(resamples=200)
    reference = [r for r in records if r.predictor == "iid_reference" or "iid_reference" in r.metric]
    assert reference
    assert {record.stratum for record in reference} == {"all"}


def test_a_ged_stands_beside_majority_vote_and_reference_of_the_same_protocol_n_and_threshold():
    settings = replace(SMALL, thresholds=(0.3,))
    records = evaluate(IidRaters(), discs(), settings, split="test").records(resamples=200)
    for record in select(records, metric="ged", predictor="model", stratum="all"):
        same = {"protocol": record.protocol, "n": record.n, "threshold": record.threshold, "stratum": "all"}
        for predictor in ("majority_vote", "iid_reference"):
            assert len(select(records, metric="ged", predictor=predictor, **same)) == 1


def test_strata_but_all_exclude_each_other_and_cover_the_images():
    counts = evaluate(IidRaters(), discs(), SMALL, split="test").counts()
    assert counts["all"]["images"] == 24 == sum(counts[s]["images"] for s in ("all_marked", "some_empty", "none"))


def test_strata_follow_from_who_marked():
    split = discs()
    table = evaluate(IidRaters(), split, SMALL, split="test")
    fraction = split.masks.any((2, 3)).mean(1)
    names = np.where(fraction == 1, "all_marked", np.where(fraction == 0, "none", "some_empty"))
    assert table.frame["stratum"].tolist() == names.tolist()


def test_a_rater_who_did_not_read_is_not_a_rater_who_marked_nothing():
    split = discs()
    split.masks[0, 3] = False
    split.read[0, 3] = False
    table = evaluate(IidRaters(), split, SMALL, split="test")
    assert tuple(table.frame[["stratum", "raters"]].iloc[0]) == ("all_marked", 3)


def test_an_image_that_nobody_read_is_left_out_and_counted():
    split = discs()
    split.read[5] = False
    table = evaluate(IidRaters(), split, replace(SMALL, control=True), split="test")
    assert (len(table), table.unread) == (23, 1)


def test_an_undefined_reference_is_not_spread():
    split = discs()
    split.read[4, 1:] = False
    (found,) = select(
        evaluate(IidRaters(), split, replace(SMALL, ns=(4,)), split="test").records(resamples=200),
        predictor="iid_reference",
        protocol="standard",
        metric="ged",
    )
    assert (found.images, found.value is not None) == (23, True)


def test_protocols_have_their_own_thresholds_and_others_are_added():
    settings = replace(SMALL, ns=(4,), thresholds=(0.5, 0.25))
    records = evaluate(Soft(), discs(), settings, split="test").records(resamples=200)
    found = {(record.protocol, record.threshold) for record in records}
    assert found == {("standard", 0.25), ("standard", 0.5), ("paper", 0.25), ("paper", 0.5), ("paper", 0.9)}


def test_each_number_of_steps_is_its_own_evaluation():
    model = IidRaters()
    records = evaluate(model, discs(), replace(SMALL, ns=(4,), steps=(5, 10)), split="test").records(resamples=200)
    assert {steps for *_, steps in model.calls} == {5, 10}
    assert {record.steps for record in select(records, predictor="model")} == {5, 10}


def test_the_models_own_steps_are_recorded_by_their_number():
    records = evaluate(Soft(), discs(), SMALL, split="test").records(resamples=200)
    assert {record.steps for record in select(records, predictor="model")} == {Soft().default_steps}
    assert {record.steps for record in select(records, predictor="majority_vote")} == {None}


def test_a_limit_scores_a_fixed_part_of_any_larger_one():
    split = discs()
    five, ten = (evaluate(IidRaters(), split, replace(SMALL, limit=k), split="test").cases for k in (5, 10))
    assert len(five) == 5
    assert set(five) < set(ten) < set(split.cases)


def test_seconds_are_positive_for_each_n_of_the_model_only():
    records = evaluate(IidRaters(), discs(), SMALL, split="test").records(resamples=200)
    measured = [r for r in records if r.seconds_per_image is not None]
    assert {(r.predictor, r.n) for r in measured} == {("model", 4), ("model", 8)}
    assert min(r.seconds_per_image for r in measured) > 0


def test_records_name_the_split():
    record = evaluate(IidRaters(), discs(), SMALL, split="val").records(resamples=200)[0]
    assert record.split == "val"


def test_the_model_is_left_in_the_mode_it_was_in():
    model = IidRaters().train()
    evaluate(model, discs(), SMALL, split="test")
    assert model.training


def test_no_gradient_is_recorded():
    class Watch(IidRaters):
        def draw(self, image, n, seeds):
            assert not torch.is_grad_enabled()
            return super().draw(image * self.scale, n, seeds)

    evaluate(Watch(), discs(), SMALL, split="test")


def test_progress_ends_at_the_number_of_images():
    seen = []
    evaluate(IidRaters(), discs(), SMALL, split="test", batch_size=5, progress=lambda *p: seen.append(p))
    assert seen[0] == (0, 24)
    assert seen[-1] == (24, 24)


def test_an_empty_split_is_refused():
    empty = Split(np.zeros((0, 4, 8, 8), bool), [], [], np.ones((0, 4), bool))
    with pytest.raises(DataError, match="no images"):
        evaluate(IidRaters(), empty, SMALL, split="test")


@pytest.mark.parametrize(
    "bad",
    [
        {"ns": ()},
        {"ns": (0,)},
        {"steps": (0,)},
        {"limit": 0},
        {"thresholds": (0.0,)},
        {"thresholds": (1.5,)},
        {"protocols": ("papers",)},
    ],
)
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(ConfigError):
        EvaluationSettings(**bad)


def test_what_decides_the_samples_and_images_is_in_the_files_name():
    assert EvaluationSettings().name("test") == "test"
    assert EvaluationSettings(ns=(4,), control=True, thresholds=(0.3,)).name("test") == "test"
    assert EvaluationSettings(steps=(5, 10), limit=256, seed=3).name("val") == "val-steps5-10-limit256-seed3"
