"""The state file of a benchmark: what is planned, what is done, what failed; written whole at every step."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from modiff.benchmark.plan import BenchmarkSettings, Row
from modiff.errors import ConfigError, DataError
from modiff.io.files import write_text

STATE = "benchmark.json"
SCHEMA = 1
WAITING, TRAINING, TRAINED, DONE, FAILED = "waiting", "training", "trained", "done", "failed"
_STATUSES = (WAITING, TRAINING, TRAINED, DONE, FAILED)
_FIXED = ("budget", "batch_size", "augment", "split", "folds")  # what a folder's runs have in common for good
_NONE = type(None)
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "row", "status", "title", "method"), (str,)),
    **dict.fromkeys(("error", "preset"), (str, _NONE)),
    **dict.fromkeys(("tables", "changes"), (list,)),
    **dict.fromkeys(("images", "steps", "fold"), (int, _NONE)),
    **dict.fromkeys(("cost", "made"), (dict, _NONE)),
    "seed": (int,),
    "seconds": (int, float, _NONE),
}
"""of the fields of a run and of a row"""
_LATER = {"made", "fold"}  # of a run: older files lack the first, those without folds the second
_SCORING = ("ns", "thresholds", "metrics", "limit")


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

    cost: parameters, evaluations, gflop_image, gflop_sample of `describe`; None until known.
    """

    title: str
    method: str
    tables: list[str]
    preset: str | None
    changes: list[str]
    cost: dict[str, float] | None = None


@dataclass
class State:
    """A benchmark. settings: plain; data: path, fingerprint, source and shape of the store; made: its last start.

    data has the store's folds where the benchmark is of folds.
    """

    settings: dict[str, Any]
    data: dict[str, Any]
    made: dict[str, Any]
    rows: dict[str, RowFacts] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def folds(self) -> tuple[int | None, ...]:
        """The folds that every row is trained without, one by one; (None,) for the store's own splits."""
        return tuple(self.data.get("folds") or (None,))

    def counts(self, names: Collection[str] | None = None) -> dict[str, int]:
        """How many runs have each status, of all or of those named."""
        found = [run.status for name, run in self.runs.items() if names is None or name in names]
        return {status: found.count(status) for status in _STATUSES}

    def counted(self, names: Collection[str] | None = None) -> str:
        """`counts` in words, e.g. "2 waiting, 3 done"; empty where there are no runs."""
        return ", ".join(f"{count} {status}" for status, count in self.counts(names).items() if count)


def plain(settings: BenchmarkSettings) -> dict[str, Any]:
    """The settings as JSON has them."""
    made: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    if not settings.folds:
        del made["folds"]  # as files have it that are older than folds
    return made


def typed(settings: Mapping[str, Any]) -> BenchmarkSettings:
    """What `plain` made plain, as far as scoring goes; raises for what cannot be settings."""
    if not all(isinstance(seed, int) for seed in settings["seeds"]):
        raise TypeError(f"seeds {settings['seeds']}")
    lists = {name: tuple(settings[name]) for name in ("ns", "thresholds", "metrics", "seeds")}
    given: dict[str, Any] = {"budget": settings["budget"], "limit": settings["limit"], **lists}
    return BenchmarkSettings(**given)


