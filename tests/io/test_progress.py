"""Progress without a terminal: lines of a log."""

from __future__ import annotations

import time

from modiff.io import progress
from modiff.io.progress import progress_bar, progress_text, tracked


def test_a_line_says_how_far_it_is_and_how_long_it_takes():
    assert progress_text("drawing", "samples", 250, 1000, seconds=60) == (
        "drawing: 250 of 1,000 samples, 25%, 1:00 so far, about 3:00 left"
    )
    assert progress_text("training", "", 0.5, 1.0, seconds=3700, note="loss 1") == (
        "training: 50%, loss 1, 1:01:40 so far, about 1:01:40 left"
    )
    assert progress_text("importing", "parts", 0, 0, seconds=60) == "importing: begun, 1:00 so far"


def test_a_log_gets_a_line_per_interval_while_nobody_reports(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_EVERY", 0.05)
    with progress_bar("scoring", "cases") as show:
        show(1, 4)
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 10
    assert lines[0].startswith("scoring: 1 of 4 cases, 25%")


def test_short_work_and_quiet_work_say_nothing(capsys, monkeypatch):
    assert list(tracked("abc", "checking", 3, "letters")) == ["a", "b", "c"]
    monkeypatch.setattr(progress, "_EVERY", 0.01)
    with progress_bar("scoring", quiet=True) as show:
        show(1, 2)
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(tracked("abc", "checking", 3, "letters")) == ["a", "b", "c"]
    assert "3/3 letters" in capsys.readouterr().err
