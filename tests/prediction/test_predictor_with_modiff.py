"""MoDiff itself behind the predictor: the promises hold for the model that is shipped, not only for a known law."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modiff.config import build_config
from modiff.models import build
from modiff.prediction.predictor import Predictor


@pytest.fixture(scope="module")
def modiff_predictor() -> Predictor:
    small = {"unet": {"base": 8, "stem": 4}, "presence": {"base": 8}, "diffusion": {"sampling_steps": 2}}
    torch.manual_seed(0)
    model = build("modiff", build_config(changes={"model": small}).model, channels=1, classes=1, raters=4, prompt=True)
    predictor = Predictor(model, data={"size": (64, 64), "intensity": "minmax-slice", "prompt": "centre"})
    return predictor.set_image(np.random.default_rng(0).random((64, 64)))


def test_n_samples_are_the_first_of_2n(modiff_predictor):
    few, many = modiff_predictor.sample(4), modiff_predictor.sample(8)
    assert few.present.any()
    torch.testing.assert_close(few.maps, many.maps[:, :4], atol=1e-4, rtol=0)
    assert torch.equal(few.present, many.present[:, :4])


def test_the_summary_takes_its_own_probability_of_presence(modiff_predictor):
    modiff_predictor.sample(4)
    summary = modiff_predictor.summary()
    assert summary.presence_from == "model"
    assert 0 < summary.presence < 1


def test_stratified_presence_is_close_to_its_probability(modiff_predictor):
    samples = modiff_predictor.sample(16, stratified=True)
    assert samples.presence is not None
    assert abs(float(samples.present.double().mean()) - float(samples.presence[0])) <= 2 / 16
