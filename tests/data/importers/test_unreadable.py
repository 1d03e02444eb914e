"""A folder that cannot be read is never passed over: whoever looks through it refuses, and names it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from modiff.cli import main
from modiff.data.check.run import check
from modiff.data.importers.lidc_dicom.run import patients_of
from modiff.data.importers.sources import Source, walk
from modiff.errors import DataError
from modiff.evaluation.compare import find_result
from modiff.evaluation.predictions import FolderMaps
from modiff.io.files import files_in
from modiff.io.image import write_png


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four patients' folders, of which the second's cannot be listed (as root, nothing can be closed by its mode)."""
    own = tmp_path / "own"
    for number in range(4):
        for name in ("image", "rater-a", "rater-b"):
            image = np.zeros((16, 16), np.uint8)
            image[4:9, 4 : 9 + number] = 255
            write_png(own / f"p{number}" / f"{name}.png", image)
    scandir, listdir = os.scandir, os.listdir

    def refusing(real):
        def listed(path="."):
            if not isinstance(path, int) and Path(os.fspath(path)) == own / "p1":  # an int: an open folder's handle
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return listed

    monkeypatch.setattr(os, "scandir", refusing(scandir))
    monkeypatch.setattr(os, "listdir", refusing(listdir))
    return own


@pytest.mark.parametrize(
    "look",
    [
        lambda path: list(walk(path)),
        Source,
        patients_of,
        FolderMaps,
        lambda path: files_in(path / "p1", ".png"),
        lambda path: find_result(path / "p1"),
    ],
    ids=["walk", "Source", "patients_of", "FolderMaps", "files_in", "find_result"],
)
def test_a_folder_that_cannot_be_read_is_refused(closed, look):
    with pytest.raises(DataError, match=r"p1: cannot be read.*Permission denied"):
        look(closed)


@pytest.mark.parametrize("kind", ["folder", "lidc-slices", "lidc-dicom", "cimd-folder", "isbi-ms --fit crop"])
def test_no_importer_passes_it_over(closed, tmp_path, capsys, kind):
    assert main(["import", *kind.split(), str(closed), "-o", str(tmp_path / "o.h5")]) == 2
    assert "p1: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "o.h5").exists()


def test_check_says_so(closed):
    (finding,) = check(closed).findings
    assert finding.level == "error"
    assert "p1: cannot be read" in f"{finding.kind} {finding.text}"
