"""A training on several devices: a process of its own, in which Lightning starts the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modiff.config import parse_budget
from modiff.errors import CheckpointError
from modiff.methods.run_folder import CARD, read_json, write_config

if TYPE_CHECKING:
    from modiff.config import RunConfig

SETTINGS = "benchmark.yaml"


def train_in_processes(
    config: RunConfig, data: Path, folder: Path, *, fold: int | None = None, max_seconds: float | None = None
) -> str | None:
    """`modiff train` with this configuration; returns why the budget is not spent, None where it is.

    In this process DDP would run the rest of the benchmark once a device. Raises CheckpointError where it fails.
    """
    write_config(folder / SETTINGS, config)
    words = [sys.executable, "-m", "modiff", "train", "--config", str(folder / SETTINGS)]
    words += ["--data", str(data), "-o", str(folder)]
    if fold is not None:
        words += ["--fold", str(fold)]
    if max_seconds is not None:
        words += ["--max-time", f"{max(1.0, max_seconds):.0f}s"]
    code = _ended(words)
    if code == 130:
        return "interrupted"
    if code:
        raise CheckpointError("training ended with an error, printed above", path=folder, found=f"exit status {code}")
    seconds, images = parse_budget(config.training.budget)
    card = read_json(folder / CARD)
    # The card has tenths of seconds.
    spent = card["seconds"] >= (seconds or 0.0) - 0.1 if images is None else card["images_seen"] >= images
    return None if spent else "time of this start over"


def _ended(words: list[str]) -> int:
    """The exit status of a command; an interruption is passed on, and it may end its step and save."""
    with subprocess.Popen(words) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
