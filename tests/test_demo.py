"""The whole way on simulated data, as `make demo` goes it, much shortened."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modiff.cli import main
from modiff.cli.demo import _ambiguity

pytestmark = pytest.mark.slow
WORDS = ["--budget", "64img", "--patients", "60", "-n", "4", "--quiet"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo of 30 test images of six patients."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert main(["demo", "-o", str(folder), *WORDS]) == 0
    return folder


def test_it_leaves_what_it_says(demo):
    for name in ("phantom.h5", "weights.safetensors", "evaluation/test.csv", "sample/overlay.png", "report.html"):
        assert (demo / name).stat().st_size > 1000, name


def test_the_model_stands_beside_its_references_and_the_shuffled_control(demo):
    results = json.loads((demo / "evaluation/test.json").read_text())["results"]
    ged = {r["predictor"] for r in results if r["metric"] == "ged" and r["protocol"] == "standard"}
    assert {"model", "majority_vote", "iid_reference", "shuffled"} <= ged
    assert all(r["images"] == 30 for r in results if r["stratum"] == "all")


def test_the_same_command_again_finds_it_done(demo, capsys):
    before = (demo / "weights.safetensors").read_bytes()
    assert main(["demo", "-o", str(demo), *WORDS]) == 0
    assert "budget already spent" in capsys.readouterr().out
    assert (demo / "weights.safetensors").read_bytes() == before


def test_other_patients_need_another_folder(demo, capsys):
    assert main(["demo", "-o", str(demo), *WORDS, "--patients", "61"]) == 2
    assert "patients: was simulated with other settings; found 60; expected 61" in capsys.readouterr().err


def test_a_picture_of_ones_own_is_sampled_and_reported(demo, tmp_path):
    assert main(["sample", str(demo), str(demo / "image.png"), "-n", "3", "-o", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    shown, presence = summary["hypotheses"], summary["presence"]["probability"]
    unshown = 0 if any(h["nothing"] for h in shown) else 1 - presence  # what no sample shows
    unshown += 0 if any(not h["nothing"] for h in shown) else presence
    assert sum(h["probability"] for h in shown) + unshown == pytest.approx(1)


def test_quick_is_less_of_what_is_not_asked_for(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("modiff.cli.demo._store", lambda folder, args: found.append(args) or main([]) or 1 / 0)
    for words in ([], ["--quick"], ["--quick", "--patients", "60"]):
        with pytest.raises(ZeroDivisionError):
            main(["demo", "-o", str(tmp_path), *words])
    chosen = [(args.patients, args.budget, args.n) for args in found]
    assert chosen == [(600, None, 16), (120, "5000img", 8), (60, "5000img", 8)]


def test_training_with_other_settings_is_refused_in_one_line(demo, capsys):
    words = ["train", "--data", str(demo / "phantom.h5"), "-o", str(demo), "--preset", "quick"]
    assert main([*words, "--training.learning_rate", "0.5"]) == 2
    error = capsys.readouterr().err
    assert "training.learning_rate: 0.002 → 0.5" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [("--patients", "1"), ("--budget", "5x"), ("-n", "0")], ids=lambda words: words[0])
def test_what_cannot_be_is_refused_before_anything_is_written(words, tmp_path, capsys):
    assert main(["demo", *words, "-o", str(tmp_path / "demo")]) == 2
    assert not (tmp_path / "demo").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_image_is_the_more_ambiguous_the_more_raters_differ():
    small, large, nothing = (np.zeros((32, 32), np.uint8) for _ in range(3))
    small[10:14, 10:14] = large[5:20, 5:20] = 1
    sets = ([large] * 4, [small, small, large, large], [small, large, large, nothing])
    found = [_ambiguity(np.stack(masks)) for masks in sets]
    assert [number for number, _ in found] == [1, 2, 3]
    assert _ambiguity(np.stack([small, large, large, large])) < found[1]
