"""Trains several methods alike, scores them alike, and keeps what is done: a run folder per method, seed and fold.

Re-running resumes: finished runs are skipped, a half-trained one resumes at its last checkpoint, a failed one
is tried again. What fails is written down and does not stop the others.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modiff.benchmark.check import fault, has_weights
from modiff.benchmark.plan import BenchmarkSettings, Row, check_names, configure
from modiff.benchmark.state import (
    DONE,
    FAILED,
    STATE,
    TRAINED,
    TRAINING,
    WAITING,
    Run,
    State,
    merge_state,
    read_state,
    write_state,
)
from modiff.data.loading import load
from modiff.data.splits import fold_split
from modiff.data.store import Store
from modiff.devices import choose_device, device_name
from modiff.errors import CheckpointError, ConfigError, DataError
from modiff.evaluation import provenance
from modiff.evaluation.files import write_text
from modiff.evaluation.run import FOLDER, evaluate_to_folder
from modiff.io.files import alone
from modiff.methods.run_folder import (
    CARD,
    CHECKPOINT,
    CONFIG,
    describe_data,
    differences,
    read_config,
    read_json,
)
from modiff.methods.weights import load_model

if TYPE_CHECKING:
    from modiff.config import RunConfig
    from modiff.data.loading import MemoryStore
    from modiff.evaluation.evaluate import Progress

ERROR = "error.txt"  # of a run folder: the traceback of the last failure


@dataclass(frozen=True)
class Reporter:
    """What a caller hears: lines of text, and a bar over the images while samples are drawn."""

    say: Callable[[str], None] = lambda line: None
    bar: Callable[[str], AbstractContextManager[Progress | None]] = lambda name: nullcontext()
    quiet: bool = True


class _Stopped(Exception):
    """The user, or the time of this start, ends the benchmark between two steps."""


@dataclass
class _Work:
    settings: BenchmarkSettings
    data: Path
    folder: Path
    images: MemoryStore  # of the fold scored last
    state: State
    device: torch.device
    deadline: float | None
    report: Reporter
    fold: int | None  # whose images are in memory

    def save(self) -> None:
        write_state(self.state, self.folder)

    def split(self, fold: int | None) -> str:
        """The name of the split that a run is scored on."""
        return fold_split(fold, self.settings.split)

    def scored(self, fold: int | None) -> MemoryStore:
        """The images of that split; of folds, one is in memory at a time."""
        if fold != self.fold:
            self.images, self.fold = load(self.data, self.split(fold)), fold
        return self.images

    def left(self) -> float | None:
        """Seconds left of this start."""
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _Stopped
        return left


def benchmark(
    rows: Sequence[Row],
    settings: BenchmarkSettings,
    data: str | Path,
    folder: str | Path,
    *,
    max_seconds: float | None = None,
    report: Reporter | None = None,
) -> State:
    """Trains and scores every row at every seed into `folder`, seed by seed; returns what is done and what failed.

    max_seconds: of this start; the next goes on. Raises ConfigError or DataError, before anything is trained, where
    the folder holds a benchmark of other settings or a configuration cannot be.
    """
    rows, folder, data = tuple(rows), Path(folder), Path(data)
    started = time.monotonic()
    check_names(rows, settings)
    with Store.open(data) as store:
        folds = store.fold_numbers() if settings.folds else [None]
        for fold, split in product(folds, ("train", "val", settings.split)):  # not after the first network is built
            store.rows(fold_split(fold, split))
        images = load(store, fold_split(folds[0], settings.split))
        count = sum(len(store.rows(fold_split(fold, settings.split))) for fold in folds)
    device = choose_device(settings.accelerator, field="accelerator")
    described = describe_data(images, data.resolve()).to_dict() | {"split": settings.split, "images": count}
    if settings.folds:
        described["folds"] = folds
    with alone(folder):
        before = read_state(folder) if (folder / STATE).exists() else None
        state = merge_state(before, settings, rows, described, _made(device), folder)
        by_key = {row.key: row for row in rows}
        todo = [state.runs[row.folder(*at)] for at in product(settings.seeds, state.folds) for row in rows]
        for run in todo:
            _check_unchanged(folder / run.name, configure(by_key[run.row], settings, run.seed))
        deadline = None if max_seconds is None else started + max_seconds
        work = _Work(settings, data, folder, images, state, device, deadline, report or Reporter(), folds[0])
        _recheck(work, todo)
        with suppress(_Stopped):
            _work_through(work, todo, by_key)
    return state


def _recheck(work: _Work, todo: Sequence[Run]) -> None:
    """What was done and is not there any more, or not whole, is done again."""
    for run in todo:
        if run.status == DONE and (why := fault(work.folder, run, work.state)) is not None:
            run.status = TRAINED if has_weights(work.folder / run.name) else WAITING
            work.report.say(f"{run.name}: once more, {why}")


def _work_through(work: _Work, todo: Sequence[Run], by_key: Mapping[str, Row]) -> None:
    work.save()
    try:
        for number, run in enumerate(todo, 1):
            if run.status != DONE:
                work.left()
                _attempt(work, by_key[run.row], run, f"[{number}/{len(todo)}] {run.name}")
    finally:
        work.save()


def _made(device: torch.device) -> dict[str, Any]:
    return {
        "command": provenance.command_line(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "device": device_name(device),
        "date": provenance.now(),
    }


def _check_unchanged(folder: Path, config: RunConfig) -> None:
    """Known before hours of training: a run that was begun with other settings cannot go on."""
    if not (folder / CONFIG).exists() or not (folder / CHECKPOINT).exists():
        return
    changed = differences(read_config(folder / CONFIG), config)
    if changed:
        raise ConfigError(
            "was trained otherwise",
            path=folder,
            found="; ".join(changed),
            hint="Use the same --set and --presets, remove that folder, or use another one (-o)",
        )


def _attempt(work: _Work, row: Row, run: Run, label: str) -> None:
    """One run to its end; its failure is its own."""
    try:
        if run.status != TRAINED:
            run.status, run.error = TRAINING, None
            work.save()
            work.report.say(f"{label}: training")
            _train(work, row, run)
        run.error = None
        work.report.say(f"{label}: samples of split {work.split(run.fold)}")
        _score(work, row, run)
        run.status = DONE
        (work.folder / run.name / ERROR).unlink(missing_ok=True)
    except _Stopped:
        raise
    except Exception as error:  # whatever a method does wrong, the others are still wanted
        run.status, run.error = FAILED, _line(error)
        work.report.say(f"{label}: failed, {run.error}")
        with suppress(OSError, DataError):  # the run's folder may be what is wrong
            write_text(work.folder / run.name / ERROR, traceback.format_exc())
    finally:
        work.save()
        gc.collect()
        if work.device.type == "cuda":
            torch.cuda.empty_cache()


def _line(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:400]}" if words else type(error).__name__


def _train(work: _Work, row: Row, run: Run) -> None:
    """Trains until the budget is spent; _Stopped where the time of this start or a signal ended it, even a late one."""
    from modiff.benchmark.processes import train_in_processes
    from modiff.training.loop import train

    config, folder = configure(row, work.settings, run.seed), work.folder / run.name
    stop = False
    if work.settings.devices > 1:
        reason = train_in_processes(config, work.data, folder, fold=run.fold, max_seconds=work.left())
    else:
        limit, quiet = work.left(), work.report.quiet
        result = train(config, work.data, folder, fold=run.fold, max_seconds=limit, quiet=quiet)
        reason, stop = None if result.finished else result.reason, result.signalled
    card = read_json(folder / CARD)
    run.images, run.steps, run.seconds = card["images_seen"], card["steps"], card["seconds"]
    if reason is None:
        run.status, run.made = TRAINED, work.state.made
        work.save()
    if stop or reason is not None:
        work.report.say(f"{run.name}: {reason or 'trained, then interrupted'}")
        raise _Stopped


def _score(work: _Work, row: Row, run: Run) -> None:
    loaded = load_model(work.folder / run.name)
    facts = work.state.rows[run.row]
    if facts.cost is None:
        facts.cost = _cost(work, row, run)
    with work.report.bar(run.name) as bar:

        def progress(done: int, total: int) -> None:
            if bar is not None:
                bar(done, total)
            if done < total:
                work.left()  # rows so far are kept, the next start goes on with them

        def score(restart: bool) -> None:
            evaluate_to_folder(
                loaded,
                work.scored(run.fold),
                work.folder / run.name / FOLDER,
                work.settings.evaluation(),
                split=work.split(run.fold),
                data=work.data,
                model_name=run.name,
                device=work.device,
                restart=restart,
                progress=progress,
            )

        try:
            score(restart=False)
        except CheckpointError:  # rows that an interrupted evaluation with other settings or weights left
            score(restart=True)


def _cost(work: _Work, row: Row, run: Run) -> dict[str, float]:
    """What `modiff info METHOD` says of this configuration on images of this store."""
    from modiff.config import to_dict
    from modiff.methods.cost import describe

    info, (channels, height, width) = work.images.info, work.images.shape
    found = describe(
        row.method,
        changes=to_dict(configure(row, work.settings, run.seed).model),
        channels=channels,
        classes=len(info.classes),
        raters=len(info.raters),
        size=max(height, width),
        prompt=info.prompt == "centre",
        exchangeable=info.exchangeable_raters,
    )
    return {
        "parameters": found.parameters,
        "evaluations": found.evaluations,
        "gflop_image": found.gflop_image,
        "gflop_sample": found.gflop_sample,
    }
