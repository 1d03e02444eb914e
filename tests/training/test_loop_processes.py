"""Two CPU processes train one model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modiff.methods.run_folder import write_config
from modiff.training.checkpoint import read_checkpoint
from modiff.training.loop import train


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(store, settings, tmp_path):
    # No dropout, intensity noise or random windows: what differs between processes is then the order of sums alone.
    still = replace(settings.model.presence, dropout=0.0, intensity_augmentation=0.0)
    short = replace(settings.training, budget="16img", validate_every=2, save_every=100)
    one = replace(settings, model=replace(settings.model, presence=still), training=short)
    two = replace(one, trainer=replace(one.trainer, devices=2))
    write_config(tmp_path / "two.yaml", two)
    train(one, store, tmp_path / "one", quiet=True)
    words = ["train", "--config", str(tmp_path / "two.yaml"), "--data", str(store), "-o", str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, "-m", "modiff", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("budget spent: 4 steps, 16 images") == 1  # the first process alone speaks
    first, second = (read_checkpoint(tmp_path / name / "training.ckpt") for name in ("one", "two"))
    assert first["step"] == second["step"] == 4
    assert first["model"].keys() == second["model"].keys()
    assert all(torch.isfinite(value).all() for value in second["model"].values())
    assert len(Path(tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 2  # the first process alone writes
