"""One choice of device for every verb."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from modiff.cli import main
from modiff.devices import choose_device
from modiff.errors import ConfigError

MISSING = "cuda:77"  # nobody has so many


def test_auto_is_a_gpu_if_there_is_one():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="device: cannot be used here"):
        choose_device(MISSING)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--data", "STORE", "-o", "run", "--preset", "quick", "--device", MISSING],
        ["train", "--data", "STORE", "-o", "run", "--preset", "quick", "--trainer.accelerator", "abacus"],
        ["train", "--data", "STORE", "-o", "run", "--preset", "quick", "--device", "cpu:0", "--trainer.devices", "2"],
        ["benchmark", "--data", "STORE", "-o", "b", "--methods", "unet", "--budget", "64img", "--device", MISSING],
        ["demo", "-o", "demo", "--device", MISSING],
        ["evaluate", "lidc", "--data", "STORE", "--split", "test", "-o", "e", "--device", MISSING],
    ],
    ids=["train", "accelerator", "two devices", "benchmark", "demo", "evaluate"],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(words, store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(store) if word == "STORE" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert any(name in error for name in ("--device", "accelerator"))
    assert error.count("\n") == 1
    assert not any((tmp_path / name).exists() for name in ("run", "b", "demo", "e"))


def test_the_run_says_what_computed_it(store, tmp_path):
    small = ["--method", "unet", "--model.channels", "[4,4]", "--training.batch_size", "4", "--training.budget", "8img"]
    run = tmp_path / "run"
    assert main(["train", "--data", str(store), "-o", str(run), *small, "--device", "cpu", "--quiet"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["accelerator"] == "cpu"
    assert json.loads((run / "card.json").read_text())["device"].startswith("cpu")
