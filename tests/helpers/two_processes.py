"""What each of two processes runs; in a module of its own because a spawned process imports it."""

from __future__ import annotations

import json
from pathlib import Path

from oracles import Soft, discs
from torch import distributed

from modiff.evaluation.distributed import PartialRows
from modiff.evaluation.evaluate import evaluate
from modiff.evaluation.scoring import EvaluationSettings

SETTINGS = EvaluationSettings(ns=(2, 4), resamples=100, control=True)
IMAGES = 23  # odd: a sampler that gives each process equally many would count one image twice


def stop_after_two_batches(folder: Path) -> None:
    """One process that is interrupted."""

    def watch(done: int, total: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    resume = PartialRows(folder / "test.json", {"of": "test"})
    try:
        evaluate(Soft(), discs(IMAGES), SETTINGS, split="test", batch_size=3, resume=resume, progress=watch)
    except KeyboardInterrupt:
        return
    raise AssertionError("was not interrupted")


def run(rank: int, folder: str) -> None:
    """Continues as process `rank` of two; writes what it drew and what it got."""
    here = Path(folder)
    distributed.init_process_group("gloo", init_method=f"file://{here}/meet", rank=rank, world_size=2)
    split, model = discs(IMAGES), Soft()
    resume = PartialRows(here / "test.json", {"of": "test"})
    found = evaluate(model, split, SETTINGS, split="test", batch_size=3, resume=resume)
    distributed.destroy_process_group()
    columns = {quantity.name: values.tolist() for quantity, values in found.columns.items()}
    drawn = sum(count for count, n, _ in model.calls if n == 4)
    text = json.dumps({"columns": columns, "cases": found.cases, "drawn": drawn})
    (here / f"{rank}.json").write_text(text)
