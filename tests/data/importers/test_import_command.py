"""`modiff import`: the list of sources, and the help of each without loading what only the import needs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from PIL import Image
from store_helpers import make_info

from modiff.cli import main
from modiff.data.importers.base import Importer, run_import
from modiff.data.importers.catalogue import IMPORTERS
from modiff.data.store import Store, StoreWriter
from modiff.errors import DataError
from modiff.io.output import replacing


def _importer(name: str) -> type[Importer]:
    return resolve_name(f"modiff.data.importers.{IMPORTERS[name].importer}")


def _help(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["import", *words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", IMPORTERS)
def test_the_list_has_a_line_per_source(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert f"  {name}" in _help(capsys)
    assert IMPORTERS[name].line in _help(capsys)


@pytest.mark.parametrize("name", IMPORTERS)
def test_each_source_explains_itself(capsys: pytest.CaptureFixture[str], name: str) -> None:
    text = _help(capsys, name)
    first = (_importer(name).__doc__ or "").splitlines()[0]
    assert first in " ".join(text.split())
    assert "--overwrite" in text


@pytest.mark.parametrize("name", IMPORTERS)
def test_each_source_declares_all_that_the_runner_asks_for(name: str) -> None:
    kind = _importer(name)
    assert IMPORTERS[name].arguments
    for part in ("describe", "read"):
        assert getattr(kind, part) is not getattr(Importer, part)


@pytest.mark.parametrize("name", IMPORTERS)
def test_help_loads_nothing_heavy(name: str) -> None:
    heavy = "torch", "h5py", "numpy", "PIL", "matplotlib"
    code = (
        "import sys\nfrom modiff.cli import main\n"
        f"try: main(['import', {name!r}, '--help'])\nexcept SystemExit: pass\n"
        f"sys.exit(', '.join(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("words", [[], ["nonsense"], ["lidc-slices"], ["lidc-slices", "x.zip"]], ids=str)
def test_a_command_that_is_not_complete_ends_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["import", *words])
    assert end.value.code == 2


def _say(capsys: pytest.CaptureFixture[str], folder: Path, patients: int, *words: str) -> str:
    root = folder / "d"
    for patient in range(patients):
        place = root / f"p{patient:02}"
        place.mkdir(parents=True)
        image = np.random.default_rng(patient).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(image).save(place / "image.png")
        for rater in "ab":
            Image.fromarray(np.eye(16, dtype=np.uint8)).save(place / f"rater-{rater}.png")
    assert main(["import", "folder", str(root), "-o", str(folder / "s.h5"), *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("patients", [3, 6])
def test_a_few_patients_fill_every_split(tmp_path: Path, capsys: pytest.CaptureFixture[str], patients: int) -> None:
    assert "nothing is in" not in _say(capsys, tmp_path, patients)


@pytest.mark.parametrize("patients", [1, 2])
def test_fewer_patients_than_splits_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], patients: int
) -> None:
    said = _say(capsys, tmp_path, patients)
    assert ("nothing is in test: training" in said) is (patients == 2)
    assert "too few for cross-validation too" in said
    assert main(["info", str(tmp_path / "s.h5")]) == 0
    assert "note: nothing is in" in capsys.readouterr().out


def test_a_fraction_of_0_leaves_its_split_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing is in test: training" in _say(capsys, tmp_path, 6, "--test", "0")


def _made(args: argparse.Namespace) -> Importer:
    raise FileNotFoundError("no source")


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_second_import_into_one_store_is_refused_before_it_reads(tmp_path: Path, name: str) -> None:
    args = argparse.Namespace(output=tmp_path / "s.h5", overwrite=True)
    with replacing(tmp_path / "s.h5"), pytest.raises(DataError, match="another process writes this"):
        run_import(name, args, make=_made)
    with pytest.raises(FileNotFoundError, match="no source"):
        run_import(name, args, make=_made)
    assert [path.name for path in tmp_path.iterdir()] == ["s.h5"]  # the first one's


def test_a_store_keeps_the_first_of_more_notes_than_it_can_hold(tmp_path: Path) -> None:
    info = make_info(notes=tuple(f"note {number} {'x' * 5000}" for number in range(40)))
    with StoreWriter(tmp_path / "s.h5", info) as writer:
        image, masks = np.zeros((2, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)
        writer.add(image, masks, np.ones(3, bool), case="p/a", patient="p", split="train")
    with Store.open(tmp_path / "s.h5") as store:
        assert store.info.notes[0].startswith("note 0 x")
        assert store.info.notes[-1] == "and 25 more notes"
