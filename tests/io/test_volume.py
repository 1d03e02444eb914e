"""A volume knows where each of its voxels lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modiff.errors import DataError
from modiff.io.volume import Volume

AFFINE = np.array([[0.5, 0, 0, -10], [0, 0.7, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])


def volume(array: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Volume:
    return Volume(np.zeros((1, 3, 4, 5)) if array is None else array, affine, Path("a.nii"), "NIfTI")


def test_spacing_is_in_the_order_of_the_arrays_axes():
    assert volume().spacing == pytest.approx((2.5, 0.7, 0.5))


def test_the_volume_of_a_voxel_is_the_product_of_its_edges_on_a_straight_grid():
    assert volume().voxel_mm3 == pytest.approx(0.5 * 0.7 * 2.5)


def test_a_slice_lies_where_the_volume_says():
    slice_place = volume().slice_affine(2) @ [4, 3, 0, 1]
    assert slice_place == pytest.approx(AFFINE @ [4, 3, 2, 1])


def test_slices_do_not_change_the_volume():
    made = volume()
    made.slice_affine(2)
    assert (made.affine == AFFINE).all()


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (1, 0, 4, 5), (1, 1, 1, 4, 5)])
def test_an_array_of_other_dimensions_is_refused(shape: tuple[int, ...]):
    with pytest.raises(DataError, match="array"):
        volume(np.zeros(shape))


@pytest.mark.parametrize(
    "affine", [np.zeros((4, 4)), np.eye(3), np.diag([1, 1, 1, 2]), np.diag([1, np.nan, 1, 1]), np.diag([1, 0, 1, 1])]
)
def test_an_affine_that_places_nothing_is_refused(affine: np.ndarray):
    with pytest.raises(DataError, match="affine"):
        volume(affine=affine)
