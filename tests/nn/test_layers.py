"""Layers: features of times for any width."""

from __future__ import annotations

import math

import pytest
import torch

from modiff.nn.layers import time_features


@pytest.mark.parametrize("width", [1, 2, 5, 8])
def test_time_features_are_as_many_as_asked_for(width: int) -> None:
    t, half = torch.tensor([0.0, 0.3]), math.ceil(width / 2)
    angles = [[300 * math.exp(-math.log(10000) * place / half) for place in range(half)]]
    expected = torch.tensor(angles)
    found = time_features(t, width)
    assert found.shape == (2, width)
    torch.testing.assert_close(found[1], torch.cat([expected.cos(), expected.sin()], 1)[0, :width], atol=1e-4, rtol=0)
