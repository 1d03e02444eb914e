"""Pinned: settings of every method and preset, the names of their weights, and what training makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pinned import check, lasting, nearly, sha256

from modiff import load_model

# Narrow networks of the default structure: the same tensors by name, small enough for a test.
LEVELS = "[8,8,8,8,8,8,8]"
NARROW = {
    "modiff": ["--model.unet.base", "8", "--model.presence.base", "8"],
    "cimd": ["--model.unet.base", "8", "--model.unet.groups", "4", "--model.latent_widths", "[8,8,8,8]"],
    "ccdm": ["--model.unet.base", "8", "--model.unet.groups", "4", "--model.unet.head_width", "8"],
    "prob_unet": ["--model.channels", LEVELS],
    "cflow": ["--model.channels", "[8,8,8,8]"],
    "unet": ["--model.channels", "[8,8,8]"],
    "mose": ["--model.channels", LEVELS],
    "ssn": ["--model.channels", "[8,8,8]"],
    "medfm": ["--model.unet.base", "8", "--model.unet.groups", "4", "--model.unet.head_width", "8"],
}
PRESETS = {"lidc": "modiff", "paper": "modiff", "quick": "modiff"} | {
    name: name for name in ("cimd", "ccdm", "prob_unet", "cflow", "mose", "ssn", "medfm", "unet")
}
SHORT = ["--training.batch_size", "4", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
LOGGED = ["--training.decay", "constant", "--training.log_every", "1", "--training.validate_every", "2"]


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_model(folder).model.state_dict().items()}


def train(modiff, store: Path, folder: Path, images: int, *words: str) -> Path:
    modiff("train", "--data", store, "-o", folder, *words, *SHORT, "--training.budget", f"{images}img")
    return folder


@pytest.fixture(scope="module")
def trained(modiff, store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run folder of each method at its defaults, but narrow, after two batches of four images."""
    root = tmp_path_factory.mktemp("methods")
    return {
        method: train(modiff, store, root / method, 8, "--method", method, *words) for method, words in NARROW.items()
    }


def test_the_default_settings(trained: dict[str, Path]) -> None:
    check("defaults", {name: yaml.safe_load((run / "config.yaml").read_text()) for name, run in trained.items()})


def test_the_names_and_shapes_of_weights(trained: dict[str, Path]) -> None:
    shapes = {name: {key: str(value.shape) for key, value in weights(run).items()} for name, run in trained.items()}
    check("state-dict", shapes)


def test_the_weights_after_two_steps(trained: dict[str, Path]) -> None:
    """Adam's first steps follow the signs of gradients, which rounding decides where they are nearly 0: elsewhere,
    tensors that start at 0 are known by their size only."""
    found = {}
    for method, folder in trained.items():
        own = weights(folder)
        norms = [float(np.linalg.norm(value.astype(np.float64))) for value in own.values()]  # in `state-dict`'s order
        found[method] = {"norms": norms, "all": {"bits": sha256(*own.values())}}
    check("weights-two-steps", found, rel=1e-2, near=1e-3, trained=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [("quick", ["--preset", "quick"]), ("cflow", ["--method", "cflow", *NARROW["cflow"]])],
    ids=["quick", "cflow"],
)
def test_a_training_that_was_resumed(modiff, store: Path, tmp_path: Path, name: str, words: list[str]) -> None:
    train(modiff, store, tmp_path / "run", 16, *words, *LOGGED)
    train(modiff, store, tmp_path / "run", 32, *words, *LOGGED)
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    own = weights(tmp_path / "run")
    content = nearly(np.concatenate([value.astype(np.float64).ravel() for value in own.values()]))
    check(f"resumed-{name}", {"weights": content, "log": lasting(log)}, rel=1e-2, trained=True)


def test_a_training_in_one_go_is_the_resumed_one(modiff, store: Path, tmp_path: Path) -> None:
    words = ["--method", "cflow", *NARROW["cflow"], *LOGGED]
    train(modiff, store, tmp_path / "parts", 16, *words)
    resumed = weights(train(modiff, store, tmp_path / "parts", 32, *words))
    straight = weights(train(modiff, store, tmp_path / "whole", 32, *words))
    assert sha256(*resumed.values()) == sha256(*straight.values())


@pytest.fixture(scope="module")
def presets(modiff, store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """config.yaml as training writes it, of each preset with a narrow network, ended after its first step."""
    root, found = tmp_path_factory.mktemp("presets"), {}
    for name, method in PRESETS.items():
        ended = ["--max-time", "0.01s", "--trainer.accelerator", "cpu"]
        modiff("train", "--data", store, "-o", root / name, "--preset", name, *NARROW[method], *ended)
        found[name] = yaml.safe_load((root / name / "config.yaml").read_text())
    return found


def test_the_settings_of_presets(presets: dict[str, Any]) -> None:
    check("presets", presets)


@pytest.mark.parametrize("name", [*PRESETS, "default"])
def test_what_a_method_costs(modiff, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Parameters and operations at full width: the widths that `presets` narrows are seen here."""
    method = ["modiff"] if name == "default" else [PRESETS[name], "--preset", name]
    capsys.readouterr()
    modiff("info", *method, "--size", 64, "-n", 4, "--json")
    check(f"cost-{name}", json.loads(capsys.readouterr().out))


def test_the_packaged_model() -> None:
    loaded = load_model("lidc")
    own = {name: tensor.numpy() for name, tensor in loaded.model.state_dict().items()}
    shapes = {name: str(value.shape) for name, value in own.items()}
    check("packaged-lidc", {"weights": loaded.fingerprint, "values": sha256(*own.values()), "shapes": shapes})
