"""Fixtures that every room of the tests uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("MODIFF_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("needs real data: set MODIFF_SHARED to the folder that holds data/")
    return folder


# Properties are checked without a clock, on the same examples everywhere.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
