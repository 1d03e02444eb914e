"""Every kind of DICOM object that modiff writes of a series, and what a validator says of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modiff.io.dicom.derived import Maker, Segment
from modiff.io.dicom.rtstruct import write_structures
from modiff.io.dicom.seg import write_seg
from modiff.io.dicom.sr import write_report
from modiff.io.volume import Volume

MAKER = Maker("MoDiff", "1.2", {"seed": "7"}, "abc", content="hypotheses; nothing there: 4 %", region="LUNG")
KINDS = ("seg", "sr", "rtstruct")


def write_all(
    folder: Path, segments: Sequence[Segment], volume: Volume, *, presence: float | None = 0.96, **how: Any
) -> dict[str, Path]:
    """The three objects of masks, by kind."""
    where = {"first": 0, "maker": MAKER, **how}
    paths = {kind: folder / f"{kind}.dcm" for kind in KINDS}
    seg = write_seg(paths["seg"], segments, volume, **where)
    write_report(paths["sr"], segments, seg, volume, presence=presence, **where)
    write_structures(paths["rtstruct"], segments, volume, **where)
    return paths


def validated(path: Path) -> None:
    """Fails where David Clunie's validator finds an error; skips without it."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian: dicom3tools)")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []
    assert done.stderr.strip(), "it says at least which kind of object it found"
