"""A small store that most tests of this room read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_helpers import make_info

from modiff.data.store import StoreWriter


@pytest.fixture
def small_store(tmp_path: Path) -> Path:
    """Six images of four patients, uint8, 11×13; rater C did not read the last."""
    rng = np.random.default_rng(0)
    path = tmp_path / "small.h5"
    splits = ["train", "train", "train", "val", "test", "test"]
    patients = ["p1", "p1", "p2", "p3", "p4", "p4"]
    with StoreWriter(path, make_info(), folds={"p1": 0, "p2": 1, "p3": 0, "p4": 1}) as writer:
        for row, (patient, split) in enumerate(zip(patients, splits, strict=True)):
            read = np.array([True, True, row < 5])
            masks = rng.integers(0, 3, (3, 11, 13), dtype=np.uint8) * read[:, None, None].astype(np.uint8)
            image = rng.integers(0, 256, (2, 11, 13), dtype=np.uint8)
            writer.add(image, masks, read, case=f"{patient}/slice-{row}", patient=patient, split=split)
    return path
