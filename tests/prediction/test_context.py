"""A model whose channels are slices with their neighbours sees a scan as its training data were cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from described import spec
from discs import Discs

from modiff.cli import main
from modiff.config.data import PhantomConfig
from modiff.data.check.against import against, expectation
from modiff.data.context import named, near
from modiff.data.importers.phantom import write_phantom
from modiff.data.loading import load
from modiff.data.store import Store
from modiff.errors import DataError
from modiff.evaluation.evaluate import as_trained
from modiff.io.image import read_image
from modiff.methods.run_folder import describe_data
from modiff.prediction.predict import predict
from modiff.prediction.predictor import PredictionWarning, Predictor
from modiff.prediction.settings import Settings
from modiff.prediction.windows import Box
from modiff.types import DataSpec
from modiff.view.scene import open_scene

DEEP, SIDE = 5, 24
AFFINE = np.diag([-0.7, -0.7, 2.0, 1.0])  # columns, rows and slices run towards L, P and S


def _model(context: int = 1, channels: tuple[str, ...] = ("CT",), **data: Any) -> Predictor:
    names = named(channels, context)
    about = {"channels": names, "context": context, "size": (SIDE, SIDE), "intensity": "unit"} | data
    return Predictor(Discs(channels=len(names)), data=spec(about))


def _seen(predictor: Predictor) -> np.ndarray:
    """(n,C,H,W): all that the model was shown, in order."""
    return torch.cat(predictor.model.encoded).numpy()  # type: ignore[operator]


@pytest.fixture
def volume() -> np.ndarray:
    """(1,Z,H,W) uint8."""
    return np.random.default_rng(0).integers(0, 256, (1, DEEP, SIDE, SIDE), dtype=np.uint8)


@pytest.mark.parametrize("context", [1, 2])
def test_all_slices_of_a_volume_come_with_their_neighbours(volume: np.ndarray, context: int) -> None:
    predictor = _model(context)
    predictor.set_image(volume).sample(2)
    expected = [volume[0, near(z, DEEP, context)] / np.float32(255) for z in range(DEEP)]
    np.testing.assert_array_equal(_seen(predictor), expected)


def test_channels_lie_one_behind_the_other(volume: np.ndarray) -> None:
    predictor = _model(1, ("CT", "PET"))
    both = np.concatenate([volume, 255 - volume])
    predictor.set_image(both, at=(12, 12, 0))
    expected = np.concatenate([both[0, [0, 0, 1]], both[1, [0, 0, 1]]]) / np.float32(255)
    np.testing.assert_array_equal(_seen(predictor)[0], expected)


@pytest.mark.parametrize("z", [0, 2, 4])
def test_a_place_is_seen_with_slices_outside_what_is_looked_at(volume: np.ndarray, z: int) -> None:
    predictor = _model()
    predictor.set_image(volume, at=(12, 12, z)).sample(2)
    np.testing.assert_array_equal(_seen(predictor)[0], volume[0, near(z, DEEP, 1)] / np.float32(255))
    assert predictor.values is not None
    assert predictor.plan is not None
    shown = predictor.values.cut(z, predictor.plan.shown)  # a figure shows the slice itself
    np.testing.assert_array_equal(shown, volume[:, z] / np.float32(255))


def test_windows_that_slide_see_the_neighbours_too(volume: np.ndarray) -> None:
    wide = np.concatenate([volume, volume[..., ::-1]], -1)
    predictor = _model()
    predictor.set_image(wide, roi=Box(wide.shape[1:], ((1, 3), (0, SIDE), (0, 2 * SIDE)))).sample(1)
    assert predictor.plan is not None
    expected = [
        wide[0, near(z, DEEP, 1)][:, :, window.left : window.left + SIDE] / np.float32(255)
        for z, window in predictor.plan.jobs
    ]
    np.testing.assert_array_equal(_seen(predictor), expected)


def test_a_scan_that_is_stored_upside_down_is_seen_the_same(volume: np.ndarray) -> None:
    over = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, DEEP - 1], [0, 0, 0, 1]])
    one, other = (_model(orientation="LPS") for _ in range(2))
    one.set_image(volume, affine=AFFINE).sample(1)
    other.set_image(volume[:, ::-1].copy(), affine=over).sample(1)
    np.testing.assert_array_equal(_seen(other), _seen(one))


def test_slices_farther_apart_than_in_training_are_noted(volume: np.ndarray) -> None:
    for trained, noted in (
        ((2.0, 2.0), False),
        ((0.6, 2.0), False),
        ((0.6, 1.0), True),
        ((5.0, 5.0), True),
        (None, False),
    ):
        predictor = _model(slice_range=trained)
        predictor.set_image(volume, spacing=(2.0, 0.7, 0.7))
        assert any("neighbouring slices are 2 mm apart" in note for note in predictor.notes) == noted


def test_a_picture_is_repeated_and_that_is_said(volume: np.ndarray) -> None:
    predictor = _model()
    with pytest.warns(PredictionWarning, match="1 neighbouring slice on either side, and the image is one slice"):
        predictor.set_image(volume[0, 0])
    np.testing.assert_array_equal(_seen(predictor)[0], volume[0, [0, 0, 0]] / np.float32(255))


def test_colours_are_no_neighbours(volume: np.ndarray) -> None:
    with pytest.raises(DataError, match="other channels"):
        _model().set_image(volume[0, :3])


def test_a_stores_image_brings_its_neighbours(volume: np.ndarray, recwarn: pytest.WarningsRecorder) -> None:
    predictor = _model()
    predictor.set_image(volume[0, :3], neighbours=True, intensity="ready")
    np.testing.assert_array_equal(_seen(predictor)[0], volume[0, :3] / np.float32(255))
    assert predictor.values is not None
    assert predictor.plan is not None
    np.testing.assert_array_equal(predictor.values.cut(0, predictor.plan.shown)[0], volume[0, 1] / np.float32(255))
    assert not any("neighbouring" in str(one.message) for one in recwarn)
    assert predictor.sample_images(volume[:, :3], 2, neighbours=True).maps.shape == (1, 2, 1, SIDE, SIDE)


def _folder(root: Path) -> Path:
    """Three cases of one volume of 16 bits, marked on slices 0, 2 and 4."""
    mask = np.zeros((DEEP, 30, 28), np.uint8)
    mask[::2, 10:20, 8:18] = 1
    for number in range(3):
        values = np.random.default_rng(number).integers(-1000, 1000, mask.shape, dtype=np.int16)
        (root / f"p{number}").mkdir(parents=True)
        for name, array in (("image-CT", values), ("rater-x", mask)):
            nib.Nifti1Image(array.T, AFFINE).to_filename(root / f"p{number}" / f"{name}.nii")
    return root


FITS = {"--size 24x24": (14, 15), "--resize 24x24": (14, 15), "--crop marks": (13, 15)}  # and the window's middle


@pytest.mark.parametrize("rule", ["window:-1000:400", "percentiles:2:98", "minmax-slice"])
@pytest.mark.parametrize("fit", FITS)
def test_a_model_sees_a_scan_as_its_store_has_it(tmp_path: Path, rule: str, fit: str) -> None:
    root, path = _folder(tmp_path / "own"), tmp_path / "s.h5"
    words = ["--context", "1", "--intensity", rule, "--allow-cut", *fit.split()]
    assert main(["import", "folder", str(root), "-o", str(path), "--quiet", *words]) == 0
    images = load(path)
    predictor = Predictor(Discs(channels=3), data=describe_data(images, path))
    assert predictor.data.slice_range == (2.0, 2.0)
    scan = read_image(root / "p1" / "image-CT.nii")
    rows = [row for row, case in enumerate(images.cases) if case.startswith("p1/")]
    assert len(rows) == 3
    for row, z in zip(rows, (0, 2, 4), strict=True):
        predict(scan, predictor, Settings(at=(*FITS[fit], z), n=1))
        np.testing.assert_allclose(_seen(predictor)[-1], images.batch([row]).image[0], atol=1.1 / 65535)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder, config = tmp_path_factory.mktemp("data"), PhantomConfig(patients=4, images_per_patient=1, slices=3)
    made = {}
    for context in (0, 1, 2):
        made[context] = write_phantom(folder / f"{context}.h5", config, context=context, progress=False)
    return made


def _trained(path: Path) -> Any:
    """A model of other images of the very kind."""
    data = replace(describe_data(load(path), path), fingerprint="another")
    return SimpleNamespace(model=Discs(channels=len(data.channels)), data=data)


def test_a_store_is_scored_with_as_many_neighbours_as_the_model_sees(stores: dict[int, Path]) -> None:
    for needs in (0, 1, 2):
        for has in (0, 1, 2):
            if has < needs:
                with pytest.raises(DataError, match=rf"{has}\.h5.*context.*--context {needs}"):
                    as_trained(_trained(stores[needs]), load(stores[has]), stores[has])
            else:
                found = as_trained(_trained(stores[needs]), load(stores[has]), stores[has])
                np.testing.assert_array_equal(found.image, load(stores[needs]).image)


def test_a_check_against_a_model_has_the_same_word(stores: dict[int, Path]) -> None:
    def levels(has: int, needs: int) -> list[str]:
        with Store.open(stores[has]) as store:
            return [one.level for one in against(store, _trained(stores[needs]).data) if one.level != "note"]

    assert levels(0, 1) == ["error"]
    assert levels(1, 1) == levels(2, 1) == levels(1, 0) == []
    data = DataSpec(("CT[-1]", "CT", "CT[+1]"), ("nodule",), ("a",), context=1)
    assert "channels CT, with 1 neighbouring slice on either side, it marks" in expectation(data)


def test_a_case_of_a_store_is_viewed_with_its_neighbours(stores: dict[int, Path]) -> None:
    scene = open_scene([str(stores[2])])
    image = load(stores[2]).batch([0]).image[0].numpy()
    assert scene.scan.array.shape[0] == 1
    for context in (0, 1, 2):
        about = _trained(stores[context])
        predictor = Predictor(about.model, data=about.data)
        predict(scene.scan, predictor, Settings(n=1, intensity="ready"))
        np.testing.assert_array_equal(_seen(predictor)[0], image[2 - context : 3 + context])
    with pytest.raises(DataError, match="--context 2"):
        predict(open_scene([str(stores[1])]).scan, predictor, Settings(n=1, intensity="ready"))


def test_one_slice_of_a_store_without_neighbours_is_repeated(stores: dict[int, Path]) -> None:
    about = _trained(stores[1])
    predictor = Predictor(about.model, data=about.data)
    prediction = predict(open_scene([str(stores[0])]).scan, predictor, Settings(n=1, intensity="ready"))
    assert any("repeated" in note for note in prediction.notes)
