"""The package as an import and as a command: what it loads, its version, its public names."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import modiff
from modiff.cli import VERBS, main
from modiff.data.importers.catalogue import IMPORTERS

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "lightning", "torchmetrics", "matplotlib", "h5py", "skimage", "scipy", "monai", "pydicom", "nibabel"}
_TELL = "import json, sys; print('\\n' + json.dumps(sorted(sys.modules)))"


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{_TELL}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_import_loads_nothing_heavy() -> None:
    assert not loaded_by("import modiff") & HEAVY


def test_the_commands_help_loads_nothing_heavy() -> None:
    assert not loaded_by("from modiff.cli import main; main(['--help'])") & HEAVY


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_loads_nothing_heavy(verb: str) -> None:
    code = f"from modiff.cli import main\ntry: main(['{verb}', '--help'])\nexcept SystemExit: pass"
    assert not loaded_by(code) & HEAVY


HELP = [[], *([verb] for verb in VERBS), *(["import", name] for name in IMPORTERS)]


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_fits_a_hundred_columns(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 100] == []


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    from modiff.cli import main

    assert main(["--help"]) == 0
    first_words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert first_words == list(VERBS)


def test_an_unknown_verb_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from modiff.cli import main

    assert main(["trian"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_command_that_is_terminated_ends_as_if_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    from modiff.cli import info, main

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(info, "run", lambda args: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["info", "ccdm"]) == 130
    assert signal.getsignal(signal.SIGTERM) == before


def test_pyproject_reads_the_version() -> None:
    dynamic = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["dynamic"]
    assert dynamic["version"] == {"attr": "modiff._version.__version__"}


def test_the_version_is_that_of_the_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert modiff.__version__ == citation["version"]


def test_the_licence_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["license"] == citation["license"] == "Apache-2.0"


@pytest.mark.parametrize("name", modiff.__all__)
def test_a_public_name_resolves(name: str) -> None:
    assert getattr(modiff, name) is not None
    assert name in dir(modiff)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No modiff attribute nothing"):
        modiff.nothing  # noqa: B018


@pytest.mark.parametrize("name", modiff.metrics.__all__)
def test_a_public_metric_resolves(name: str) -> None:
    assert getattr(modiff.metrics, name) is not None
