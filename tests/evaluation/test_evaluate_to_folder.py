"""An evaluation on disk: its two files, how it was made, and what happens when it is interrupted or repeated."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from described import spec
from oracles import IidRaters, discs

from modiff.cli import main
from modiff.data.loading import load
from modiff.data.store import StoreWriter
from modiff.data.store_format import StoreInfo
from modiff.errors import CheckpointError, DataError
from modiff.evaluation.compare import read_results
from modiff.evaluation.evaluate import evaluate_to_folder
from modiff.evaluation.records import EMPTY, read_csv, read_result, select
from modiff.evaluation.scoring import EvaluationSettings
from modiff.io.checksum import read_lines, stamped_json
from modiff.types import Samples

SMALL = EvaluationSettings(ns=(2, 4), resamples=100)
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store whose images show the raters' masks, a channel each, so that the tests' models can see them."""
    path = tmp_path_factory.mktemp("store") / "discs.h5"
    info = StoreInfo(NAMES, ("disc",), NAMES, exchangeable_raters=True, intensity="unit", prompt="none")
    split = discs(24)
    with StoreWriter(path, info) as writer:
        for i, case in enumerate(split.cases):
            masks = split.masks[i].astype(np.uint8)
            writer.add(255 * masks, masks, split.read[i], case=case, patient=split.patients[i], split="test")
    return path


class Interrupted(IidRaters):
    """Gives up after some calls, as if the program were killed."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def sample(self, *args, **kwargs):
        if len(self.calls) >= self.after:
            raise KeyboardInterrupt
        return super().sample(*args, **kwargs)


def loaded(model=None):
    return SimpleNamespace(model=model or IidRaters(), config={"method": "oracle"}, card={}, data=spec({}))


def evaluated(store, folder, model=None, settings=SMALL, **more):
    given = {"split": "test", "data": store, "model_name": "oracle", "batch_size": 5, **more}
    return evaluate_to_folder(loaded(model), load(store, "test"), folder, settings, **given)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_result_is_a_csv_and_a_json_named_by_the_split(store, tmp_path):
    written = evaluated(store, tmp_path / "evaluation")
    assert files(tmp_path / "evaluation") == ["test.csv", "test.json"]
    assert written == tmp_path / "evaluation" / "test.json"
    (ged,) = select(read_result(written).results, metric="ged", predictor="model", protocol="paper", n=4, stratum="all")
    table = read_csv(written.with_suffix(".csv"), "test")
    assert len(table) == 24
    assert replace(ged, seconds_per_image=None) in table.records(resamples=SMALL.resamples)


def test_made_says_how(store, tmp_path):
    made = json.loads(evaluated(store, tmp_path).read_text())["made"]
    assert {"command", "commit", "versions", "device", "store", "model", "date", "seed"} <= set(made)
    assert made["store"] == {"path": str(store.resolve()), "fingerprint": load(store, "test").fingerprint}
    assert set(made["versions"]) >= {"modiff", "torch", "numpy", "python"}


def test_an_interrupted_evaluation_leaves_no_result(store, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tmp_path, Interrupted(2))
    assert files(tmp_path) == ["test.partial-0.jsonl"]


def test_the_same_command_continues_where_it_stopped(store, tmp_path):
    whole = evaluated(store, tmp_path / "whole").with_suffix(".csv").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tmp_path / "again", Interrupted(2))
    model = Interrupted(100)
    assert evaluated(store, tmp_path / "again", model).with_suffix(".csv").read_bytes() == whole
    assert [count for count, n, _ in model.calls if n == 4] == [5, 5, 4]
    assert files(tmp_path / "again") == ["test.csv", "test.json"]


def test_a_line_that_was_cut_off_is_drawn_again(store, tmp_path):
    whole = evaluated(store, tmp_path / "whole").with_suffix(".csv").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tmp_path / "again", Interrupted(2))
    part = tmp_path / "again" / "test.partial-0.jsonl"
    part.write_bytes(part.read_bytes()[:-40])
    assert evaluated(store, tmp_path / "again", Interrupted(100)).with_suffix(".csv").read_bytes() == whole


@pytest.mark.parametrize("cut", [0, 10])
def test_a_part_without_even_its_first_line_is_begun_again(store, tmp_path, cut):
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tmp_path, Interrupted(2))
    part = tmp_path / "test.partial-0.jsonl"
    part.write_bytes(part.read_bytes()[:cut])
    assert len(read_csv(evaluated(store, tmp_path).with_suffix(".csv"), "test")) == 24


def test_rows_of_another_setting_are_not_mixed_in(store, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tmp_path, Interrupted(2))
    with pytest.raises(CheckpointError, match=r"n \(\[2, 4\] there, \[8\] here\)"):
        evaluated(store, tmp_path, settings=EvaluationSettings(ns=(8,), resamples=100))


def test_rows_of_another_model_are_not_mixed_in(store, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tmp_path, Interrupted(2))
    other = Interrupted(100)
    other.scale.data.fill_(2.0)
    with pytest.raises(CheckpointError, match="differs in model"):
        evaluated(store, tmp_path, other)


def test_restart_throws_such_rows_away(store, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tmp_path, Interrupted(2))
    assert evaluated(store, tmp_path, settings=EvaluationSettings(ns=(8,)), restart=True).is_file()
    assert files(tmp_path) == ["test.csv", "test.json"]


def test_a_damaged_part_is_refused(store, tmp_path):
    (tmp_path / "test.partial-0.jsonl").write_text("not JSON\n")
    with pytest.raises(CheckpointError, match="--restart"):
        evaluated(store, tmp_path)


def test_other_steps_do_not_replace_the_main_result(store, tmp_path):
    evaluated(store, tmp_path)
    evaluated(store, tmp_path, settings=EvaluationSettings(ns=(2,), steps=(5,), limit=6, resamples=50))
    assert files(tmp_path) == ["test-steps5-limit6.csv", "test-steps5-limit6.json", "test.csv", "test.json"]
    written = evaluated(store, tmp_path, settings=EvaluationSettings(ns=(2,), limit=40, resamples=50))
    assert "--limit 40: there are 24, all of them are scored" in read_result(written).made["notes"]


def test_a_model_of_other_channels_is_refused_before_work(store, tmp_path):
    with pytest.raises(DataError, match="channels"):
        evaluated(store, tmp_path / "none", IidRaters(raters=3))
    assert not (tmp_path / "none").exists()


def test_data_unlike_the_models_own_is_noted(store, tmp_path):
    trained = SimpleNamespace(**{**vars(loaded()), "data": spec({"intensity": "window:-1000:400"})})
    written = evaluate_to_folder(
        trained, load(store, "test"), tmp_path, SMALL, split="test", data=store, model_name="oracle"
    )
    assert read_result(written).made["notes"] == [
        "the model was trained on data of intensity window:-1000:400, this store has unit"
    ]


def test_equal_runs_give_equal_records(store, tmp_path):
    a, b = (read_result(evaluated(store, tmp_path / name)).results for name in "ab")
    assert [r.value for r in a] == [r.value for r in b]
    assert [r.ci_low for r in a] == [r.ci_low for r in b]


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A run folder whose model is the oracle, and no other model."""
    folder = tmp_path / "run"
    stub = {**vars(loaded()), "folder": folder}  # a model of another name is a packaged one
    monkeypatch.setattr("modiff.methods.run_folder.load_model", lambda path: SimpleNamespace(**stub))
    folder.mkdir()
    (folder / "config.yaml").touch()
    return folder


