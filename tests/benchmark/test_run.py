"""A benchmark's way: what it leaves, how it resumes, and that one failure is one failure."""

from __future__ import annotations

import json
import os
import shutil
import signal

import h5py
import numpy as np
import pytest

from modiff.benchmark import run as room
from modiff.benchmark.numbers import read_numbers
from modiff.benchmark.plan import BenchmarkSettings, rows_of
from modiff.benchmark.run import benchmark
from modiff.benchmark.state import read_state
from modiff.benchmark.tables import facts, tables_of, write_tables
from modiff.cli import main
from modiff.config.data import PhantomConfig
from modiff.data.importers.phantom import write_phantom
from modiff.errors import CheckpointError, ConfigError, DataError
from modiff.evaluation.records import read_result
from modiff.io.output import alone
from modiff.training import loop as training

TINY = (
    "all.training.validation_images=4",
    "prob_unet.model.channels=[4, 8]",
    "cflow.model.channels=[4, 8]",
)
SETTINGS = {"budget": "8img", "seeds": (0,), "batch_size": 4, "ns": (2,), "metrics": ("ged",), "accelerator": "cpu"}
METHODS = ("prob_unet", "cflow")
ONE = {"changes": TINY[:2]}  # settings of the first method alone
WORDS = ["--budget", "8img", "--batch-size", "4", "-n", "2", "--metrics", "ged", "--accelerator", "cpu", "--quiet"]
WORDS += ["--set", TINY[0], "--set", TINY[1], "--methods", "prob_unet"]


