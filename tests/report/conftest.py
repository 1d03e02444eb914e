"""A run that is reported once for all tests that only read the page."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType

import pytest
from runs import loaded, write_run, write_store


@contextmanager
def own_model():
    """`load_model` gives the tests' model for every folder."""
    exported = ModuleType("modiff.methods.weights")
    exported.load_model = lambda path: loaded()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "modiff.methods.weights", exported)
        yield exported


@pytest.fixture
def models():
    with own_model() as exported:
        yield exported


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