def test_the_command_writes_into_the_run_folder_and_names_everything_above_its_numbers(store, run_folder, capsys):
    command = ["evaluate", str(run_folder), "--data", str(store), "-n", "2", "4", "--device", "cpu", "--control"]
    assert main(command) == 0
    assert files(run_folder / "evaluation") == ["test.csv", "test.json"]
    title, *rest = capsys.readouterr().out.splitlines()
    assert title.strip() == "standard protocol, argmax, split test, all images"
    assert " 24 " in next(line for line in rest if line.startswith("GED "))
    assert "paper protocol, p ≥ 0.9, split test, all images" in map(str.strip, rest)
    assert any("shuffled −" in line and " to " in line for line in rest)


def test_the_commands_options_reach_the_records(store, run_folder, tmp_path):
    where = ["--data", str(store), "-o", str(tmp_path / "out"), "--device", "cpu"]
    what = ["-n", "3", "--steps", "5", "10", "--protocol", "standard", "--threshold", "0.25"]
    assert main(["evaluate", str(run_folder), *where, *what, "--limit", "20", "--seed", "1"]) == 0
    results = read_result(tmp_path / "out" / "test-steps5-10-limit20-seed1.json").results
    found = {(r.protocol, r.n, r.steps, r.threshold) for r in select(results, predictor="model", stratum="all")}
    assert found == {("standard", 3, steps, threshold) for steps in (5, 10) for threshold in (0.25, 0.5)}


