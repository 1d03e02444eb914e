"""The state of a benchmark: what is planned, what is done, what failed; and whether what is done is still there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any

from modiff.benchmark.plan import EVERYONE, TRAINING, BenchmarkSettings, Row, preset_of
from modiff.config.evaluation import IID
from modiff.config.fields import typed
from modiff.data.splits import fold_split
from modiff.errors import CheckpointError, ConfigError, DataError
from modiff.evaluation.compare import read_results
from modiff.evaluation.evaluate import FOLDER
from modiff.evaluation.records import SCHEMA, read_json, read_result
from modiff.io.checksum import stamped_json
from modiff.io.output import write_text
from modiff.methods.run_folder import WEIGHTS
from modiff.methods.weights import check_weights, read_header

STATE = "benchmark.json"
_FIXED = (*TRAINING, "split", "folds")  # what a folder's runs have in common for good
_SCORING = ("ns", "select", "thresholds", "metrics", "limit")
COSTS = ("parameters", "evaluations", "gflop_image", "gflop_sample")  # of a row, as `modiff info METHOD` counts them
_LATER = {"made", "fold", "folds", "select", "deformation", "intensity_augmentation"}  # not in every file


class Status(StrEnum):
    """How far a run is."""

    WAITING, TRAINING, TRAINED, DONE, FAILED = "waiting", "training", "trained", "done", "failed"


@dataclass
class Run:
    """One training of one row. name: its folder. error: why it failed, one line. made: how it was trained.

    fold: the one held out; None where the store's own splits are used.

    made has command, commit, versions, device and date of the start that ended the training.
    """

    name: str
    row: str
    seed: int
    status: str = Status.WAITING
    error: str | None = None
    images: int | None = None
    steps: int | None = None
    seconds: float | None = None
    made: dict[str, Any] | None = None
    fold: int | None = None


@dataclass
class RowFacts:
    """What the tables say of a row. tables: those it is in. changes: against its preset, as they were typed.

    cost: by the names in COSTS; None until known.
    """

    title: str
    method: str
    tables: tuple[str, ...]
    preset: str | None
    changes: tuple[str, ...]
    cost: dict[str, float] | None = None


@dataclass
class State:
    """A benchmark. data: path, fingerprint, source and shape of the store; made: its last start.

    data has the store's folds where the benchmark is of folds.
    """

    settings: BenchmarkSettings
    data: dict[str, Any]
    made: dict[str, Any]
    rows: dict[str, RowFacts] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def folds(self) -> tuple[int | None, ...]:
        """The folds that every row is trained without, one by one; (None,) for the store's own splits."""
        return tuple(self.data.get("folds") or (None,))

    @property
    def seeds(self) -> list[int]:
        """The seeds of all runs, those of earlier starts included."""
        return sorted({run.seed for run in self.runs.values()})

    def counts(self, names: Collection[str] | None = None) -> dict[str, int]:
        """How many runs have each status, of all or of those named."""
        found = [run.status for name, run in self.runs.items() if names is None or name in names]
        return {status: found.count(status) for status in Status}

    def counted(self, names: Collection[str] | None = None) -> str:
        """`counts` in words, e.g. "2 waiting, 3 done"; empty where there are no runs."""
        return ", ".join(f"{count} {status}" for status, count in self.counts(names).items() if count)

    def complete(self) -> list[Run]:
        """The finished runs of those rows and seeds that have finished every fold."""
        done = {(run.row, run.seed, run.fold): run for run in self.runs.values() if run.status == Status.DONE}
        return [run for at, run in done.items() if all((*at[:2], fold) in done for fold in self.folds)]


def write_state(state: State, folder: Path) -> None:
    """Writes DIR/benchmark.json, whole or not at all."""
    settings = asdict(state.settings) | {"seeds": state.seeds}
    if not state.settings.folds:
        del settings["folds"]  # as files have it that are older than folds
    if state.settings.select == (IID,):
        del settings["select"]
    content = {
        "schema": SCHEMA,
        "settings": settings,
        "data": state.data,
        "made": state.made,
        "rows": {key: asdict(row) for key, row in state.rows.items()},
        "runs": [
            {name: value for name, value in asdict(run).items() if (name, value) != ("fold", None)}
            for run in state.runs.values()
        ],
    }
    write_text(folder / STATE, stamped_json(content, indent=1))


