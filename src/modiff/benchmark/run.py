"""Trains several methods alike, scores them alike, and keeps what is done: one run folder per method, seed and fold.

Re-running resumes: finished runs are skipped, a half-trained one resumes at its last checkpoint, a failed one
is tried again. What fails is written down and does not stop the others.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modiff.benchmark.plan import ROWS, BenchmarkSettings, Row, check_names, configure
from modiff.benchmark.state import COSTS, Run, State, Status, merge_state, revise, write_state
from modiff.config.run import RunConfig, parse_budget
from modiff.data.loading import load
from modiff.data.splits import fold_split
from modiff.data.store import Store
from modiff.devices import choose_device, device_name
from modiff.errors import CheckpointError, DataError
from modiff.evaluation import provenance
from modiff.evaluation.evaluate import FOLDER, evaluate_to_folder
from modiff.io.output import alone, write_text
from modiff.methods.cost import describe
from modiff.methods.run_folder import (
    CARD,
    CHECKPOINT,
    CONFIG,
    check_resumable,
    describe_data,
    load_model,
    read_card,
    write_config,
)

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.io.progress import Progress

SETTINGS = "benchmark.yaml"  # of a run folder: of a training in a process of its own
ERROR = "error.txt"  # of a run folder: the traceback of the last failure
_FACTS = ("images_seen", "steps", "seconds")  # of a card
Say = Callable[[str], None]
Bar = Callable[[str], "AbstractContextManager[Progress]"]


class _Stopped(BaseException):
    """The user, or the time of this start, ends the benchmark between two steps; no failure of a run."""


def benchmark(
    rows: Sequence[Row],
    settings: BenchmarkSettings,
    data: str | Path,
    folder: str | Path,
    *,
    max_seconds: float | None = None,
    say: Say = lambda line: None,
    bar: Bar = lambda name: nullcontext(lambda done, total: None),
    quiet: bool = True,
) -> State:
    """Trains and scores every row at every seed into `folder`, seed by seed; returns what is done and what failed.

    max_seconds: of this start; the next resumes. say: called with log lines. bar: a progress bar over the images of the
    run that it names. quiet: no bars of trainings.

    Raises ConfigError, CheckpointError or DataError, before anything is trained, where the folder holds a benchmark of
    other settings or a configuration cannot be.
    """
    folder, data = Path(folder), Path(data)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
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
        made = provenance.made(device=device_name(device))
        state = merge_state(folder, settings, rows, described, made)
        todo = [state.runs[row.folder(*at)] for at in product(settings.seeds, folds) for row in rows]
        start = _Start(state, data, folder, images, folds[0], device, deadline, say, bar, quiet)
        start.check(todo)
        write_state(state, folder)
        with suppress(_Stopped):
            for number, run in enumerate(todo, 1):
                if run.status != Status.DONE:
                    start.left()
                    start.attempt(run, f"[{number}/{len(todo)}] {run.name}")
    return state


@dataclass
class _Start:
    """One start of a benchmark: it takes the runs asked for from waiting through training and trained to done.

    images: those in memory, of the split of `fold` that is scored. deadline: on the monotonic clock.
    """

    state: State
    data: Path
    folder: Path
    images: MemoryStore
    fold: int | None
    device: torch.device
    deadline: float | None
    say: Say
    bar: Bar
    quiet: bool

    def check(self, todo: Sequence[Run]) -> None:
        """CheckpointError for a run that was begun with other settings; what was done and is damaged is done again."""
        for run in todo:
            folder = self.folder / run.name
            trained = run.status in (Status.DONE, Status.TRAINED)
            if (folder / CONFIG).exists() and (trained or (folder / CHECKPOINT).exists()):
                hint = "Use the same --set and --presets, remove that folder, or use another one (-o)"
                check_resumable(folder, self.config(run), hint=hint)
            if trained:
                _check_length(folder, run)
            if run.status == Status.DONE and (why := revise(self.folder, run, self.state)) is not None:
                self.say(f"{run.name}: once more, {why}")

    def config(self, run: Run) -> RunConfig:
        """What a run is trained with."""
        return configure(ROWS[run.row], self.state.settings, run.seed)

    def left(self) -> float | None:
        """Seconds left of this start, None without an end; raises _Stopped where it is over."""
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _Stopped
        return left

    def attempt(self, run: Run, label: str) -> None:
        """One run to its end; its failure is its own."""
        folder = self.folder / run.name
        try:
            if run.status != Status.TRAINED:
                run.status, run.error = Status.TRAINING, None
                write_state(self.state, self.folder)
                self.say(f"{label}: training")
                self.train(run)
            run.error = None
            self.say(f"{label}: samples of split {fold_split(run.fold, self.state.settings.split)}")
            self.score(run)
            run.status = Status.DONE
            (folder / ERROR).unlink(missing_ok=True)
        except Exception as error:  # whatever a method does wrong, the others are still wanted
            words = " ".join(str(error).split())[:400]
            run.status, run.error = Status.FAILED, type(error).__name__ + (f": {words}" if words else "")
            self.say(f"{label}: failed, {run.error}")
            with suppress(OSError, DataError):  # the run's folder may be what is wrong
                write_text(folder / ERROR, traceback.format_exc())
        finally:
            write_state(self.state, self.folder)
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def train(self, run: Run) -> None:
        """Trains until the budget is spent; _Stopped where the time or a signal ended it, even a late one."""
        from modiff.training.loop import train

        config, folder = self.config(run), self.folder / run.name
        limit, stop = self.left(), False
        if self.state.settings.devices > 1:
            reason = train_in_processes(config, self.data, folder, fold=run.fold, max_seconds=limit)
        else:
            result = train(config, self.data, folder, fold=run.fold, max_seconds=limit, quiet=self.quiet)
            reason, stop = None if result.finished else result.reason, result.signalled
        card = read_card(folder / CARD, needed=_FACTS)
        run.images, run.steps, run.seconds = card["images_seen"], card["steps"], card["seconds"]
        if reason is None:
            run.status, run.made = Status.TRAINED, self.state.made
            write_state(self.state, self.folder)
        if stop or reason is not None:
            self.say(f"{run.name}: {reason or 'trained, then interrupted'}")
            raise _Stopped

    def score(self, run: Run) -> None:
        """Evaluates the run as all others; rows that an evaluation of something else left unfinished are discarded."""
        folder, split = self.folder / run.name, fold_split(run.fold, self.state.settings.split)
        loaded, facts = load_model(folder), self.state.rows[run.row]
        if facts.cost is None:  # what `modiff info` says of this configuration on images of this store
            config, images = self.config(run), describe_data(self.images, self.data)
            cost = describe(config, images, size=self.images.shape[1:], n=1)
            facts.cost = {name: getattr(cost, name) for name in COSTS}
        if run.fold != self.fold:  # one fold is in memory at a time
            self.images, self.fold = load(self.data, split), run.fold
        with self.bar(run.name) as bar:

            def progress(done: int, total: int) -> None:
                bar(done, total)
                if done < total:
                    self.left()  # rows so far are kept, and the next start resumes with them

            what = (loaded, self.images, folder / FOLDER, self.state.settings.evaluation())
            how: dict[str, Any] = {"split": split, "data": self.data, "model_name": run.name, "device": self.device}
            try:
                evaluate_to_folder(*what, progress=progress, **how)
            except CheckpointError:
                evaluate_to_folder(*what, progress=progress, restart=True, **how)


def train_in_processes(
    config: RunConfig, data: Path, folder: Path, *, fold: int | None = None, max_seconds: float | None = None
) -> str | None:
    """`modiff train` on several devices; returns why the budget is not spent, None where it is.

    It is a process of its own, in which Lightning starts the others: in this one DDP would run the rest of the
    benchmark once per device. Raises CheckpointError where it fails.
    """
    write_config(folder / SETTINGS, config)
    words = ["train", "--config", folder / SETTINGS, "--data", data, "-o", folder]
    words += [] if fold is None else ["--fold", fold]
    words += [] if max_seconds is None else ["--max-time", f"{max(1.0, max_seconds):.0f}s"]
    code = _ended([sys.executable, "-m", "modiff", *map(str, words)])
    if code == 130:
        return "interrupted"
    if code:
        raise CheckpointError("training ended with an error, printed above", path=folder, found=f"exit status {code}")
    seconds, images = parse_budget(config.training.budget)
    card = read_card(folder / CARD, needed=_FACTS)
    # The card has tenths of seconds.
    spent = card["seconds"] >= (seconds or 0.0) - 0.1 if images is None else card["images_seen"] >= images
    return None if spent else "time of this start over"


def _check_length(folder: Path, run: Run) -> None:
    """CheckpointError where a finished run was trained further, as its folder allows: its budget is another one."""
    try:
        card = read_card(folder / CARD, needed=_FACTS)
    except CheckpointError:  # what is gone or damaged is another matter
        return
    found, expected = (card["steps"], card["images_seen"]), (run.steps, run.images)
    if found != expected:
        there, wanted = (f"{steps:,} steps, {images:,} images" for steps, images in (found, expected))
        what, hint = "was trained further since it was benchmarked", "Remove that folder, or use another one (-o)"
        raise CheckpointError(what, path=folder, found=there, expected=wanted, hint=hint)


def _ended(words: list[str]) -> int:
    """The exit status of a command; an interruption is passed on, and it may end its step and save."""
    with subprocess.Popen(words) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