@pytest.mark.parametrize(
    "wrong",
    [["-n", "0"], ["--split", "none"], ["--protocol", "other"], ["--device", "abacus"], ["--batch-size", "0"]],
)
def test_what_cannot_be_done_is_one_line(store, run_folder, capsys, wrong):
    assert main(["evaluate", str(run_folder), "--data", str(store), *wrong]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_packaged_model_needs_a_folder_for_its_results(store, run_folder, capsys):
    assert main(["evaluate", "lidc", "--data", str(store)]) == 2
    assert "-o" in capsys.readouterr().err


def test_what_is_neither_a_model_nor_samples_is_refused(store, run_folder, capsys):
    assert main(["evaluate", "no-such-folder", "--data", str(store)]) == 2
    assert "no-such-folder: neither a model nor samples" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--truth", "x"], ["--data", "x", "--values", "masks"]])
def test_options_of_files_are_refused_for_a_model(run_folder, capsys, words):
    assert main(["evaluate", str(run_folder), *words]) == 2
    assert f"{words[-2]}: is not an option where a model is scored" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--data", "x"], ["--truth", "x", "--control"]])
def test_options_of_a_model_are_refused_for_files(tmp_path, capsys, words):
    assert main(["evaluate", str(tmp_path), *words]) == 2
    assert "is not an option where files are scored" in capsys.readouterr().err


def test_a_store_to_score_on_is_asked_for(run_folder, capsys):
    assert main(["evaluate", str(run_folder)]) == 2
    assert "--data: is needed where a model is scored" in capsys.readouterr().err


def test_help_states_the_settings_defaults():
    from modiff.cli.evaluate import parser

    text = parser("modiff evaluate").format_help()
    defaults = EvaluationSettings()
    assert f"({' '.join(map(str, defaults.ns))})" in text
    assert f"({defaults.seed})" in text


def test_weights_decide_the_models_fingerprint():
    from modiff.evaluation.provenance import model_fingerprint

    a, b = IidRaters(), IidRaters()
    assert model_fingerprint(a) == model_fingerprint(b)
    with torch.no_grad():
        b.scale += 1e-7
    assert model_fingerprint(a) != model_fingerprint(b)


@pytest.mark.parametrize("value", [0.0, 0.9])
def test_samples_that_are_all_empty_are_told_of(store, tmp_path, value):
    class Constant(IidRaters):
        def sample(self, *args, **more):
            found = super().sample(*args, **more)
            return Samples.uniform(torch.full_like(found.maps, value))

    written = evaluated(store, tmp_path, model=Constant())
    assert (EMPTY in read_result(written).made["notes"]) is (value == 0)


def test_no_flipped_bit_of_unfinished_rows_gives_another_table(store, tmp_path):
    whole = evaluated(store, tmp_path / "whole").with_suffix(".csv").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tmp_path / "kept", Interrupted(2))
    data, rng = (tmp_path / "kept" / "test.partial-0.jsonl").read_bytes(), random.Random(0)
    for number in range(20):
        bit, folder = rng.randrange(8 * len(data)), tmp_path / str(number)
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        folder.mkdir()
        (folder / "test.partial-0.jsonl").write_bytes(damaged)
        with suppress(CheckpointError):
            assert evaluated(store, folder).with_suffix(".csv").read_bytes() == whole


@pytest.mark.parametrize(
    "change", [{"values": [1]}, {"case": None}, {"seconds": {"5": "x"}}, {"control": {"case": "a"}}]
)
def test_rows_that_an_evaluation_does_not_write_are_refused(store, tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tmp_path, Interrupted(2))
    part = tmp_path / "test.partial-0.jsonl"
    first, *rows = read_lines(part)
    part.write_text("".join(map(stamped_json, [first, *rows[:-1], rows[-1] | change])))
    with pytest.raises(CheckpointError, match=r"line \d+: rows of an unfinished evaluation: not a row.*--restart"):
        evaluated(store, tmp_path)


def test_a_table_that_was_changed_is_refused(store, tmp_path):
    written = evaluated(store, tmp_path)
    table = written.with_suffix(".csv")
    head, row, rest = table.read_text().split("\n", 2)
    case, patient, more = row.split(",", 2)
    table.write_text(f"{head}\n{case},{patient}0,{more}\n{rest}")  # another patient: no mean differs
    with pytest.raises(DataError, match=r"test\.csv: SHA-256: is damaged"):
        read_results(written)


class Half(IidRaters):
    """Takes down in which type its products are."""

    def sample(self, *args, **kwargs):
        one = torch.ones(2, 2)
        self.products = (one @ one).dtype
        return super().sample(*args, **kwargs)


def test_networks_compute_in_bfloat16_where_asked_and_the_result_says_so(store, tmp_path):
    results = {}
    for precision, products in {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}.items():
        model = Half()
        results[precision] = read_result(evaluated(store, tmp_path / precision, model, precision=precision))
        assert model.products == products
    full, half = results.values()
    assert [record.value for record in full.results] == [record.value for record in half.results]  # metrics are not
    assert [note for note in half.made["notes"] if note not in full.made["notes"]] == [
        "the networks computed in bfloat16 (--precision bf16-mixed)"
    ]


def test_an_evaluation_resumes_in_its_own_precision_only(store, tmp_path):
    with suppress(KeyboardInterrupt):
        evaluated(store, tmp_path, Interrupted(2))
    with pytest.raises(CheckpointError, match="precision"):
        evaluated(store, tmp_path, precision="bf16-mixed")
