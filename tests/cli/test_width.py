"""What commands print in a terminal of 80 columns: nothing is wider, and no number or name is cut."""

from __future__ import annotations

import re

import pytest
import torch
from rich.console import Console

from modiff.cli import info, main, sample
from modiff.config.data import PhantomConfig
from modiff.data.importers.phantom import write_phantom
from modiff.evaluation import words
from modiff.methods.cost import Description
from modiff.methods.registry import METHODS
from modiff.prediction.summary import summarise
from modiff.types import Samples


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(words, "wide_console", lambda: Console(width=80))


def lines(capsys):
    found = capsys.readouterr().out.splitlines()
    assert max(map(len, found)) <= 80
    assert not any("…" in line for line in found)
    return found


def test_all_methods_are_described_in_as_many_tables_as_fit(capsys):
    about = {
        "preset": None,
        "channels": 1,
        "classes": 1,
        "title": "",
        "raters": 4,
        "size": 128,
        "n": 16,
        "parts": {"unet": 85_600_386},
    }
    counts = {"parameters": 88_336_602, "trained": 88_336_602, "evaluations": 1000}
    flops = dict.fromkeys(("gflop_evaluation", "gflop_sample", "gflop_image", "gflop_total"), 2_112_293.4)
    info._show_methods([Description(method=name, **about, **counts, **flops) for name in METHODS])
    text = "\n".join(lines(capsys))
    assert all(re.search(rf"\b{name}\b", text) for name in METHODS)
    assert text.count("88,336,602") == len(METHODS)
    assert text.count("2,112,293") == 4 * len(METHODS)


def test_hypotheses_of_a_scan_fit(capsys):
    maps = torch.zeros(1, 9, 1, 3, 40, 40)
    for i in range(9):
        maps[0, i, 0, :, 2 : 4 + 4 * i, 2 : 4 + 4 * i] = 1
    samples = Samples.uniform(maps, presence=torch.tensor([0.79]))
    sample._show(summarise(samples, spacing=(5, 1, 1), classes=["white matter lesion"]), None, "9 samples")
    found = lines(capsys)
    assert any("21 %" in line and "nothing there" in line and "0" in line.split() for line in found)
    assert any(line.startswith("Probability that a rater marks anything: 79 % (model's own") for line in found)


def test_the_facts_of_a_store_fit(tmp_path, capsys):
    path = write_phantom(tmp_path / "p.h5", PhantomConfig(patients=9, images_per_patient=1, size=48), progress=False)
    capsys.readouterr()
    assert main(["info", str(path)]) == 0
    lines(capsys)
