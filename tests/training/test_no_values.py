"""A step looks at no value, so that a CUDA graph can hold it: it is taken here with tensors that have none."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from modiff.config.run import build_config
from modiff.devices import constants_used
from modiff.methods.registry import build
from modiff.training.step import Step
from modiff.types import Batch, DataSpec

NO_VALUES = torch.device("meta")
LESIONS, OTHER = {"prompt": "centre"}, {"classes": 2, "exchangeable": False}
UNET = {"base": 8, "multipliers": [1, 2], "blocks": 1, "groups": 4, "head_width": 8}
OWN = {"unet": {"base": 8, "multipliers": [1, 2], "blocks": 1, "stem": 4, "attention": [16]}, "mca": {"dim": 8}}
OWN |= {"presence": {"base": 8, "multipliers": [1, 2]}}
LEVELS, HURDLE = {"channels": [8, 8]}, {"presence": {"mode": "hurdle", "base": 8, "multipliers": [1, 2]}}
CASES = {
    "lidc": ("lidc", OWN, LESIONS),
    "paper": ("paper", OWN, LESIONS),
    "quick, no prompt, persons": ("quick", OWN | {"crop": 32}, OTHER),
    "lidc, categorical": ("lidc", OWN | {"diffusion": {"kind": "categorical"}}, OTHER),
    "cimd": ("cimd", {"unet": UNET, "latent_widths": [8, 8]} | HURDLE, LESIONS),
    "ccdm": ("ccdm", {"unet": UNET} | HURDLE, OTHER),
    "medfm": ("medfm", {"unet": UNET}, LESIONS),
    "prob_unet": ("prob_unet", LEVELS, OTHER),
    "cflow": ("cflow", LEVELS, LESIONS),
    "cflow, glow": ("cflow", LEVELS | {"posterior": "glow"}, LESIONS),
    "mose": ("mose", LEVELS, OTHER),
    "ssn": ("ssn", LEVELS, OTHER),
    "unet": ("unet", LEVELS, OTHER),
}


@pytest.fixture
def without_values(monkeypatch):
    """Random numbers without a generator, no autocast, which meta tensors do not have; and nothing copied to them."""
    for name in ("rand", "randn", "randint", "randperm"):
        draw = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, generator=None, draw=draw, **how: draw(*args, **how))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def batch(raters: int, classes: int, *, prompted: bool) -> Batch:
    with NO_VALUES:
        image, masks = torch.empty(4, 1, 64, 64), torch.empty(4, raters, classes, 64, 64, dtype=torch.bool)
        centre = torch.empty(4, 2) if prompted else None
        return Batch(image, masks, torch.empty(4, raters, dtype=torch.bool), (), centre)


@pytest.mark.parametrize("case", CASES)
def test_a_step_looks_at_no_value(case, without_values, monkeypatch):
    preset, changes, data = CASES[case]
    spec, config = DataSpec.of(**data), build_config(preset=preset, changes={"model": changes})
    model = build(config.method, config.model, spec).train().to(NO_VALUES)
    model.fixed_shapes = True
    rng, images = SimpleNamespace(device=NO_VALUES), batch(4, len(spec.classes), prompted=spec.prompted)
    step = Step(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, foreach=True),
        lambda given: model.training_loss(given, rng=rng),
        lambda loss: loss.backward(),
        clip=1.0,
    )
    step.differentiate(images)  # constants are made
    make = torch.tensor

    def on_cpu(*args, **how):
        assert torch.device(how.get("device") or "cpu").type == "cpu", "copied from the CPU, which waits"
        return make(*args, **how)

    monkeypatch.setattr(torch, "tensor", on_cpu)
    with constants_used():
        terms = step.differentiate(images)
    assert terms["loss"].device == NO_VALUES
    assert any(parameter.grad is not None for parameter in model.parameters())


def test_what_looks_at_a_value_is_found(without_values):
    """Dropping rows, as on a CPU."""
    config = build_config(preset="lidc", changes={"model": OWN})
    model = build("modiff", config.model, DataSpec.of(prompt="centre")).to(NO_VALUES)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        model.training_loss(batch(4, 1, prompted=True), rng=SimpleNamespace(device=NO_VALUES))
