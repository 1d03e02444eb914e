"""Processes that a training starts end with it; nothing else that runs is touched."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from modiff.errors import TrainingError
from modiff.training import loop


@pytest.fixture
def asked(monkeypatch):
    """What Linux is asked for."""
    calls = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(prctl=lambda *words: calls.append(words)))
    monkeypatch.delenv(loop._FIRST, raising=False)
    return calls


def launched():
    """What a process that is started sees of the variable."""
    seen = []
    loop._launch(SimpleNamespace(launch=lambda: seen.append(os.environ.get(loop._FIRST))))
    return seen[0]


def test_what_is_started_knows_by_whom_and_nothing_later_does(asked):
    assert launched() == str(os.getpid())
    assert loop._FIRST not in os.environ


def test_a_failed_launch_leaves_nothing_in_the_environment(asked):
    with pytest.raises(ZeroDivisionError):
        loop._launch(SimpleNamespace(launch=lambda: 1 / 0))
    assert loop._FIRST not in os.environ


def test_what_a_thread_starts_may_outlive_the_thread(asked):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(launched()))
    thread.start()
    thread.join()
    assert seen == [None]


def test_processes_of_torchrun_and_slurm_are_left_alone(asked, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    loop._end_with_the_first()
    assert asked == []


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
def test_a_process_that_was_started_ends_with_the_one_that_did(asked, monkeypatch):
    monkeypatch.setenv(loop._FIRST, str(os.getppid()))
    loop._end_with_the_first()
    assert len(asked) == 1
    assert loop._FIRST not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
def test_a_process_whose_first_is_gone_already_does_not_wait_for_it(asked, monkeypatch):
    monkeypatch.setenv(loop._FIRST, str(os.getpid()))
    with pytest.raises(TrainingError, match="has ended"):
        loop._end_with_the_first()
