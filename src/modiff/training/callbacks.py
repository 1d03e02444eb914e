"""What happens around the steps: budget and signals, saves, the metrics log, the progress bar."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, Trainer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from modiff.errors import TrainingError
from modiff.methods.run_folder import CHECKPOINT, LOG, WEIGHTS, save_atomically, write_text
from modiff.methods.weights import save_weights
from modiff.training.module import TrainingModule


class Average(Callback):
    """The moving average follows each step; before the other callbacks, which save and log what it has come to."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, *_: Any) -> None:  # type: ignore[override]
        pl_module.ema.update(pl_module.model, trainer.global_step - 1)


_REASONS = {1: "budget spent", 2: "time of this start over", 3: "interrupted"}


class Clock(Callback):
    """Ends training at a step's end: budget spent, this start's time over, or a signal received.

    A budget of time is spent by training alone, not by validations and the saves that follow them: methods validate
    more or less often. With several processes the first one's clock decides, so that all stop at the same step.
    """

    def __init__(self, max_seconds: float | None) -> None:
        self.max_seconds = max_seconds
        self.reason: str | None = None
        self._signal: int | None = None
        self._pause: float | None = None  # when the validation began that is not over yet
        self._paused = 0.0

    @property
    def signalled(self) -> bool:
        """Whether a signal asked to end, perhaps after the last step: the callers of a training must stop too."""
        return self._signal is not None

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        self._started = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                signal.signal(number, self._note)  # given back by `training.train`, after the last save
            except ValueError:  # not the main thread: the caller handles signals
                return

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the step's end
        self._signal = number

    def on_validation_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        self._pause = time.monotonic()

    def on_train_batch_start(self, *_: Any) -> None:
        if self._pause is not None:
            self._paused += time.monotonic() - self._pause
            self._pause = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, *_: Any) -> None:  # type: ignore[override]
        since_start = time.monotonic() - self._started
        now = since_start - self._paused
        code = self._code(pl_module, now, since_start)
        if trainer.world_size > 1:
            shared = torch.tensor([code, now], device=pl_module.device, dtype=torch.float64)
            torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
            code, now = int(shared[0]), float(shared[1])
        pl_module.seconds_now = now
        if code:
            self.reason = _REASONS[code]
            trainer.should_stop = True

    def _code(self, module: TrainingModule, now: float, since_start: float) -> int:
        """Why to stop, as a number that processes can share; 0 to go on. now: seconds of training of this start."""
        if self._signal is not None:
            return 3
        spent = module.seconds_before + now
        if module.budget_images is not None and module.images_seen >= module.budget_images:
            return 1
        if module.budget_seconds is not None and spent >= module.budget_seconds:
            return 1
        return 2 if self.max_seconds is not None and since_start >= self.max_seconds else 0


class Saver(Callback):
    """Saves the training checkpoint and the averaged weights, each whole or not at all."""

    def __init__(self, folder: Path, every: int, card: Callable[[TrainingModule], dict[str, Any]]) -> None:
        self.folder, self.every, self.card = folder, every, card
        self._saved = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, *_: Any) -> None:  # type: ignore[override]
        # Where a validation follows, the save follows it: Lightning takes a step's validation for done on resuming.
        if trainer.global_step % pl_module.config.validate_every and self._due(trainer):
            self.save(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        if self._due(trainer):
            self.save(trainer, pl_module)

    def _due(self, trainer: Trainer) -> bool:
        return trainer.global_step % self.every == 0 and not trainer.should_stop

    def on_train_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        self.save(trainer, pl_module)

    def save(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        """All processes call it; the first writes."""
        if trainer.global_step == self._saved:
            return
        self._saved = trainer.global_step
        check_finite(pl_module, self.folder)
        # Weights first: should the second write fail, the checkpoint is the older one and the run resumes from it.
        if trainer.is_global_zero:
            save_weights(pl_module.ema.state, self.folder / WEIGHTS)
            write_text(self.folder / "card.json", json.dumps(self.card(pl_module), indent=1) + "\n")
            save_atomically(trainer.save_checkpoint, self.folder / CHECKPOINT)
        else:
            trainer.save_checkpoint(self.folder / CHECKPOINT)  # takes part in what is collective, writes nothing
        trainer.strategy.barrier()


def check_finite(module: TrainingModule, folder: Path) -> None:
    """TrainingError where the loss has left the numbers; what was saved before stays."""
    if not torch.isfinite(module.terms["loss"]):
        raise TrainingError(
            "the loss is not finite any more",
            path=folder,
            field=f"step {module.global_step}",
            found=float(module.terms["loss"]),
            hint="Lower training.learning_rate, or set training.gradient_clip; the last save is kept",
        )


class MetricsLog(Callback):
    """Appends a line of numbers to log.jsonl and to TensorBoard, every few steps and at each validation."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self._sums: dict[str, torch.Tensor] = {}
        self._count, self._last = 0, (0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        self._last = (pl_module.images_seen, pl_module.seconds)
        self._board = None
        if trainer.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.folder / "tensorboard"))

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, *_: Any) -> None:  # type: ignore[override]
        if self._count == 0:
            self._sums = {}
        for name, value in pl_module.terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value  # stays on the device
        self._count += 1
        if trainer.global_step % self.every == 0:
            check_finite(pl_module, self.folder)
            images, seconds = pl_module.images_seen, pl_module.seconds
            rate = (images - self._last[0]) / max(seconds - self._last[1], 1e-9)
            self._last = (images, seconds)
            means = {f"train/{name}": float(total) / self._count for name, total in self._sums.items()}
            self._count = 0
            self._write(trainer, pl_module, {**means, "learning_rate": pl_module.rate, "images_per_second": rate})

    def on_validation_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        terms = getattr(pl_module, "validation_terms", None)
        if terms:
            self._write(trainer, pl_module, {f"val/{name}": value for name, value in terms.items()})

    def _write(self, trainer: Trainer, pl_module: TrainingModule, numbers: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        place = {"step": trainer.global_step, "images": pl_module.images_seen, "seconds": round(pl_module.seconds, 3)}
        with open(self.folder / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(place | {name: _plain(value) for name, value in numbers.items()}) + "\n")
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        if self._board is not None:
            self._board.close()


def _plain(value: float) -> float | None:
    """Six digits; null for what JSON has no number for."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


class ProgressLine(Callback):
    """A rich progress bar: share of the budget, images a second, losses, time left."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        if self.quiet or not trainer.is_global_zero:
            return
        columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
        self._bar = Progress(*columns, refresh_per_second=2)
        self._task = self._bar.add_task("training", total=1.0, text="")
        self._start = (pl_module.progress, pl_module.images_seen)
        self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, *_: Any) -> None:  # type: ignore[override]
        if self._bar is None:
            return
        spent, now = pl_module.progress, max(pl_module.seconds_now, 1e-6)
        left = (1 - spent) * now / max(spent - self._start[0], 1e-9)
        speed = (pl_module.images_seen - self._start[1]) / now
        val = "" if pl_module.validation is None else f" val {pl_module.validation:.3f}"
        text = f"{pl_module.images_seen:,} images, {speed:.0f}/s, loss {float(pl_module.terms['loss']):.3f}{val}"
        minutes, seconds = divmod(int(min(left, 359999)), 60)
        self._bar.update(self._task, completed=spent, text=f"{text}, {minutes}:{seconds:02d} left")

    def on_train_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        if self._bar is not None:
            self._bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: TrainingModule, exception: BaseException) -> None:  # type: ignore[override]
        self.on_train_end(trainer, pl_module)
