"""The window: cut and put back are exact, whatever lies outside."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modiff.prediction.window import Window

sides = st.integers(1, 20)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    h, w = draw(sides), draw(sides)
    at = draw(st.integers(0, w - 1)), draw(st.integers(0, h - 1))
    return Window.centred((h, w), (draw(sides), draw(sides)), at)


@given(windows())
@settings(max_examples=200, deadline=None)
def test_what_was_cut_comes_back_to_its_place(window):
    image = np.arange(1.0, 1 + window.image[0] * window.image[1]).reshape(window.image)
    back = window.put_back(torch.from_numpy(window.cut(image))).numpy()
    covered = np.zeros(window.image, bool)
    covered[window.covered] = True
    np.testing.assert_array_equal(back, np.where(covered, image, 0))


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
