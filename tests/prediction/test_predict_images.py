"""A sample is a function of (weights, image, seed, index), and lands where the object is."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from described import spec
from discs import Discs

from modiff.errors import ConfigError, DataError
from modiff.prediction.predictor import PredictionWarning, Predictor, content_hash
from modiff.prediction.windows import plan_windows
from modiff.rng import seeds_for
from modiff.types import DataSpec


def quiet(predictor: Predictor, image: Any, **options: Any) -> Predictor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        return predictor.set_image(image, **options)


class TestSamples:
    def test_n_samples_are_the_first_of_2n_to_the_bit(self, predictor, image):
        predictor.set_image(image)
        assert torch.equal(predictor.sample(8).maps, predictor.sample(16).maps[:, :8])

    def test_the_seed_decides(self, predictor, image):
        predictor.set_image(image)
        first = predictor.sample(16, seed=1).maps
        assert not torch.equal(first, predictor.sample(16, seed=2).maps)
        assert torch.equal(first, predictor.sample(16, seed=1).maps)

    def test_they_are_those_of_the_model_alone_whatever_the_batch(self, predictor, model, image):
        predictor.set_image(image, case="a/b")
        alone = predictor.sample(5, seed=3).maps
        unit = torch.from_numpy(image / 255).float()
        with torch.inference_mode():
            encoding = model.encode(torch.stack([torch.rand(64, 64), unit])[:, None])
            batch = model.sample(encoding, 5, seeds=seeds_for(3, ["other", "a/b"])).maps
        assert torch.equal(batch[1], alone[0])

    def test_the_file_type_of_the_image_does_not_matter(self, predictor, image):
        tensor = torch.from_numpy(image)[None]
        assert torch.equal(predictor.set_image(image).sample().maps, predictor.set_image(tensor).sample().maps)

    def test_two_images_do_not_share_their_noise(self, predictor, image):
        other = image.copy()
        other[0, 0] ^= 1
        maps = [predictor.set_image(picture).sample(32).maps for picture in (image, other)]
        assert not torch.equal(*maps)

    def test_another_position_keeps_the_noise(self, predictor, image):
        cases = [quiet(predictor, image, at=at).case for at in ((30, 30), (31, 30))]
        assert cases[0] == cases[1]

    def test_the_image_is_encoded_once_for_all_calls(self, predictor, model, image):
        predictor.set_image(image)
        for n in (1, 4, 16):
            predictor.sample(n)
        assert len(model.encoded) == 1
        assert [asked["n"] for asked in model.asked] == [1, 4, 16]

    def test_they_are_ordinary_tensors(self, predictor, image):
        samples = predictor.set_image(image).sample(2)
        assert not samples.maps.is_inference()
        samples.maps.add_(1)

    def test_steps_and_raters_reach_the_model(self, predictor, model, image):
        predictor.set_image(image).sample(2, steps=5, raters=[0, 2])
        assert model.asked[-1] == {"n": 2, "steps": 5, "raters": [0, 2]}

    def test_stratified_samples_are_asked_of_methods_that_have_them(self, predictor, model, image, monkeypatch):
        predictor.set_image(image)
        with pytest.raises(ConfigError, match="Discs"):
            predictor.sample(2, select="stratified")
        plain, asked = model.sample, []

        def sample(encoding: Any, n: int, *, stratified: bool = False, **others: Any) -> Any:
            asked.append(stratified)
            return plain(encoding, n, **others)

        monkeypatch.setattr(model, "sample", sample)
        monkeypatch.setattr(type(model), "draws_stratified", True)
        predictor.sample(2, select="stratified")
        assert asked == [True]

    def test_the_model_is_in_evaluation_mode(self, model, data):
        assert not Predictor(model.train(), data=spec(data)).model.training

    def test_a_loaded_model_brings_its_data(self, model, data):
        loaded = type("Loaded", (), {"model": model, "data": spec(data), "config": None, "card": {"seconds": 3}})()
        predictor = Predictor(loaded)
        assert (predictor.size, predictor.card) == ((64, 64), {"seconds": 3})


class TestWindow:
    @pytest.mark.parametrize("shape", [(64, 64), (100, 150), (65, 64), (200, 70)])
    @pytest.mark.parametrize("place", [(0.5, 0.5), (0.02, 0.05), (0.98, 0.9)], ids=["middle", "upper left", "end"])
    def test_an_object_in_a_large_image_comes_back_in_its_place(self, predictor, shape, place):
        row, column = (int(share * side) for share, side in zip(place, shape, strict=True))
        image = np.zeros(shape, np.uint8)
        image[row, column] = 255
        maps = quiet(predictor, image, at=(column, row)).sample(16).maps
        assert maps.shape == (1, 16, 1, *shape)
        assert np.unravel_index(int(maps.mean((0, 1, 2)).argmax()), shape) == (row, column)

    def test_the_click_is_at_the_windows_centre(self, predictor, model):
        image = np.zeros((100, 150), np.uint8)
        image[40, 90] = 255
        predictor.set_image(image, at=(90, 40))
        assert int(model.encoded[0][0, 0].argmax()) == 32 * 64 + 32

    def test_the_model_sees_the_images_own_pixels(self, predictor, model):
        image = np.random.default_rng(1).random((90, 110))
        predictor.set_image(image, at=(50, 40), intensity="ready")
        expected = torch.from_numpy(image[40 - 32 : 40 + 32, 50 - 32 : 50 + 32]).float()
        assert torch.equal(model.encoded[0][0, 0], expected)

    @pytest.mark.parametrize("shape", [(20, 30), (63, 64), (1, 1), (64, 5)])
    def test_a_small_image_is_padded_by_its_reflection_and_cropped_back(self, predictor, model, shape):
        image = np.random.default_rng(1).random(shape)
        with pytest.warns(PredictionWarning, match="reflection"):
            predictor.set_image(image, intensity="ready")
        top, left = 32 - shape[0] // 2, 32 - shape[1] // 2
        after = (64 - top - shape[0], 64 - left - shape[1])
        expected = np.pad(image, ((top, after[0]), (left, after[1])), mode="reflect").astype(np.float32)
        np.testing.assert_array_equal(model.encoded[0][0, 0].numpy(), expected)
        assert predictor.sample(3).maps.shape == (1, 3, 1, *shape)

    def test_outside_the_window_there_is_nothing(self, predictor):
        image = np.zeros((200, 200), np.uint8)
        image[100, 100] = 255
        maps = predictor.set_image(image, at=(100, 100)).sample(16).maps
        outside = torch.ones(200, 200, dtype=torch.bool)
        outside[68:132, 68:132] = False
        assert not maps[..., outside].any()
        assert maps[..., ~outside].any()

    def test_an_image_of_the_training_size_is_taken_whole(self, predictor, model, image):
        predictor.set_image(image, intensity="ready")
        np.testing.assert_array_equal(model.encoded[0][0, 0].numpy(), (image / 255).astype(np.float32))

    @pytest.mark.parametrize("prompt", ["centre", "none"])
    def test_a_larger_image_needs_a_position(self, model, data, prompt):
        with pytest.raises(DataError, match="--at X,Y"):
            Predictor(model, data=spec({**data, "prompt": prompt})).set_image(np.zeros((64, 65)))

    @pytest.mark.parametrize("at", [(-1, 0), (0, -1), (64, 0), (0, 64), (10**9, 3)])
    def test_a_position_outside_the_image_is_refused(self, predictor, image, at):
        with pytest.raises(DataError, match="outside the image"):
            predictor.set_image(image, at=at)

    @pytest.mark.parametrize("at", [(1,), (1.5, 2), (1, 2, 3)])
    def test_a_position_that_is_no_pixel_is_refused(self, predictor, image, at):
        with pytest.raises(DataError, match="whole numbers"):
            predictor.set_image(image, at=at)

    def test_a_model_of_no_known_size_takes_the_image_as_it_is(self, model):
        with pytest.warns(PredictionWarning, match="does not say"):
            Predictor(model).set_image(np.zeros((30, 50)))
        assert model.encoded[0].shape == (1, 1, 30, 50)


class TestInput:
    @pytest.mark.parametrize(
        ("image", "words"),
        [
            (np.zeros((4, 4), bool), "not an array of numbers"),
            (np.zeros((4, 4), complex), "not an array of numbers"),
            (np.full((4, 4), np.inf), "not finite"),
            (np.zeros(4), "not an image or a volume"),
            (np.zeros((1, 1, 1, 4, 4)), "not an image or a volume"),
            (np.zeros((0, 4)), "not an image or a volume"),
            ([[1, 2]], "not an image or a volume"),
            (np.zeros((2, 4, 4)), "other channels"),
            (np.arange(48, dtype=np.uint8).reshape(3, 4, 4), "other channels"),
        ],
    )
    def test_what_the_model_cannot_read_is_refused_in_one_line(self, predictor, image, words):
        with pytest.raises(DataError, match=words) as caught:
            predictor.set_image(image)
        assert "\n" not in str(caught.value)

    def test_channels_that_come_last_are_pointed_out(self, data):
        with pytest.raises(DataError, match="Channels come first"):
            Predictor(Discs(channels=4), data=spec(data)).set_image(np.zeros((16, 16, 4)))

    def test_a_colour_picture_of_grey_is_grey(self, predictor, image):
        maps = predictor.set_image(np.stack([image] * 3), case="x").sample(4).maps
        assert torch.equal(maps, predictor.set_image(image, case="x").sample(4).maps)

    def test_a_colour_model_takes_colours(self, data):
        model = Discs(channels=3)
        Predictor(model, data=spec(data)).set_image(np.random.default_rng(0).random((3, 64, 64)))
        assert model.encoded[0].shape == (1, 3, 64, 64)

    @pytest.mark.parametrize("n", [0, -1, 1.5, True, "4"])
    def test_a_number_of_samples_that_is_none_is_refused(self, predictor, image, n):
        with pytest.raises(ConfigError, match="n: is out of range"):
            predictor.set_image(image).sample(n)

    def test_more_samples_than_memory_are_refused_before_any_is_taken(self, predictor, image):
        with pytest.raises(ConfigError, match="too many for the memory"):
            predictor.set_image(image).sample(10**9)

    def test_no_steps_are_refused(self, predictor, image):
        with pytest.raises(ConfigError, match="steps"):
            predictor.set_image(image).sample(1, steps=0)

    @pytest.mark.parametrize("raters", ["any", [], [4], [-1], [1, 1], [0.5]])
    def test_raters_that_are_none_are_refused(self, predictor, image, raters):
        with pytest.raises(ConfigError, match="raters"):
            predictor.set_image(image).sample(1, raters=raters)

    def test_the_order_of_calls_is_explained(self, predictor, image):
        with pytest.raises(DataError, match="Call set_image first"):
            predictor.sample()
        predictor.set_image(image)
        with pytest.raises(DataError, match="Call set_image and sample first"):
            predictor.summary()

    def test_reset_forgets(self, predictor, image):
        predictor.set_image(image).sample(1)
        predictor.reset()
        with pytest.raises(DataError, match="no image is set"):
            predictor.sample()

    def test_a_refused_image_leaves_no_earlier_one_behind(self, predictor, image):
        predictor.set_image(image)
        with pytest.raises(DataError):
            predictor.set_image(np.zeros((2, 4, 4)))
        with pytest.raises(DataError, match="no image is set"):
            predictor.sample()

    @pytest.mark.parametrize("device", ["cuda:99", "no such"])
    def test_a_device_that_is_not_there_is_refused(self, model, device):
        with pytest.raises(ConfigError, match="device: cannot be used here") as caught:
            Predictor(model, device=device)
        assert "\n" not in str(caught.value)


def test_the_content_hash_is_of_values_type_and_shape():
    array = np.arange(6, dtype=np.uint16).reshape(2, 3)
    same = [array[None], array.astype(">u2"), np.asfortranarray(array)]
    other = [array.T, array.astype(np.int32), array + np.uint16(1)]
    assert {content_hash(each) for each in same} == {content_hash(array)}
    assert content_hash(array) not in {content_hash(each) for each in other}


def test_summary_uses_the_last_samples(predictor, image):
    samples = predictor.set_image(image).sample(16)
    mean = predictor.summary().mean
    np.testing.assert_allclose(mean, samples.maps[0].mean(0).numpy(), atol=1e-6)
    assert predictor.summary(threshold=0.99).masks.sum() < predictor.summary().masks.sum()
    assert replace(predictor.summary(), spacing=(2.0, 3.0)).pixel_area == 6


@pytest.mark.parametrize("prompt", ["centre", "none"])
def test_an_image_far_smaller_than_the_training_images_is_not_padded_to_their_size(model, prompt):
    data = DataSpec.of(size=(8192, 8192), prompt=prompt)
    with pytest.raises(DataError, match=r"far smaller than .*; found 40×30; expected 8192×8192"):
        plan_windows(model, data, (1, 30, 40))
