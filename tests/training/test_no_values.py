"""Steps of training and sampling look at no value, as in a CUDA graph: here they are taken with tensors without any."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from modiff.config.run import build_config
from modiff.devices import constants_used
from modiff.methods.denoising import Windows
from modiff.methods.registry import build
from modiff.nn.windows import NoiseField
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


@contextmanager
def nothing_new(monkeypatch):
    """Neither constants nor copies of numbers from the CPU, for which the CPU waits."""
    make = torch.tensor

    def on_cpu(*args, **how):
        assert torch.device(how.get("device") or "cpu").type == "cpu", "copied from the CPU"
        return make(*args, **how)

    with monkeypatch.context() as patch, constants_used():
        patch.setattr(torch, "tensor", on_cpu)
        yield


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
    with nothing_new(monkeypatch):
        terms = step.differentiate(images)
    assert terms["loss"].device == NO_VALUES
    assert any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("case", ["lidc", "paper", "lidc, categorical", "cimd", "ccdm", "medfm"])
def test_a_samplers_steps_look_at_no_value(case, without_values, monkeypatch):
    preset, changes, data = CASES[case]
    spec, config = DataSpec.of(**data), build_config(preset=preset, changes={"model": changes})
    model = build(config.method, config.model, spec).eval().to(NO_VALUES)
    image, centre = batch(4, 1, prompted=True).image, torch.empty(4, 2, device=NO_VALUES)
    window = Windows(torch.arange(4), None, (64, 64), model.encode_window(image, centre))
    field = NoiseField(torch.empty(4, dtype=torch.int64, device=NO_VALUES), (64, 64), None, (64, 64))
    markers = torch.empty(4, 4, dtype=torch.bool, device=NO_VALUES)
    model._denoise(window, markers, field, 3)  # constants are made
    with nothing_new(monkeypatch):
        assert model._denoise(window, markers, field, 3).device == NO_VALUES


def test_what_looks_at_a_value_is_found(without_values):
    """Dropping rows, as on a CPU."""
    config = build_config(preset="lidc", changes={"model": OWN})
    model = build("modiff", config.model, DataSpec.of(prompt="centre")).to(NO_VALUES)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        model.training_loss(batch(4, 1, prompted=True), rng=SimpleNamespace(device=NO_VALUES))
