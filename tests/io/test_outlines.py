"""Outlines enclose what is marked and nothing else; a long axis is what a ruler would say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from modiff.io.outlines import long_axis, rings


def drawn(lines: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """(H,W) how many closed lines of (row, column) each pixel's centre lies in."""
    centres = np.stack(np.meshgrid(*map(range, shape), indexing="ij"), -1).reshape(-1, 2)
    return sum((Polygon(line).contains_points(centres) for line in lines), np.zeros(len(centres), int)).reshape(shape)


@pytest.mark.parametrize("density", [0.3, 0.6, 0.85, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_drawing_the_lines_brings_back_the_mask(density, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(tuple(rng.integers(1, 30, 2))) < density
    np.testing.assert_array_equal(drawn(rings(mask), mask.shape), mask)


def test_parts_have_a_line_each_and_holes_none_of_their_own():
    mask = np.zeros((20, 30), bool)
    mask[1:15, 1:15], mask[3:6, 3:6], mask[8:12, 9:13], mask[9, 10] = True, False, False, True  # holes, and an island
    mask[17, 20:25] = True
    found = rings(mask)
    assert len(found) == 3
    np.testing.assert_array_equal(drawn(found, mask.shape), mask)


def test_of_nothing_there_is_none():
    assert rings(np.zeros((4, 5), bool)) == []
    assert long_axis(np.zeros((2, 4, 5), bool), (1, 1)) == 0


BOXES = {  # rows and columns of a box, spacing -> from edge to edge, halfway between centres
    ((1, 1), (1.0, 1.0)): 1.0,
    ((1, 7), (1.0, 0.5)): 3.5,
    ((7, 1), (2.0, 0.5)): 14.0,
    ((4, 3), (1.0, 1.0)): math.hypot(4, 2),  # of an edge's middle to that of the opposite one's last pixel
}


@pytest.mark.parametrize(("size", "spacing"), BOXES)
def test_the_long_axis_of_a_box(size, spacing):
    mask = np.zeros((2, 12, 12), bool)
    mask[1, 2 : 2 + size[0], 3 : 3 + size[1]] = True
    assert long_axis(mask, spacing) == pytest.approx(BOXES[size, spacing])


@pytest.mark.parametrize("radius", [8.0, 15.5, 30.0])
def test_the_long_axis_of_a_ball_is_its_diameter(radius):
    z, y, x = np.ogrid[-5:6, -40:41, -40:41]
    ball = (z * 2) ** 2 + y**2 + (x * 0.5) ** 2 <= radius**2
    assert long_axis(ball, (1.0, 0.5)) == pytest.approx(2 * radius, abs=1.5)


def test_two_lesions_are_not_measured_across_what_lies_between():
    mask = np.zeros((3, 40, 40), bool)
    mask[0, 2:5, 2], mask[0, 30:35, 38], mask[2, 5, 5] = True, True, True
    assert long_axis(mask, (1.0, 1.0)) == pytest.approx(5.0)
