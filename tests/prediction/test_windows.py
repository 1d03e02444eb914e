"""Windows are cut exactly, whatever lies outside, cover what they should, and are merged as MONAI merges them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modiff.errors import ConfigError, DataError
from modiff.prediction.windows import Box, Window, importance, place, starts, windows_over

SIDES = st.integers(1, 90)

sides = st.integers(1, 20)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    h, w = draw(sides), draw(sides)
    at = draw(st.integers(0, w - 1)), draw(st.integers(0, h - 1))
    return Window.centred((h, w), (draw(sides), draw(sides)), at)


@given(windows())
@settings(max_examples=200, deadline=None)
def test_what_it_shows_is_what_it_covers(window):
    image = np.arange(1.0, 1 + window.image[0] * window.image[1]).reshape(window.image)
    np.testing.assert_array_equal(window.cut(image)[window.inside], image[window.covered])


@given(windows())
@settings(max_examples=200, deadline=None)
def test_the_cut_is_the_padded_image(window):
    image = np.arange(1.0, 1 + window.image[0] * window.image[1]).reshape(window.image)
    far = 64
    padded = np.pad(image, far, mode="reflect")
    top, left = window.top + far, window.left + far
    expected = padded[top : top + window.size[0], left : left + window.size[1]]
    np.testing.assert_array_equal(window.cut(image), expected)


@given(windows())
@settings(max_examples=100, deadline=None)
def test_it_is_padded_where_it_shows_less_than_its_size(window):
    rows, columns = window.covered
    shows = (rows.stop - rows.start) * (columns.stop - columns.start)
    assert window.padded == (shows < window.size[0] * window.size[1])
    assert shows >= 1


def test_the_pixel_pointed_at_lies_at_the_middle():
    window = Window.centred((50, 70), (8, 6), (20, 10))
    assert (window.top + 4, window.left + 3) == (10, 20)


@given(SIDES, SIDES, st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_patches_cover_a_stretch_and_end_with_it(length, patch, overlap):
    found = starts(5, 5 + length, patch, overlap)
    covered = set().union(*(range(start, start + patch) for start in found))
    assert set(range(5, 5 + length)) <= covered
    if length > patch:
        assert (found[0], found[-1] + patch) == (5, 5 + length)
        assert max(np.diff(found)) <= max(1, int(patch * (1 - overlap)))


@pytest.mark.parametrize("shape", [(64, 64), (65, 100), (200, 130), (512, 512)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_are_as_many_as_monais_and_cover_the_same(shape, overlap):
    from monai.data.utils import dense_patch_slices

    size = (64, 64)
    step = tuple(int(64 * (1 - overlap)) for _ in shape)
    theirs = {tuple(part.start for part in patch) for patch in dense_patch_slices(shape, size, step)}
    ours = {(w.top, w.left) for w in windows_over(Box.whole((1, *shape)), size, reach=size, overlap=overlap)}
    assert ours == theirs


def test_the_gaussian_is_monais():
    from monai.data.utils import compute_importance_map

    theirs = compute_importance_map((64, 48), mode="gaussian", sigma_scale=0.125).numpy()
    np.testing.assert_allclose(importance((64, 48), (64, 48)), np.maximum(theirs, 1e-3), atol=1e-6)


def test_only_the_reach_of_a_window_counts():
    weights = importance((64, 64), (32, 16))
    assert weights[16:48, 24:40].min() > 0
    weights[16:48, 24:40] = 0
    assert not weights.any()


@pytest.mark.parametrize("shape", [(100, 150), (64, 300), (40, 30)])
def test_a_models_reach_covers_the_image_though_windows_stay_centred(shape):
    windows = windows_over(Box.whole((1, *shape)), (64, 64), reach=(32, 32), centred=True)
    seen = np.zeros(shape, bool)
    for window in windows:
        rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
        inside = (rows - window.top >= 16) & (rows - window.top < 48)
        seen |= inside & (columns - window.left >= 16) & (columns - window.left < 48)
    assert seen.all()


def test_a_window_on_a_part_at_the_border_shows_image_and_not_reflection():
    (window,) = windows_over(Box((1, 100, 150), ((0, 1), (0, 20), (130, 150))), (64, 64), reach=(64, 64))
    assert not window.padded
    assert (window.top, window.left) == (0, 86)


def test_all_of_an_overlap_is_refused():
    with pytest.raises(ConfigError, match="overlap"):
        windows_over(Box.whole((1, 9, 9)), (4, 4), reach=(4, 4), overlap=1.0)


class TestBox:
    def test_it_is_read_in_the_order_x_y_z(self):
        box = Box.parse("3:10, 4:9,1:2", (5, 20, 30))
        assert box.spans == ((1, 2), (4, 9), (3, 10))
        assert box.size == (1, 5, 7)

    def test_all_slices_without_z(self):
        assert Box.parse("3:10,4:9", (5, 20, 30)).spans[0] == (0, 5)

    def test_put_back_is_where_it_was_cut(self):
        values = np.random.default_rng(0).random((2, 5, 20, 30))
        box = Box.parse("3:10,4:9,1:4", (5, 20, 30))
        back = box.put_back(values[(..., *box.slices)])
        assert back.shape == values.shape
        np.testing.assert_array_equal(back[(..., *box.slices)], values[(..., *box.slices)])
        assert np.count_nonzero(back) == 2 * 3 * 5 * 7

    @pytest.mark.parametrize("text", ["", "3:10", "3-10,4:9", "a:b,c:d", "1:2,3:4,5:6,7:8", "-1:3,0:2"])
    def test_other_words_are_refused(self, text):
        with pytest.raises(DataError, match="--roi: cannot be understood"):
            Box.parse(text, (5, 20, 30))

    @pytest.mark.parametrize("text", ["10:3,4:9", "3:31,4:9", "3:10,4:21", "3:10,4:9,4:6", "3:3,4:9"])
    def test_outside_is_refused(self, text):
        with pytest.raises(DataError, match="--roi: does not lie in the image"):
            Box.parse(text, (5, 20, 30))


class TestPlace:
    def test_one_slice_needs_no_z(self):
        assert place((3, 4), (1, 20, 30)) == (3, 4, 0)

    def test_several_slices_do(self):
        with pytest.raises(DataError, match="X,Y,Z"):
            place((3, 4), (5, 20, 30))

    @pytest.mark.parametrize("at", [(30, 4, 0), (3, 20, 0), (3, 4, 5), (-1, 4, 0)])
    def test_outside_is_refused(self, at):
        with pytest.raises(DataError, match="outside"):
            place(at, (5, 20, 30))
