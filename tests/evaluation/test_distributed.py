"""Two processes count each image exactly once and give the numbers that one gives."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch.multiprocessing as mp
import two_processes
from oracles import IidRaters, Soft, discs

from modiff.errors import CheckpointError
from modiff.evaluation import distributed as processes
from modiff.evaluation.evaluate import evaluate


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two processes that continue what one began."""
    folder = tmp_path_factory.mktemp("processes")
    two_processes.stop_after_two_batches(folder)
    mp.spawn(two_processes.run, (str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_give_the_values_of_one(both):
    one = evaluate(Soft(), discs(two_processes.IMAGES), two_processes.SETTINGS, split="test")
    assert both[0]["columns"] == {quantity.name: values.tolist() for quantity, values in one.columns.items()}


def test_both_processes_know_the_whole_result(both):
    assert both[0]["columns"] == both[1]["columns"]


def test_each_image_is_in_the_table_once(both):
    assert both[0]["cases"] == list(discs(two_processes.IMAGES).cases)


def test_each_image_is_drawn_once(both):
    assert both[0]["drawn"] + both[1]["drawn"] == two_processes.IMAGES - 6


def test_the_work_is_shared(both):
    assert abs(both[0]["drawn"] - both[1]["drawn"]) <= 1


def test_alone_a_process_has_everything():
    assert (processes.rank(), processes.count(), processes.gather([1, 2, 3])) == (0, 1, [1, 2, 3])


ROW = {"case": "a", "patient": "p", "stratum": "none", "raters": 4, "values": {"ged": 0.5, "ci": None}, "seconds": {}}


@pytest.mark.parametrize(
    "line",
    [
        *(json.dumps({key: value for key, value in ROW.items() if key != name}) for name in ROW),
        *(json.dumps(ROW | {name: [1]}) for name in ROW),
        json.dumps(ROW | {"values": {"ged": "0.5"}}),
        json.dumps(ROW | {"control": {"case": "b"}}),
        json.dumps(ROW | {"more": 1}),
        "[" * 100_000 + "]" * 100_000,
        '{"case": "a", "case": "b"}',
        "[]",
        "9" * 5000,
    ],
)
def test_rows_that_are_not_as_they_were_written_are_refused(tmp_path, line):
    kept = processes.PartialRows(tmp_path / "test.json", {"seed": 1})
    path = tmp_path / "test.partial-0.jsonl"
    begun = json.dumps({"identity": {"seed": 1}}) + "\n" + json.dumps(ROW) + "\n"
    path.write_text(begun + json.dumps(ROW | {"case": "b", "values": {"ged": float("nan")}}) + "\n")
    assert [row["case"] for row in kept.read()] == ["a", "b"]
    path.write_text(begun + line + "\n")
    with pytest.raises(CheckpointError, match=r"partial-0\.jsonl: line 3: rows of an unfinished evaluation.*--restart"):
        kept.read()


def test_rows_of_marking_raters_are_resumed(tmp_path):
    settings, kept = replace(two_processes.SETTINGS, given="marks"), processes.PartialRows(tmp_path / "test.json", {})
    first = evaluate(IidRaters(), discs(), settings, split="test", resume=kept)
    assert {row["case"] for row in kept.read()} == set(first.cases)
    again = evaluate(IidRaters(), discs(), settings, split="test", resume=kept)
    assert again.few == first.few
    assert all(np.array_equal(again.columns[name], values, equal_nan=True) for name, values in first.columns.items())
