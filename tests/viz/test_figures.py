"""What is drawn is where it belongs, hides nothing, and comes from no shared state; one rule for every close-up."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image

from modiff.viz import figures
from modiff.viz.figures import COLOURS, Cell, Contour, close_up, contact_sheet, encoded


def disc(size: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(rows - row, columns - column) <= radius


def rendered(cell: Cell, inches: float = 2.0) -> np.ndarray:
    """(h,w,3) in [0,1]: the one cell alone, without margins."""
    figure = figures.new_figure(inches, inches)
    figures.draw(figure.add_axes((0, 0, 1, 1)), cell)
    return np.asarray(Image.open(io.BytesIO(encoded(figure))).convert("RGB")) / 255


def near(pixels: np.ndarray, colour: str) -> np.ndarray:
    return np.abs(pixels - to_rgb(colour)).max(-1) < 0.15


GREY = np.full((40, 40), 0.5)


class TestPrimitives:
    def test_the_window_is_the_stated_one(self):
        ramp = np.tile(np.linspace(-200, 1200, 29), (29, 1))
        figure = contact_sheet([[Cell(ramp)]], window=(0.0, 1000.0), inches=2.0)
        shown = np.asarray(Image.open(io.BytesIO(encoded(figure))).convert("L"))[100]
        middle = np.flatnonzero(np.abs(shown.astype(int) - 128) <= 3)
        assert middle.size
        assert np.median(middle) / shown.size == pytest.approx(0.5, abs=0.04)

    def test_an_outline_leaves_the_inside_visible(self):
        mask = disc(40, 20, 20, 10)
        pixels = rendered(Cell(GREY, contours=(Contour(mask, COLOURS[0]),)))
        size = pixels.shape[0]
        inside = pixels[int(0.35 * size) : int(0.65 * size), int(0.35 * size) : int(0.65 * size)]
        np.testing.assert_allclose(inside, 0.5, atol=0.01)
        assert near(pixels, COLOURS[0]).any()

    def test_an_outline_runs_around_its_mask(self):
        pixels = rendered(Cell(GREY, contours=(Contour(disc(40, 10, 28, 6), COLOURS[1]),)), inches=4)
        rows, columns = np.nonzero(near(pixels, COLOURS[1]))
        scale = pixels.shape[0] / 40
        assert (rows.mean() / scale - 0.5, columns.mean() / scale - 0.5) == pytest.approx((10, 28), abs=0.3)
        away = np.hypot(rows / scale - 10.5, columns / scale - 28.5)
        assert away.min() > 5
        assert away.max() < 7.5

    def test_an_object_cut_by_the_border_is_closed_there(self):
        mask = np.zeros((40, 40), bool)
        mask[:, 30:] = True
        pixels = rendered(Cell(GREY, contours=(Contour(mask, COLOURS[1], width=3),)), inches=4)
        assert near(pixels, COLOURS[1])[:, int(0.9 * pixels.shape[1]) :][:4].any()

    def test_an_empty_mask_draws_nothing(self):
        np.testing.assert_array_equal(
            rendered(Cell(GREY, contours=(Contour(np.zeros((40, 40), bool), COLOURS[0]),))), rendered(Cell(GREY))
        )

    def test_heat_is_clear_where_it_is_0_and_never_opaque(self):
        colours = figures.heat_colours(np.array([0.0, 0.5, 1.0]))
        assert colours[0, 3] == 0
        assert 0 < colours[1, 3] < colours[2, 3] < 0.7

    def test_heat_gets_lighter_with_its_value(self):
        colours = figures.heat_colours(np.linspace(0, 1, 20))[:, :3] @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(colours) > 0).all()

    def test_colour_pictures_are_shown_in_colour(self):
        image = np.zeros((3, 20, 20))
        image[0] = 1
        np.testing.assert_allclose(rendered(Cell(image))[50, 50], [1, 0, 0])

    def test_rows_of_different_shapes_are_laid_out(self):
        figure = contact_sheet([[Cell(GREY), Cell(GREY[:20])], [Cell(GREY, title="a")]], row_titles=("b", "c"))
        assert len(figure.axes) == 3

    def test_the_same_figure_gives_the_same_bytes(self):
        assert encoded(contact_sheet([[Cell(GREY)]])) == encoded(contact_sheet([[Cell(GREY)]]))

    def test_pyplot_is_not_used(self):
        encoded(contact_sheet([[Cell(GREY)]]))
        used = sys.modules.get("matplotlib.pyplot")
        assert used is None or not used.get_fignums()


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
    assert close_up(nothing) == (slice(13, 28), slice(25, 40))
