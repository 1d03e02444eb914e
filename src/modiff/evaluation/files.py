"""Whole or not at all: results are written beside their target and then renamed."""

from __future__ import annotations

from pathlib import Path

from modiff.io.files import replacing


def write_text(path: str | Path, text: str) -> Path:
    """Writes UTF-8 text so that the file holds either what it held before or all of `text`; makes its folder."""
    path = Path(path)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="")
    return path
