"""The state file of a benchmark: what is planned, what is done, what failed; written whole at every step."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from modiff.benchmark.plan import EVERYONE, BenchmarkSettings, Row, preset_of
from modiff.errors import ConfigError, DataError
from modiff.io.files import write_text

STATE = "benchmark.json"
SCHEMA = 1
WAITING, TRAINING, TRAINED, DONE, FAILED = "waiting", "training", "trained", "done", "failed"
_STATUSES = (WAITING, TRAINING, TRAINED, DONE, FAILED)
_FIXED = ("budget", "batch_size", "augment", "split", "folds")  # what a folder's runs have in common for good
_SCORING = ("ns", "thresholds", "metrics", "limit")
COSTS = ("parameters", "evaluations", "gflop_image", "gflop_sample")  # of a row, as `modiff info METHOD` counts them
_LATER = {"made", "fold", "folds"}  # older files lack them, and those without folds the last two
_T = TypeVar("_T")


@dataclass
class Run:
    """One training of one row. name: its folder. error: why it failed, one line. made: how it was trained.

    fold: the one held out; None where the store's own splits are used.

    made has command, commit, versions, device and date of the start that ended the training.
    """

    name: str
    row: str
    seed: int
    status: str = WAITING
    error: str | None = None
    images: int | None = None
    steps: int | None = None
    seconds: float | None = None
    made: dict[str, Any] | None = None
    fold: int | None = None


@dataclass
class RowFacts:
    """What the tables say of a row. tables: those it stands in. changes: against its preset, as they were typed.

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
        return {status: found.count(status) for status in _STATUSES}

    def counted(self, names: Collection[str] | None = None) -> str:
        """`counts` in words, e.g. "2 waiting, 3 done"; empty where there are no runs."""
        return ", ".join(f"{count} {status}" for status, count in self.counts(names).items() if count)

    def complete(self) -> list[Run]:
        """The finished runs of those rows and seeds that have finished every fold."""
        done = {(run.row, run.seed, run.fold): run for run in self.runs.values() if run.status == DONE}
        return [run for at, run in done.items() if all((*at[:2], fold) in done for fold in self.folds)]


def write_state(state: State, folder: Path) -> None:
    """Writes DIR/benchmark.json, whole or not at all."""
    settings = asdict(state.settings) | {"seeds": state.seeds}
    if not state.settings.folds:
        del settings["folds"]  # as files have it that are older than folds
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
    write_text(folder / STATE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_state(folder: str | Path) -> State:
    """The state of the benchmark in a folder; raises DataError where there is none or it is not one."""
    path = Path(folder) / STATE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            "holds no benchmark", path=folder, expected=STATE, hint="`modiff benchmark` makes one"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("not a benchmark's state", path=path, found=error) from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError("not a benchmark's state", path=path, field="schema", expected=SCHEMA)
    for name, kind in {"settings": dict, "data": dict, "made": dict, "rows": dict, "runs": list}.items():
        if not isinstance(content.get(name), kind):
            found = type(content.get(name)).__name__
            raise DataError("of another type", path=path, field=name, found=found, expected=kind.__name__)
    folds = content["data"].get("folds", [])
    if not isinstance(folds, list) or not all(isinstance(fold, int) for fold in folds):
        raise DataError("not a list of folds", path=path, field="data.folds", found=repr(folds)[:60])
    try:
        settings = _typed(BenchmarkSettings, content["settings"], path, "settings")
    except (TypeError, ValueError, ConfigError) as error:
        raise DataError("settings out of range", path=path, field="settings", found=error) from None
    rows = {key: _typed(RowFacts, row, path, f"rows.{key}") for key, row in content["rows"].items()}
    runs = [_run(run, rows, path, f"runs[{i}]") for i, run in enumerate(content["runs"])]
    return State(settings, content["data"], content["made"], rows, {run.name: run for run in runs})


def _typed(kind: type[_T], content: Any, path: Path, where: str) -> _T:
    """A dataclass from plain data; DataError for names that are missing or unknown, and for values of another type."""
    hints = get_type_hints(kind)
    if not isinstance(content, dict) or not hints.keys() - _LATER <= content.keys() <= hints.keys():
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError("not as a benchmark writes it", path=path, field=where, found=found, expected=", ".join(hints))
    for name, value in content.items():
        if not isinstance(value, _plain_types(hints[name])):
            raise DataError("of another type", path=path, field=f"{where}.{name}", found=repr(value)[:60])
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})


