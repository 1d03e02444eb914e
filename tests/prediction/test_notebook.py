"""What a notebook shows: short words for each object, a page part with a figure, and batches of images."""

from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
import torch
from described import spec
from store_helpers import make_info

import modiff
from modiff.data.store import StoreWriter
from modiff.errors import ConfigError, DataError
from modiff.prediction.predictor import Predictor
from modiff.prediction.summary import summarise
from modiff.prediction.windows import Box
from modiff.types import Samples

pytestmark = pytest.mark.filterwarnings("ignore::modiff.prediction.predictor.PredictionWarning")
BAD = "<script>alert(1)</script>"


@pytest.fixture
def store(tmp_path: Path) -> modiff.Store:
    info = make_info(channels=("CT",), raters=("A", BAD), classes=("nodule",))
    with StoreWriter(tmp_path / "a.h5", info) as writer:
        for number in range(2):
            masks = np.zeros((2, 16, 16), np.uint8)
            masks[0, 4:9, 5 : 9 + number] = 1
            image = np.full((1, 16, 16), 90, np.uint8)
            writer.add(image, masks, np.array([True, True]), case=f"case-{number}", patient=f"p{number}", split="test")
    return modiff.Store.open(tmp_path / "a.h5")


def test_every_object_shows_itself(store: modiff.Store, predictor: Predictor, image: np.ndarray) -> None:
    words = [repr(predictor), predictor._repr_html_()]
    assert "no image" in words[0]
    samples = predictor.set_image(image).sample(5)
    summary = predictor.summary()
    for thing in (store, predictor, samples, summary):
        page = thing._repr_html_()
        assert page.count("data:image/png;base64,") == 1
        assert "<script" not in page
        figure = thing.plot()
        assert isinstance(figure, matplotlib.figure.Figure)
        assert figure._repr_png_().startswith(b"\x89PNG")
        assert len(repr(thing)) < 400
        assert "tensor(" not in repr(thing)
    assert "&lt;script&gt;" in store._repr_html_()
    for hypothesis in summary.hypotheses:
        assert f"{100 * hypothesis.probability:.0f} %" in summary._repr_html_()
    assert "5 samples" in repr(predictor)


def test_a_store_plots_the_rows_that_are_asked_for(store: modiff.Store) -> None:
    assert [axes.get_title() for axes in store.plot([1, 0]).axes][::2] == ["case-1", "case-0"]
    assert len(store.plot(1).axes) == 2


def test_a_scan_is_shown_on_the_slice_with_most_marked() -> None:
    maps = torch.zeros(1, 3, 1, 4, 8, 8)
    maps[:, :2, :, 2, 2:5, 2:5] = 1
    summary = summarise(Samples.uniform(maps), spacing=(1, 1, 1))
    ground = np.arange(4)[:, None, None] / 4 * np.ones((4, 8, 8))
    assert (summary.plot(ground).axes[0].images[0].get_array() == 0.5).all()
    with pytest.raises(DataError, match="image: has another size"):
        summary.plot(ground[:, :7])


@pytest.mark.parametrize(
    "where", [{"at": (50, 40, 2), "slices": 1}, {"roi": Box((5, 90, 80), ((1, 4), (10, 80), (5, 75)))}]
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_volume_is_shown_within_its_box(model, data, where: dict[str, object], turned: bool) -> None:
    volume = np.random.default_rng(0).integers(0, 200, (1, 5, 90, 80)).astype(np.uint8)
    volume[0, 2, 40, 50] = 255
    lies = np.array([[0, 1.0, 0, 0], [1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]) if turned else np.diag([1, 1, 2, 1.0])
    predictor = Predictor(model, data=spec(data | {"orientation": "LPS"})).set_image(volume, affine=lies, **where)
    maps = predictor.sample(3).maps
    assert predictor._shown().shape[1:] == maps.shape[3:]
    assert predictor.plot()._repr_png_().startswith(b"\x89PNG")


def test_samples_come_as_arrays(predictor: Predictor, image: np.ndarray) -> None:
    samples = predictor.set_image(image).sample(3)
    arrays = samples.numpy()
    assert {"maps", "weights", "present"} <= set(arrays)
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    assert np.array_equal(arrays["maps"], samples.maps.numpy())


@pytest.mark.parametrize("select", ["iid", "representative"])
def test_images_of_a_batch_are_sampled_as_alone(predictor: Predictor, image: np.ndarray, select: str) -> None:
    images, told = np.stack([image, image[::-1]]), []
    both = predictor.sample_images(images, 4, select=select, progress=lambda *done: told.append(done))
    for number, one in enumerate(images):
        alone = predictor.set_image(one).sample(4, select=select)
        assert torch.equal(both.maps[number], alone.maps[0])
        assert torch.equal(both.weights[number], alone.weights[0])
        assert (both.pool is None) == (alone.pool is None)
        if both.pool is not None:
            assert torch.equal(both.pool.mean[number], alone.pool.mean[0])
    assert told == [(1, 2), (2, 2)]


def test_what_is_wrong_with_a_batch_names_the_image(predictor: Predictor, image: np.ndarray) -> None:
    with pytest.raises(DataError, match="image 1: image: has values that are not finite"):
        predictor.sample_images([image.astype(float) / 255, np.full(image.shape, np.nan)], 2)
    with pytest.raises(DataError, match="do not fit"):
        predictor.sample_images([image], 2, cases=["a", "b"])
    with pytest.raises(DataError, match="do not fit"):
        predictor.sample_images([], 2)


def test_another_type_gives_nearly_the_same_and_an_unknown_one_is_refused(model, data, image: np.ndarray) -> None:
    exact, half = (
        Predictor(model, dtype=dtype, data=spec(data)).set_image(image).sample(4)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.maps.dtype == torch.float32
    assert (exact.maps - half.maps).abs().mean() < 0.05
    with pytest.raises(ConfigError, match=r"dtype: is not a type to compute in; found torch\.int8"):
        Predictor(model, dtype=torch.int8, data=spec(data))
