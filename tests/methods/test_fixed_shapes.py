"""Images without a label: left out of a step, or kept with weight 0 so that shapes depend on no values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from modiff_helpers import batch, config

from modiff.config.methods import CCDMConfig, CIMDConfig, GuidedUNetConfig, MedFMConfig
from modiff.methods.denoising import DenoisingSegmenter
from modiff.methods.registry import build
from modiff.types import DataSpec

UNET = GuidedUNetConfig(base=8, multipliers=(1, 2), blocks=1, attention=(2,), head_width=8, groups=4)
HURDLE = replace(CCDMConfig().presence, mode="hurdle", base=8, multipliers=(1, 2))
CASES = {
    "modiff": ("modiff", config(), "centre"),
    "modiff, crops about the prompt": ("modiff", config(crop=16, window=16), "centre"),
    "modiff, crops anywhere": ("modiff", config(crop=16), "none"),
    "modiff, presence left to the denoiser": ("modiff", config(presence={"mode": "implicit"}), "centre"),
    "modiff, categorical": ("modiff", config(diffusion={"kind": "categorical"}), "centre"),
    "modiff, several raters' means": ("modiff", config(presence={"single_share": 0.0}), "centre"),
    "ccdm": ("ccdm", CCDMConfig(unet=UNET, presence=HURDLE), "centre"),
    "cimd": ("cimd", CIMDConfig(unet=UNET, presence=HURDLE, latent_widths=(8, 8)), "centre"),
    "medfm": ("medfm", MedFMConfig(unet=UNET, presence=HURDLE), "centre"),
}


class Draws:
    """Takes torch's random numbers down, and gives those of some rows of the batch again."""

    def __init__(self, patch: pytest.MonkeyPatch, count: int) -> None:
        self.taken: list[torch.Tensor] = []
        self.count, self.rows, self.next = count, torch.arange(count), 0
        for name in ("rand", "randn", "randint", "randperm"):
            patch.setattr(torch, name, self._instead(getattr(torch, name), permuted=name == "randperm"))

    def again(self, rows: torch.Tensor) -> None:
        self.rows, self.next = rows, 0

    def _instead(self, draw, *, permuted):
        def instead(*args, **how):
            made = draw(*args, **how)
            if len(self.rows) == self.count:
                self.taken.append(made)
                return made
            whole, self.next = self.taken[self.next], self.next + 1
            if len(made) == self.count:
                return whole
            part = whole[self.rows]
            return part.argsort().argsort() if permuted else part

        return instead


def some_unlabelled(prompt: str):
    """Six images, of which nobody marks the second, and nobody read the last."""
    made = batch(6)
    made.masks[1] = False
    made.read[5] = False
    return replace(made, centre=made.centre if prompt == "centre" else None)


def made(case: str) -> tuple[DenoisingSegmenter, str]:
    method, settings, prompt = CASES[case]
    torch.manual_seed(0)
    model = build(method, settings, DataSpec.of(prompt=prompt))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.abs().max() == 0:
                parameter.normal_(std=0.1)
    for module in model.modules():  # its numbers are of one generator for all rows
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model, prompt


def losses(model: DenoisingSegmenter, data) -> dict[str, torch.Tensor]:
    """The loss, its terms, and all gradients."""
    model.zero_grad()
    terms = model.training_loss(data, rng=torch.Generator().manual_seed(0))
    terms["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach().clone() for name, value in (terms | gradients).items()}


@pytest.mark.parametrize("case", CASES)
def test_weight_0_gives_the_loss_and_gradients_of_leaving_out(case, monkeypatch):
    model, prompt = made(case)
    data = some_unlabelled(prompt)
    labelled = data.marked.any(1) if model.presence_head is not None else data.read.any(1)
    draws = Draws(monkeypatch, len(data))
    model.fixed_shapes = True
    kept = losses(model, data)
    draws.again(labelled.nonzero().squeeze(1))
    model.fixed_shapes = False
    left_out = losses(model, data)
    assert draws.next == len(draws.taken)
    assert kept.keys() == left_out.keys()
    for name, value in left_out.items():
        torch.testing.assert_close(
            kept[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("case", ["modiff", "ccdm", "cimd"])
def test_a_batch_without_any_label_has_no_denoising_loss(case, fixed):
    model, _ = made(case)
    model.fixed_shapes = fixed
    data = batch(3)
    data.masks[:] = False
    found = losses(model, data)
    assert all(found[name] == 0 for name in model.term_weights)
    assert all(torch.isfinite(value).all() for value in found.values())
    assert found["presence"] > 0
