"""Pinned: every number and table that an evaluation, foreign samples, a comparison, a benchmark and a report give."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pinned import check, lasting, number, table

from modiff import Store

NARROW = ["modiff.model.unet.base=8", "modiff.model.presence.base=8", "prob_unet.model.channels=[8,8,8]"]
IDENTITY = ("metric", "predictor", "protocol", "n", "steps", "threshold", "split", "stratum")
TIMED = ("seconds_per_image", "source")  # columns of tables.csv


def result(folder: Path, split: str = "test") -> dict[str, Any]:
    """The JSON of an evaluation without what differs between runs; the store is known by other snapshots."""
    found = lasting(json.loads((folder / f"{split}.json").read_text()))
    found["made"].pop("store", None)
    found["made"]["model"] = found["made"].get("model", {}).get("name")
    found["results"] = records(found["results"])
    return found


def records(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Each number under what it is of; the names of the rest, which all records have, stand once."""
    rest = [name for name in results[0] if name not in (*IDENTITY, "select")]
    assert {record["select"] for record in results} == {"iid"}
    assert all([*record] == [*results[0]] for record in results)
    numbers = {"|".join(str(record[key]) for key in IDENTITY): [record[name] for name in rest] for record in results}
    assert len(numbers) == len(results)
    return {"numbers are": rest, **numbers}


@pytest.fixture(scope="module")
def evaluated(modiff, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model: every metric, two n, both protocols, and the controls."""
    folder = tmp_path_factory.mktemp("scores") / "lidc"
    words = ["-n", 2, 4, "--metrics", "all", "--control", "--one-rater", "--device", "cpu", "-o", folder]
    modiff("evaluate", "lidc", "--data", store, *words)
    return folder


def test_the_records_of_an_evaluation(evaluated: Path) -> None:
    check("evaluate-lidc-json", result(evaluated))


def test_the_rows_of_an_evaluation(evaluated: Path) -> None:
    check("evaluate-lidc-csv", table(evaluated / "test.csv"))


def raters(store: Path) -> dict[str, np.ndarray]:
    """Foreign samples of each test case, (5,H,W): the raters' masks shifted by a pixel, and an empty one."""
    with Store.open(store) as opened:
        found = {}
        for row in opened.rows("test"):
            masks = np.roll(opened.masks(row), 1, axis=2)
            found[str(opened.cases[row])] = np.concatenate([masks, np.zeros_like(masks[:1])])
    return found


def test_the_score_of_a_folder_of_pictures(modiff, store: Path, tmp_path: Path) -> None:
    for case, masks in raters(store).items():
        (tmp_path / "png" / case).mkdir(parents=True)
        for place, mask in enumerate(masks):
            Image.fromarray(255 * mask).save(tmp_path / "png" / case / f"sample-{place}.png")
    modiff("evaluate", tmp_path / "png", "--truth", store, "-n", 2, 4, "-o", tmp_path / "out")
    check("score-png", {"json": result(tmp_path / "out"), "csv": table(tmp_path / "out/test.csv")})


def test_the_score_of_probabilities_in_an_archive(modiff, store: Path, tmp_path: Path) -> None:
    maps = {case: masks * 0.75 + 0.125 for case, masks in raters(store).items()}
    np.savez(tmp_path / "maps.npz", **maps)
    words = ["-n", 4, "--threshold", 0.3, "--metrics", "ged", "ncc", "ci", "ece", "-o", tmp_path / "out"]
    modiff("evaluate", tmp_path / "maps.npz", "--truth", store, *words)
    check("score-npz", {"json": result(tmp_path / "out"), "csv": table(tmp_path / "out/test.csv")})


@pytest.fixture(scope="module")
def benchmark(modiff, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, a seed each, six steps of four images; and tables."""
    folder = tmp_path_factory.mktemp("benchmark") / "b"
    common = ["--budget", "24img", "--batch-size", 4, "--seeds", 1, "-n", 4, "--accelerator", "cpu", "--quiet"]
    settings = [word for name in NARROW for word in ("--set", name)]
    methods = ["--methods", "modiff", "prob_unet", "--presets", "modiff=quick"]
    modiff("benchmark", "--data", store, *methods, *common, *settings, "--cases", 0, "-o", folder)
    return folder


def test_the_state_of_a_benchmark(benchmark: Path) -> None:
    state = lasting(json.loads((benchmark / "benchmark.json").read_text()))
    check("benchmark-json", {key: state[key] for key in ("schema", "settings", "rows", "runs")})


def test_the_table_of_numbers_of_a_benchmark(benchmark: Path) -> None:
    check("benchmark-csv", table(benchmark / "tables/tables.csv", without=TIMED), rel=1e-2, trained=True)


def test_the_tables_of_a_benchmark(benchmark: Path) -> None:
    """Cells but those of the column with seconds."""
    lines = (benchmark / "tables/tables.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split(" |")] for line in lines if line.startswith("| ")]
    found, timed = [], None
    for row in rows:
        timed = next((i for i, cell in enumerate(row) if cell.startswith("seconds")), timed)
        found.append([values(cell) for place, cell in enumerate(row) if place != timed])
    headings = [line for line in lines if line.startswith("#")]
    check("benchmark-md", {"headings": headings, "rows": found}, rel=2e-2, trained=True)


def values(text: str) -> list[Any]:
    """A cell's words, numbers as numbers."""
    return [number(word.strip("*,").replace(",", "").replace("−", "-")) for word in re.split(r"\s|<br>", text) if word]


def test_a_comparison(modiff, evaluated: Path, benchmark: Path, tmp_path: Path) -> None:
    words = ["--names", "a", "b", "-n", 4, "--protocol", "standard", "--threshold", 0.5, "-o", tmp_path]
    modiff("compare", evaluated, benchmark / "modiff-seed0", *words)
    found = json.loads((tmp_path / "comparison.json").read_text())["differences"]
    check("compare", found, rel=1e-2)


class Page(HTMLParser):
    """Headings, and the rows of tables, of a page without its drawings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("svg", "h1", "h2", "h3", "td", "th"):
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += f" {data}"
        elif self.open and self.open[-1].startswith("h"):
            self.headings[-1] += data


def test_the_report_of_a_run(modiff, benchmark: Path, tmp_path: Path) -> None:
    modiff("report", benchmark / "modiff-seed0", "-o", tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    rows = [[values(cell) for cell in row] for row in page.rows]
    check("report", {"headings": page.headings, "rows": rows}, rel=2e-2)
