"""Budgets of time and images, and what ends a start."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from modiff.config.run import build_config, check_ranges, parse_budget
from modiff.errors import ConfigError
from modiff.training import budget
from modiff.training.budget import Clock

ALONE = SimpleNamespace(world_size=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", (90, None)), ("20m", (1200, None)), ("1.5h", (5400, None)), ("500img", (None, 500))],
)
def test_budgets_are_times_or_images(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize("text", ["", "20", "0m", "-3m", "5 epochs", "1e9img"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ConfigError, match="is not a budget"):
        parse_budget(text)


def at(monkeypatch, *times):
    """A clock that shows these times, one after another."""
    shown = iter(times)
    monkeypatch.setattr(budget.time, "monotonic", lambda: next(shown))


def test_a_budget_of_time_does_not_pay_for_validations(monkeypatch):
    at(monkeypatch, 0.0, 10.0, 60.0, 61.0)  # start, a validation's start and end, the next step's end
    clock = Clock("11.5s")
    with clock.running():
        with clock.paused():
            pass
        assert not clock.stops(8, ALONE)
    assert clock.seconds == 11.0


def test_a_budget_of_time_counts_earlier_starts(monkeypatch):
    at(monkeypatch, 0.0, 1.5)
    clock = Clock("11.5s", before=10.0)
    with clock.running():
        assert clock.stops(8, ALONE)
    assert clock.reason == "budget spent"


def test_a_limit_of_this_start_counts_validations_and_no_earlier_start(monkeypatch):
    at(monkeypatch, 0.0, 1.0, 3.0, 4.0, 5.0)
    clock = Clock("100s", 4.5, before=50.0)
    with clock.running():
        with clock.paused():
            pass
        assert not clock.stops(8, ALONE)
        assert clock.stops(16, ALONE)
    assert clock.reason == "time of this start over"


@pytest.mark.parametrize(("images", "stops"), [(99, False), (100, True)])
def test_a_budget_of_images_ends_with_its_last(images, stops):
    clock = Clock("100img")
    with clock.running():
        assert clock.stops(images, ALONE) is stops


def test_a_signal_ends_at_a_steps_end():
    clock, before = Clock("100img"), signal.getsignal(signal.SIGTERM)
    with clock.running():
        os.kill(os.getpid(), signal.SIGTERM)
        assert clock.stops(1, ALONE)
    assert (clock.reason, clock.signalled) == ("interrupted", True)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_interrupt_ends_at_once():
    clock = Clock("100img")
    with clock.running():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_number_without_a_unit_is_told_what_is_missing():
    with pytest.raises(ConfigError, match="is not a budget; found '400'; expected 20m, 2h"):
        check_ranges(build_config(preset="quick", changes={"training": {"budget": 400}}))
