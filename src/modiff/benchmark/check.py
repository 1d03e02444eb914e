"""Whether a run's evaluation is the benchmark's own: anybody may evaluate a run folder, or copy one, in between."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from modiff.benchmark.state import Run, State
from modiff.data.splits import fold_split
from modiff.errors import DataError
from modiff.evaluation.evaluate import FOLDER
from modiff.evaluation.records import read_result
from modiff.evaluation.results import read_results
from modiff.methods.run_folder import WEIGHTS


def evaluation_of(folder: Path, run: Run, state: State) -> Path:
    """The file of a run's evaluation, once it is known to be of this run, store, split and scoring.

    Raises DataError where there is none, where it is damaged, and where it is of something else.
    """
    scoring, split = state.settings.evaluation(), fold_split(run.fold, state.settings.split)
    path = folder / run.name / FOLDER / f"{scoring.name(split)}.json"
    made = read_result(path).made  # its model, store and settings are objects, where they are there
    expected = {"model": run.name, "store": state.data.get("fingerprint"), "split": split}
    expected |= json.loads(json.dumps(scoring.to_dict()))
    found = {
        **made.get("settings", {}),
        "model": made.get("model", {}).get("name"),
        "store": made.get("store", {}).get("fingerprint"),
        "split": made.get("split"),
    }
    for field, value in expected.items():
        if found.get(field) != value:
            raise DataError(
                "is not this benchmark's evaluation of the run",
                path=path,
                field=field,
                found=str(found.get(field))[:60],
                expected=str(value)[:60],
                hint="The command that made the benchmark scores it again",
            )
    return path


def fault(folder: Path, run: Run, state: State) -> str | None:
    """Why a run that was done has to be scored again, or None."""
    try:
        read_results(evaluation_of(folder, run, state))
    except DataError as error:
        return str(error)
    return None if has_weights(folder / run.name) else "its weights are gone or damaged"


def has_weights(folder: Path) -> bool:
    """Whether the run folder has weights that can be read."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False
