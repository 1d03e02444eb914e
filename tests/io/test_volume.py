"""Voxels and their place: what fits together, and stays where it was when it is turned, resampled or cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modiff.errors import DataError
from modiff.io.volume import Volume, resample, resize, turn, window

AFFINE = np.array([[0.5, 0, 0, -10], [0, 0.7, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])


def volume(array: np.ndarray | None = None, affine: np.ndarray | None = AFFINE) -> Volume:
    return Volume(np.zeros((1, 3, 4, 5)) if array is None else array, affine, Path("a.nii"), "NIfTI")


def test_spacing_is_in_the_order_of_the_arrays_axes():
    assert volume().spacing == pytest.approx((2.5, 0.7, 0.5))


def test_the_volume_of_a_voxel_is_the_product_of_its_edges_on_a_straight_grid():
    assert volume().voxel_mm3 == pytest.approx(0.5 * 0.7 * 2.5)


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


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_a_turned_voxel_stays_where_it_was(plane: str, flips: tuple[int, ...], axes: tuple[int, ...]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.diag([0.7, 0.9, 2.5])[:, axes] * flips
    affine[:3, 3] = 5, -7, 11
    array = np.zeros((1, 3, 4, 5), np.uint8)
    array[0, 1, 3, 2] = 1
    turned = turn(volume(array, affine), plane)
    assert turned.affine is not None
    z, row, column = np.argwhere(turned.array[0])[0]
    np.testing.assert_allclose(turned.affine @ [column, row, z, 1], affine @ [2, 3, 1, 1])


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("size", [(6, 5), (24, 20), (9, 13)])
def test_resizing_keeps_the_centre_of_what_is_there(mask: bool, size: tuple[int, int]) -> None:
    array = np.zeros((1, 1, 12, 10), np.uint8)
    array[..., 4:8, 3:7] = 100
    made = resize(volume(array), size, mask=mask)
    values = made.array[0, 0].astype(float)
    row, column = (np.average(np.arange(n), weights=values.sum(1 - axis)) for axis, n in enumerate(values.shape))
    assert made.affine is not None
    np.testing.assert_allclose(
        made.affine @ [column, row, 0, 1], AFFINE @ [4.5, 5.5, 0, 1], atol=0.51
    )  # a pixel of the coarser grid is 1 mm


def test_resampling_to_the_same_grid_changes_nothing() -> None:
    array = np.random.default_rng(0).integers(0, 3, (1, 3, 6, 5)).astype(np.uint8)
    grid = volume(array)
    np.testing.assert_array_equal(resample(grid, grid).array, array)


@pytest.mark.parametrize(("steps", "kept"), [(0, 20), (1, 20), (2, 10), (40, 0)])
def test_resampling_refuses_to_lose_marks(steps: int, kept: int) -> None:
    """20 marked voxels in columns 7 and 8 of 10; the mask lies `steps` voxels further to the right than the image."""
    array, place = np.zeros((1, 2, 5, 10), np.uint8), np.eye(4)
    array[..., 7:9] = 1
    place[0, 3] = steps
    mask, image = volume(array, place), volume(array, np.eye(4))
    if kept == 20:
        assert resample(mask, image).array.sum() == kept
    else:
        with pytest.raises(DataError, match=f"would lose; found {20 - kept} of 20 marked voxels outside"):
            resample(mask, image)


@pytest.mark.parametrize("shift", [0.0, 1e-5, -1e-5], ids=["exact", "rounded up", "rounded down"])
@pytest.mark.parametrize("z", [1, 2, 3, 4])
def test_a_slice_becomes_two_of_half_its_thickness(z: int, shift: float) -> None:
    array, place = np.zeros((1, 6, 3, 3), np.uint8), np.eye(4)
    array[0, z] = 1
    place[2, 3] = shift
    made = resample(volume(array, np.diag([1, 1, 2.0, 1])), volume(np.zeros((1, 12, 3, 3), np.uint8), place))
    assert np.flatnonzero(made.array.any((0, 2, 3))).tolist() == [2 * z, 2 * z + 1]


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_a_grid_half_a_voxel_away_takes_every_voxel_once(shift: float) -> None:
    array, place = np.arange(1, 13, dtype=np.uint8).reshape(1, 12, 1, 1), np.eye(4)
    place[2, 3] = shift
    made = resample(volume(array, np.eye(4)), volume(np.zeros((1, 12, 1, 1), np.uint8), place)).array.ravel()
    assert np.diff(made[made > 0]).tolist() == [1] * (np.count_nonzero(made) - 1)
    assert np.count_nonzero(made) >= 11


def test_resampling_refuses_to_skip_a_mark() -> None:
    array = np.zeros((1, 9, 3, 3), np.uint8)
    array[0, 4, 1, 1] = 1
    coarse = volume(np.zeros((1, 3, 3, 3), np.uint8), np.diag([1, 1, 3.0, 1]))
    with pytest.raises(DataError, match="none of 1 marked voxels"):
        resample(volume(array, np.eye(4)), coarse)


def test_volumes_without_geometry_are_not_resampled() -> None:
    unplaced = replace(volume(np.ones((1, 2, 3, 4)), None), stated=(1.0, 1.0, 1.0))
    with pytest.raises(DataError, match="no geometry to resample by"):
        resample(unplaced, volume(np.ones((1, 2, 6, 8)), np.eye(4)))


def test_a_window_larger_than_the_image_holds_all_of_it() -> None:
    array = np.arange(30, dtype=np.uint8).reshape(1, 1, 6, 5)
    large, valid = window(volume(array, None), -2, -1, (11, 8))
    assert valid is not None
    np.testing.assert_array_equal(large.array[..., valid[0] : valid[2], valid[1] : valid[3]], array)


def test_grids_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(DataError):
        turn(volume(affine=None), "axial")
