"""What the snapshot tests share: the command line in this process, on one thread, and a simulated store.

These tests pin what the product does and know nothing of how it is built: they go through the command line and the
public names of `modiff` only. `pinned.py` says how values are compared and how snapshots are made anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from modiff.cli import main


def run(*words: object) -> None:
    """One command that must succeed."""
    assert main([str(word) for word in words]) == 0, " ".join(map(str, words))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine's number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def modiff() -> object:
    """Runs a command: `modiff("train", "--data", store, …)`."""
    return run


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 simulated patients with an image each, of whom six are test: enough for intervals."""
    path = tmp_path_factory.mktemp("store") / "phantom.h5"
    run("import", "phantom", "-o", path, "--size", 64, "--patients", 60, "--images-per-patient", 1)
    return path
