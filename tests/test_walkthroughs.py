"""The README, the tutorials and the notebooks, as a reader goes through them: every command and every cell is run."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_helpers import lidc_files, write_zip
from walkthrough import walk

from modiff.io import write_png

ROOT = Path(__file__).parents[1]
SMALL = "--model.unet.base 16 --model.unet.multipliers [1,1] --model.unet.attention [] --model.presence.base 8"
LESS = {
    "train": f"{SMALL} --training.budget 8img --training.batch_size 4 --training.validation_images 2 --quiet",
    "evaluate": "--quiet --limit 2",
    "sample": "--quiet --steps 1 -n 8 --candidates 8",
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with crops in the distributed layout, and images of one's own with three raters each."""
    monkeypatch.chdir(tmp_path)
    patients = [f"LIDC-IDRI-{number:04}" for number in range(6)]
    parts = {"core.zip": patients[:4], "train-more-1.zip": patients[4:5], "train-more-2.zip": patients[5:]}
    for name, part in parts.items():
        write_zip(tmp_path / name, lidc_files(dict.fromkeys(part, 2)))
    splits = {"train": [*patients[:2], *patients[4:]], "val": patients[2:3], "test": patients[3:4]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    random, away = np.random.default_rng(0), np.hypot(*(np.indices((128, 128)) - 64))
    write_png(tmp_path / "image.png", random.integers(0, 255, (16, 16), np.uint8))
    for case in ("case-1", "case-2", "case-3"):
        folder = tmp_path / "data" / case
        folder.mkdir(parents=True)
        write_png(folder / "image.png", (40 + 150 * (away < 14) + random.integers(0, 30, (128, 128))).astype(np.uint8))
        for rater, radius in {"ann": 12, "bob": 15, "eva": 0}.items():
            write_png(folder / f"rater-{rater}.png", away < radius)
    return tmp_path


def test_the_readmes_commands_run(reader: Path) -> None:
    verbs = walk(ROOT / "README.md", less=LESS, python=False)
    assert verbs == ["import", "train", "evaluate", "sample", "report", "check", "sample", "evaluate", "import"]
    for name in ("out/overlay.png", "out/case-1/overlay.png", "runs/lidc/report.html", "check.html", "own.h5"):
        assert (reader / name).stat().st_size > 1000


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 800


def test_the_tutorial_on_nifti_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    verbs = walk(ROOT / "docs/tutorial-nifti.md", less=LESS)
    assert verbs == ["check", "import", "info", "train", "evaluate", "sample"]
    assert (tmp_path / "out/hypothesis-1.nii.gz").exists()


def test_the_tutorial_on_others_samples_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert walk(ROOT / "docs/tutorial-score.md") == ["evaluate"]
    assert len(re.findall(r"^case-\d 0\.\d+ 0\.\d+$", capsys.readouterr().out, re.M)) == 3


def cells(notebook: Path) -> list[str]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in found), "notebooks are kept without results"
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs/notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in this process; the site's build runs them in a kernel."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    for cell in cells(notebook):
        exec(compile(cell, notebook.name, "exec", dont_inherit=True), names)


# The site


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "tools/docs_site.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_command_reference_has_every_verb_and_source(site) -> None:
    from modiff.cli import VERBS
    from modiff.data.importers.catalogue import IMPORTERS

    page = site.command_reference()
    assert re.findall(r"^## modiff (\S+)$", page, re.M) == list(VERBS)
    assert re.findall(r"^### modiff import (\S+)$", page, re.M) == list(IMPORTERS)
    assert "--candidates N" in page


def test_the_python_reference_has_every_public_name(site) -> None:
    import modiff
    from modiff.metrics import functional

    named = re.findall(r"^::: (\S+)\.(\w+)$", site.api_reference(), re.M)
    for module, name in named:
        assert hasattr(importlib.import_module(module), name)
    public = {*modiff.__all__, *modiff.metrics.__all__, *functional.__all__} - {"__version__", "metrics", "functional"}
    assert public <= {name for _, name in named}


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    pages = [path.relative_to(ROOT / "docs") for end in ("md", "ipynb") for path in (ROOT / "docs").rglob(f"*.{end}")]
    assert [str(page) for page in pages if str(page) not in menu] == []


def test_links_lead_to_pages_of_the_site(site) -> None:
    text = "[a](../CONTRIBUTING.md#add-a-metric) [b](../results/x/) ![c](img/c.png) [d](https://x.org) [e](train.md)"
    expected = "[a](contributing.md#add-a-metric) b ![c](img/c.png) [d](https://x.org) [e](train.md)"
    assert site.site_links(text, "docs/index.md") == expected
    assert site.site_links("[a](docs/train.md#x), [l](LICENSE)\n```\n[b](c)\n```\n", "README.md") == (
        "[a](train.md#x), l\n```\n[b](c)\n```\n"
    )


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for name in ("mkdocs", "material", "mkdocstrings", "mkdocs_jupyter"):
        pytest.importorskip(name, reason="the site's tools are not installed (extra docs)")
    words = ("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site"))
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Generalised energy distance" in (tmp_path / "site/api/index.html").read_text(encoding="utf-8")
