"""The package as it is handed out: a wheel and an sdist, the files of the repository around them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import modiff

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that was made of it."""
    pytest.importorskip("build.env", reason="build is not installed (extra dev)")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src/modiff", source / "src/modiff", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source, cwd=source)
    return target


def files_of_the_package() -> set[str]:
    """Of src/modiff, the files that git would keep."""
    top = ROOT / "src"
    return {str(path.relative_to(top)) for path in top.rglob("modiff/**/*") if path.is_file() and path.suffix != ".pyc"}


def test_wheel_and_sdist_hold_every_file_of_the_package(built: Path) -> None:
    """Weights, presets, help texts, templates, stubs and py.typed."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        found = {name for name in wheel.namelist() if name.startswith("modiff/")}
    assert found == files_of_the_package()
    assert {"modiff/py.typed", "modiff/__init__.pyi", "modiff/packaged/lidc/weights.safetensors"} <= found
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        inside = {name.partition("/src/")[2] for name in sdist.getnames()}
    assert found <= inside


def test_the_index_would_take_them(built: Path) -> None:
    pytest.importorskip("twine", reason="twine is not installed (extra dev)")
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=built)


def test_the_installed_wheel_is_what_runs(built: Path, tmp_path: Path) -> None:
    """In an environment that sees this one's dependencies, but not this checkout."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "fresh", cwd=tmp_path)
    python = tmp_path / "fresh/bin/python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    words = ("install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", *built.glob("*.whl"))
    run(sys.executable, "-m", "pip", "--python", python, *words, cwd=tmp_path)
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(others))
    code = "import modiff; print(modiff.__file__); print(modiff.__version__)"
    where, version = run(python, "-I", "-c", code, cwd=tmp_path).split()
    assert Path(where).is_relative_to(site)
    assert version == modiff.__version__
    assert "modiff" in run(tmp_path / "fresh/bin/modiff", "--version", cwd=tmp_path)


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == modiff.__version__


def targets() -> set[str]:
    return set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_uses_what_there_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert set(re.findall(r"\bmake (\w+)", text)) <= targets()
    extras = set(re.findall(r"\[(\w+)\]['\"]", text)) - {"main"}
    assert extras <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def test_the_image_is_made_of_what_there_is_and_its_commands_are_real() -> None:
    from modiff.cli import VERBS

    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (.*)$", text, re.M):
        names = line.split()[:-1]
        assert all((ROOT / name).exists() for name in names)
        assert set(names) <= kept
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"/data\" modiff (\w+) (.*)$", text, re.M)
    assert len(commands) == text.count("docker run")
    for verb, words in commands:
        assert verb in VERBS
        assert verb == "demo" or f"modiff {verb} {words}" in readme, words


def test_hooks_call_tools_that_set_up_installs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    known = {re.split(r"[<>=!]", name)[0].replace("import-linter", "lint-imports") for name in dev}
    assert {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks} <= known