def read_state(folder: str | Path) -> State:
    """The state of the benchmark in a folder; raises DataError where there is none or it is not one."""
    path = Path(folder) / STATE
    parts = {"settings": dict, "data": dict, "made": dict, "rows": dict, "runs": list}
    content = read_json(path, parts, what="a benchmark's state", hint="`modiff benchmark` makes one")
    folds = content["data"].get("folds", [])
    if not isinstance(folds, list) or not all(isinstance(fold, int) for fold in folds):
        raise DataError("not a list of folds", path=path, field="data.folds", found=repr(folds)[:60])
    how: Any = {"message": "not as a benchmark writes it", "optional": _LATER}
    try:
        settings = typed(BenchmarkSettings, content["settings"], path=path, field="settings", **how)
    except (TypeError, ValueError, ConfigError) as error:
        raise DataError("settings out of range", path=path, field="settings", found=error) from None
    rows = {key: typed(RowFacts, row, path=path, field=f"rows.{key}", **how) for key, row in content["rows"].items()}
    runs = {}
    for i, plain in enumerate(content["runs"]):
        run, where = typed(Run, plain, path=path, field=f"runs[{i}]", **how), f"runs[{i}]"
        if run.status not in list(Status) or run.row not in rows:
            raise DataError("not a run of this benchmark", path=path, field=where, found=f"{run.row}, {run.status}")
        if Path(run.name).name != run.name or run.name in ("", ".", ".."):  # a run is a folder inside this one
            raise DataError("not the name of a run folder", path=path, field=f"{where}.name", found=run.name)
        runs[run.name] = run
    return State(settings, content["data"], content["made"], rows, runs)


def merge_state(
    folder: Path, settings: BenchmarkSettings, rows: Sequence[Row], data: dict[str, Any], made: dict[str, Any]
) -> State:
    """The state of the folder with the rows and seeds asked for: these may be added, budget and data may not change.

    Raises ConfigError where the folder holds a benchmark of another budget, batch size, split or store, and where the
    scoring is another but not all its rows are asked for.
    """
    state = State(settings, data, made)
    if (folder / STATE).exists():
        before = read_state(folder)
        differ = _changed(before.settings, settings, _FIXED)
        if before.data.get("fingerprint") != data["fingerprint"]:
            differ.append(f"data: {before.data.get('path')} → {data['path']} (other content)")
        if differ:
            what = "existing benchmark in this folder has different settings"
            raise ConfigError(what, path=folder, found="; ".join(differ), hint="Use the same, or another folder (-o)")
        rescored = _changed(before.settings, settings, _SCORING)
        missing = before.rows.keys() - {row.key for row in rows}
        if rescored and missing:  # all rows are scored alike
            what = "new scoring settings apply to every method, and some are not named"
            hint = f"Name these too: {', '.join(key for key in before.rows if key in missing)}"
            raise ConfigError(what, path=folder, found="; ".join(rescored), hint=hint)
        state.rows, state.runs = dict(before.rows), dict(before.runs)
        for run in state.runs.values():
            if run.status == Status.DONE and rescored:
                run.status = Status.TRAINED
    for row in rows:
        known = state.rows.get(row.key)
        reach = {EVERYONE, row.method, row.key} | ({"modiff"} if row.control else set())
        said = [change for change in settings.changes if change.partition(".")[0] in reach]
        if row.control:
            said.append(f"parts of modiff, preset {preset_of('modiff', 'modiff', settings)}")
        preset, cost = preset_of(row.key, row.method, settings), known.cost if known else None
        state.rows[row.key] = RowFacts(row.title, row.method, row.tables, preset, tuple(said), cost)
        for seed, fold in product(settings.seeds, state.folds):
            name = row.folder(seed, fold)
            state.runs.setdefault(name, Run(name, row.key, seed, fold=fold))
    return state


def _changed(before: BenchmarkSettings, now: BenchmarkSettings, names: Collection[str]) -> list[str]:
    """ "name: old → new" of the settings that differ."""
    pairs = ((name, getattr(before, name), getattr(now, name)) for name in names)
    return [f"{name}: {old} → {new}" for name, old, new in pairs if old != new]


def evaluation_of(folder: Path, run: Run, state: State) -> Path:
    """The file of a run's evaluation, once it is known to be of this run, store, split and scoring.

    Raises DataError where there is none, where it is damaged, and where it is of something else.
    """
    scoring, split = state.settings.evaluation(), fold_split(run.fold, state.settings.split)
    path = folder / run.name / FOLDER / f"{scoring.name(split)}.json"
    result = read_result(path)  # its settings are an object, where they are there
    expected = {"model": run.name, "store": state.data.get("fingerprint"), "split": split} | scoring.to_dict()
    own = {"model": result.text("model", "name"), "store": result.text("store", "fingerprint")}
    found = result.made.get("settings", {}) | own | {"split": result.made.get("split")}
    for name, value in expected.items():
        if found.get(name) != value:
            hint = "The command that made the benchmark scores it again"
            there, wanted = (str(one)[:60] for one in (found.get(name), value))
            what = "is not this benchmark's evaluation of the run"
            raise DataError(what, path=path, field=name, found=there, expected=wanted, hint=hint)
    return path


def revise(folder: Path, run: Run, state: State) -> str | None:
    """Sets a finished run back where its evaluation or its weights are gone or damaged; says why, or None."""
    why, status = None, Status.TRAINED
    try:
        read_results(evaluation_of(folder, run, state))
    except DataError as error:
        why = str(error)
    try:
        check_weights(folder / run.name / WEIGHTS)
        read_header(folder / run.name / WEIGHTS)
    except CheckpointError:
        why, status = why or "its weights are gone or damaged", Status.WAITING
    if why is not None:
        run.status = status
    return why
