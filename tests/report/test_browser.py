"""The report in a real browser."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --window-size=1100,1400"
)


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Runs the browser on a page with more flags; returns what it prints."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs the browser `chromium` to open the report in")

    def run(page, *flags: str) -> tuple[str, str]:
        profile = tmp_path_factory.mktemp("profile")
        command = [program, *FLAGS.split(), f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return ended.stdout, ended.stderr

    return run


@pytest.fixture(scope="module")
def opened(browse, page, tmp_path_factory):
    """The document, the browser's messages and a picture of the page, from one visit."""
    picture = tmp_path_factory.mktemp("picture") / "page.png"
    flags = ("--dump-dom", f"--screenshot={picture}", "--enable-logging=stderr", "--v=0")
    document, messages = browse(page, *flags)
    if not picture.exists():
        browse(page, f"--screenshot={picture}")
    return document, messages, np.asarray(Image.open(picture).convert("L"))


def test_the_browser_shows_headings_tables_and_curves(opened):
    document = opened[0]
    for text in ("Scores", "Training", "Cases", "majority vote", "i.i.d. reference", "images seen"):
        assert text in document


def test_its_own_policy_blocks_nothing_of_it(opened):
    assert "Content Security Policy" not in opened[1]
    assert "Refused to" not in opened[1]


def test_the_page_is_laid_out_dark_on_white(opened):
    grey = opened[2]
    assert grey.shape == (1400, 1100)
    assert np.median(grey) == 255
    assert 0.01 < (grey < 100).mean() < 0.3
    # The style sheet is at work: a margin on both sides that nothing stands in.
    assert grey[:, :20].min() == 255
    assert grey[:, -20:].min() == 255
