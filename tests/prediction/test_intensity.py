"""Values are made as the training data's were, or a warning says what differs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from described import spec
from discs import Discs

from modiff.data.intensity import IntensityRule, convert, store_values, stretch
from modiff.errors import DataError
from modiff.prediction.predictor import PredictionWarning, Predictor

VALUES = np.array([[[-1200.0, -1000.0], [-300.0, 400.0]]])


def made(values: np.ndarray, rule: str) -> tuple[np.ndarray, list[str]]:
    return convert(values, IntensityRule.parse(rule))


def test_each_slice_from_its_minimum_to_its_maximum():
    values, notes = made(VALUES, "minmax-slice:8 bits, by whoever made the crops")
    np.testing.assert_allclose(values, (VALUES + 1200) / 1600)
    assert notes == []


def test_each_channel_by_itself():
    values, _ = made(np.stack([VALUES[0], 10 * VALUES[0]]), "minmax-slice")
    np.testing.assert_allclose(values[0], values[1], atol=1e-6)


def test_a_window_clips_and_scales():
    values, notes = made(VALUES.astype(np.int16), "window:-1000:400")
    np.testing.assert_allclose(values, [[[0, 0], [0.5, 1]]])
    assert notes == []


def test_a_picture_has_no_hounsfield_units():
    values, notes = made(np.array([[[0, 255]]], np.uint8), "window:-1000:400")
    np.testing.assert_array_equal(values, [[[0, 1]]])
    assert "no physical units" in notes[0]


def test_percentiles_are_numpys():
    values = np.random.default_rng(0).normal(size=(2, 40, 50))
    low, high = np.percentile(values[1], [2, 98])
    np.testing.assert_allclose(
        made(values, "percentiles:2:98")[0][1], np.clip((values[1] - low) / (high - low), 0, 1), atol=1e-6
    )


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_pictures_run_to_full_scale(dtype, full):
    values, notes = made(np.array([[[0, full // 5, full]]], dtype), "unit")
    np.testing.assert_allclose(values, [[[0, 0.2, 1]]])
    assert notes == []


def test_twelve_bits_in_sixteen_are_pointed_out():
    assert "dark" in made(np.array([[[0, 4095]]], np.uint16), "unit")[1][0]


@pytest.mark.parametrize("values", [VALUES, VALUES.astype(np.int16), np.array([[[0.0, 1.01]]])])
def test_values_outside_0_and_1_are_refused_where_nothing_says_how_to_make_them(values):
    with pytest.raises(DataError, match=r"outside \[0,1\]"):
        made(values, "unit")


def test_what_only_the_source_knows_cannot_be_repeated():
    values, notes = made(np.array([[[0, 51]]], np.uint8), "source:as the vendor's viewer shows it")
    np.testing.assert_allclose(values, [[[0, 0.2]]])
    assert "vendor's viewer" in " ".join(notes)


def test_a_constant_image_is_black_and_said_to_be():
    values, notes = made(np.full((1, 4, 4), 7.0), "minmax-slice")
    assert not values.any()
    assert "no contrast" in notes[0]


@pytest.mark.parametrize(
    "rule", ["", "minmax", "window", "window:1", "window:2:1", "window:a:b", "percentiles:-1:99", "window:0:inf"]
)
def test_a_rule_that_does_not_exist_is_refused(rule):
    with pytest.raises(DataError, match="no such rule"):
        IntensityRule.parse(rule)


def test_the_result_is_float32_within_0_and_1():
    for rule in ("minmax-slice", "window:-900:300", "percentiles:5:95"):
        values, _ = made(VALUES, rule)
        assert values.dtype == np.float32
        assert (values.min(), values.max()) == (0, 1)


class TestPredictor:
    def test_the_models_own_rule_is_used_without_a_word(self, predictor, model, recwarn):
        image = np.random.default_rng(0).normal(size=(64, 64))
        predictor.set_image(image)
        expected = (image - image.min()) / (image.max() - image.min())
        np.testing.assert_allclose(model.encoded[0][0, 0].numpy(), expected, atol=1e-6)
        assert not [warning for warning in recwarn if warning.category is PredictionWarning]

    def test_a_lesion_crop_is_stretched_as_the_training_crops_were(self, predictor, model):
        image = np.random.default_rng(0).random((100, 100))
        image[0, 0] = 1e6  # outside the window: it must not darken what is in it
        predictor.set_image(image, at=(60, 60))
        assert model.encoded[0].max() == 1

    @pytest.mark.parametrize("rule", ["percentiles:1:99", "minmax-slice", "window:20:180", "unit"])
    @pytest.mark.parametrize("at", [(40, 30), (5, 90)])
    def test_a_window_shows_what_import_makes_of_the_whole_image(self, model, data, rule, at):
        ramp = np.linspace(0, 1, 100, dtype=np.float32)
        image = ramp[:, None] * ramp * (1 if rule == "unit" else 200)
        parsed = IntensityRule.for_import(rule)
        low, high = (end[:, 0] for end in parsed.bounds(image[None, None]))
        stored = store_values(image[None] if rule == "unit" else stretch(image[None], low, high)) / 65535
        made = Predictor(model, data=spec({**data, "prompt": "none", "intensity": rule}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PredictionWarning)
            plan = made.set_image(image, at=at).plan
        assert plan is not None
        expected = plan.windows[0].cut(stored)
        np.testing.assert_allclose(model.encoded[0][0].numpy(), expected, atol=2e-5)

    @pytest.mark.parametrize("rule", ["percentiles:1:99", "minmax-slice", "window:20:180", "unit"])
    @pytest.mark.parametrize("prompt", ["none", "centre"])
    def test_an_image_is_seen_as_a_volume_of_one_slice_is(self, model, data, rule, prompt):
        image = np.random.default_rng(0).integers(0, 200, (1, 100, 100)).astype(np.float32) / 200
        made = Predictor(model, data=spec({**data, "prompt": prompt, "intensity": rule}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PredictionWarning)
            made.set_image(image, at=(30, 50))
            made.set_image(image[:, None], at=(30, 50))
        assert torch.equal(*model.encoded)

    def test_another_rule_is_followed_with_a_warning_that_names_both(self, predictor, image):
        with pytest.warns(PredictionWarning, match="unit.*minmax-slice"):
            predictor.set_image(image, intensity="unit")

    @pytest.mark.parametrize("intensity", ["ready", "minmax-slice"])
    def test_a_callers_word_is_taken(self, model, data, image, intensity, recwarn):
        trained = "minmax-slice:8 bits"
        Predictor(model, data=spec({**data, "intensity": trained})).set_image(image, intensity=intensity)
        assert not [warning for warning in recwarn if warning.category is PredictionWarning]

    def test_a_model_that_does_not_say_is_pointed_out(self, image):
        with pytest.warns(PredictionWarning, match="does not say"):
            Predictor(Discs(), data=spec({"size": (64, 64)})).set_image(image)

    def test_the_notes_are_the_warnings(self, predictor):
        with pytest.warns(PredictionWarning) as caught:
            predictor.set_image(np.full((9, 9), 3.0))
        assert [str(warning.message) for warning in caught] == list(predictor.notes)
        assert len(predictor.notes) == 2
