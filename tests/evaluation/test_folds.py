"""Cross-validation: a run trained without a fold is scored on it, and a benchmark pools the patients of all folds."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from modiff.benchmark.numbers import read_numbers
from modiff.benchmark.plan import BenchmarkSettings, rows_of
from modiff.benchmark.run import benchmark
from modiff.benchmark.state import read_state
from modiff.benchmark.tables import facts, write_tables
from modiff.cli import main
from modiff.config.data import PhantomConfig
from modiff.config.run import build_config
from modiff.data.importers.phantom import write_phantom
from modiff.data.store import Store
from modiff.errors import CheckpointError, ConfigError, DataError
from modiff.evaluation.compare import read_methods
from modiff.evaluation.records import read_result
from modiff.training.loop import train

SETS = ("all.training.validation_images=4", "prob_unet.model.channels=[4, 8]", "cflow.model.channels=[4, 8]")
SETTINGS = BenchmarkSettings(
    "8img", (0,), batch_size=4, ns=(2,), metrics=("ged",), accelerator="cpu", folds=True, changes=SETS
)
FOLDS = (0, 1, 2)
PHANTOM = PhantomConfig(size=32, spacing=1.4, patients=9, images_per_patient=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Nine simulated patients in three folds."""
    return write_phantom(tmp_path_factory.mktemp("data") / "folds.h5", PHANTOM, folds=3, progress=False)


@pytest.fixture(scope="module")
def config():
    changes = {
        "model": {"channels": [4, 8]},
        "training": {"budget": "8img", "batch_size": 4, "validation_images": 4},
        "trainer": {"accelerator": "cpu", "precision": "32-true"},
    }
    return build_config(preset="prob_unet", changes=changes)