def settings(**changed):
    return BenchmarkSettings(**{**SETTINGS, "changes": TINY, **changed})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Thirty simulated patients at 32×32, three of them test."""
    path = tmp_path_factory.mktemp("data") / "phantom.h5"
    return write_phantom(path, PhantomConfig(size=32, spacing=1.4, patients=30, images_per_patient=2), progress=False)


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    """Two methods, two seeds, done."""
    folder = tmp_path_factory.mktemp("benchmarks") / "done"
    benchmark(rows_of(METHODS), settings(seeds=(0, 1)), store, folder)
    return folder


@pytest.fixture
def trained(monkeypatch):
    """The folders that are trained, as they are trained."""
    names, real = [], training.train

    def counted(config, data, folder, **more):
        names.append(folder.name)
        return real(config, data, folder, **more)

    monkeypatch.setattr(training, "train", counted)
    return names


def test_each_method_and_seed_is_a_run_folder_with_its_evaluation(finished):
    runs = read_state(finished).runs
    assert set(runs) == {f"{method}-seed{seed}" for method in METHODS for seed in (0, 1)}
    for run in runs.values():
        assert (run.status, run.images, run.steps) == ("done", 8, 2)
        result = read_result(finished / run.name / "evaluation" / "test.json")
        assert result.made["model"]["name"] == run.name
        ways = {(record.protocol, record.threshold) for record in result.results}
        assert ways == {("standard", 0.5), ("standard", 0.9), ("paper", 0.5), ("paper", 0.9)}


def test_costs_are_recorded_once_a_row(finished):
    cost = read_state(finished).rows["prob_unet"].cost
    assert cost["evaluations"] == 1
    assert cost["parameters"] == json.loads((finished / "prob_unet-seed0" / "card.json").read_text())["parameters"]


def test_costs_are_those_of_a_store_without_a_prompt_and_with_known_raters(store, tmp_path):
    other = shutil.copy(store, tmp_path / "other.h5")
    with h5py.File(other, "r+") as file:
        del file.attrs["checksum"]
        file.attrs["prompt"], file.attrs["exchangeable_raters"] = np.bytes_("none"), np.uint8(0)
    tiny = (TINY[0], "modiff.model.unet.base=8", "modiff.model.presence.base=8")
    state = benchmark(
        rows_of(["modiff"]), settings(changes=tiny, presets={"modiff": "quick"}), other, tmp_path / "made"
    )
    card = json.loads((tmp_path / "made" / "modiff-seed0" / "card.json").read_text())
    assert state.rows["modiff"].cost["parameters"] == card["parameters"]


def test_what_is_done_is_not_done_again(store, finished, trained):
    benchmark(rows_of(METHODS), settings(seeds=(0, 1)), store, finished)
    assert trained == []


@pytest.mark.parametrize(
    ("spoil", "retrained"),
    [
        (shutil.rmtree, ["prob_unet-seed0"]),
        (lambda run: shutil.rmtree(run / "evaluation"), []),
        (lambda run: (run / "evaluation" / "test.json").write_text("{"), []),
        (lambda run: (run / "evaluation" / "test.csv").write_text("case"), []),
        (lambda run: (run / "weights.safetensors").unlink(), ["prob_unet-seed0"]),
        (lambda run: (run / "weights.safetensors").write_bytes(b"half"), ["prob_unet-seed0"]),
    ],
    ids=["folder", "evaluation", "json", "csv", "weights", "half of the weights"],
)
def test_what_was_lost_of_a_finished_run_is_made_again(store, finished, tmp_path, trained, spoil, retrained):
    folder = shutil.copytree(finished, tmp_path / "copy")
    before = (folder / "prob_unet-seed0" / "weights.safetensors").read_bytes()
    spoil(folder / "prob_unet-seed0")
    state = benchmark(rows_of(METHODS), settings(seeds=(0, 1)), store, folder)
    assert state.counts()["done"] == 4
    assert trained == retrained
    assert (folder / "prob_unet-seed0" / "weights.safetensors").read_bytes() == before
    read_numbers(folder, read_state(folder), resamples=10)


def test_an_evaluation_with_other_scoring_is_made_again(store, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    command = ["evaluate", str(folder / "prob_unet-seed0"), "--data", str(store), "-n", "4", "--metrics", "ged"]
    assert main(command) == 0
    with pytest.raises(DataError, match="not this benchmark's evaluation"):
        read_numbers(folder, read_state(folder), resamples=10)
    benchmark(rows_of(METHODS), settings(seeds=(0, 1)), store, folder)
    read_numbers(folder, read_state(folder), resamples=10)


def test_other_scoring_of_some_rows_only_is_refused(store, finished):
    with pytest.raises(ConfigError, match="Name these too: cflow"):
        benchmark(rows_of(METHODS[:1]), settings(seeds=(0, 1), ns=(4,), **ONE), store, finished)


def test_a_signal_while_a_training_is_saved_ends_the_benchmark(store, tmp_path, monkeypatch):
    real = training.files.save_weights

    def signalled(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    monkeypatch.setattr(training.files, "save_weights", signalled)
    state = benchmark(rows_of(METHODS), settings(), store, tmp_path)
    assert [run.status for run in state.runs.values()] == ["trained", "waiting"]


@pytest.mark.parametrize("absent", ["train", "val", "test"])
def test_a_store_without_a_split_is_refused_before_anything_is_made(store, tmp_path, absent):
    other = shutil.copy(store, tmp_path / "other.h5")
    with h5py.File(other, "r+") as file:
        del file.attrs["checksum"]
        file["split"][:] = [b"elsewhere" if name == absent.encode() else name for name in file["split"][:]]
    with pytest.raises(DataError, match=f"no such split: {absent}"):
        benchmark(rows_of(METHODS), settings(), other, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_command_is_finished_when_what_it_asks_for_is(store, finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "copy")
    content = json.loads((folder / "benchmark.json").read_text())
    del content["checksum"]
    content["runs"][-1]["status"] = "waiting"  # cflow, seed 1
    (folder / "benchmark.json").write_text(json.dumps(content))
    words = [*WORDS, "--cases", "0"]
    assert main(["benchmark", "--data", str(store), *words, "--seeds", "1", "-o", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "1 done ->" in said
    assert "in this folder: 1 waiting, 2 done" in said
    assert "resumes" not in said


def test_two_starts_at_once_are_refused(store, tmp_path):
    with alone(tmp_path), pytest.raises(DataError, match="another process works in this folder"):
        benchmark(rows_of(METHODS), settings(), store, tmp_path)


def test_a_file_where_a_run_should_be_fails_that_run_alone(store, tmp_path):
    (tmp_path / "prob_unet-seed0").write_text("")
    state = benchmark(rows_of(METHODS), settings(), store, tmp_path)
    assert {run.name: run.status for run in state.runs.values()} == {
        "prob_unet-seed0": "failed",
        "cflow-seed0": "done",
    }


def test_the_time_of_a_start_ends_scoring_too(store, tmp_path, trained):
    """The clock jumps to its end while samples are drawn: the next start resumes with scoring."""
    work = iter([0.0] * 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "evaluate_to_folder", stopped_by_its_progress)
        patch.setattr(room.time, "monotonic", lambda: next(work, 1e9))
        state = benchmark(rows_of(METHODS[:1]), settings(**ONE), store, tmp_path, max_seconds=1e6)
    assert [run.status for run in state.runs.values()] == ["trained"]
    assert benchmark(rows_of(METHODS[:1]), settings(**ONE), store, tmp_path).counts()["done"] == 1
    assert trained == ["prob_unet-seed0"]


def stopped_by_its_progress(*_, progress, **__):
    for _ in range(100):
        progress(1, 2)
    raise AssertionError("nobody stopped it")


def test_a_run_keeps_how_it_was_made_when_others_are_added(store, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "device_name", lambda device: "one")
    benchmark(rows_of(METHODS[:1]), settings(**ONE), store, tmp_path)
    monkeypatch.setattr(room, "device_name", lambda device: "another")
    benchmark(rows_of(METHODS), settings(), store, tmp_path)
    runs = read_state(tmp_path).runs
    assert runs["prob_unet-seed0"].made["device"] == "one"
    assert runs["cflow-seed0"].made["device"] == "another"
    assert ("Device", "one; another") in facts(read_numbers(tmp_path, read_state(tmp_path), resamples=10))


def test_an_interrupted_benchmark_goes_on_where_it_was(store, tmp_path, trained):
    def interrupt(line):
        if "cflow" in line and "samples" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark(rows_of(METHODS), settings(), store, tmp_path, say=interrupt)
    assert {run.name: run.status for run in read_state(tmp_path).runs.values()} == {
        "prob_unet-seed0": "done",
        "cflow-seed0": "trained",
    }
    state = benchmark(rows_of(METHODS), settings(), store, tmp_path)
    assert state.counts()["done"] == 2
    assert trained == ["prob_unet-seed0", "cflow-seed0"]


def test_a_failing_method_is_written_down_and_the_others_finish(store, tmp_path, monkeypatch, trained):
    counted = training.train

    def failing(config, data, folder, **more):
        if config.method == "prob_unet":
            raise RuntimeError("loss is\nnot finite")
        return counted(config, data, folder, **more)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", failing)
        state = benchmark(rows_of(METHODS), settings(), store, tmp_path)
    assert state.runs["prob_unet-seed0"].error == "RuntimeError: loss is not finite"
    assert "Traceback" in (tmp_path / "prob_unet-seed0" / "error.txt").read_text()
    assert state.runs["cflow-seed0"].status == "done"
    again = benchmark(rows_of(METHODS), settings(), store, tmp_path)
    assert again.runs["prob_unet-seed0"].status == "done"
    assert again.runs["prob_unet-seed0"].error is None
    assert not (tmp_path / "prob_unet-seed0" / "error.txt").exists()
    assert trained == ["cflow-seed0", "prob_unet-seed0"]


def test_a_method_may_be_added(store, tmp_path, monkeypatch):
    monkeypatch.setattr(room._Start, "attempt", lambda start, run, label: setattr(run, "status", "done"))
    benchmark(rows_of(["prob_unet"]), settings(**ONE), store, tmp_path)
    state = benchmark(rows_of(["cflow"]), settings(changes=TINY[2:]), store, tmp_path)
    assert list(state.runs) == ["prob_unet-seed0", "cflow-seed0"]


@pytest.mark.parametrize("changed", [{"budget": "16img"}, {"batch_size": 2}, {"augment": False}, {"deformation": 1.0}])
def test_what_all_share_may_not_change_in_a_folder(store, finished, changed):
    with pytest.raises(ConfigError, match=f"different settings; found {next(iter(changed))}"):
        benchmark(rows_of(METHODS), settings(**changed), store, finished)


def test_a_method_may_not_change_once_it_is_trained(store, finished):
    changes = (*TINY, "cflow.model.flow_steps=2")
    refused = (
        r"cflow-seed0: was trained with other settings and cannot be resumed with these; found model\.flow_steps: 4 → 2"
    )
    with pytest.raises(CheckpointError, match=refused):
        benchmark(rows_of(METHODS), settings(changes=changes), store, finished)


def test_a_run_that_was_trained_further_is_refused(store, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    run = folder / "prob_unet-seed0"
    words = [
        "train",
        "--config",
        run / "config.yaml",
        "--data",
        store,
        "-o",
        run,
        "--training.budget",
        "16img",
        "--quiet",
    ]
    assert main(list(map(str, words))) == 0
    refused = r"prob_unet-seed0: was trained further .*; found 4 steps, 16 images; expected 2 steps, 8 images"
    with pytest.raises(CheckpointError, match=refused):
        benchmark(rows_of(METHODS), settings(seeds=(0, 1)), store, folder)


def test_a_method_may_not_change_where_its_checkpoint_is_gone(store, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    for run in folder.glob("*-seed?"):
        (run / "training.ckpt").unlink()
    benchmark(rows_of(METHODS), settings(seeds=(0, 1)), store, folder)
    with pytest.raises(CheckpointError, match="flow_steps: 4 → 2"):
        benchmark(rows_of(METHODS), settings(changes=(*TINY, "cflow.model.flow_steps=2")), store, folder)


def test_other_scores_are_made_without_training_again(store, tmp_path, trained):
    benchmark(rows_of(["prob_unet"]), settings(**ONE), store, tmp_path)
    benchmark(rows_of(["prob_unet"]), settings(**ONE, ns=(3,)), store, tmp_path)
    result = read_result(tmp_path / "prob_unet-seed0" / "evaluation" / "test.json")
    assert {record.n for record in result.results} == {3}
    assert trained == ["prob_unet-seed0"]


def test_rows_of_an_unfinished_evaluation_with_other_settings_are_thrown_away(store, tmp_path):
    folder = tmp_path / "prob_unet-seed0" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "test.partial-0.jsonl").write_text('{"identity": {"model": "another"}}\n')
    assert benchmark(rows_of(["prob_unet"]), settings(**ONE), store, tmp_path).counts()["done"] == 1
    assert not (folder / "test.partial-0.jsonl").exists()


def test_no_time_left_starts_nothing(store, tmp_path, trained):
    state = benchmark(rows_of(METHODS), settings(), store, tmp_path, max_seconds=0.0)
    assert state.counts()["waiting"] == 2
    assert trained == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "not a benchmark's state"),
        ('{"schema": 2}', "not a benchmark's state"),
        ("{", "cannot be read as JSON.*a benchmark's state"),
    ],
)
def test_a_damaged_state_file_is_named(tmp_path, content, words):
    (tmp_path / "benchmark.json").write_text(content)
    with pytest.raises(DataError, match=words):
        read_state(tmp_path)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("settings", "ns", 4),
        ("settings", "limit", "all"),
        ("settings", "seeds", ["one"]),
        ("settings", "metrics", [3]),
        ("rows", "title", 7),
        ("rows", "tables", "methods"),
        ("runs", "row", ["prob_unet"]),
        ("runs", "images", "many"),
        ("runs", "made", "here"),
    ],
)
def test_values_of_another_type_in_a_state_file_are_named(finished, tmp_path, group, name, value):
    content = json.loads((finished / "benchmark.json").read_text())
    del content["checksum"]
    place = content[group]
    place = place[0] if group == "runs" else place["prob_unet"] if group == "rows" else place
    place[name] = value
    (tmp_path / "benchmark.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=group):
        read_state(tmp_path)


def test_a_run_folder_outside_the_benchmark_is_refused(finished, tmp_path):
    content = json.loads((finished / "benchmark.json").read_text())
    del content["checksum"]
    content["runs"][0]["name"] = "../elsewhere"
    (tmp_path / "benchmark.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="not the name of a run folder"):
        read_state(tmp_path)


def test_the_commands(store, finished, capsys):
    words = ["--data", str(store), *WORDS, "cflow", "--set", TINY[2], "--seeds", "2", "-o", str(finished)]
    assert main(["benchmark", *words, "--cases", "1", "--samples", "2"]) == 0
    out = capsys.readouterr().out
    assert "4 done" in out
    assert "standard protocol, argmax" in out
    files = sorted(path.name for path in (finished / "tables").iterdir())
    assert files == ["figure2-1.png", "tables.csv", "tables.html", "tables.md"]


def test_every_selection_has_tables_of_its_own_and_needs_no_training(store, finished, tmp_path, trained):
    folder = shutil.copytree(finished, tmp_path / "copy")
    before = read_numbers(folder, read_state(folder)).numbers
    selections = ("representative", "iid")
    state = benchmark(rows_of(METHODS), settings(seeds=(0, 1), select=selections), store, folder)
    assert trained == []
    numbers = read_numbers(folder, read_state(folder)).numbers
    assert list(dict.fromkeys(numbers["select"])) == ["iid", "representative"]
    for select in selections:
        own = numbers[(numbers["select"] == select) & (numbers.kind == "measured") & (numbers.row == "cflow")]
        seeds = [
            read_result(folder / name / "evaluation" / "test.json").results for name in ("cflow-seed0", "cflow-seed1")
        ]
        for number in own.itertuples():
            said = [
                record.value
                for records in seeds
                for record in records
                if (record.predictor, record.stratum, record.select) == ("model", "all", select)
                and (record.protocol, record.threshold) == (number.protocol, number.threshold)
                and (record.metric, record.n) == (number.metric, number.n)
            ]
            assert number.value == pytest.approx(np.mean(said))
    iid = numbers[numbers["select"] == "iid"]
    same = ["row", "protocol", "threshold", "metric", "n", "value", "verdict"]
    assert iid[same].values.tolist() == before[same].values.tolist()
    titles = [table.title for table in tables_of(read_numbers(folder, state))]
    assert sum(title.endswith(", representative samples") for title in titles) == 4
    assert sum(title.endswith(", i.i.d. samples") for title in titles) == 4


def test_the_tables_are_written_again_without_a_training(finished, tmp_path, trained):
    (tmp_path / "figure2-1.png").touch()  # of an earlier call
    assert main(["benchmark", "-o", str(finished), "--tables", str(tmp_path), "--cases", "0"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tables.csv", "tables.html", "tables.md"]
    assert trained == []


@pytest.mark.parametrize("option", ["--data", "--budget"])
def test_a_training_needs_data_and_a_budget(store, tmp_path, capsys, option):
    words = {"--data": str(store), "--budget": "8img", "--methods": "cflow", "-o": str(tmp_path / "made")}
    del words[option]
    assert main(["benchmark", *(word for pair in words.items() for word in pair)]) == 2
    assert f"{option}: is needed to train" in capsys.readouterr().err


def test_a_figure_that_cannot_be_drawn_does_not_cost_the_tables(store, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    (folder / "cflow-seed0" / "weights.safetensors").write_bytes(b"")
    written = write_tables(folder, data=store, cases=1, resamples=10)
    assert written.note.startswith("no Figure 2: CheckpointError")
    assert {path.name for path in written.files} == {"tables.md", "tables.csv", "tables.html"}


def test_a_file_is_no_place_for_tables(finished, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a folder"):
        write_tables(finished, tmp_path / "file")
