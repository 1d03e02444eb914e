"""The metrics log of a training: log.jsonl, and an optional logger."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.fabric.loggers import Logger, TensorBoardLogger
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor

from modiff.errors import ConfigError
from modiff.io.files import told


def check_logger(name: str) -> None:
    """ConfigError where `trainer.logger` names a logger whose package is not installed."""
    if name != "none" and find_spec(name) is None:
        hint = f"Install it with pip install 'modiff[{name}]'"
        raise ConfigError("needs a package that is not installed", field="trainer.logger", found=name, hint=hint)


@contextmanager
def open_logger(name: str, folder: Path, *, step: int = 0, run: str | None = None) -> Iterator[Logger | None]:
    """The logger that `trainer.logger` names. step: where this start begins. run: MLflow's name of the run so far.

    MLflow writes to the server that MLFLOW_TRACKING_URI names, or else to a database in the run folder.
    """
    logger: Logger | None = None
    if name == "tensorboard":
        logger = TensorBoardLogger(folder, name=name, version="", purge_step=step + 1)
    elif name == "mlflow":
        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        logger = MLFlowLogger("modiff", run_name=folder.name, tracking_uri=where, run_id=run)
    status = "failed"
    try:
        yield logger
        status = "success"
    finally:
        if logger is not None:
            logger.finalize(status)


class MetricsLog:
    """Appends a line of numbers to a file, and to the logger, every few steps and at each validation.

    path: None where nothing is written, in all processes but the first. state: is saved with the run, so that a line is
    the mean over all steps since the last one, whichever start they were of.
    """

    def __init__(self, path: Path | None, every: int) -> None:
        self.path, self.every = path, every
        self.logger: Logger | None = None
        self.state: dict[str, Any] = {"sums": {}, "count": 0, "images": 0, "seconds": 0.0, "run": None}

    def add(self, place: Mapping[str, float], rate: float, terms: Mapping[str, Tensor]) -> None:
        """Adds a step: its number, images and seconds, its learning rate, and the terms of its loss."""
        sums = self.state["sums"]  # stay on the device
        for name, value in terms.items():
            sums[name] = sums[name] + value if name in sums else value
        self.state["count"] += 1
        if place["step"] % self.every == 0:
            means = {f"train/{name}": float(total) / self.state["count"] for name, total in sums.items()}
            seconds = max(place["seconds"] - self.state["seconds"], 1e-9)
            speed = (place["images"] - self.state["images"]) / seconds
            self.state |= {"sums": {}, "count": 0, "images": place["images"], "seconds": place["seconds"]}
            self.write(place, {**means, "learning_rate": rate, "images_per_second": speed})

    def write(self, place: Mapping[str, float], numbers: Mapping[str, float]) -> None:
        """Writes a line: six digits, and null for what JSON has no number for."""
        plain = {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in numbers.items()}
        if self.path is not None:
            with told(self.path, "cannot be written"), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({**place, "seconds": round(place["seconds"], 3), **plain}) + "\n")
        if self.logger is not None:
            self.logger.log_metrics(dict(numbers), step=int(place["step"]))
            self.state["run"] = self.logger.version
