"""Trains a method on a store into a run folder; the same call again resumes."""

from __future__ import annotations

import json
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from modiff._version import __version__
from modiff.config import RunConfig, check_ranges
from modiff.data.batches import TrainingBatches, training_loader, validation_batches
from modiff.data.loading import MemoryStore, load
from modiff.data.splits import fold_split
from modiff.data.store import Store
from modiff.devices import automatic_precision
from modiff.errors import CheckpointError, ConfigError
from modiff.io.files import alone
from modiff.methods import run_folder as files
from modiff.methods.registry import build
from modiff.methods.weights import method_title, save_weights
from modiff.rng import seed_for
from modiff.training.callbacks import Average, Clock, MetricsLog, ProgressLine, Saver
from modiff.training.module import TrainingModule
from modiff.types import DataSpec

_TRAINED_ON = ("source", "licence", "intensity", "size", "images", "fingerprint", "fold")


@dataclass(frozen=True)
class TrainingResult:
    """How a start ended.

    finished: the budget is spent; otherwise the same command goes on. signalled: a signal asked to end, before the last
    step or while its result was saved.
    """

    folder: Path
    finished: bool
    reason: str
    steps: int
    images: int
    seconds: float
    validation: float | None
    signalled: bool = False


def train(
    config: RunConfig,
    data: str | Path,
    folder: str | Path,
    *,
    fold: int | None = None,
    max_seconds: float | None = None,
    quiet: bool = False,
) -> TrainingResult:
    """Trains on a store's split "train", validates on "val"; with a fold on the patients outside it.

    Raises CheckpointError where `folder` is another run's, DataError where another process trains in it.
    """
    check_ranges(config)
    folder = Path(folder)
    with Store.open(data) as store:
        training, validation = (load(store, fold_split(fold, split)) for split in ("train", "val"))
    described = files.describe_data(training, Path(data).resolve(), fold=fold)
    torch.manual_seed(seed_for(config.seed, "weights"))
    model = build(config.method, config.model, described)
    module = TrainingModule(model, config.training, config.seed)
    clock = Clock(max_seconds)
    saver = Saver(folder, config.training.save_every, lambda m: _card(config, described, m))
    log = MetricsLog(folder, config.training.log_every)
    trainer = _trainer(config, folder, [Average(), clock, log, ProgressLine(quiet=quiet), saver])
    if trainer.world_size > 1 and config.training.batch_size % trainer.world_size:
        raise ConfigError(
            "does not divide over the devices",
            field="training.batch_size",
            found=config.training.batch_size,
            expected=f"a multiple of {trainer.world_size}",
        )
    with alone(folder) if trainer.is_global_zero else nullcontext():  # one start, of however many processes
        spent = _begin(trainer, module, config, described, folder)
        if spent is not None:
            return spent
        _fit(trainer, module, training, validation, config, folder)
    reason = clock.reason or "ended"
    return TrainingResult(
        folder,
        reason == "budget spent",
        reason,
        trainer.global_step,
        module.images_seen,
        module.seconds,
        module.validation,
        clock.signalled,
    )


def _begin(
    trainer: Trainer, module: TrainingModule, config: RunConfig, described: DataSpec, folder: Path
) -> TrainingResult | None:
    """Readies the folder for this start; the result where nothing is left to train."""
    step, done = -1, False
    if (folder / files.CHECKPOINT).exists():
        files.check_resumable(folder, config, described)
        step, done = _saved_progress(folder / files.CHECKPOINT, module)
    # Written when all else is known to be right: a start that was refused leaves nothing that refuses the next.
    files.write_config(folder / files.CONFIG, config)
    files.write_text(folder / files.DATA, json.dumps(described.to_dict(), indent=1) + "\n")
    if trainer.is_global_zero:
        files.truncate_log(folder / files.LOG, step)
    if not done:
        return None
    if trainer.is_global_zero:
        _restore_weights(folder)
    images = step * config.training.batch_size
    return TrainingResult(folder, True, "budget already spent", step, images, module.seconds_before, None)


def _fit(
    trainer: Trainer,
    module: TrainingModule,
    training: MemoryStore,
    validation: MemoryStore,
    config: RunConfig,
    folder: Path,
) -> None:
    settings, checkpoint = config.training, folder / files.CHECKPOINT
    batches = TrainingBatches(
        training,
        seed=config.seed,
        size=settings.batch_size,
        augment=settings.augment,
        start=lambda: module.global_step,
        rank=trainer.global_rank,
        world=trainer.world_size,
    )
    fixed = validation_batches(
        validation,
        images=settings.validation_images,
        size=settings.batch_size,
        rank=trainer.global_rank,
        world=trainer.world_size,
    )
    loader = training_loader(batches)
    val_loader: Any = DataLoader(fixed, batch_size=None)  # type: ignore[arg-type]
    with warnings.catch_warnings(), _signals_given_back():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
        saved = str(checkpoint) if checkpoint.exists() else None
        trainer.fit(module, loader, val_loader, ckpt_path=saved, weights_only=True)


@contextmanager
def _signals_given_back() -> Iterator[None]:
    """The handlers as they were, once the last save is written."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _trainer(config: RunConfig, folder: Path, callbacks: list[Any]) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    settings, training = config.trainer, config.training
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        return _make_trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy="ddp_find_unused_parameters_true" if settings.devices * settings.num_nodes > 1 else "auto",
            precision=automatic_precision(settings.accelerator) if settings.precision == "auto" else settings.precision,
            max_steps=-1,
            max_epochs=-1,
            val_check_interval=training.validate_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            gradient_clip_val=training.gradient_clip or None,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(folder),
            callbacks=callbacks,
        )


def _make_trainer(**settings: Any) -> Trainer:
    try:
        return Trainer(**settings)
    except MisconfigurationException as error:
        raise ConfigError("does not fit this machine", field="trainer", found=str(error)) from error


def _saved_progress(path: Path, module: TrainingModule) -> tuple[int, bool]:
    """The checkpoint's step, and whether the budget is spent already."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        step, seconds = int(state["global_step"]), float(state["modiff"]["seconds"])
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise CheckpointError(
            "is not a training checkpoint",
            path=path,
            found=type(error).__name__,
            hint="Delete it to start the run again",
        ) from error
    module.seconds_before = seconds
    images = step * module.config.batch_size
    if module.budget_images is not None:
        return step, images >= module.budget_images
    return step, seconds >= (module.budget_seconds or 0.0)


def _restore_weights(folder: Path) -> None:
    """Writes the weights again, from the checkpoint, where they are gone or damaged."""
    try:
        load_file(folder / files.WEIGHTS)
    except (OSError, SafetensorError):
        state = torch.load(folder / files.CHECKPOINT, map_location="cpu", weights_only=True)
        save_weights(state["modiff"]["ema"], folder / files.WEIGHTS)


def _card(config: RunConfig, data: DataSpec, module: TrainingModule) -> dict[str, Any]:
    """The model card's facts so far."""
    return {
        "method": method_title(config),
        "preset": config.preset,
        "trained_on": {key: value for key, value in data.to_dict().items() if key in _TRAINED_ON},
        "images_seen": module.images_seen,
        "seconds": round(module.seconds, 1),
        "steps": module.global_step,
        "parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        "validation_loss": module.validation,
        "device": torch.cuda.get_device_name()
        if module.device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"modiff": __version__, "torch": torch.__version__},
        "date": datetime.now(UTC).date().isoformat(),
        "not_for": "not a medical device; research only",
    }