def _plain_types(hint: Any) -> tuple[type, ...]:
    """What JSON has for values of a type hint."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = [get_origin(option) or option for option in options]
    as_json: dict[type, tuple[type, ...]] = {tuple: (list,), Mapping: (dict,), float: (float, int)}
    return tuple(plain for kind in kinds for plain in as_json.get(kind, (kind,)))


def _run(content: Any, rows: Mapping[str, RowFacts], path: Path, where: str) -> Run:
    run = _typed(Run, content, path, where)
    if run.status not in _STATUSES or run.row not in rows:
        raise DataError("not a run of this benchmark", path=path, field=where, found=f"{run.row}, {run.status}")
    if Path(run.name).name != run.name or run.name in ("", ".", ".."):  # a run is a folder inside this one
        raise DataError("not the name of a run folder", path=path, field=f"{where}.name", found=run.name)
    return run


def merge_state(
    before: State | None,
    settings: BenchmarkSettings,
    rows: tuple[Row, ...],
    data: dict[str, Any],
    made: dict[str, Any],
    folder: Path,
) -> State:
    """The state with what is asked for now: methods and seeds may be added, budget and data may not change.

    Raises ConfigError where the folder holds a benchmark of another budget, batch size, split or store, and where the
    scoring is another but not all its rows are asked for.
    """
    rescored: list[str] = []
    state = State(settings, data, made)
    if before is not None:
        _check_same(before, settings, data, folder)
        rescored = _changed(before.settings, settings, _SCORING)
        missing = before.rows.keys() - {row.key for row in rows}
        if rescored and missing:  # all rows are scored alike
            raise ConfigError(
                "other scoring concerns every row, and some are not named",
                path=folder,
                found="; ".join(rescored),
                hint=f"Name these too: {', '.join(key for key in before.rows if key in missing)}",
            )
        state.rows, state.runs = dict(before.rows), dict(before.runs)
    for row in rows:
        known = state.rows.get(row.key)
        state.rows[row.key] = _facts(row, settings, known.cost if known else None)
        for seed, fold in product(settings.seeds, state.folds):
            name = row.folder(seed, fold)
            state.runs.setdefault(name, Run(name, row.key, seed, fold=fold))
    for run in state.runs.values():
        if run.status == DONE and rescored:
            run.status = TRAINED
    return state


def _facts(row: Row, settings: BenchmarkSettings, cost: dict[str, float] | None) -> RowFacts:
    names = {EVERYONE, row.method, row.key} | ({"modiff"} if row.control else set())
    typed = [change for change in settings.changes if change.partition(".")[0] in names]
    if row.control:
        typed.append(f"parts of modiff, preset {preset_of('modiff', 'modiff', settings)}")
    preset = preset_of(row.key, row.method, settings)
    return RowFacts(row.title, row.method, row.tables, preset, tuple(typed), cost)


def _changed(before: BenchmarkSettings, now: BenchmarkSettings, names: Collection[str]) -> list[str]:
    """ "name: old → new" of the settings that differ."""
    pairs = ((name, getattr(before, name), getattr(now, name)) for name in names)
    return [f"{name}: {old} → {new}" for name, old, new in pairs if old != new]


def _check_same(before: State, now: BenchmarkSettings, data: dict[str, Any], folder: Path) -> None:
    differ = _changed(before.settings, now, _FIXED)
    if before.data.get("fingerprint") != data["fingerprint"]:
        differ.append(f"data: {before.data.get('path')} → {data['path']} (other content)")
    if differ:
        raise ConfigError(
            "existing benchmark in this folder has different settings",
            path=folder,
            found="; ".join(differ),
            hint="Use the same, or another folder (-o)",
        )
