"""Steps and validations of a run, on a model whose gradients are known."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from modiff.config.run import build_config
from modiff.methods.base import Segmenter
from modiff.training.budget import Clock
from modiff.training.loop import Run
from modiff.types import Batch, DataSpec

DATA = DataSpec.of(raters=1)


class Line(Segmenter):
    """Its loss is 3·weight + 4·bias, plus the mean of the images."""

    def __init__(self, data):
        super().__init__(data)
        self.weight, self.bias = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

    def training_loss(self, batch, *, rng):
        self.seen = (self.training, torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled())
        loss = 3 * self.weight + 4 * self.bias + batch.image.mean()
        return {"loss": loss, "bias": self.bias.detach()}

    def encode(self, image):
        return image

    def sample(self, image_or_encoding, n, *, seeds, steps=None, raters="single", stratified=False, origin=None):
        raise NotImplementedError


def batch(count, value=0.0):
    masks = torch.zeros(count, 1, 1, 8, 8, dtype=torch.bool)
    image = torch.full((count, 1, 8, 8), value)
    return Batch(image, masks, torch.ones(count, 1, dtype=torch.bool), ("case",) * count, None)


@pytest.fixture
def make(tmp_path):
    """Makes a run with training settings and a precision."""

    def made(precision="32-true", **training):
        config = build_config(changes={"training": training, "trainer": {"accelerator": "cpu", "precision": precision}})
        return Run(Fabric(accelerator="cpu", devices=1), Line(DATA), DATA, config, tmp_path, Clock("8img"))

    return made


@pytest.mark.parametrize(("clip", "gradient"), [(1.0, (0.6, 0.8)), (0.0, (3.0, 4.0)), (10.0, (3.0, 4.0))])
def test_a_step_clips_the_norm_of_all_gradients(make, clip, gradient):
    run = make(gradient_clip=clip)
    run.advance(batch(2))
    found = (run.model.weight.grad.item(), run.model.bias.grad.item())
    assert found == pytest.approx(gradient, abs=1e-5)


def test_a_steps_rate_is_the_schedules(make):
    run = make(learning_rate=0.5, warmup=4, decay="constant")
    for rate in (0.125, 0.25):
        run.advance(batch(2))
        assert run.rate == run.optimizer.param_groups[0]["lr"] == rate


def test_validation_sees_the_average_in_evaluation_mode(make):
    run = make()
    run.average.state["weight"].fill_(0.0)
    run.average.state["bias"].fill_(0.5)
    assert run.validate([batch(2)]) == {"loss": 2.0, "bias": 0.5}
    assert run.average.module.seen[0] is False
    assert run.model.training
    assert run.model.weight == 1.0


def test_validation_is_the_mean_over_images_not_over_batches(make):
    run = make()
    run.average.state["weight"].fill_(0.0)
    run.average.state["bias"].fill_(0.0)
    assert run.validate([batch(3, 1.0), batch(1, 0.0)])["loss"] == 0.75
    assert run.validation == 0.75


@pytest.mark.parametrize(("precision", "half"), [("32-true", False), ("bf16-mixed", True)])
def test_mixed_precision_is_without_a_cache_of_casts(make, precision, half):
    """A method that runs its network without gradients first would find casts without gradients there."""
    run = make(precision=precision)
    run.advance(batch(2))
    assert run.model.seen[1:] == (half, False)
    assert run.model.weight.dtype == torch.float32
