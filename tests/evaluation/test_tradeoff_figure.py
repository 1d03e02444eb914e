"""The figure of quality against time: each model's line, each point's steps, levels, caption; written whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from modiff.errors import ConfigError, DataError
from modiff.evaluation.records import Record
from modiff.evaluation.tradeoff import Line, Tradeoff, caption_of, figure_of
from modiff.viz.figures import save

CPU = "cpu (x86_64, 1 threads)"


def beside(predictor, value):
    return Record("ged", predictor, "standard", 16, None, 0.5, "test", "all", 32, 9, value, None, None, None)


def point(steps, seconds, *values, **changes):
    """values: mean, and the ends of its interval."""
    return replace(
        Record("ged", "model", "standard", 16, steps, 0.5, "test", "all", 32, 9, *values, seconds), **changes
    )


def picture(*, of=None, **changes):
    """of: what all points are of, in place of GED."""
    fast = Line("fast", CPU, (point(5, 0.2, 0.30, 0.27, 0.34), point(25, 1.0, 0.28, 0.25, 0.32)))
    slow = Line("slow", CPU, (point(250, 40.0, 0.27, 0.24, 0.30),))
    lines = [replace(line, points=tuple(replace(p, **of or {}) for p in line.points)) for line in (fast, slow)]
    levels = (beside("majority_vote", 0.33), beside("iid_reference", 0.15))
    return replace(Tradeoff(tuple(lines), levels, 32, 9, ()), **changes)


def axes_of(tradeoff):
    (axes,) = figure_of(tradeoff).axes
    return axes


def is_level(line):
    return len(set(line.get_ydata())) == 1 and list(line.get_xdata()) == [0, 1]


def drawn(axes):
    """Lines of models by name."""
    return {line.get_label(): line for line in axes.lines if not is_level(line)}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_each_model_is_a_line_through_its_points():
    lines = drawn(axes_of(picture()))
    assert list(lines) == ["fast", "slow"]
    assert lines["fast"].get_xydata().tolist() == [[0.2, 0.30], [1.0, 0.28]]
    assert lines["slow"].get_xydata().tolist() == [[40.0, 0.27]]


def test_seconds_are_on_a_logarithmic_axis_with_plain_numbers():
    axes = axes_of(picture())
    assert axes.get_xscale() == "log"
    axes.figure.canvas.draw()
    low, high = axes.get_xlim()
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    shown = [label.get_text() for at, label in ticks if low <= at <= high]
    assert shown == ["0.2", "0.5", "1", "2", "5", "10", "20", "50"]


def test_the_number_of_steps_stands_at_every_point():
    axes = axes_of(picture())
    assert texts(axes) == ["5", "25", "250"]
    assert "steps" in axes.get_xlabel()


def test_a_method_without_steps_has_a_point_without_a_number():
    axes = axes_of(picture(lines=(Line("net", CPU, (point(None, 0.1, 0.3, 0.2, 0.4),)),)))
    assert not texts(axes)
    assert drawn(axes)["net"].get_xydata().tolist() == [[0.1, 0.3]]


def bars_of(tradeoff):
    bars = [bar for collection in axes_of(tradeoff).collections for bar in collection.get_segments()]
    return [bar for bar in bars if len(bar) and not np.isnan(bar).any()]


def test_bars_are_the_intervals():
    bars = bars_of(picture())
    assert [bar.tolist() for bar in bars] == [
        [[0.2, 0.27], [0.2, 0.34]],
        [[1.0, 0.25], [1.0, 0.32]],
        [[40.0, 0.24], [40.0, 0.30]],
    ]


def test_a_point_without_an_interval_has_no_bar():
    found = picture(lines=(Line("few", CPU, (point(5, 0.1, 0.3, None, None),)),))
    assert not bars_of(found)
    assert "No intervals: under 5 patients." in caption_of(found)


def test_references_are_named_levels():
    axes = axes_of(picture())
    levels = {line.get_label(): line.get_ydata()[0] for line in axes.lines if is_level(line)}
    assert levels == {"majority vote (oracle): 0.330": 0.33, "i.i.d. reference: 0.150": 0.15}
    assert {"majority vote (oracle): 0.330", "i.i.d. reference: 0.150"} <= {
        t.get_text() for t in axes.get_legend().get_texts()
    }


def test_models_differ_by_colour_and_by_marker():
    lines = drawn(axes_of(picture())).values()
    assert len({line.get_color() for line in lines}) == 2
    assert len({line.get_marker() for line in lines}) == 2


def test_forty_models_look_different():
    many = tuple(Line(f"m{i}", CPU, (point(5, 1.0 + i, 0.3, 0.2, 0.4),)) for i in range(40))
    lines = drawn(axes_of(picture(lines=many))).values()
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 40


def test_the_legend_names_the_models():
    legend = axes_of(picture()).get_legend()
    assert [text.get_text() for text in legend.get_texts()][:2] == ["fast", "slow"]


def test_the_caption_says_what_the_numbers_depend_on():
    assert caption_of(picture()) == (
        "GED (lower is better), standard protocol, n = 16, argmax, split test, all images: 32 images of 9 patients. "
        f"Seconds to draw 16 samples per image on {CPU}. Bars: 95 % intervals over patients. "
        "The majority vote is an oracle, not a method: it is made of the test image's own raters."
    )


def test_the_caption_says_that_seconds_are_not_a_stratums_own():
    caption = caption_of(picture(of={"stratum": "all_marked"}, references=()))
    assert "every rater marked: 32 images" in caption
    assert "Seconds, the mean over the images of all strata, to draw" in caption


def test_the_caption_stands_in_the_figure():
    figure = figure_of(picture())
    shown = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert caption_of(picture()) in shown
    assert "GED against seconds per image" in shown


def test_the_direction_is_the_metrics():
    hm_iou = picture(of={"metric": "hm_iou"}, references=())
    assert "HM-IoU (higher is better)" in caption_of(hm_iou)
    assert "higher is better" in axes_of(hm_iou).get_ylabel()
    described = picture(of={"metric": "sample_diversity"}, references=())
    assert "better" not in caption_of(described)


def test_the_threshold_is_named_where_it_enters():
    assert "p ≥ 0.9" in caption_of(picture(of={"protocol": "paper", "threshold": 0.9}, references=()))
    assert "argmax" not in caption_of(picture(of={"metric": "soft_dice"}, references=()))


def test_different_devices_are_named_and_said_not_to_be_comparable():
    gpu = Line("slow", "cuda (NVIDIA H200)", (point(250, 4.0, 0.27, 0.24, 0.30),))
    note = f"seconds of different devices are not comparable: {CPU}; cuda (NVIDIA H200)"
    caption = caption_of(picture(lines=(picture().lines[0], gpu), notes=(note,)))
    assert f"on {CPU} and cuda (NVIDIA H200)." in caption
    assert caption.endswith("Seconds of different devices are not comparable.")


def boxes(axes):
    return [text.get_window_extent() for text in axes.texts]


def crowd():
    """Four models whose points are close to each other and to the levels."""
    lines = tuple(
        Line(
            f"m{k}",
            CPU,
            tuple(point(s, 0.1 * s * (1 + 0.1 * k), 0.3 + 0.01 * k - 0.001 * s, 0.25, 0.35) for s in (5, 10, 25)),
        )
        for k in range(4)
    )
    return picture(lines=lines, references=(beside("majority_vote", 0.3), beside("iid_reference", 0.299)))


@pytest.mark.parametrize("made", [picture, crowd])
def test_no_text_lies_on_another(made):
    for one, other in combinations(boxes(axes_of(made())), 2):
        assert not one.overlaps(other)


def test_labels_of_steps_stay_within_the_axes():
    axes = axes_of(crowd())
    whole = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1


def test_labels_of_steps_hide_no_point():
    axes = axes_of(picture())
    points = [axes.transData.transform(xy) for line in drawn(axes).values() for xy in line.get_xydata()]
    assert not [1 for box in boxes(axes) for point in points if box.contains(*point)]


def test_everything_lies_within_the_figure():
    name = "a model whose name is so long that a single line of a legend cannot hold it, and $dollars$ in it " * 2
    figure = figure_of(picture(lines=(*picture().lines, Line(name, CPU, (point(5, 0.3, 0.3, 0.2, 0.4),)))))
    figure.canvas.draw()
    (axes,) = figure.axes
    inside = [axes.get_legend().get_window_extent(), *boxes(axes), *(text.get_window_extent() for text in figure.texts)]
    for box in inside:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    legend, title = inside[0], figure.texts[0].get_window_extent()
    assert not legend.overlaps(title)


@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
def test_the_end_of_the_name_decides_the_format(tmp_path, kind, start):
    assert save(figure_of(picture()), tmp_path / f"q.{kind}").read_bytes().startswith(start)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_input_gives_the_same_bytes(tmp_path, kind):
    a, b = (save(figure_of(picture()), tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
    assert a == b


@pytest.mark.parametrize("name", ["q.jpg", "q", ".png"])
def test_another_end_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"expected \.png, \.svg, \.pdf"):
        save(figure_of(picture()), tmp_path / name)


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "q.png").mkdir()
    with pytest.raises(DataError, match=r"q\.png: output: is a folder; expected a file"):
        save(figure_of(picture()), tmp_path / "q.png")
    assert [path.name for path in tmp_path.iterdir()] == ["q.png"]
