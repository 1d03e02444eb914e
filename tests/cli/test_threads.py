"""Idle cores from /proc/stat, and what is set where a user said nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modiff.cli import threads

# user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
BEFORE = "cpu  9 0 0 9 0 0 0 0 0 0\ncpu0 100 0 0 900 0 0 0 0 0 0\ncpu1 100 0 0 900 0 0 0 0 0 0\nintr 5\n"
BUSY = "cpu  9 0 0 9 0 0 0 0 0 0\ncpu0 105 0 0 914 1 0 0 0 0 0\ncpu1 118 0 2 900 0 0 0 0 0 0\nintr 5\n"


def test_idle_cores_are_those_that_waited() -> None:
    assert threads.idle_cores(BEFORE, BUSY, {0, 1}) == pytest.approx(0.75)  # 15 of 20 ticks, and 0 of 20


def test_only_own_cores_count() -> None:
    assert threads.idle_cores(BEFORE, BUSY, {1}) == 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two cores without a quota, both idle; returns the file of the quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(threads, "_SECONDS", 0)
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(threads, "idle_cores", lambda *_: 2.0)
    return tmp_path / "cpu.max"


def test_a_quiet_machine_is_left_to_torch(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads.limit_threads(environment := {})
    assert environment == {}
    assert capsys.readouterr().err == ""


def test_a_busy_machine_gets_the_threads_that_are_free(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "idle_cores", lambda *_: 0.3)
    threads.limit_threads(environment := {})
    assert environment == {"OMP_NUM_THREADS": "1"}
    assert "1 of 2 cores (others are busy)" in capsys.readouterr().err


def test_a_container_is_not_given_more_than_its_quota(machine: Path) -> None:
    machine.write_text("100000 100000\n")
    threads.limit_threads(environment := {})
    assert environment == {"OMP_NUM_THREADS": "1"}


def test_a_users_own_number_stays(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "idle_cores", lambda *_: 0.0)
    threads.limit_threads(environment := {"OMP_NUM_THREADS": "2"})
    assert environment == {"OMP_NUM_THREADS": "2"}


def test_threads_are_chosen_before_preset_auto_loads_torch(tmp_path: Path) -> None:
    seen = (
        "import sys, modiff.cli as cli; cli.limit_threads = lambda: print('torch' in sys.modules);"
        " sys.exit(cli.main(['train', '--data', 'missing.h5', '-o', 'run']))"
    )
    done = subprocess.run([sys.executable, "-c", seen], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "False\n"), done.stderr
