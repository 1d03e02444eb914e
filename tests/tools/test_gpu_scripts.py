"""The scripts for a GPU: options, a rehearsal at toy size on the CPU, going on after a stop, archives in parts."""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from modiff.config.data import PhantomConfig
from modiff.config.fields import read_yaml
from modiff.config.run import build_config, config_from_dict
from modiff.data.importers.phantom import write_phantom
from modiff.errors import CheckpointError, ConfigError
from modiff.evaluation.records import read_result
from modiff.methods.run_folder import load_model

BENCHMARKS = Path(__file__).parents[2] / "tools"
SCRIPTS = sorted([path for path in (BENCHMARKS / "gpu").glob("*.py") if path.stem != "stages"])
SCRIPTS.append(BENCHMARKS / "model_speed.py")
TINY = [
    "model.unet={base: 8, multipliers: [1, 2], blocks: 1, attention: [8], heads: 2}",
    "model.mca={dim: 8, heads: 2}",
    "model.presence={base: 8, multipliers: [1, 2], dihedral_average: false}",
    "training.validation_images=4",
]


def script(name):
    """A script of the folder, loaded as Python does when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS / "gpu"))
        return importlib.import_module(name)


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    """Nine simulated patients at 64×64."""
    path = tmp_path_factory.mktemp("data") / "phantom.h5"
    return write_phantom(path, PhantomConfig(patients=9, images_per_patient=2), progress=False)


def words(store, output, *more):
    """A run of five steps and the scores of three images."""
    common = ["--data", str(store), "-o", str(output), "--budget", "20img", "--batch-size", "4", "--device", "cpu"]
    return [*common, "--precision", "32-true", "-n", "2", "3", "--limit", "2", "--set", *TINY, *more]


def run(module, arguments) -> int:
    """The script's exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script", *arguments])
        return module.main()


@pytest.fixture(scope="module")
def rehearsal(store, tmp_path_factory) -> Path:
    """MoDiff trained for five steps and scored at one and two steps of the sampler."""
    output = tmp_path_factory.mktemp("results") / "tiny"
    assert run(script("02_train_modiff"), words(store, output, "--steps", "1", "2")) == 0
    return output


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_help_needs_neither_a_gpu_nor_data(path):
    found = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("usage:")


def test_the_larger_configuration_builds_on_the_preset():
    config = build_config(preset="lidc", file=BENCHMARKS / "gpu" / "large.yaml")
    assert config.model.unet.base > build_config(preset="lidc").model.unet.base
    assert config_from_dict(read_yaml(BENCHMARKS / "gpu" / "large.yaml")).training == config.training.__class__(
        **read_yaml(BENCHMARKS / "gpu" / "large.yaml")["training"]
    )


def test_a_rehearsal_leaves_scores_by_steps_protocol_and_n(rehearsal):
    found = {path.name for path in (rehearsal / "evaluation").glob("*.json")}
    assert found == {"test-steps1-limit2.json", "test-steps2-limit2.json"}
    records = read_result(rehearsal / "evaluation" / "test-steps2-limit2.json").results
    assert {(record.protocol, record.n) for record in records if record.predictor == "model"} == {
        (protocol, n) for protocol in ("standard", "paper") for n in (2, 3)
    }


def test_the_parts_of_a_rehearsal_hold_model_and_scores_but_no_checkpoint(rehearsal, tmp_path):
    unpacked = script("parts").join(rehearsal / "parts" / "tiny.json", tmp_path)
    assert load_model(unpacked / "model").fingerprint == load_model(rehearsal / "model").fingerprint
    assert (unpacked / "evaluation" / "test-steps1-limit2.csv").exists()
    assert not (unpacked / "run").exists()


def test_the_same_command_again_does_nothing_twice(rehearsal, store, capsys):
    assert run(script("02_train_modiff"), words(store, rehearsal, "--steps", "1", "2")) == 0
    assert capsys.readouterr().out.count("done before") == 2


def test_a_start_without_time_ends_with_its_own_status(store, tmp_path):
    module = script("02_train_modiff")
    assert run(module, words(store, tmp_path / "run", "--max-time", "1s")) == script("stages").UNFINISHED


def test_scores_go_on_after_the_images_that_were_done(rehearsal, store, tmp_path):
    stages, model = script("stages"), rehearsal / "model"
    asked: list[int] = []

    class Once:
        def check(self, done: int, total: int) -> None:
            asked.append(done)
            if done == 1:
                raise stages.TimeOver

    args = argparse.Namespace(data=store, ns=(2,), threshold=(), metrics=("ged",), limit=2, device="cpu", score_batch=1)
    args.select, args.precision = None, "32-true"
    with pytest.raises(stages.TimeOver):
        stages.scored(model, args, tmp_path / "scores", (1,), Once())
    with pytest.raises(stages.TimeOver):  # it starts at the one image that is done
        stages.scored(model, args, tmp_path / "scores", (1,), Once())
    assert asked == [0, 1, 1]
    stages.scored(model, args, tmp_path / "scores", (1,), argparse.Namespace(check=lambda *_: None))
    assert read_result(tmp_path / "scores" / "test-steps1-limit2.json").strata["all"]["images"] == 2


