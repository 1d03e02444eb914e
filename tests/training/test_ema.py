"""The moving average against its definition."""

from __future__ import annotations

import torch
from torch import nn

from modiff.training.ema import EMA


def test_the_average_follows_its_recursion():
    module = nn.Linear(2, 1)
    ema, expected = EMA(module, 0.5), module.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            module.weight.add_(1.0)
        ema.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(ema.state["weight"], expected)


def test_the_averaged_module_has_the_state_and_leaves_the_other_alone():
    module = nn.Linear(2, 1)
    ema, own = EMA(module, 0.9), module.weight.detach().clone()
    ema.state["weight"].zero_()
    assert ema.module.weight.abs().max() == 0
    assert torch.equal(module.weight, own)
    assert (module.training, ema.module.training) == (True, False)
