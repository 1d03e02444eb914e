"""One rule for every close-up: it holds all that is marked, and lies in the image."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from modiff.viz.sheets import close_up

sides = st.integers(1, 40)


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    """(H,W) bool with one or two marked pixels."""
    marks = np.zeros((draw(sides), draw(sides)), bool)
    for _ in range(draw(st.integers(1, 2))):
        marks[draw(st.integers(0, marks.shape[0] - 1)), draw(st.integers(0, marks.shape[1] - 1))] = True
    return marks


@given(images(), st.integers(1, 50), st.sampled_from([0.0, 0.5, 0.75]))
def test_it_holds_all_that_is_marked_in_a_square_as_far_as_the_image_allows(marks, least, around):
    rows, columns = close_up(marks, least=least, around=around)
    assert marks[rows, columns].sum() == marks.sum()
    found = [rows.stop - rows.start, columns.stop - columns.start]
    extent = max(int(np.ptp(np.flatnonzero(marks.any(axis)))) + 1 for axis in (0, 1))
    side = max(least, round(extent * (1 + around)))
    assert found == [min(side, length) for length in marks.shape]


def test_a_spot_in_the_corner_is_shown_with_what_surrounds_it():
    marks = np.zeros((64, 64), bool)
    marks[0, 63] = True
    assert close_up(marks, least=32) == (slice(0, 32), slice(32, 64))


def test_where_nothing_is_marked_it_is_everything_or_the_middle():
    nothing = np.zeros((40, 64), bool)
    assert close_up(nothing, least=16) == (slice(0, 40), slice(0, 64))
    assert close_up(nothing, least=16, centre=True) == (slice(12, 28), slice(24, 40))
