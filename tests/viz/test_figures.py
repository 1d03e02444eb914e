"""Pictures: what is drawn is where it belongs, hides nothing, and comes from no shared state."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from modiff.prediction.overlay import close_up, overlay
from modiff.prediction.summary import Summary, summarise
from modiff.prediction.window import Window
from modiff.types import Samples
from modiff.viz import figures
from modiff.viz.figures import COLOURS, Cell, Contour, contact_sheet, png


def disc(size: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(rows - row, columns - column) <= radius


def rendered(cell: Cell, inches: float = 2.0) -> np.ndarray:
    """(h,w,3) in [0,1]: the one cell alone, without margins."""
    figure = figures.new_figure(inches, inches)
    figures.draw(figures.axes_at(figure, (0, 0, inches, inches)), cell)
    return np.asarray(Image.open(io.BytesIO(png(figure))).convert("RGB")) / 255


def near(pixels: np.ndarray, colour: str) -> np.ndarray:
    return np.abs(pixels - to_rgb(colour)).max(-1) < 0.15


GREY = np.full((40, 40), 0.5)


class TestPrimitives:
    def test_the_window_is_the_stated_one(self):
        ramp = np.tile(np.linspace(-200, 1200, 29), (29, 1))
        figure = contact_sheet([[Cell(ramp)]], window=(0.0, 1000.0), inches=2.0)
        shown = np.asarray(Image.open(io.BytesIO(png(figure))).convert("L"))[100]
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

    def test_gaps_and_rows_of_different_shapes_are_laid_out(self):
        figure = contact_sheet([[Cell(GREY), None, Cell(GREY[:20])], [Cell(GREY, title="a")]], row_titles=("b", "c"))
        assert len(figure.axes) == 3

    def test_the_same_figure_gives_the_same_bytes(self):
        assert png(contact_sheet([[Cell(GREY)]])) == png(contact_sheet([[Cell(GREY)]]))

    def test_pyplot_is_not_used(self):
        png(contact_sheet([[Cell(GREY)]]))
        used = sys.modules.get("matplotlib.pyplot")
        assert used is None or not used.get_fignums()


def summary_of(masks: list[np.ndarray], **more: object) -> Summary:
    maps = torch.from_numpy(np.stack(masks)).float()[None, :, None]
    return summarise(Samples.uniform(maps), **more)


class TestOverlay:
    whole = Window((64, 64), (64, 64), 0, 0)
    image = np.random.default_rng(0).random((1, 64, 64), dtype=np.float32)

    def text(self, summary: Summary, window: Window | None = None) -> str:
        figure = overlay(self.image, summary, window or self.whole, title="the title")
        png(figure)
        legends = [label.get_text() for legend in figure.legends for label in legend.get_texts()]
        titles = [axes.get_title() for axes in figure.axes]
        return "\n".join([*legends, *titles, *(text.get_text() for text in figure.texts)])

    def test_every_hypothesis_is_named_with_its_probability(self):
        masks = [disc(64, 30, 30, 8)] * 5 + [disc(64, 30, 30, 3)] * 3 + [np.zeros((64, 64))] * 2
        text = self.text(summary_of(masks, spacing=(0.5, 0.5)))
        assert "50 %   49 mm²" in text
        assert "30 %   7 mm²" in text
        assert "20 %   nothing there" in text
        assert "the title" in text

    def test_what_is_not_drawn_is_counted(self):
        masks = [disc(64, 6 + 6 * i, 6 + 6 * i, 2) for i in range(10)]
        assert "4 rarer hypotheses, not drawn: 40 % together" in self.text(summary_of(masks))

    def test_an_image_that_nobody_marks_is_drawn(self):
        assert "100 %   nothing there" in self.text(summary_of([np.zeros((64, 64))] * 3))

    def test_several_classes_are_drawn(self):
        maps = torch.zeros(1, 2, 3, 64, 64)
        maps[0, 0, 0, 5:9, 5:9] = maps[0, 0, 2, 20:30, 30:50] = maps[0, 1, 1, 5:9, 5:9] = 1
        self.text(summarise(Samples.uniform(maps)))

    @pytest.mark.parametrize("window", [Window((30, 40), (64, 64), -17, -12), Window((100, 64), (64, 64), 60, -30)])
    def test_only_the_images_own_part_of_the_window_is_shown(self, window):
        self.text(summary_of([np.ones(window.image)]), window)
        figure = overlay(self.image, summary_of([np.ones(window.image)]), window)
        rows, columns = window.covered
        shown = figure.axes[0].images[0].get_array()
        assert shown is not None
        assert shown.shape == (rows.stop - rows.start, columns.stop - columns.start)
        assert figure.axes[0].get_xticklabels()[0].get_text() == str(columns.start)

    def test_the_close_up_holds_all_that_is_marked(self):
        summary = summary_of([disc(64, 20, 20, 3), disc(64, 40, 44, 5)])
        rows, columns = close_up(summary, self.whole)
        marked = summary.masks.any((0, 1))
        assert marked[rows, columns].sum() == marked.sum()

    def test_the_close_up_is_of_the_window_where_nothing_is_marked(self):
        assert close_up(summary_of([np.zeros((64, 64))]), self.whole) == self.whole.covered

    def test_a_spot_in_the_corner_is_shown_with_what_surrounds_it(self):
        assert close_up(summary_of([disc(64, 0, 63, 1)]), self.whole) == (slice(0, 32), slice(32, 64))
