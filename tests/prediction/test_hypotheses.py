"""What tells two samples apart, against distances between outlines that are known or measured point by point."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt

from modiff.config.evaluation import DISTINCT
from modiff.prediction.hypotheses import Overlaps, outline_distance
from modiff.prediction.summary import summarise
from modiff.types import Samples


def disc(radius: float, row: float = 50, column: float = 50, size: int = 100) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(rows - row, columns - column) <= radius


def ball(radius: float, height: float = 1.0, size: int = 40) -> np.ndarray:
    """`height`: how many rows a slice is thick."""
    z, y, x = np.mgrid[:size, :size, :size] - size // 2
    return np.sqrt((z * height) ** 2 + y**2 + x**2) <= radius


def apart(one: Any, other: Any, spacing: Any = None) -> float:
    """Masks of one class, or (K,…)."""
    masks = np.stack([one, other])
    masks = masks[:, None] if masks.ndim in (3, 4) and spacing != "classes" else masks
    flat = torch.from_numpy(masks.reshape(*masks.shape[:2], -1, masks.shape[-1]))
    return float(outline_distance(masks, Overlaps.of(flat).iou, None if spacing == "classes" else spacing)[0, 1])


def count(masks: list[np.ndarray], **more: Any) -> int:
    return len(summarise(Samples.uniform(torch.from_numpy(np.stack(masks)).float()[None, :, None]), **more).hypotheses)


class TestOutlineDistance:
    @pytest.mark.parametrize(("inner", "outer"), [(4, 5), (5, 7), (9, 10), (8, 12)])
    def test_of_two_discs_it_is_the_difference_of_their_radii(self, inner, outer):
        assert apart(disc(inner), disc(outer)) == pytest.approx(outer - inner, rel=0.2)  # of pixels

    @pytest.mark.parametrize("seed", range(8))
    def test_it_is_near_the_mean_distance_from_outline_to_outline(self, seed):
        rng = np.random.default_rng(seed)
        one, other = (disc(rng.uniform(4, 9), *rng.uniform(47, 53, 2)) for _ in range(2))
        edges = [mask & ~binary_erosion(mask) for mask in (one, other)]
        ways = [distance_transform_edt(~edges[1])[edges[0]], distance_transform_edt(~edges[0])[edges[1]]]
        assert apart(one, other) == pytest.approx(np.concatenate(ways).mean(), rel=0.2, abs=0.15)

    def test_of_two_balls_it_is_the_difference_of_their_radii(self):
        assert apart(ball(7), ball(9)) == pytest.approx(2, rel=0.1)

    def test_thick_slices_count_for_what_they_are_thick(self):
        assert apart(ball(8, 2), ball(10, 2), (4.0, 2.0, 2.0)) == pytest.approx(2, rel=0.1)

    def test_it_is_in_pixels_whatever_their_size(self):
        assert apart(disc(5), disc(7), (0.3, 0.3)) == pytest.approx(apart(disc(5), disc(7)))

    def test_pixels_that_are_longer_than_wide_keep_the_area_between_the_outlines(self):
        one, other = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
        one[4:8, 4:12] = other[4:10, 4:12] = True
        # In units of √(2·½) = 1: two rows of 8 pixels, 2 high and ½ wide, lie between.
        length = (2 * (8 * 0.5 + 4 * 2) + 2 * (8 * 0.5 + 6 * 2)) / 2
        assert apart(one, other, (2.0, 0.5)) == pytest.approx(2 * 8 / (length * np.pi / 4))

    def test_a_pixel_of_a_large_object_counts_less(self):
        assert apart(disc(40), disc(42)) == pytest.approx(2 / (0.04 * 82), rel=0.1)

    def test_the_class_that_differs_most_decides(self):
        one, other = np.stack([disc(9), disc(4, 80)]), np.stack([disc(9), disc(6, 80)])
        assert apart(one, other, "classes") == pytest.approx(apart(disc(4), disc(6)))

    def test_small_marks_that_do_not_meet_are_apart(self):
        assert apart(disc(0.5), disc(0.5, 52)) == 2


class TestSamples:
    def test_outlines_a_pixel_and_a_half_apart_are_two_hypotheses_and_half_a_pixel_apart_one(self):
        for radius in (3, 5, 9):
            assert count([disc(radius), disc(radius + 1.5)]) == 2
            assert count([disc(radius, 50, 50.5), disc(radius, 50, 51)]) == 1

    def test_a_lobe_tells_them_apart(self):
        assert count([disc(10), disc(10) | disc(5, 50, 63)]) == 2

    def test_how_far_apart_is_an_option_and_stands_in_the_summary(self):
        samples = Samples.uniform(torch.from_numpy(np.stack([disc(5), disc(7)])).float()[None, :, None])
        assert [len(summarise(samples, distinct=far).hypotheses) for far in (1.5, 2.5)] == [2, 1]
        assert summarise(samples).to_dict()["distinct_px"] == DISTINCT
        assert summarise(samples, distinct=2.5).to_dict()["distinct_px"] == 2.5
