"""The law of how many raters mark something, and the subsets that training draws."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from modiff.errors import DataError
from modiff.methods import presence
from modiff.methods.presence import (
    draw_markers,
    draw_subsets,
    intensity_noise,
    log_likelihood,
    marking_probability,
    rater_subsets,
)


@given(raters=st.integers(1, 6), data=st.data())
def test_rater_subsets_count_which_raters_read(raters, data):
    readers, marking = data.draw(st.integers(0, raters)), data.draw(st.integers(0, raters))
    counts = [sum(rater < marking for rater in chosen) for chosen in combinations(range(raters), readers)]
    law = torch.bincount(torch.tensor(counts), minlength=raters + 1) / len(counts)
    torch.testing.assert_close(rater_subsets(raters, readers)[marking], law)


def tables(raters):
    return torch.stack([rater_subsets(raters, readers) for readers in range(raters + 1)])


def test_likelihood_of_all_readers_is_the_categorical_one():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    marked = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    value = log_likelihood(logits, marked, torch.ones(3, 4, dtype=torch.bool), tables=tables(4))
    torch.testing.assert_close(value, logits.log_softmax(1)[torch.arange(3), torch.tensor([1, 4, 0])])


def test_an_image_that_nobody_read_says_nothing():
    logits = torch.randn(1, 5)
    none = torch.zeros(1, 4, dtype=torch.bool)
    assert log_likelihood(logits, none, none, tables=tables(4)) == pytest.approx(0, abs=1e-6)
    assert log_likelihood(logits[:, :4], none, none, tables=None) == 0


def test_identifiable_raters_have_their_own_probability():
    logits = torch.tensor([[0.0, 2.0]])
    value = log_likelihood(logits, torch.tensor([[True, False]]), torch.ones(1, 2, dtype=torch.bool), tables=None)
    expected = torch.log(torch.sigmoid(logits[0, 0])) + torch.log(1 - torch.sigmoid(logits[0, 1]))
    torch.testing.assert_close(value[0], expected)


def test_marking_probability_is_the_expected_share():
    law = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]])
    expected = (0.2 + 2 * 0.3 + 3 * 0.15 + 4 * 0.25) / 4
    torch.testing.assert_close(marking_probability(law, exchangeable=True), torch.full((1, 4), expected))


@pytest.mark.parametrize("marks", [(1, 0, 1, 1), (1, 1, 1, 1, 1), (0, 1, 1), (1, 0, 0), (1, 0, 1, 0, 1, 1)])
def test_subsets_are_uniform_over_the_non_empty_ones(marks):
    marked = torch.tensor(marks).bool().expand(40_000, -1)
    drawn = draw_subsets(marked, single_fraction=0.0, rng=torch.Generator().manual_seed(0))
    assert not (drawn & ~marked).any()
    code = (drawn[:, marked[0]] * 2 ** torch.arange(sum(marks))).sum(1)
    counts = torch.bincount(code, minlength=2 ** sum(marks))
    assert counts[0] == 0
    assert len(counts) == 2 or stats.chisquare(counts[1:]).pvalue > 0.01


def test_every_number_is_a_subset_of_its_own(monkeypatch):
    numbers = iter([torch.arange(31)])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: next(numbers))
    marked = torch.tensor([1, 0, 1, 1, 1, 1]).bool().expand(31, -1)
    drawn = draw_subsets(marked, single_fraction=0.0, rng=torch.Generator().manual_seed(0))
    assert len(torch.unique(drawn, dim=0)) == 31
    assert drawn.any(1).all()
    assert not drawn[:, 1].any()


def test_one_marker_is_any_of_them():
    marked = torch.tensor([[True, False, True, True]]).expand(24_000, -1)
    single = draw_subsets(marked, single_fraction=1.0, rng=torch.Generator().manual_seed(0))
    assert (single.sum(1) == 1).all()
    assert not single[:, 1].any()
    assert stats.chisquare(single.sum(0)[[0, 2, 3]]).pvalue > 0.01


def test_as_many_markers_as_an_int_has_bits():
    marked = torch.ones(2000, 62, dtype=torch.bool)
    drawn = draw_subsets(marked, single_fraction=0.0, rng=torch.Generator().manual_seed(0))
    assert (drawn.float().mean(0) - 0.5).abs().max() < 0.06
    with pytest.raises(DataError, match="too many raters"):
        draw_subsets(torch.ones(1, 63, dtype=torch.bool), single_fraction=0.0, rng=torch.Generator())


def test_images_without_a_marker_have_no_subset():
    marked = torch.tensor([[False] * 3, [False, True, False]]).repeat(50, 1)
    drawn = draw_subsets(marked, single_fraction=0.5, rng=torch.Generator().manual_seed(0))
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
    markers, panel, _ = draw_markers(law, seeds, list(range(size)), count=raters, exchangeable=True, stratified=False)
    assert (panel == size).all()
    expected = (law[0] * torch.arange(raters + 1.0)).sum() / raters * size
    assert markers.sum(-1).float().mean() == pytest.approx(float(expected), abs=0.12)


def test_no_panel_has_more_markers_than_raters(monkeypatch):
    """The largest u of float32 lies beyond a cumulative sum that rounding ends below 1."""
    law = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]]) * (1 - 3e-7)
    monkeypatch.setattr(presence, "hurdle_noise", lambda seeds, _: torch.full(seeds.shape, 1 - 2**-24))
    for raters in ("single", [0, 2], "all"):
        markers, size, _ = draw_markers(
            law, torch.arange(3)[None], raters, count=4, exchangeable=True, stratified=False
        )
        assert torch.equal(markers.sum(-1), size)


def test_stratified_presence_follows_the_share_closely():
    law = torch.tensor([[0.3, 0.2, 0.2, 0.2, 0.1]])
    markers, _, _ = draw_markers(law, torch.arange(64)[None], "single", count=4, exchangeable=True, stratified=True)
    share = float((law[0] * torch.arange(5)).sum() / 4)
    assert abs(markers.any(-1).float().mean() - share) < 2.5 / 64
