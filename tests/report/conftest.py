"""A run that is reported once for all tests that only read the page."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from runs import loaded, write_run, write_store


@contextmanager
def own_model():
    """`load_model` gives the tests' model for every folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modiff.report.run.load_model", lambda path: loaded())
        yield


@pytest.fixture
def models(monkeypatch):
    """As `own_model`, undone in one go with whatever else a test puts in its place."""
    monkeypatch.setattr("modiff.report.run.load_model", lambda path: loaded())


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("data") / "discs.h5")


@pytest.fixture(scope="session")
def run(tmp_path_factory, store):
    return write_run(tmp_path_factory.mktemp("runs") / "a run & more", store)


@pytest.fixture(scope="session")
def page(run):
    """The report of the run."""
    from modiff.report.run import write_report

    with own_model():
        return write_report(run)
