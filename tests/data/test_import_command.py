"""`modiff import`: the list of sources, and the help of each without loading what only the import needs."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from modiff.cli import main
from modiff.data.importers import IMPORTERS, importer


def _help(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["import", *words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", IMPORTERS)
def test_the_list_has_a_line_a_source(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert f"  {name}" in _help(capsys)
    assert IMPORTERS[name][1] in _help(capsys)


@pytest.mark.parametrize("name", IMPORTERS)
def test_each_source_explains_itself(capsys: pytest.CaptureFixture[str], name: str) -> None:
    text = _help(capsys, name)
    first = (importer(name).__doc__ or "").splitlines()[0]
    assert first in text
    assert "--overwrite" in text


@pytest.mark.parametrize("name", IMPORTERS)
def test_each_source_has_its_two_functions(name: str) -> None:
    module, parser = importer(name), argparse.ArgumentParser()
    module.add_arguments(parser)
    assert callable(module.run)


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
