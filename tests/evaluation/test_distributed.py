"""Two processes count each image exactly once and give the numbers that one gives."""

from __future__ import annotations

import json

import pytest
import torch.multiprocessing as mp
import two_processes
from oracles import Soft, discs

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
