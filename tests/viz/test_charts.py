"""Curves from a log: what is read, what is drawn together, and where points lie."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modiff.errors import DataError
from modiff.viz.charts import MAX_POINTS, Chart, charts, draw_chart, read_log


def test_only_finite_numbers_of_whole_lines_are_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "a": 2.5, "b": "x", "c": NaN, "d": true, "e": null}\n{"step": 2')
    assert read_log(path) == [{"step": 1.0, "a": 2.5}]


@pytest.mark.parametrize("line", ["[1]", "nonsense", '{"step": 2, "a": 1.5, "checksum": "0123456789abcdef"}'])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(DataError, match=r"log\.jsonl: line 2: is damaged"):
        read_log(path)


def test_a_log_that_is_not_there_has_no_lines(tmp_path):
    assert read_log(tmp_path / "none.jsonl") == []


def test_curves_are_over_images_where_the_log_counts_them():
    rows = [{"step": float(i), "images": 8.0 * i, "train/loss": 1.0 / (i + 1)} for i in range(5)]
    assert charts(rows)[0].label == "images seen"
    assert charts([{k: v for k, v in row.items() if k != "images"} for row in rows])[0].label == "steps"


def test_the_loss_comes_first():
    rows = [{"step": float(i), "train/accuracy": 1.0, "train/loss": 2.0, "val/loss": 3.0} for i in range(3)]
    assert [chart.title for chart in charts(rows)] == ["loss", "accuracy"]


def test_training_and_validation_stand_in_one_chart():
    rows = [{"step": float(i), "train/loss": 2.0, "val/loss": 3.0} for i in range(3)]
    assert charts(rows)[0].words == "loss over steps: train from 2 to 2; val from 3 to 3"


def test_one_point_is_not_a_curve():
    assert charts([{"step": 1.0, "train/loss": 2.0}]) == []


def test_a_long_curve_keeps_its_mean_and_few_points():
    rows = [{"step": float(i), "loss": float(i % 7)} for i in range(7 * 1000)]
    ((_, y),) = charts(rows)[0].curves.values()
    assert 100 < len(y) <= MAX_POINTS
    assert np.mean(y) == pytest.approx(3.0, abs=0.05)


def chart(*values: float) -> Chart:
    return Chart("y", "steps", {"y": (tuple(map(float, range(len(values)))), values)})


numbers = st.floats(-1e12, 1e12, allow_nan=False) | st.sampled_from([0.0, 1e-300, 5.0])


@settings(max_examples=20, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=30))
def test_any_finite_curve_lies_within_the_axes(values):
    (axes,) = draw_chart(chart(*values)).axes
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left <= 0 < len(values) - 1 <= right
    assert bottom <= min(values) <= max(values) <= top


def test_points_stand_at_their_values():
    (axes,) = draw_chart(chart(0.0, 5.0, 10.0)).axes
    np.testing.assert_array_equal(axes.get_lines()[0].get_xydata(), [[0, 0], [1, 5], [2, 10]])
    assert axes.get_yscale() == "linear"


def test_a_wide_range_is_drawn_on_a_logarithmic_scale():
    (axes,) = draw_chart(chart(1.0, 0.1, 0.01)).axes
    assert axes.get_yscale() == "log"
    assert "logarithmic" in axes.get_title(loc="left")


def test_the_svg_is_the_same_for_the_same_curves():
    assert chart(1.0, 2.0).svg() == chart(1.0, 2.0).svg()


def test_a_name_in_the_log_is_text():
    rows = [{"step": float(i), "<b>$x$</b>/loss": 1.0 + i, "y/loss": 1.0} for i in range(3)]
    drawn = ET.fromstring(charts(rows)[0].svg())
    assert "<b>$x$</b>" in {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}


def test_what_methods_log_is_called_in_words():
    names = ("kl", "learning_rate", "images_per_second", "some_other_loss")
    rows = [{"images": float(i), **dict.fromkeys(names, float(i))} for i in (1, 2)]
    assert {chart.title for chart in charts(rows)} == {
        "KL divergence",
        "learning rate",
        "images per second",
        "some other loss",
    }