SMALL = ["all.model.channels=[4, 8]", "all.training.validation_images=4"]


def compared(store, output, *more) -> list[str]:
    """Two methods, of two steps each, scored on one and on two images."""
    common = ["--data", str(store), "-o", str(output), "--budget", "8img", "--batch-size", "4", "--device", "cpu"]
    common += ["--precision", "32-true", "-n", "2", "--limits", "1", "2", "--metrics", "ged", "hm_iou"]
    return [*common, "--methods", "prob_unet", "cflow", "--set", *SMALL, *more]


def figures(output) -> list[dict[str, str]]:
    with (output / "figures.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def test_a_comparison_has_both_selections_of_every_method_on_the_same_images(store, tmp_path, capsys):
    module = script("compare")
    assert run(module, compared(store, tmp_path)) == 0
    found = figures(tmp_path)
    keys = {(row["method"], row["metric"], row["protocol"], row["select"]) for row in found}
    assert keys == {
        (method, metric, protocol, selection)
        for method in ("prob_unet", "cflow")
        for metric in ("ged", "hm_iou")
        for protocol in ("standard", "paper")
        for selection in ("iid", "representative")
    }
    assert {row["images"] for row in found} == {"2"}
    assert {row["trained_on"] for row in found} == {"8"}
    said = capsys.readouterr().out.splitlines()
    assert sum("trained on 8 images" in line for line in said) == len(found)
    assert run(module, compared(store, tmp_path)) == 0  # nothing is done twice
    assert capsys.readouterr().out.count("done before") == 4
    assert figures(tmp_path) == found


def test_a_comparison_resumes_and_ends_when_its_total_is_spent(store, tmp_path, capsys):
    module, stages = script("compare"), script("stages")
    assert run(module, compared(store, tmp_path, "--max-time", "1s")) == stages.UNFINISHED
    assert "the same command resumes" in capsys.readouterr().out
    assert run(module, compared(store, tmp_path)) == 0
    assert run(module, compared(store, tmp_path, "--limits", "1", "2", "3", "--total", "1s")) == 0
    assert "the total time is spent" in capsys.readouterr().out
    assert {row["images"] for row in figures(tmp_path)} == {"2"}


def test_a_method_that_fails_does_not_lose_the_others(store, monkeypatch, tmp_path):
    module = script("compare")
    train = module.Comparison.train

    def fails(self, method):
        if method == "cflow":
            raise RuntimeError("out of memory")
        train(self, method)

    monkeypatch.setattr(module.Comparison, "train", fails)
    assert run(module, compared(store, tmp_path, "--limits", "1")) == 1
    assert {row["method"] for row in figures(tmp_path)} == {"prob_unet"}


def test_steps_are_given_by_method():
    module = script("compare")
    assert module.steps_of("ccdm", ["ccdm=10", "cimd=25"]) == 10
    assert module.steps_of("mose", ["ccdm=10"]) is None
    with pytest.raises(ConfigError, match="ccdm"):
        module.steps_of("ccdm", ["ccdm"])


def test_a_part_that_changed_is_refused(tmp_path):
    parts, folder = script("parts"), tmp_path / "folder"
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(range(256)) * 5000)
    manifest = parts.split(folder, tmp_path / "out", limit=1)
    pieces = sorted((tmp_path / "out").glob("*.tar.*"))
    assert [piece.stat().st_size <= 1 << 20 for piece in pieces] == [True, True]
    joined = parts.join(manifest, tmp_path / "back")
    assert (joined / "weights").read_bytes() == (folder / "weights").read_bytes()
    pieces[1].write_bytes(pieces[1].read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="changed"):
        parts.join(manifest, tmp_path / "back")
    pieces[1].unlink()
    with pytest.raises(CheckpointError, match="missing"):
        parts.join(manifest, tmp_path / "back")


def test_what_is_skipped_is_below_the_folder(tmp_path):
    parts, folder = script("parts"), tmp_path / "run"
    for name in ("weights", "run/kept.not", "scores/run"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    joined = parts.join(parts.split(folder, tmp_path / "out", skip=("run",)), tmp_path / "back")
    assert [path.name for path in joined.rglob("*") if path.is_file()] == ["weights"]


@pytest.mark.parametrize(
    "hostile", [{"name": "../evil"}, {"name": "folder/link", "type": tarfile.SYMTYPE, "linkname": "/"}]
)
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, hostile):
    whole = tmp_path / "folder.tar.000"
    with tarfile.open(whole, mode="w") as archive:
        item = tarfile.TarInfo()
        for name, value in hostile.items():
            setattr(item, name, value)
        archive.addfile(item)
    part = {"name": whole.name, "sha256": hashlib.sha256(whole.read_bytes()).hexdigest()}
    (tmp_path / "folder.json").write_text(json.dumps({"folder": "folder", "parts": [part]}))
    with pytest.raises(CheckpointError, match="no plain file of a folder"):
        script("parts").join(tmp_path / "folder.json", tmp_path / "into")
    assert not (tmp_path / "evil").exists()