def write_state(state: State, folder: Path) -> None:
    """Writes DIR/benchmark.json, whole or not at all."""
    content = {
        "schema": SCHEMA,
        "settings": state.settings,
        "data": state.data,
        "made": state.made,
        "rows": {key: asdict(row) for key, row in state.rows.items()},
        "runs": [_written(run) for run in state.runs.values()],
    }
    write_text(folder / STATE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _written(run: Run) -> dict[str, Any]:
    return {name: value for name, value in asdict(run).items() if (name, value) != ("fold", None)}


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
    settings, data, made = (_object(content, key, path) for key in ("settings", "data", "made"))
    missing = [name for name in (*_FIXED, *_SCORING, "seeds") if name not in settings and name != "folds"]
    if missing:
        raise DataError("lacks settings", path=path, field="settings", found=", ".join(missing))
    try:
        typed(settings)
    except (TypeError, ValueError, AttributeError, ConfigError) as error:
        raise DataError("settings that cannot be", path=path, field="settings", found=error) from None
    folds = data.get("folds", [])
    if not isinstance(folds, list) or not all(isinstance(fold, int) for fold in folds):
        raise DataError("not a list of folds", path=path, field="data.folds", found=repr(folds)[:60])
    rows = {str(key): _made(RowFacts, row, path, f"rows.{key}") for key, row in _object(content, "rows", path).items()}
    listed = content.get("runs")
    if not isinstance(listed, list):
        raise DataError("not a list", path=path, field="runs")
    runs = [_run(run, rows, path, f"runs[{i}]") for i, run in enumerate(listed)]
    return State(settings, data, made, rows, {run.name: run for run in runs})


def _object(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = content.get(key)
    if not isinstance(found, dict):
        raise DataError("not an object", path=path, field=key, found=type(found).__name__)
    return found


def _made(kind: Any, content: Any, path: Path, where: str) -> Any:
    names = {item.name for item in fields(kind)}
    if not isinstance(content, dict) or not names - _LATER <= set(content) <= names:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError("not as a benchmark writes it", path=path, field=where, found=found, expected=", ".join(names))
    for name, value in content.items():
        if not isinstance(value, _TYPES[name]):
            raise DataError("of another type", path=path, field=f"{where}.{name}", found=repr(value)[:60])
    return kind(**content)


def _run(content: Any, rows: Mapping[str, RowFacts], path: Path, where: str) -> Run:
    run: Run = _made(Run, content, path, where)
    if run.status not in _STATUSES or run.row not in rows or not isinstance(run.name, str):
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
    asked = plain(settings)
    if before is not None:
        _check_same(before, asked, data, folder)
        _check_all_rescored(before, asked, {row.key for row in rows}, folder)
    old_rows = before.rows if before else {}
    old_runs = before.runs if before else {}
    state = State(asked, data, made, dict(old_rows), dict(old_runs))
    rescore = before is not None and any(before.settings[name] != asked[name] for name in _SCORING)
    for row in rows:
        cost = old_rows[row.key].cost if row.key in old_rows else None
        state.rows[row.key] = _facts(row, settings, cost)
        for seed, fold in product(settings.seeds, state.folds):
            name = row.folder(seed, fold)
            state.runs.setdefault(name, Run(name, row.key, seed, fold=fold))
    for run in state.runs.values():
        if run.status == DONE and rescore:
            run.status = TRAINED
    state.settings["seeds"] = sorted({run.seed for run in state.runs.values()})
    return state


def _facts(row: Row, settings: BenchmarkSettings, cost: dict[str, float] | None) -> RowFacts:
    from modiff.benchmark.plan import EVERYONE, PRESETS, preset_of

    names = {EVERYONE, row.method, row.key} | ({"modiff"} if row.control else set())
    typed = [change for change in settings.changes if change.partition(".")[0] in names]
    if row.control:
        typed.append(f"parts of modiff, preset {settings.presets.get('modiff') or PRESETS['modiff']}")
    return RowFacts(row.title, row.method, list(row.tables), preset_of(row, settings), typed, cost)


def _check_same(before: State, asked: dict[str, Any], data: dict[str, Any], folder: Path) -> None:
    old = before.settings
    differ = [f"{name}: {old.get(name)} → {asked.get(name)}" for name in _FIXED if old.get(name) != asked.get(name)]
    if before.data.get("fingerprint") != data["fingerprint"]:
        differ.append(f"data: {before.data.get('path')} → {data['path']} (other content)")
    if differ:
        raise ConfigError(
            "existing benchmark in this folder has different settings",
            path=folder,
            found="; ".join(differ),
            hint="Use the same, or another folder (-o)",
        )


def _check_all_rescored(before: State, asked: dict[str, Any], rows: set[str], folder: Path) -> None:
    """All rows are scored alike: with other scoring, all must be asked for."""
    differ = [
        f"{name}: {before.settings[name]} → {asked[name]}" for name in _SCORING if before.settings[name] != asked[name]
    ]
    missing = [key for key in before.rows if key not in rows]
    if differ and missing:
        raise ConfigError(
            "other scoring concerns every row, and some are not named",
            path=folder,
            found="; ".join(differ),
            hint=f"Name these too: {', '.join(missing)}",
        )
