"""Given that a rater marks: what is drawn is the distribution of raters who do, for every kind of rater."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from modiff_helpers import batch, config, model

from modiff.methods.marking import MOST_DRAWN, draw_marking, first_marking
from modiff.methods.presence import draw_markers
from modiff.rng import sample_seeds
from modiff.types import Samples

MANY = 4000


def samples(*present: bool) -> Samples:
    """One image, samples told apart by their values."""
    maps = (
        torch.arange(1, len(present) + 1).div(10).add(0.5)[None, :, None, None, None]
        * torch.tensor(present)[None, :, None, None, None]
    )
    return Samples.uniform(maps.expand(-1, -1, 1, 2, 2))


def values(made: Samples) -> list[float]:
    return [round(float(value), 1) for value in made.maps[0, :, 0, 0, 0]]


def test_the_first_that_mark_are_kept():
    made, found = first_marking(samples(False, True, True, False, True), 2)
    assert values(made) == [0.7, 0.8]
    assert found.tolist() == [2]


def test_too_few_are_repeated_in_turn_and_none_stay_as_they_are():
    made, found = first_marking(samples(False, True, False, True), 3)
    assert (values(made), found.tolist()) == ([0.7, 0.9, 0.7], [2])
    made, found = first_marking(samples(False, False, False), 2)
    assert (values(made), found.tolist()) == ([0.0, 0.0], [0])


def test_no_more_than_the_bound_is_drawn():
    asked = []

    def draw(count: int) -> Samples:
        asked.append(count)
        return samples(*[False] * count)

    assert draw_marking(draw, 4)[1].tolist() == [0]
    assert asked[-1] == MOST_DRAWN * 4


@pytest.mark.parametrize("exchangeable", [True, False])
def test_windows_are_marked_as_by_raters_who_mark_somewhere(exchangeable):
    """Of a scan of two windows: fractions of raters, and of them who mark each window, by rejection as without it."""
    made = model(config(), exchangeable=exchangeable, raters=3)
    encoding = made.eval().encode(batch(2, raters=3).image)
    alike = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]])
    own = torch.tensor([[0.1, 0.3, 0.2], [0.6, 0.05, 0.2]])
    encoding = replace(encoding, presence=alike if exchangeable else own)
    most = made.most_present(encoding)
    assert most is not None
    seeds = sample_seeds(torch.zeros(1, dtype=torch.int64), MANY).expand(
        2, -1
    )  # one hypothesis is one rater everywhere

    def drawn(encoding) -> tuple[torch.Tensor, torch.Tensor | None]:  # type: ignore[no-untyped-def]
        how = {"count": 3, "exchangeable": exchangeable, "stratified": False}
        markers, _, who = draw_markers(encoding.presence, seeds, "single", **how)
        marks = markers.any(-1)
        kept = marks.any(0)
        return marks[:, kept].float(), None if who is None else who[0, kept]

    plain, given = drawn(encoding), drawn(made.given_marks(encoding, most.max()[None]))
    assert given[0].shape[1] > (0.99 if exchangeable else 0.4) * MANY > plain[0].shape[1]
    torch.testing.assert_close(given[0].mean(1), plain[0].mean(1), atol=0.04, rtol=0)
    if plain[1] is not None and given[1] is not None:
        who = [torch.bincount(one, minlength=3) / len(one) for one in (plain[1], given[1])]
        torch.testing.assert_close(*who, atol=0.05, rtol=0)


def test_each_image_of_a_batch_has_its_own_largest():
    made = model()
    encoding = made.eval().encode(batch(3).image)
    most = made.most_present(encoding)
    assert most is not None
    assert most.shape == (3,)
    sure = made.most_present(made.given_marks(encoding, most))
    torch.testing.assert_close(sure, torch.ones(3))


def test_without_a_presence_head_nothing_is_known_of_it():
    made = model(config(presence={"mode": "implicit"}))
    assert not made.draws_stratified
    encoding = made.eval().encode(batch(2).image)
    assert made.most_present(encoding) is None
    assert made.given_marks(encoding, torch.ones(1)) is encoding
