"""What is said of images whose values lie close together."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from store_helpers import make_info

from modiff.data.check.run import check
from modiff.data.intensity import little_contrast, used_range
from modiff.data.store import StoreWriter
from modiff.training import loop


def ramps(dtype: str, used: float, count: int = 5) -> np.ndarray:
    """(n,1,40,50) values spread evenly over a fraction of the range of the type."""
    values = 0.2 + used * np.linspace(0, 1, 2000).reshape(1, 1, 40, 50).repeat(count, 0)
    if np.dtype(dtype).kind == "f":
        return values.astype(dtype)
    ends = np.iinfo(dtype)
    return (ends.min + values * (float(ends.max) - ends.min)).round().astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
def test_half_of_the_images_decide(dtype):
    assert "less than 20%" in little_contrast(used_range(ramps(dtype, 0.2 / 0.98)))
    assert little_contrast(used_range(ramps(dtype, 0.35))) is None
    images = np.concatenate([ramps(dtype, 0.2, 2), ramps(dtype, 0.5, 3)])
    assert little_contrast(used_range(images)) is None
    assert little_contrast(used_range(np.concatenate([images, ramps(dtype, 0.2, 2)])))


def test_one_channel_with_contrast_is_enough():
    assert little_contrast(used_range(np.concatenate([ramps("u1", 0.1), ramps("u1", 0.6)], 1))) is None


def test_outliers_are_no_contrast():
    images = ramps("u1", 0.2)
    images[:, :, 0, 0] = 255
    assert little_contrast(used_range(images))


def test_check_and_training_say_it(tmp_path, monkeypatch, caplog):
    for name, used in (("flat", 0.2), ("good", 0.5)):
        with StoreWriter(tmp_path / f"{name}.h5", make_info(channels=("CT",), raters=("A", "B"))) as writer:
            for row, image in enumerate(ramps("u1", used)):
                masks = np.zeros((2, 40, 50), np.uint8)
                masks[:, row : row + 9, 5:9] = 1
                split = "val" if row == 4 else "train"
                shown = np.roll(image, row, 1)
                writer.add(shown, masks, np.ones(2, bool), case=str(row), patient=str(row), split=split)
        kinds = {finding.kind for finding in check(tmp_path / f"{name}.h5").findings}
        assert ("little contrast" in kinds) == (name == "flat")

        def stopped(*_args, **_more):
            raise KeyboardInterrupt

        monkeypatch.setattr(loop.files, "describe_data", stopped)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "modiff"), pytest.raises(KeyboardInterrupt):
            loop.train(loop.RunConfig(), tmp_path / f"{name}.h5", tmp_path / "run")
        assert ("little contrast" in caplog.text) == (name == "flat")
