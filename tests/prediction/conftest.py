"""A predictor whose model is known, and its training data's description."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

SIZE = 64


@pytest.fixture
def data() -> dict[str, Any]:
    return {"size": (SIZE, SIZE), "intensity": "minmax-slice", "prompt": "centre", "classes": ("nodule",)}


@pytest.fixture
def model() -> Any:
    from discs import Discs

    return Discs()


@pytest.fixture
def predictor(model: Any, data: dict[str, Any]) -> Any:
    from described import spec

    from modiff.prediction.predictor import Predictor

    return Predictor(model, data=spec(data))


@pytest.fixture
def image() -> np.ndarray:
    """(64,64) uint8 with its brightest pixel at row 30, column 34."""
    picture = np.random.default_rng(0).integers(0, 200, (SIZE, SIZE), dtype=np.uint8)
    picture[30, 34] = 255
    return picture
