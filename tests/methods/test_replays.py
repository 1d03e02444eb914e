"""Samplers whose steps are captured draw what they draw without."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import pytest
import torch
from modiff_helpers import batch, config
from modiff_helpers import model as small_model

from modiff.config.run import build_config
from modiff.devices import CudaGraph
from modiff.methods.registry import build
from modiff.nn.replay import Replays
from modiff.types import DataSpec

UNET = {"base": 8, "multipliers": [1, 2], "blocks": 1, "groups": 4, "head_width": 8}


class Again:
    """In place of a CUDA graph: does the work again, on what lies where the capture found it."""

    count = 0

    def beside(self):
        return nullcontext()

    def capture(self, work):
        self.work = work

    def replay(self):
        Again.count += 1
        self.work()


class Wrong(Again):
    def replay(self):
        pass


class Fails(Again):
    def capture(self, work):
        raise RuntimeError("operation not permitted when stream is capturing\nat some place")


def made(case: str):
    if case.startswith("modiff"):
        return small_model(config(**({"crop": 16, "window": 16} if "window" in case else {}))).eval()
    torch.manual_seed(0)
    model = build(case, build_config(method=case, changes={"model": {"unet": UNET}}).model, DataSpec.of()).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def drawn(model, number: int, n: int = 5, **how):
    """The samples of batch `number`."""
    image, seeds = batch(4).image + 0.01 * number, torch.arange(4) + 10 * number
    steps = 2 if model.stepwise else None
    with torch.inference_mode():
        return model.sample(model.encode(image.clamp(0, 1)), n, seeds=seeds, steps=steps, **how).maps


@pytest.mark.parametrize("case", ["modiff", "modiff, a window", "ccdm", "cimd", "medfm"])
def test_replays_draw_the_same_samples(case):
    model, Again.count = made(case), 0
    plain = [drawn(model, number) for number in range(4)]
    model.replays = Replays(Again)
    for number, expected in enumerate(plain):
        torch.testing.assert_close(drawn(model, number), expected, atol=1e-5, rtol=1e-4)
    assert Again.count >= 3  # its own check, and two batches


def test_a_place_in_a_larger_image_is_kept():
    model, origin = made("modiff"), torch.tensor([[3, 5], [0, 0], [7, 1], [2, 2]])
    plain = [drawn(model, number, origin=origin + number) for number in range(4)]
    model.replays = Replays(Again)
    for number, expected in enumerate(plain):
        torch.testing.assert_close(drawn(model, number, origin=origin + number), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("graph", "why"), [(Wrong, "replays differ by"), (Fails, "operation not permitted")])
def test_a_capture_that_fails_or_differs_is_not_used(graph, why, caplog):
    model = made("medfm")
    plain = [drawn(model, number) for number in range(4)]
    model.replays = Replays(graph)
    with caplog.at_level(logging.WARNING, "modiff"):
        found = [drawn(model, number) for number in range(4)]
    for one, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-4)
    (record,) = caplog.records
    assert why in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", ["modiff", "modiff, a window", "ccdm", "cimd", "medfm"])
def test_on_a_gpu_samplers_are_captured_and_draw_the_same(case, caplog):
    model = made(case).cuda()
    found = {}
    for replays in (None, Replays(lambda: CudaGraph(torch.device("cuda")))):
        model.replays = replays
        found[replays is None] = []
        for number in range(4):
            image, seeds = batch(4).image.cuda(), torch.arange(4, device="cuda") + number
            with torch.inference_mode(), caplog.at_level(logging.WARNING, "modiff"):
                found[replays is None].append(model.sample(model.encode(image), 5, seeds=seeds, steps=2).maps)
    assert not caplog.records
    for one, other in zip(found[True], found[False], strict=True):
        assert (one - other).abs().mean() < 1e-3
