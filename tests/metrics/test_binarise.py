"""Masks of probability maps, and what a protocol says about them."""

from __future__ import annotations

import math

import pytest
import torch

from modiff.errors import MetricError
from modiff.metrics import PROTOCOLS
from modiff.metrics.protocols import binarise, protocol


def pixels(*classes: list[float]) -> torch.Tensor:
    """(1,1,K,1,P) from the probabilities of each class."""
    return torch.tensor(classes)[None, None, :, None, :]


def test_a_tie_with_the_background_is_background() -> None:
    assert binarise(pixels([0.5, 0.51, 0.49]), None).flatten().tolist() == [False, True, False]


def test_a_stated_threshold_includes_its_value() -> None:
    assert binarise(pixels([0.5, 0.9, 0.89]), 0.5).flatten().tolist() == [True, True, True]
    assert binarise(pixels([0.5, 0.9, 0.89]), 0.9).flatten().tolist() == [False, True, False]


def test_the_most_probable_class_wins_below_one_half() -> None:
    assert binarise(pixels([0.4], [0.3]), None).flatten().tolist() == [True, False]


def test_several_classes_lose_to_a_more_probable_background() -> None:
    assert not binarise(pixels([0.3], [0.3]), None).any()


def test_a_tie_of_two_classes_goes_to_the_first() -> None:
    assert binarise(pixels([0.4], [0.4]), None).flatten().tolist() == [True, False]


def test_classes_exclude_each_other() -> None:
    maps = torch.rand(2, 3, 4, 6, 6, generator=torch.Generator().manual_seed(0)).softmax(2)
    assert binarise(maps, None).sum(2).max() <= 1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_masks_stay_as_they_are(name: str) -> None:
    masks = torch.rand(2, 3, 1, 6, 6) > 0.5
    assert torch.equal(PROTOCOLS[name].binarise(masks), masks)


def test_the_standard_protocol_takes_the_argmax_at_one_half() -> None:
    assert not PROTOCOLS["standard"].binarise(pixels([0.5])).any()
    assert not PROTOCOLS["standard"].binarise(pixels([0.5]), 0.5).any()


def test_the_standard_protocol_takes_another_threshold_as_stated() -> None:
    assert PROTOCOLS["standard"].binarise(pixels([0.9]), 0.9).all()


def test_the_paper_protocol_takes_nine_tenths_and_more() -> None:
    assert PROTOCOLS["paper"].binarise(pixels([0.9, 0.89])).flatten().tolist() == [True, False]


def test_the_paper_protocol_at_one_half_includes_ties() -> None:
    assert PROTOCOLS["paper"].binarise(pixels([0.5]), 0.5).all()


@pytest.mark.parametrize(
    ("name", "threshold", "text"),
    [("standard", None, "argmax"), ("standard", 0.9, "p ≥ 0.9"), ("paper", None, "p ≥ 0.9"), ("paper", 0.5, "p ≥ 0.5")],
)
def test_a_table_can_say_how_masks_were_made(name: str, threshold: float | None, text: str) -> None:
    assert PROTOCOLS[name].threshold_text(threshold) == text


def test_protocols_bundle_the_conventions_of_the_literature() -> None:
    found = {name: (p.ged_estimator, p.matching, p.ncc) for name, p in PROTOCOLS.items()}
    assert found == {"standard": ("v", "optimal", "pixel"), "paper": ("u", "greedy", "row")}


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(MetricError, match="found strict; expected standard or paper"):
        protocol("strict")


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5, math.nan])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(MetricError, match="threshold"):
        binarise(pixels([0.5]), threshold)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_values_that_are_no_probabilities_are_refused(value: float) -> None:
    with pytest.raises(MetricError, match="samples: values outside"):
        binarise(pixels([value]), None)


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(MetricError, match=r"expected \(B,N,K,H,W\)"):
        binarise(torch.rand(2, 3, 4), None)
