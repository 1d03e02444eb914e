"""ONNX files of diffusion methods, against torch in onnxruntime; and the sampling loop in NumPy."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from modiff.config.run import build_config
from modiff.errors import ConfigError
from modiff.methods.denoising import DenoisingSegmenter
from modiff.methods.onnx_export import FACTS, write_onnx
from modiff.methods.presence import draw_markers
from modiff.methods.registry import build
from modiff.nn import windows
from modiff.nn.layers import image_centre
from modiff.rng import normal, sample_seeds, uniform
from modiff.types import DataSpec

ROOT = Path(__file__).parents[2]
CASES = {
    "modiff": (
        "quick",
        {
            "window": 32,
            "unet": {"base": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "heads": 2},
            "mca": {"dim": 8, "heads": 2},
            "presence": {"base": 8, "multipliers": [1], "window": 48},
        },
        {"prompt": "centre", "size": (60, 52)},  # of no network's stride
    ),
    "medfm": (
        "medfm",
        {"unet": {"base": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}, "guidance": 1.0},
        {"size": (24, 24), "classes": 2},
    ),
}


def made(case: str) -> DenoisingSegmenter:
    """A network of random weights; of a dark and a bright image MoDiff's lesion leaves the window in one."""
    preset, changes, data = CASES[case]
    config = build_config(preset=preset, changes={"model": changes})
    torch.manual_seed(0)
    model = build(config.method, config.model, DataSpec.of(**data)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    if model.presence_head is not None:
        torch.nn.init.normal_(model.presence_head.map_out.weight, std=1.0)
        model.presence_head.map_out.bias.data.zero_()
        dark, bright = (label_map(model, value).logit().max() for value in (0.0, 1.0))
        model.presence_head.map_out.bias.data.fill_(math.log(0.1 / 0.9) - float(dark + bright) / 2)
    return model


@torch.no_grad()
def label_map(model: DenoisingSegmenter, value: float) -> torch.Tensor:
    image = torch.full((1, 1, 64, 56), value)
    return model.presence_head.distribution(image, torch.tensor([[29.5, 25.5]]))[1]


def session(path: Path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")
    return runtime.InferenceSession(path)


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")
    spec = importlib.util.spec_from_file_location("onnx_sample", ROOT / "tools" / "onnx_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=CASES)
def written(request, tmp_path_factory):
    """A model, and the folder with its ONNX files."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra onnx)")
    model, folder = made(request.param), tmp_path_factory.mktemp("onnx")
    assert FACTS in write_onnx(model, folder, about={"method": request.param})
    return model, folder, json.loads((folder / FACTS).read_text())


@torch.no_grad()
def test_the_networks_are_torchs(written):
    model, folder, facts = written
    image = torch.rand(3, *facts["image"])
    encoder = session(folder / "encoder.onnx")
    names = [output.name for output in encoder.get_outputs()]
    found = dict(zip(names, map(torch.from_numpy, encoder.run(None, {"image": image.numpy()})), strict=True))
    padded, centre = windows.pad_to_multiple(image, model.stride, edge=True), image_centre(image)
    assert facts["presence"] == (model.presence_head is not None)
    if model.presence_head is not None:
        presence, _ = model.presence_head.distribution(padded, centre)
        torch.testing.assert_close(found["presence"], presence, atol=1e-4, rtol=0)
    for window in facts["windows"]:
        corner = torch.tensor(window["corner"]).expand(3, 2)
        features = model.encode_window(windows.cut(padded, corner, window["size"]), centre - corner)
        given = {name: found[name] for name in window["features"]}
        for ours, theirs in zip(given.values(), features, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
        x = model.process.from_labels(torch.rand(3, model.classes, *window["size"]))
        markers, t = torch.rand(3, model.raters) > 0.5, torch.tensor(0.3)
        wanted = model.predictor(features, markers)(x, t)
        inputs = {"x_t": x, "t": t, "markers": markers, **given}
        denoiser = session(folder / window["file"])
        asked = {one.name for one in denoiser.get_inputs()}  # a method that has no use for an input has none
        made = denoiser.run(None, {name: value.numpy() for name, value in inputs.items() if name in asked})[0]
        torch.testing.assert_close(torch.from_numpy(made), wanted, atol=1e-4, rtol=0)
        assert wanted.std() > 1e-3


@torch.no_grad()
def test_the_loop_in_numpy_draws_torchs_samples(written, example):
    model, folder, facts = written
    image, sizes = np.random.default_rng(0).random(facts["image"], np.float32) * np.float32(0.02), set()
    if facts["process"]["name"] != "GaussianProcess":
        with pytest.raises(SystemExit, match="the model's process is"):
            example.sample(folder, image, 8, seed=5)
        return
    for brighter in (image, image + np.float32(0.98)):
        encoding = model.encode(torch.from_numpy(brighter)[None])
        wanted = model.sample(encoding, 8, seeds=torch.tensor([5])).maps[0].numpy()
        np.testing.assert_allclose(example.sample(folder, brighter, 8, seed=5), wanted, atol=1e-4, rtol=0)
        assert 0 < (wanted.std((1, 2, 3)) > 1e-3).sum() < 8  # some mark nothing
        sizes.add(encoding.groups[0].size)
    assert sizes == {tuple(window["size"]) for window in facts["windows"]}


@pytest.mark.parametrize("exchangeable", [True, False])
def test_the_example_draws_the_raters_who_mark_as_torch_does(example, exchangeable):
    presence = torch.rand(1, 4 if exchangeable else 3)
    presence = presence / presence.sum() if exchangeable else presence
    facts = {"raters": 3, "exchangeable_raters": exchangeable}
    seeds = sample_seeds(torch.tensor([7]), 200)
    named = {"count": 3, "exchangeable": exchangeable, "stratified": False}
    numbers = example.fold(np.full(200, 7, np.uint64), np.arange(200))
    for known in (presence, None):
        markers, panel, _ = draw_markers(known, seeds, "single", **named)
        found = example.draw_markers(None if known is None else known[0].numpy(), numbers, facts)
        assert panel.eq(1).all()
        assert (found.any(1) == markers[0].any(1).numpy()).all()
        if not exchangeable:
            assert (found == markers[0].numpy()).all()


def test_the_example_draws_torchs_numbers(example):
    seeds = torch.arange(3)
    assert (example.uniform(np.arange(3, dtype=np.uint64), (2, 5)) == uniform(seeds, (2, 5)).numpy()).all()
    drawn = example.normal(np.arange(3, dtype=np.uint64), (2, 50))
    np.testing.assert_allclose(drawn, normal(seeds, (2, 50)).numpy(), atol=1e-5)


def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    config = build_config(preset="unet")
    with pytest.raises(ConfigError, match=r"^method: cannot be written as ONNX; found .*expected a diffusion method"):
        write_onnx(build("unet", config.model, DataSpec.of(size=(32, 32))), tmp_path, about={})
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(
        ConfigError, match=r"--onnx: needs onnx and onnxscript\. Install it: pip install 'modiff\[onnx\]'"
    ):
        write_onnx(made("medfm"), tmp_path, about={})
    assert not list(tmp_path.iterdir())
