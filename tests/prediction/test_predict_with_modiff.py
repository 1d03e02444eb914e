"""MoDiff itself behind the predictor: the promises hold for the packaged model, not only for known distributions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from described import spec

from modiff.config.run import build_config
from modiff.methods.registry import build
from modiff.methods.run_folder import save_weights, write_config
from modiff.prediction.predictor import Predictor
from modiff.types import DataSpec

SMALL = {"unet": {"base": 8, "stem": 4}, "presence": {"base": 8}, "diffusion": {"sampling_steps": 2}}
IMAGE = np.random.default_rng(0).random((64, 64))


@pytest.fixture(scope="module")
def modiff_predictor() -> Predictor:
    torch.manual_seed(0)
    model = build(
        "modiff",
        build_config(changes={"model": SMALL}).model,
        DataSpec.of(prompt="centre"),
    )
    predictor = Predictor(model, data=spec({"size": (64, 64), "intensity": "minmax-slice", "prompt": "centre"}))
    return predictor.set_image(IMAGE)


def test_n_samples_are_the_first_of_2n(modiff_predictor):
    few, many = modiff_predictor.sample(4), modiff_predictor.sample(8)
    assert few.maps.any()
    torch.testing.assert_close(few.maps, many.maps[:, :4], atol=1e-4, rtol=0)
    assert torch.equal(few.present, many.present[:, :4])


def test_the_summary_takes_its_own_probability_of_presence(modiff_predictor):
    modiff_predictor.sample(4)
    summary = modiff_predictor.summary()
    assert summary.presence_from == "model"
    assert 0 < summary.presence < 1


def test_stratified_presence_is_close_to_its_probability(modiff_predictor):
    samples = modiff_predictor.sample(16, select="stratified")
    assert samples.presence is not None
    assert abs(float(samples.maps.flatten(2).any(-1).double().mean()) - float(samples.presence[0])) <= 2 / 16


def test_a_published_folder_gives_the_same_samples(modiff_predictor, tmp_path):
    model = modiff_predictor.model
    data = {
        "channels": ["CT"],
        "classes": ["nodule"],
        "raters": ["1", "2", "3", "4"],
        "exchangeable_raters": True,
        "prompt": "centre",
        "intensity": "minmax-slice",
        "size": [64, 64],
        "spacing": None,
    }
    save_weights(model.state_dict(), tmp_path / "weights.safetensors")
    write_config(tmp_path / "config.yaml", build_config(changes={"model": SMALL}))
    (tmp_path / "data.json").write_text(json.dumps(data))
    loaded = Predictor.from_path(tmp_path).set_image(IMAGE)
    assert torch.equal(loaded.sample(2).maps, modiff_predictor.sample(2).maps)
    assert loaded.summary().classes == ("nodule",)


def test_progress_counts_samples_of_one_image_as_they_come(modiff_predictor, monkeypatch):
    monkeypatch.setattr("modiff.methods.denoising.at_once", lambda *features, pixels: 4)
    seen: list[tuple[int, int]] = []
    modiff_predictor.sample(32, progress=lambda *counts: seen.append(counts))
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == (32, 32)
