"""Preset `paper-strict` holds the paper's model and training, and nothing that this project added."""

from __future__ import annotations

import pytest
import torch
from modiff_helpers import batch

from modiff.config.run import build_config
from modiff.methods.registry import build
from modiff.training.optimizer import EMA
from modiff.types import DataSpec


@pytest.fixture(scope="module")
def config():
    return build_config(preset="paper-strict")


@pytest.fixture(scope="module")
def model(config):
    """For data with a prompt, which it must not see."""
    torch.manual_seed(0)
    return build("modiff", config.model, DataSpec.of(prompt="centre"))


def test_it_has_neither_prompt_nor_presence_head(model):
    assert model.head is None
    assert not model.prompt


def test_its_loss_is_equation_8(model):
    terms = model.training_loss(batch(2), rng=torch.Generator().manual_seed(0))
    assert set(terms) == {"loss", "simple", "ldf", "mca"}
    torch.testing.assert_close(terms["loss"].detach(), terms["simple"] + 0.5 * terms["ldf"] + 0.5 * terms["mca"])


def test_every_image_is_denoised_even_where_nobody_marked_anything(model):
    made = batch(2)
    made.masks[:] = False
    assert model.training_loss(made, rng=torch.Generator().manual_seed(0))["simple"] > 0


def test_a_step_trains_it_and_its_average_is_the_weights_themselves(config, model):
    average = EMA(model, config.training.ema_decay)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=config.training.learning_rate)
    model.training_loss(batch(2), rng=torch.Generator().manual_seed(0))["loss"].backward()
    optimiser.step()
    average.update(model, 0)
    after = model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(average.state[name], after[name]) for name in after)


def test_its_training_has_no_clipping_and_no_augmentation(config):
    assert (config.training.gradient_clip, config.training.augment, config.training.weight_decay) == (0.0, False, 0.0)


def test_it_is_preset_paper_otherwise(config):
    paper = build_config(preset="paper")
    assert config.model.diffusion == paper.model.diffusion
    assert (config.model.unet, config.model.mca, config.model.ldf) == (
        paper.model.unet,
        paper.model.mca,
        paper.model.ldf,
    )
