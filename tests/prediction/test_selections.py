"""Which samples are shown: independent ones, or those that are like all of more; and given that a rater marks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from modiff_helpers import model as small_model

from modiff.errors import ConfigError
from modiff.metrics.functional import ged
from modiff.prediction import predictor as module
from modiff.prediction.predict import Prediction
from modiff.prediction.predictor import PredictionWarning, Predictor
from modiff.prediction.settings import Settings


def test_python_draws_each_sample_by_itself_unless_asked(predictor, image):
    assert predictor.set_image(image).sample(4).pool is None


class TestRepresentativeSets:
    def test_they_are_of_the_first_four_times_n(self, predictor, image):
        every = predictor.set_image(image).sample(32)
        kept = predictor.sample(8, select="representative")
        among = {sample.numpy().tobytes() for sample in every.maps[0]}
        assert {sample.numpy().tobytes() for sample in kept.maps[0]} <= among
        near, first = (ged(maps > 0.5, every.maps > 0.5) for maps in (kept.maps, every.maps[:, :8]))
        assert float(near) < float(first)
        again = predictor.sample(8, select="representative")
        assert torch.equal(kept.maps, again.maps)

    def test_the_summary_speaks_of_all_candidates(self, predictor, image):
        every = predictor.set_image(image).sample(32)
        whole = predictor.summary()
        predictor.sample(8, select="representative")
        summary = predictor.summary()
        np.testing.assert_allclose(summary.mean, whole.mean, atol=1e-6)
        assert (summary.consensus == whole.consensus).all()
        assert summary.presence == pytest.approx(float(every.present.float().mean()))
        assert sum(hypothesis.probability for hypothesis in summary.hypotheses) == pytest.approx(1)
        content = summary.to_dict()
        assert (content["n"], content["candidates"]) == (8, 32)
        assert {sample["weight"] for sample in content["samples"]} == {1 / 8}
        assert sum(sample["stands_for"] for sample in content["samples"]) == pytest.approx(1)

    def test_as_many_candidates_as_asked(self, predictor, image):
        kept = predictor.set_image(image).sample(4, select="representative", candidates=10)
        assert kept.pool is not None
        assert kept.pool.count == 10

    def test_fewer_candidates_where_memory_ends(self, predictor, image, monkeypatch):
        predictor.set_image(image)
        monkeypatch.setattr(module, "MAX_MAPS", 4 * image.size * 11)
        kept = predictor.sample(4, select="representative")
        assert kept.pool is not None
        assert kept.pool.count == 11

    def test_of_a_scan_whole_volumes_are_chosen(self, predictor, model):
        model.absent = 0.5
        scan = np.random.default_rng(1).random((1, 3, 64, 64), dtype=np.float32)
        predictor.set_image(scan, at=(32, 32, 1), slices=1, spacing=(1, 1, 1))
        every = predictor.sample(24)
        kept = predictor.sample(6, select="representative")
        assert kept.maps.shape == (1, 6, 1, 3, 64, 64)
        assert kept.pool is not None
        assert kept.pool.mean.shape == (1, 1, 3, 64, 64)
        np.testing.assert_allclose(kept.pool.mean, every.maps.double().mean(1), atol=1e-6)
        assert predictor.summary().candidates == 24

    @pytest.mark.parametrize(
        "how", [{"select": "best"}, {"candidates": 8}, {"select": "representative", "candidates": 3}]
    )
    def test_what_cannot_be_is_refused(self, predictor, image, how):
        with pytest.raises(ConfigError):
            predictor.set_image(image).sample(4, **how)


class TestGivenThatARaterMarks:
    def test_samples_that_mark_nothing_are_drawn_anew(self, predictor, image):
        every = predictor.set_image(image).sample(40)
        marking = predictor.sample(8, raters="marking")
        assert not every.present.all()
        assert torch.equal(marking.maps[0], every.maps[0][every.present[0]][:8])
        assert predictor.summary().presence == 1

    def test_too_few_are_told_of(self, predictor, model, image):
        model.absent = 1.0
        predictor.set_image(image)
        with pytest.warns(PredictionWarning, match="0 of 32 samples mark anything"):
            samples = predictor.sample(2, raters="marking")
        assert not samples.present.any()

    def test_a_presence_head_is_told(self):
        predictor = Predictor(small_model(size=(32, 32), intensity="unit"))
        predictor.set_image(np.random.default_rng(0).random((32, 32)), intensity="ready")
        drawn = []
        predictor.model.on_drawn = None
        sample = predictor.model.sample

        def counted(encoding, n, **how):  # type: ignore[no-untyped-def]
            drawn.append((n, predictor.model.most_present(encoding)))
            return sample(encoding, n, **how)

        predictor.model.sample = counted
        samples = predictor.sample(4, raters="marking")
        assert samples.presence is None
        assert all(float(most) == pytest.approx(1) for _, most in drawn)


def test_a_representative_set_and_its_condition_are_said(predictor, image):
    predictor.set_image(image).sample(4, raters="marking", select="representative")
    settings = Settings(n=4, raters="marking")
    made = dict.fromkeys(("scan", "method", "samples", "view", "values", "case", "notes"))
    prediction = Prediction(settings=settings, summary=predictor.summary(), **made)
    assert prediction.drawn == "4 samples representative of 16, given that a rater marks"
