"""A store is scored as the model's training data were: channels in their order, slices turned as theirs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from described import spec

from modiff.data.loading import load
from modiff.data.store import StoreWriter
from modiff.data.store_format import StoreInfo
from modiff.errors import DataError
from modiff.evaluation.evaluate import as_trained, notes

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 8, 12), dtype=np.uint8)
MASKS = (np.random.default_rng(1).random((3, 8, 12)) > 0.7).astype(np.uint8)
AXES = {"LPS": np.diag([-0.5, -0.5, 3, 1]), "RAS": np.diag([0.5, 0.5, 3, 1]), "PLS": np.diag([-0.5, -0.5, 3, 1])}
AXES["PLS"] = AXES["PLS"][:, [1, 0, 2, 3]]
AXES["PIL"] = np.array([[0, 0, -3, 0], [-0.5, 0, 0, 0], [0, -0.5, 0, 0], [0, 0, 0, 1.0]])


@pytest.fixture
def store(tmp_path: Any) -> Any:
    def make(sides: str = "LPS", **changes: Any) -> Any:
        info = {"channels": ("flair", "t1"), "classes": ("core", "rim"), "raters": tuple("abc"), "intensity": "unit"}
        info |= {"exchangeable_raters": False, "prompt": "none"} | changes
        with StoreWriter(tmp_path / "s.h5", StoreInfo(**info), overwrite=True) as writer:
            place = {"affine": AXES[sides], "spacing": (0.5, 0.5)}
            writer.add(IMAGE, MASKS, np.ones(3, bool), case="a", patient="a", split="test", **place)
        return load(tmp_path / "s.h5", "test")

    return make


def loaded(**data: Any) -> Any:
    trained = {"channels": ["flair", "t1"], "classes": ["core", "rim"], "raters": [*"abc"], "intensity": "unit"} | data
    model = SimpleNamespace(channels=2, classes=2)
    return SimpleNamespace(model=model, data=spec(trained), card={})


def test_what_is_alike_stays_as_it_is(store: Any) -> None:
    images, model = store(), loaded(orientation="LPS", spacing=[0.5, 0.5], prompt="none")
    assert as_trained(model, images, "s.h5") is images
    assert notes(model, images, "test") == []


def test_channels_are_put_in_the_models_order(store: Any) -> None:
    images, model = store(), loaded(channels=["t1", "flair"])
    np.testing.assert_array_equal(as_trained(model, images, "s.h5").image[0], IMAGE[::-1])
    (note,) = notes(model, images, "test")
    assert note.endswith("channels t1, flair, this store has flair, t1: put in its order")


def test_other_channels_are_noted(store: Any) -> None:
    (note,) = notes(loaded(channels=["t1", "t2"]), store(), "test")
    assert "taken in the order they have" in note


def test_classes_in_another_order_are_refused(store: Any) -> None:
    with pytest.raises(DataError, match="classes: other order than the model's"):
        as_trained(loaded(classes=["rim", "core"]), store(), "s.h5")


@pytest.mark.parametrize("sides", ["LPS", "RAS", "PLS"])
def test_slices_of_one_plane_are_turned_with_their_masks(store: Any, sides: str) -> None:
    """Columns and rows of LPS run against those of RAS, and are exchanged in PLS."""
    made = as_trained(loaded(orientation="LPS"), store(sides), "s.h5")
    turn = {"LPS": lambda a: a, "RAS": lambda a: a[..., ::-1, ::-1], "PLS": lambda a: a.swapaxes(-1, -2)}[sides]
    np.testing.assert_array_equal(made.image[0], turn(IMAGE))
    np.testing.assert_array_equal(made.masks([0])[0].sum(1), turn(MASKS))
    assert made.batch([0]).masks.shape[-2:] == made.batch([0]).image.shape[-2:]


def test_another_plane_stays_and_is_noted(store: Any) -> None:
    images, model = store("PIL"), loaded(orientation="LPS")
    np.testing.assert_array_equal(as_trained(model, images, "s.h5").image[0], IMAGE)
    assert notes(model, images, "test") == ["the model was trained on data of orientation LPS, this store has PIL"]


@pytest.mark.parametrize(("side", "told"), [(0.52, False), (0.7, True)])
def test_other_pixels_are_noted(store: Any, side: float, told: bool) -> None:
    assert any("pixels of" in note for note in notes(loaded(spacing=[side, side]), store(), "test")) == told


def test_what_a_store_lacks_is_noted(store: Any) -> None:
    assert notes(loaded(), store(notes=("cut off: ann loses 2 of 9 marked pixels",)), "test") == [
        "the store: cut off: ann loses 2 of 9 marked pixels"
    ]


def test_another_modality_or_fit_is_noted(store: Any) -> None:
    found = notes(loaded(modality="CT", fit="crop"), store(modality="MR", fit="resize"), "test")
    assert [note.partition("of ")[2] for note in found] == [
        "fit crop, this store has resize",
        "modality CT, this store has MR",
    ]
