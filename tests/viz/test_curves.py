"""Curves from a log: what is read, what is drawn together, and where points lie."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modiff.viz import curves
from modiff.viz.curves import Line, chart, charts, read_log


def test_only_finite_numbers_of_whole_lines_are_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "a": 2.5, "b": "x", "c": NaN, "d": true, "e": null}\n[1]\nnonsense\n{"step": 2')
    assert read_log(path) == [{"step": 1.0, "a": 2.5}]


def test_a_log_that_is_not_there_has_no_lines(tmp_path):
    assert read_log(tmp_path / "none.jsonl") == []


def test_curves_are_over_images_where_the_log_counts_them():
    rows = [{"step": float(i), "images": 8.0 * i, "train/loss": 1.0 / (i + 1)} for i in range(5)]
    assert "images seen" in charts(rows)[0]
    assert "steps" in charts([{k: v for k, v in row.items() if k != "images"} for row in rows])[0]


def test_the_loss_comes_first():
    rows = [{"step": float(i), "train/accuracy": 1.0, "train/loss": 2.0, "val/loss": 3.0} for i in range(3)]
    titles = [re.search(r'class="title">([^<]+)<', drawing)[1] for drawing in charts(rows)]
    assert titles == ["loss", "accuracy"]


def test_one_point_is_not_a_curve():
    assert charts([{"step": 1.0, "train/loss": 2.0}]) == []


def test_a_long_curve_keeps_its_mean_and_few_points():
    rows = [{"step": float(i), "loss": float(i % 7)} for i in range(7 * 1000)]
    (drawing,) = charts(rows)
    points = re.search(r'points="([^"]+)"', drawing)[1].split()
    assert 100 < len(points) <= curves.MAX_POINTS


def coordinates(drawing: str) -> list[tuple[float, float]]:
    points = re.search(r'points="([^"]+)"', drawing)[1].split()
    return [tuple(map(float, point.split(","))) for point in points]


numbers = st.floats(-1e12, 1e12, allow_nan=False) | st.sampled_from([0.0, 1e-300, 5.0])


@given(st.lists(numbers, min_size=2, max_size=30))
def test_any_finite_curve_lies_within_the_drawing(values):
    drawing = chart("y", [Line("y", tuple(float(i) for i in range(len(values))), tuple(values))], "steps")
    for x, y in coordinates(drawing):
        assert 0 <= x <= 480
        assert 0 <= y <= 250


def test_a_wide_range_is_drawn_on_a_logarithmic_scale():
    line = Line("loss", (0.0, 1.0, 2.0), (1.0, 0.1, 0.01))
    (_, first), (_, middle), (_, last) = coordinates(drawing := chart("loss", [line], "steps"))
    assert "logarithmic" in drawing
    assert middle - first == pytest.approx(last - middle, abs=0.2)


def test_points_stand_at_their_values():
    line = Line("y", (0.0, 50.0, 100.0), (0.0, 5.0, 10.0))
    (left, bottom), (centre, middle), (right, top) = coordinates(chart("y", [line], "steps"))
    assert (left + right) / 2 == pytest.approx(centre, abs=0.1)
    assert (bottom + top) / 2 == pytest.approx(middle, abs=0.1)
    assert top < bottom


def test_a_name_in_the_log_is_text():
    rows = [{"step": float(i), "<b>x</b>/loss": 1.0 + i, "y/loss": 1.0} for i in range(3)]
    assert "<b>" not in charts(rows)[0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (12_000, "12 k"),
        (2.5e6, "2.5 M"),
        (1e-4, "1e−4"),
        (-0.5, "−0.5"),
        (0.1 + 0.2, "0.3"),
        (3e10, "30 G"),
    ],
)
def test_ticks_are_short(value, shown):
    assert curves._short(value) == shown


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_within_the_range(low, width):
    ticks = curves._ticks(low, low + width)
    slack = 1e-6 * (abs(low) + width)
    assert 1 <= len(ticks) <= 12
    assert all(low - slack <= tick <= low + width + slack for tick in ticks)
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        assert round(step / 10 ** math.floor(math.log10(step) + 1e-6), 3) in (1, 2, 5, 10)
