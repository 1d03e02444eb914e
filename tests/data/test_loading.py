"""A store in memory gives the same images and masks as the store on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_helpers import make_info

from modiff.data.loading import load, to_unit
from modiff.data.store import Store, StoreWriter
from modiff.errors import DataError


def test_batches_hold_what_the_store_holds(small_store: Path) -> None:
    rows = [4, 0, 5, 4]
    batch = load(small_store).batch(rows)
    with Store.open(small_store) as store:
        masks = np.stack([[store.masks(row) == index for index in (1, 2)] for row in rows]).swapaxes(1, 2)
        np.testing.assert_array_equal(batch.masks.numpy(), masks)
        images = np.stack([store.image(row) for row in rows])
        np.testing.assert_array_equal(batch.image.numpy(), images.astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(batch.read.numpy(), store.read[rows])
        assert batch.case == tuple(store.cases[rows])


def test_types_and_shapes_of_a_batch(small_store: Path) -> None:
    batch = load(small_store).batch(torch.tensor([1, 2]))
    assert (batch.image.dtype, batch.image.shape) == (torch.float32, (2, 2, 11, 13))
    assert (batch.masks.dtype, batch.masks.shape) == (torch.bool, (2, 3, 2, 11, 13))
    assert (batch.read.dtype, batch.read.shape) == (torch.bool, (2, 3))


def test_a_split_holds_its_cases_only(small_store: Path) -> None:
    memory = load(small_store, "test")
    assert memory.cases == ("p4/slice-4", "p4/slice-5")
    assert memory.patients == ("p4", "p4")
    torch.testing.assert_close(memory.batch([0, 1]).masks, load(small_store).batch([4, 5]).masks)


def test_a_split_that_is_not_there(small_store: Path) -> None:
    with pytest.raises(DataError, match="no such split"):
        load(small_store, "dev")


def test_an_open_store_stays_open(small_store: Path) -> None:
    with Store.open(small_store) as store:
        assert len(load(store)) == 6
        store.image(0)


def test_without_a_prompt_there_is_no_centre(small_store: Path) -> None:
    assert load(small_store).batch([0]).centre is None


def test_the_centre_is_the_middle_of_the_image(tmp_path: Path) -> None:
    one = make_info(channels=("CT",), raters=("A",), prompt="centre")
    with StoreWriter(tmp_path / "c.h5", one) as writer:
        writer.add(
            np.zeros((1, 4, 7), np.uint8),
            np.zeros((1, 4, 7), np.uint8),
            np.ones(1, bool),
            case="a",
            patient="a",
            split="x",
        )
    centre = load(tmp_path / "c.h5").batch([0, 0]).centre
    assert centre is not None
    torch.testing.assert_close(centre, torch.tensor([[1.5, 3.0], [1.5, 3.0]]))


@given(hnp.arrays(st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4"]), 20))
def test_integers_are_scaled_by_their_types_range(values: np.ndarray) -> None:
    low, high = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
    expected = [(int(value) - low) / (high - low) for value in values]
    np.testing.assert_allclose(to_unit(values).numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_a_types_ends_become_0_and_1(dtype: str) -> None:
    ends = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    assert to_unit(ends).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_stay_as_they_are(dtype: str) -> None:
    assert to_unit(np.array([0.0, 0.25, 1.0], dtype)).tolist() == [0.0, 0.25, 1.0]
