"""A training in a process of its own: an interruption reaches it, and it may save before it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from modiff.benchmark import run as room
from modiff.benchmark.run import _ended
from modiff.config.run import build_config

CHILD = """
import pathlib, signal, sys, time
def save(number, frame):
    time.sleep(1.0)
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1], "started").touch()
time.sleep(60)
"""


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background and a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_waits_for_the_save(tmp_path):
    def interrupt():
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        _ended([sys.executable, "-c", CHILD, str(tmp_path)])
    thread.join()
    assert (tmp_path / "saved").exists()


def test_the_exit_status_is_passed_on():
    assert _ended([sys.executable, "-c", "raise SystemExit(7)"]) == 7


def test_the_fold_is_handed_on(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(room, "_ended", lambda words: started.extend(words) or 130)
    reason = room.train_in_processes(build_config(), tmp_path / "s.h5", tmp_path / "run", fold=3)
    assert reason == "interrupted"
    assert started[-2:] == ["--fold", "3"]