@pytest.fixture(scope="module")
def trained(store, config, tmp_path_factory):
    """A run that fold 1 was held out of."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(config, store, folder, fold=1, quiet=True)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, to be evaluated."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    """Two methods on every fold."""
    folder = tmp_path_factory.mktemp("benchmarks") / "done"
    benchmark(rows_of(["prob_unet", "cflow"]), SETTINGS, store, folder)
    return folder


def cases_of(store, split):
    with Store.open(store) as opened:
        return set(opened.cases[opened.rows(split)].tolist())


def evaluate(run, store, *words):
    return main(["evaluate", str(run), "--data", str(store), "-n", "2", "--device", "cpu", *words])


def scored(path):
    with path.open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_a_run_records_its_fold_and_sees_the_others_alone(store, trained):
    data, card = (json.loads((trained / name).read_text()) for name in ("data.json", "card.json"))
    assert data["fold"] == card["trained_on"]["fold"] == 1
    assert data["images"] == len(cases_of(store, "fold1-train"))


def test_a_run_without_folds_records_none(store, config, tmp_path):
    train(config, store, tmp_path, quiet=True)
    assert "fold" not in json.loads((tmp_path / "data.json").read_text())


def test_the_command_holds_out_a_fold(store, tmp_path):
    words = ["--method", "prob_unet", "--model.channels", "[4, 8]", "--training.budget", "4img"]
    words += ["--training.batch_size", "4", "--trainer.accelerator", "cpu", "--fold", "2"]
    assert main(["train", "--data", str(store), "-o", str(tmp_path / "run"), *words]) == 0
    assert json.loads((tmp_path / "run" / "data.json").read_text())["fold"] == 2


@pytest.mark.parametrize("fold", [0, None])
def test_a_run_is_not_resumed_on_another_fold(store, config, run, fold):
    with pytest.raises(CheckpointError, match=f"fold: 1 → {fold}"):
        train(config, store, run, fold=fold, quiet=True)


def test_a_run_of_a_fold_is_scored_on_the_patients_held_out(store, run):
    assert evaluate(run, store) == 0
    result = read_result(run / "evaluation" / "fold1-test.json")
    assert (result.made["split"], result.made["fold"]) == ("fold1-test", 1)
    assert [note for note in result.made["notes"] if "fold" in note] == []
    assert {record.split for record in result.results} == {"fold1-test"}
    assert set(scored(run / "evaluation" / "fold1-test.csv")) == cases_of(store, "fold1-test")


@pytest.mark.parametrize(("words", "split"), [(("--fold", "0"), "fold0-test"), (("--fold", "none"), "test")])
def test_other_images_can_be_asked_for_and_a_note_says_what_that_means(store, run, words, split):
    assert evaluate(run, store, *words) == 0
    made = read_result(run / "evaluation" / f"{split}.json").made
    assert made["split"] == split
    assert any("all folds but 1: it may have seen images" in note for note in made["notes"])


def test_another_store_is_scored_by_its_own_splits(run, tmp_path):
    other = write_phantom(tmp_path / "other.h5", PHANTOM, progress=False)
    assert evaluate(run, other) == 0
    assert (run / "evaluation" / "test.json").exists()


def test_what_is_no_fold_is_refused(store, run, capsys):
    assert evaluate(run, store, "--fold", "one") == 2
    assert "--fold: is not a fold; found one" in capsys.readouterr().err


def test_results_of_different_folds_are_not_compared(store, run):
    evaluate(run, store)
    evaluate(run, store, "--fold", "0")
    files = [run / "evaluation" / f"fold{fold}-test.json" for fold in (0, 1)]
    with pytest.raises(DataError, match="split: results of different data or settings cannot be compared"):
        read_methods(files)


def test_a_report_has_pictures_of_the_patients_held_out(store, run):
    evaluate(run, store)
    assert main(["report", str(run)]) == 0
    assert "Split fold1-test" in (run / "report.html").read_text()


def test_a_benchmark_has_a_run_per_method_seed_and_fold(store, finished):
    runs = read_state(finished).runs
    assert list(runs) == [f"{method}-seed0-fold{fold}" for method in ("prob_unet", "cflow") for fold in FOLDS]
    for run in runs.values():
        assert run.status == "done"
        result = finished / run.name / "evaluation" / f"fold{run.fold}-test.csv"
        assert set(scored(result)) == cases_of(store, f"fold{run.fold}-test")


def test_tables_pool_the_patients_of_all_folds(store, finished):
    tables = read_numbers(finished, read_state(finished), resamples=10)
    assert (tables.images, tables.patients, tables.split) == (18, 9, "test of folds 0, 1, 2")
    here = [n for n in tables.numbers.itertuples() if (n.row, n.protocol, n.threshold) == ("cflow", "standard", 0.5)]
    column = "ged|model|standard|n=2|steps=1|threshold=0.5"
    files = [finished / f"cflow-seed0-fold{fold}" / "evaluation" / f"fold{fold}-test.csv" for fold in FOLDS]
    values = [float(row[column]) for file in files for row in scored(file).values()]
    (number,) = here
    assert (number.metric, number.n, number.seeds) == ("ged", 2, 1)
    assert number.value == pytest.approx(np.mean(values), abs=1e-12)


def test_tables_say_that_they_are_of_folds(finished, tmp_path):
    write_tables(finished, tmp_path, cases=1, samples=2, resamples=10)
    assert all("test of folds 0, 1, 2" in (tmp_path / name).read_text() for name in ("tables.md", "tables.csv"))
    tables = read_numbers(finished, read_state(finished), resamples=10)
    assert any(name == "Folds" and text.startswith("0, 1, 2") for name, text in facts(tables))


def test_a_method_that_lacks_a_fold_is_named_and_left_out(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    state = read_state(folder)
    state.runs["cflow-seed0-fold2"].status = "failed"
    tables = read_numbers(folder, state, resamples=10)
    assert {number.row for number in tables.numbers.itertuples() if number.kind == "measured"} == {"prob_unet"}
    assert "cflow-seed0-fold0: done, but not every fold of this method and seed is" in tables.left_out
    state.runs["prob_unet-seed0-fold0"].status = "waiting"
    with pytest.raises(DataError, match="no method has finished every fold"):
        read_numbers(folder, state, resamples=10)


def test_a_folder_of_folds_is_not_one_of_splits(store, finished):
    plain = BenchmarkSettings("8img", (0,), batch_size=4, ns=(2,), metrics=("ged",), accelerator="cpu", changes=SETS)
    with pytest.raises(ConfigError, match="different settings; found folds: True → False"):
        benchmark(rows_of(["prob_unet", "cflow"]), plain, store, finished)


def test_a_store_without_folds_is_refused_before_anything_is_made(tmp_path):
    store = write_phantom(tmp_path / "plain.h5", PHANTOM, progress=False)
    with pytest.raises(DataError, match=r"has no folds.*--folds K"):
        benchmark(rows_of(["prob_unet", "cflow"]), SETTINGS, store, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_folds_are_scored_on_the_patients_held_out_and_no_others():
    with pytest.raises(ConfigError, match="split: folds are scored on the patients held out"):
        BenchmarkSettings("8img", folds=True, split="val")
