"""Optimisers, learning rates and the moving average against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import Adam, AdamW

from modiff.config.run import TrainingConfig
from modiff.training.optimizer import EMA, Schedule, make_optimizer


@pytest.mark.parametrize(("progress", "factor"), [(0.0, 1.0), (0.5, 0.525), (1.0, 0.05)])
def test_cosine_falls_to_a_twentieth_over_the_budget(progress, factor):
    schedule = Schedule(TrainingConfig(decay="cosine", learning_rate=2.0))
    assert schedule.rate(0, progress) == pytest.approx(2.0 * factor)


def test_warm_up_rises_in_equal_steps():
    schedule = Schedule(TrainingConfig(warmup=4, decay="constant", learning_rate=1.0))
    assert [schedule.rate(step, 0.0) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("decay", "rate"), [("plateau", 0.2), ("cosine", 1.0), ("constant", 1.0)])
def test_a_loss_that_does_not_fall_lowers_the_rate_of_the_plateau_alone(decay, rate):
    schedule = Schedule(TrainingConfig(decay=decay, learning_rate=1.0, plateau_factor=0.2, plateau_patience=1))
    for loss in (1.0, 1.0, 1.0):
        schedule.validated(loss)
    assert schedule.rate(0, 0.0) == pytest.approx(rate)


def test_biases_do_not_decay():
    module = nn.Linear(2, 1)
    assert type(make_optimizer(module, TrainingConfig())) is Adam
    decaying = make_optimizer(module, TrainingConfig(weight_decay=0.1))
    assert type(decaying) is AdamW
    decays = {id(p): group["weight_decay"] for group in decaying.param_groups for p in group["params"]}
    assert decays == {id(module.weight): 0.1, id(module.bias): 0.0}


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
