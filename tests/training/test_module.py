"""Learning rate, moving average and budgets against their definitions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modiff.config import TrainingConfig, parse_budget
from modiff.errors import ConfigError
from modiff.training.callbacks import Clock
from modiff.training.ema import EMA
from modiff.training.module import TrainingModule


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


def test_applying_the_average_gives_the_weights_back():
    module = nn.Linear(2, 1)
    ema, own = EMA(module, 0.9), module.weight.detach().clone()
    ema.state["weight"].zero_()
    with ema.applied(module):
        assert module.weight.abs().max() == 0
    assert torch.equal(module.weight, own)


def test_validation_sees_the_average_and_training_goes_on_with_its_own_weights(monkeypatch):
    module = TrainingModule(nn.Linear(2, 1), TrainingConfig(), seed=0)
    own = module.model.weight.detach().clone()
    module.ema.state["weight"].zero_()
    monkeypatch.setattr(TrainingModule, "_total", lambda self, sums: {"images": 1.0})
    monkeypatch.setattr(TrainingModule, "global_step", property(lambda self: 1))
    module.on_validation_start()
    assert module.model.weight.abs().max() == 0
    module.on_validation_epoch_end()
    assert torch.equal(module.model.weight, own)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", (90, None)), ("20m", (1200, None)), ("1.5h", (5400, None)), ("500img", (None, 500))],
)
def test_budgets_are_times_or_images(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize("text", ["", "20", "0m", "-3m", "5 epochs", "1e9img"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ConfigError, match="is not a budget"):
        parse_budget(text)


@pytest.mark.parametrize(("done", "share"), [(0, 1.0), (50, 0.525), (100, 0.05)])
def test_cosine_falls_to_a_twentieth_over_the_budget(done, share, monkeypatch):
    config = TrainingConfig(budget="100img", batch_size=1, decay="cosine", learning_rate=2.0)
    module = TrainingModule(nn.Linear(1, 1), config, seed=0)
    monkeypatch.setattr(TrainingModule, "global_step", property(lambda self: done))
    optimizer = module.configure_optimizers()
    module.on_before_optimizer_step(optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0 * share)


def test_warm_up_rises_in_equal_steps(monkeypatch):
    config = TrainingConfig(warmup=4, decay="constant", learning_rate=1.0)
    module = TrainingModule(nn.Linear(1, 1), config, seed=0)
    optimizer, rates = module.configure_optimizers(), []
    for step in range(6):
        monkeypatch.setattr(TrainingModule, "global_step", property(lambda self, step=step: step))
        module.on_before_optimizer_step(optimizer)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_step_clips_the_norm_of_all_gradients():
    """Lightning hands each step's gradients to this hook, with `training.gradient_clip`."""
    module = TrainingModule(nn.Linear(2, 1), TrainingConfig(), seed=0)
    module.model.weight.grad, module.model.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    module.configure_gradient_clipping(module.configure_optimizers(), 1.0, "norm")
    torch.testing.assert_close(module.model.weight.grad, torch.tensor([[0.6, 0.0]]))
    torch.testing.assert_close(module.model.bias.grad, torch.tensor([0.8]))


def test_a_budget_of_time_does_not_pay_for_validations(monkeypatch):
    at = iter([0.0, 10.0, 60.0, 61.0])  # start, a validation's start, the next step's start and end
    monkeypatch.setattr("modiff.training.callbacks.time.monotonic", lambda: next(at))
    trainer = SimpleNamespace(world_size=1, should_stop=False)
    module = SimpleNamespace(seconds_before=0.0, budget_images=None, budget_seconds=11.5, images_seen=8)
    clock = Clock(max_seconds=None)
    monkeypatch.setattr("modiff.training.callbacks.signal.signal", lambda *_: None)
    clock.on_train_start(trainer, module)
    clock.on_validation_start(trainer, module)
    clock.on_train_batch_start()
    clock.on_train_batch_end(trainer, module)
    assert module.seconds_now == 11.0
    assert not trainer.should_stop
