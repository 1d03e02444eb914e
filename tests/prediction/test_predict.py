"""One path: an image is a volume of one slice, and what the command draws is what the Predictor draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from described import spec
from discs import Discs
from local import Local

from modiff.errors import DataError
from modiff.io.volume import Volume
from modiff.prediction.predict import Prediction, predict
from modiff.prediction.predictor import Predictor
from modiff.prediction.settings import Settings
from modiff.prediction.windows import Box

DATA: dict[str, Any] = {"size": (32, 32), "intensity": "unit", "classes": ["lesion"]}


def picture(array: np.ndarray) -> Volume:
    return Volume(array[None, None], None, Path("there/image.npy"), "NPY")


def volume(array: np.ndarray) -> Volume:
    return Volume(array[None], np.diag([0.5, 0.5, 2, 1]), Path("there/scan.nii"), "NIfTI")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def of(scan: Volume, *, model: Any = None, **asked: Any) -> Prediction:
    return predict(scan, Predictor(model or Local(), data=spec(DATA)), Settings(**{"n": 3, **asked}))


def test_an_image_at_a_place_is_what_the_predictor_draws():
    array = noise(60, 70)
    drawn = Predictor(Local(), data=spec(DATA)).set_image(array, at=(40, 25)).sample(3, seed=4, select="representative")
    assert torch.equal(of(picture(array), at=(40, 25), seed=4).samples.maps, drawn.maps)


def test_an_image_that_is_slid_over_is_a_volume_of_one_slice():
    array = noise(60, 70)
    flat, solid = of(picture(array)), of(volume(array[None]))
    assert flat.plan.slid
    assert flat.samples.maps.shape == (1, 3, 1, 60, 70)
    assert torch.equal(flat.samples.maps, solid.samples.maps[:, :, :, 0])
    np.testing.assert_array_equal(flat.summary.mean, solid.summary.mean[:, 0])


def test_a_part_of_an_image_lies_in_its_whole_frame():
    found = of(picture(noise(60, 70)), roi="10:50,5:40").samples.maps
    assert found.shape == (1, 3, 1, 60, 70)
    assert found[..., 5:40, 10:50].min() > 0
    found[..., 5:40, 10:50] = 0
    assert not found.any()


def test_a_hypothesis_that_marks_only_the_reflection_is_not_present():
    class Below(Local):
        def sample(self, *words: Any, **more: Any) -> Any:
            drawn = super().sample(*words, **more)
            drawn.maps[:], drawn.presence = 0, None
            drawn.maps[..., -1, :] = 1
            drawn.present[:] = True
            return drawn

    found = of(picture(noise(20, 20)), model=Below())
    assert not found.samples.present.any()
    assert (found.summary.presence, found.summary.presence_from) == (0, "samples")


def test_a_slice_of_a_scan_is_summarised_in_its_whole_frame():
    array = np.zeros((4, 60, 60), np.float32)
    array[2, 20:30, 35:50] = 1
    found = of(volume(array), model=Local(wiggle=0), roi="10:58,10:40,1:4")
    assert found.key_slice == 2
    summary = found.slice_summary(2)
    np.testing.assert_array_equal(summary.masks[:, 0], np.stack([array[2] > 0] * 3))
    assert [hypothesis.mask.shape for hypothesis in summary.hypotheses] == [(1, 60, 60)]
    assert [h.sizes for h in summary.hypotheses] == [h.sizes for h in found.summary.hypotheses] == [(150,) * 3]
    assert summary.size_text(summary.hypotheses[0]) == "75 mm³"  # the scan's, whatever the slice shows


def test_it_says_what_was_looked_at():
    one = of(picture(noise(60, 70)), at=(3, 25)).to_dict()
    assert one["window"] == {"left": -13, "top": 9, "width": 32, "height": 32, "reaches_outside": True}
    assert one["at"] == [3, 25]
    assert "reflection" in one["warnings"][-1]
    many = of(volume(noise(5, 60, 70)), at=(40, 25, 4), slices=1).to_dict()
    assert many["box"] == {"x": [24, 56], "y": [9, 41], "z": [3, 5]}
    assert many["windows"] == {"a_slice": 1, "width": 32, "height": 32}
    assert np.array_equal(many["affine_ras_mm"], np.diag([0.5, 0.5, 2, 1]))


@pytest.mark.parametrize("asked", [{"at": (99, 3)}, {"roi": "0:99,0:9"}, {"roi": "all"}])
def test_an_error_in_a_place_names_the_file(asked):
    with pytest.raises(DataError, match=r"^there/image\.npy: "):
        of(picture(noise(60, 70)), **asked)


def test_the_pixels_of_a_scan_are_compared_with_those_of_training():
    data = spec({**DATA, "spacing": [0.9, 0.9]})
    found = predict(volume(noise(1, 32, 32)), Predictor(Discs(), data=data), Settings(n=1))
    assert any("look larger or smaller" in note for note in found.notes)


def test_all_of_a_scan_is_the_box_of_its_shape():
    assert of(volume(noise(2, 40, 40))).plan.box == Box.whole((2, 40, 40))
