"""The metrics log and its loggers."""

from __future__ import annotations

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modiff.errors import ConfigError
from modiff.io.checksum import read_lines
from modiff.training import log
from modiff.training.log import MetricsLog, check_logger, open_logger


def place(step):
    return {"step": step, "images": 4 * step, "seconds": 2.0 * step}


def lines(path):
    return read_lines(path)


def test_a_line_is_the_mean_of_the_steps_since_the_last(tmp_path):
    written = MetricsLog(tmp_path / "log.jsonl", 2)
    for step in range(1, 6):
        written.add(place(step), 0.1 * step, {"loss": torch.tensor(float(step))})
    assert lines(tmp_path / "log.jsonl") == [
        {**place(2), "train/loss": 1.5, "learning_rate": 0.2, "images_per_second": 2.0},
        {**place(4), "train/loss": 3.5, "learning_rate": 0.4, "images_per_second": 2.0},
    ]


def test_what_json_has_no_number_for_is_null(tmp_path):
    MetricsLog(tmp_path / "log.jsonl", 1).write(place(1), {"val/loss": float("nan"), "val/kl": 1 / 3})
    assert lines(tmp_path / "log.jsonl") == [{**place(1), "val/loss": None, "val/kl": 0.333333}]


def test_only_the_first_process_writes(tmp_path):
    other = MetricsLog(None, 1)
    other.add(place(1), 0.1, {"loss": torch.tensor(1.0)})
    assert not list(tmp_path.iterdir())


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path):
    for begun, ended in ((0, 6), (4, 8)):  # the first start died after step 6, having saved step 4
        with open_logger("tensorboard", tmp_path, step=begun) as logger:
            for step in range(begun + 1, ended + 1):
                logger.log_metrics({"train/loss": float(step)}, step=step)
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in shown.Scalars("train/loss")] == [(n, n) for n in range(1, 9)]


class Server:
    """In place of MLflow's logger: notes what it is told."""

    def __init__(self, experiment, **settings):
        self.told = [(experiment, settings)]
        self.version = settings["run_id"] or "run 1"

    def log_metrics(self, numbers, step):
        self.told.append((step, numbers))

    def finalize(self, status):
        self.told.append(status)


def test_mlflow_resumes_its_run(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "MLFlowLogger", Server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://here")
    metrics = MetricsLog(None, 1)
    with open_logger("mlflow", tmp_path, run=metrics.state["run"]) as metrics.logger:
        metrics.write(place(1), {"val/loss": 2.0})
    with open_logger("mlflow", tmp_path, run=metrics.state["run"]) as resumed:
        pass
    settings = {"run_name": tmp_path.name, "tracking_uri": "http://here"}
    assert metrics.logger.told == [("modiff", {**settings, "run_id": None}), (1, {"val/loss": 2.0}), "success"]
    assert resumed.told == [("modiff", {**settings, "run_id": "run 1"}), "success"]


def test_a_training_that_failed_is_closed_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "MLFlowLogger", Server)
    with pytest.raises(ZeroDivisionError), open_logger("mlflow", tmp_path) as logger:
        1 / 0  # noqa: B018
    assert logger.told[-1] == "failed"


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_logger_that_is_not_installed_is_named_with_its_extra(monkeypatch, name):
    monkeypatch.setattr(log, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"trainer\.logger: .*found {name}.*pip install 'modiff\[{name}\]'"):
        check_logger(name)


def test_no_logger_needs_no_package(monkeypatch):
    monkeypatch.setattr(log, "find_spec", lambda _: None)
    check_logger("none")
