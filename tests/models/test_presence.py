"""The law of how many raters mark something, and the subsets that training draws."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modiff.models.modiff.panel import draw_markers
from modiff.models.modiff.presence import (
    draw_subsets,
    intensity_noise,
    log_likelihood,
    marking_probability,
    reader_subsets,
)


@given(raters=st.integers(1, 6), data=st.data())
def test_reader_subsets_count_which_raters_read(raters, data):
    readers, marking = data.draw(st.integers(0, raters)), data.draw(st.integers(0, raters))
    counts = [sum(rater < marking for rater in chosen) for chosen in combinations(range(raters), readers)]
    law = torch.bincount(torch.tensor(counts), minlength=raters + 1) / len(counts)
    torch.testing.assert_close(reader_subsets(raters, readers)[marking], law)


def test_likelihood_of_all_readers_is_the_categorical_one():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    marked = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    value = log_likelihood(logits, marked, torch.ones(3, 4, dtype=torch.bool), exchangeable=True)
    torch.testing.assert_close(value, logits.log_softmax(1)[torch.arange(3), torch.tensor([1, 4, 0])])


def test_an_image_that_nobody_read_says_nothing():
    logits = torch.randn(1, 5)
    none = torch.zeros(1, 4, dtype=torch.bool)
    assert log_likelihood(logits, none, none, exchangeable=True) == pytest.approx(0, abs=1e-6)
    assert log_likelihood(logits[:, :4], none, none, exchangeable=False) == 0


def test_identifiable_raters_have_their_own_probability():
    logits = torch.tensor([[0.0, 2.0]])
    value = log_likelihood(
        logits, torch.tensor([[True, False]]), torch.ones(1, 2, dtype=torch.bool), exchangeable=False
    )
    expected = torch.log(torch.sigmoid(logits[0, 0])) + torch.log(1 - torch.sigmoid(logits[0, 1]))
    torch.testing.assert_close(value[0], expected)


def test_marking_probability_is_the_expected_share():
    law = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]])
    expected = (0.2 + 2 * 0.3 + 3 * 0.15 + 4 * 0.25) / 4
    torch.testing.assert_close(marking_probability(law, exchangeable=True), torch.full((1, 4), expected))


def test_subsets_are_one_marker_or_uniform_over_the_non_empty_subsets():
    marked = torch.tensor([[True, False, True, True]]).expand(24_000, -1)
    rng = torch.Generator().manual_seed(0)
    several = draw_subsets(marked, single_share=0.0, rng=rng)
    code = (several * torch.tensor([1, 2, 4, 8])).sum(1)
    share = torch.bincount(code, minlength=16)[[1, 4, 5, 8, 9, 12, 13]] / len(code)
    assert share.sum() == pytest.approx(1)
    assert (share - 1 / 7).abs().max() < 0.01
    single = draw_subsets(marked, single_share=1.0, rng=rng)
    assert (single.sum(1) == 1).all()
    assert (single.float().mean(0) - torch.tensor([1, 0, 1, 1]) / 3).abs().max() < 0.015


def test_images_without_a_marker_have_no_subset():
    marked = torch.tensor([[False] * 3, [False, True, False]]).repeat(50, 1)
    drawn = draw_subsets(marked, single_share=0.5, rng=torch.Generator().manual_seed(0))
    assert not drawn[::2].any()
    assert (drawn[1::2] == torch.tensor([False, True, False])).all()


def test_no_intensity_noise_leaves_the_image_alone():
    image = torch.rand(2, 1, 8, 8)
    assert intensity_noise(image, 0.0, torch.Generator()) is image


@given(raters=st.integers(1, 5), size=st.integers(1, 5))
def test_panels_of_any_size_mark_as_often_as_the_law_says(raters, size):
    size = min(size, raters)
    law = torch.softmax(torch.arange(raters + 1.0), 0)[None]
    seeds = torch.arange(4000)[None]
    markers, panel, _ = draw_markers(law, seeds, list(range(size)), count=raters, exchangeable=True)
    assert (panel == size).all()
    expected = (law[0] * torch.arange(raters + 1.0)).sum() / raters * size
    assert markers.sum(-1).float().mean() == pytest.approx(float(expected), abs=0.12)


def test_stratified_presence_follows_the_share_closely():
    law = torch.tensor([[0.3, 0.2, 0.2, 0.2, 0.1]])
    markers, _, _ = draw_markers(law, torch.arange(64)[None], "single", count=4, exchangeable=True, stratified=True)
    share = float((law[0] * torch.arange(5)).sum() / 4)
    assert abs(markers.any(-1).float().mean() - share) < 2.5 / 64
