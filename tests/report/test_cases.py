"""Which cases are shown, which part of them, and what stands in their pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import Discs

from modiff.data.loading import load
from modiff.evaluation.source import draw
from modiff.prediction.summary import summarise
from modiff.report import cases
from modiff.report.cases import choose
from modiff.viz.figures import part_of_interest

strata = st.lists(st.sampled_from(["all_marked", "some_empty", "none", "unread"]), min_size=1, max_size=60)


@given(strata)
def test_strata_take_turns(names):
    rows = choose([f"case-{i}" for i in range(len(names))], names, 12)
    read = [name for name in names if name != "unread"]
    assert len(rows) == len(set(rows)) == min(12, len(read))
    for name in set(read):
        shown = sum(names[row] == name for row in rows)
        assert shown >= min(read.count(name), 4)


@given(strata, st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_the_store(names, random):
    items = [(f"case-{i}", name) for i, name in enumerate(names)]
    chosen = {items[row][0] for row in choose(*zip(*items, strict=True), 12)}
    random.shuffle(items)
    assert {items[row][0] for row in choose(*zip(*items, strict=True), 12)} == chosen


boxes = st.tuples(st.integers(0, 39), st.integers(0, 59), st.integers(1, 60), st.integers(1, 60))


@given(boxes)
def test_all_marks_lie_in_the_part_that_is_shown(box):
    marks = np.zeros((40, 60), dtype=bool)
    marks[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
    assert marks[part_of_interest(marks)].sum() == marks.sum()


@given(boxes)
def test_a_part_is_a_square_of_a_useful_size_as_far_as_the_image_goes(box):
    marks = np.zeros((40, 60), dtype=bool)
    marks[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
    height, width = marks[part_of_interest(marks)].shape
    assert 15 <= height <= width <= 60
    assert height in (width, 40)


def test_without_marks_the_centre_is_shown():
    rows, columns = part_of_interest(np.zeros((128, 128), dtype=bool))
    assert rows.stop - rows.start == 48
    assert abs((rows.start + rows.stop) / 2 - 64) <= 1
    assert rows == columns


@pytest.fixture(scope="module")
def images(store):
    return load(store, "test")


def titles(images, row):
    batch = images.batch([row])
    summary = summarise(draw(Discs().eval(), batch, cases.SAMPLES, 0, None)[0], classes=images.info.classes)
    return [cell.title for line in cases.cells_of(batch, summary, images.info) for cell in line]


def test_a_case_shows_image_raters_maps_and_samples(images):
    shown = titles(images, 0)
    assert shown[:4] == ["image", "first", "second <b>", "third"]
    assert shown[4:7] == ["mean label", "mean map", "uncertainty"]
    assert [title.split(":")[0] for title in shown[7:]] == [f"sample {i}" for i in range(1, 9)]


def test_an_empty_mask_and_an_image_that_was_not_read_are_told_apart(images):
    assert "third: did not read" in titles(images, 4)
    assert "third: nothing" in titles(images, 3)


def test_samples_are_those_that_the_evaluation_draws(images, monkeypatch):
    shown = []
    cells_of = cases.cells_of
    monkeypatch.setattr(cases, "CASES", 1)
    monkeypatch.setattr(cases, "cells_of", lambda *words: shown.append(words) or cells_of(*words))
    cases.figures(images, Discs().eval(), seed=7, scores={})
    ((batch, summary, _),) = shown
    samples, _ = draw(Discs().eval(), batch, cases.SAMPLES, 7, None)
    np.testing.assert_array_equal(summary.masks, samples.maps[0].numpy() > 0.5)


def test_dim_data_is_shown_in_a_window_of_its_own(images, monkeypatch):
    monkeypatch.setattr(cases, "CASES", 3)
    assert cases.figures(images, Discs().eval(), scores={})[1] == (0.0, 1.0)
    low, high = cases.figures(replace(images, image=images.image // 4), Discs().eval(), scores={})[1]
    assert 0.0 < low < high < 0.25
