"""Trains a method on a store into a run folder; the same call again resumes."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from modiff._version import __version__
from modiff.config.run import RunConfig, check_ranges
from modiff.data.augmentation import Augmentation
from modiff.data.intensity import little_contrast, used_range
from modiff.data.loading import MemoryStore, generator, load, training_batch, validation_batches
from modiff.data.on_device import DeviceStore
from modiff.data.splits import fold_split
from modiff.data.store import Store, evenly_spaced
from modiff.devices import CudaGraph, automatic_precision, choose_device, device_name, wait_for
from modiff.errors import CheckpointError, ConfigError, TrainingError
from modiff.io.output import alone
from modiff.io.progress import progress_bar
from modiff.methods import run_folder as files
from modiff.methods.base import Segmenter
from modiff.methods.registry import METHODS, build
from modiff.methods.start import Start, Tensors, check_start, write_start
from modiff.rng import seed_for
from modiff.training.budget import SPENT, Clock
from modiff.training.checkpoint import read_checkpoint, write_checkpoint
from modiff.training.log import MetricsLog, check_logger, open_logger
from modiff.training.optimizer import EMA, OptimizerState, Schedule, make_optimizer
from modiff.training.step import GraphStep, Step
from modiff.types import Batch, DataSpec

_TRAINED_ON = ("source", "licence", "intensity", "size", "images", "fingerprint", "fold")
_FIRST = "MODIFF_FIRST_PROCESS"  # environment variable: of a process that another one started, the latter's id
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_LOOKED_AT = 128  # images whose contrast is measured
_HELD = 0.5  # of a GPU's free memory that the training images may take


@dataclass(frozen=True)
class TrainingResult:
    """How a start ended.

    finished: the budget is spent; otherwise the same command resumes. signalled: a signal asked to end, before the last
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


class Run:
    """A run at one of its steps: model, optimiser, learning rate, moving average, clock and log.

    Step i depends on (seed, i), the weights and the optimiser's state alone, so that resuming is exact. With a budget
    of time, a cosine decay makes the learning rate depend on the clock as well.

    step, images: so far, over all processes. rate, terms: learning rate and loss of the last step. validation: the last
    validation's loss; blind: the same with other cases' images, at the end of this start. begun: the weights it started
    from, where these were not fresh.
    """

    def __init__(
        self, fabric: Fabric, model: Segmenter, data: DataSpec, config: RunConfig, folder: Path, clock: Clock
    ) -> None:
        self.fabric, self.model, self.data, self.config = fabric, model, data, config
        self.folder, self.clock = folder, clock
        self.log = MetricsLog(folder / files.LOG if fabric.is_global_zero else None, config.training.log_every)
        self.schedule = Schedule(config.training)
        device, settings = fabric.device, config.training
        self.wrapped, self.optimizer = fabric.setup(model, make_optimizer(model, settings, device))
        self.wrapped.mark_forward_method("training_loss")
        model.fixed_shapes = device.type == "cuda"
        self.average = EMA(model, config.training.ema_decay)
        self.step, self.rate = 0, 0.0
        self.terms: dict[str, Tensor] = {}
        self.validation: float | None = None
        self.blind: float | None = None
        self.begun: dict[str, Any] | None = None
        automatic, precision = automatic_precision(fabric.device), config.trainer.precision
        self._bf16 = (automatic if precision == "auto" else precision) == "bf16-mixed"
        self._rng = torch.Generator(device)
        how = self.model, self.optimizer, partial(self._loss, self.wrapped, rng=self._rng), fabric.backward
        graph = _graph(fabric, config, self._rng)
        more: dict[str, Any] = {"clip": settings.gradient_clip} | ({} if graph is None else {"graph": graph})
        self._take = Step(*how, **more) if graph is None else GraphStep(*how, **more)
        self._parts: dict[str, Any] = {"model": model, "optimizer": OptimizerState(self.optimizer)}
        self._parts["average"] = self.average.module
        self._parts |= {"plateau": self.schedule.plateau, "plateau_rate": self.schedule.own}

    @property
    def images(self) -> int:
        """Images of all optimiser steps so far, over all processes."""
        return self.step * self.config.training.batch_size

    def advance(self, batch: Batch) -> None:
        """One optimiser step."""
        self.rate = self.schedule.rate(self.step, self.clock.progress(self.images))
        self.terms = self._take(batch.to(self.fabric.device), self.rate, self._seed)
        self.average.update(self.model, self.step)
        self.step += 1

    def _seed(self) -> None:
        """The global generator, which serves dropout alone, and that of the loss are functions of (seed, step)."""
        at = self.step, self.fabric.global_rank
        torch.manual_seed(seed_for(self.config.seed, "dropout", *at))
        self._rng.manual_seed(seed_for(self.config.seed, "loss", *at))

    def _loss(self, model: Any, batch: Batch, *, rng: torch.Generator) -> dict[str, Tensor]:
        device = self.fabric.device
        # Casts are not cached: one that was made where a method runs its network without gradients would have none.
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False):
            terms: dict[str, Tensor] = model.training_loss(batch.to(device), rng=rng)
        return terms

    @torch.no_grad()
    def validate(self, batches: list[Batch]) -> dict[str, float]:
        """The averaged weights' loss and its terms, over all processes, with the same times and noise every time."""
        terms = self._mean_terms(batches)
        self.validation = terms["loss"]
        return terms

    @torch.no_grad()
    def _mean_terms(self, batches: list[Batch]) -> dict[str, float]:
        sums: dict[str, Any] = {"images": 0.0}
        for index, batch in enumerate(batches):
            sums["images"] += len(batch)
            rng = generator(self.config.seed, "validation", index, self.fabric.global_rank, device=self.fabric.device)
            for name, value in self._loss(self.average.module, batch, rng=rng).items():
                sums[name] = sums.get(name, 0.0) + value * len(batch)
        parts = [{name: float(value) for name, value in sums.items()}] * self.fabric.world_size
        if len(parts) > 1:
            torch.distributed.all_gather_object(parts, parts[0])
        names = dict.fromkeys(name for part in parts for name in part)  # a process without images has no terms
        total = {name: sum(part.get(name, 0.0) for part in parts) for name in names}
        images = total.pop("images")
        return {name: value / images for name, value in total.items()}

    def check_finite(self) -> None:
        """TrainingError where the loss is not a number any more; what was saved before stays."""
        if not math.isfinite(loss := float(self.terms["loss"])):
            field = f"step {self.step}"
            hint = "Lower training.learning_rate, or set training.gradient_clip; the last save is kept"
            raise TrainingError("the loss is not finite any more", path=self.folder, field=field, found=loss, hint=hint)

    def fit(self, batch_at: Callable[[int], Batch], fixed: list[Batch], *, quiet: bool) -> None:
        """Steps, each with what follows it (log, validation, save), until the clock says that this start ends.

        batch_at: batch i of the run, on whatever device. fixed: what validations look at.
        """
        settings, clock, first = self.config.training, self.clock, self.fabric.is_global_zero
        name, mlflow = self.config.trainer.logger if first else "none", self.log.state["run"]
        with (
            clock.running(),
            progress_bar("training", quiet=quiet or not first, note=partial(self._text, self.images)) as show,
            open_logger(name, self.folder, step=self.step, run=mlflow) as self.log.logger,
        ):
            stop = False
            while not stop:
                self.advance(batch_at(self.step))
                stop = clock.stops(self.images, self.fabric)
                if self.step % settings.log_every == 0:
                    self.check_finite()
                self.log.add(self._place(), self.rate, self.terms)
                show(clock.progress(self.images), 1.0)
                due = self.step % settings.validate_every == 0
                if due or stop:
                    wait_for(self.fabric.device)
                with clock.paused() if due or stop else nullcontext():
                    terms = self.validate(fixed) if due or stop else {}
                    if stop:  # each case's masks beside the image of another one, as far away as the batch has it
                        others = [replace(batch, image=batch.image.roll(len(batch) // 2, 0)) for batch in fixed]
                        loss = self._mean_terms(others)["loss"]
                        self.blind = loss if any(len(batch) > 1 for batch in fixed) else None
                    # A start that ends between two validations validates once more; the schedule and the log must not
                    # see it, or a run would depend on where it was interrupted.
                    if due:
                        self.schedule.validated(terms["loss"])
                        self.log.write(self._place(), {f"val/{name}": value for name, value in terms.items()})
                    if stop or self.step % settings.save_every == 0:
                        self.save()

    def _place(self) -> dict[str, float]:
        return {"step": self.step, "images": self.images, "seconds": self.clock.seconds}

    def _text(self, begun: int) -> str:
        speed = (self.images - begun) / max(self.clock.seconds - self.clock.before, 1e-6)
        validation = "" if self.validation is None else f", val {self.validation:.3f}"
        loss = f", loss {float(self.terms['loss']):.3f}" if self.terms else ""
        return f"{self.images:,} images, {speed:.1f}/s{loss}{validation}"

    def save(self) -> None:
        """Writes averaged weights, card and checkpoint, each whole or not at all; all processes call it."""
        self.check_finite()
        # Weights first: should the second write fail, the checkpoint is the older one and the run resumes from it.
        if self.fabric.is_global_zero:
            files.save_weights(self.average.state, self.folder / files.WEIGHTS)
            files.write_json(self.folder / files.CARD, self.card())
            parts = {name: part.state_dict() for name, part in self._parts.items()}
            own = {"step": self.step, "seconds": self.clock.seconds, "validation": self.validation}
            write_checkpoint(self.folder / files.CHECKPOINT, own | parts | {"log": self.log.state})
        self.fabric.barrier()

    def load(self, saved: dict[str, Any]) -> None:
        """Takes over what a checkpoint holds; raises CheckpointError where that is another network's."""
        self.step, self.validation, self.log.state = saved["step"], saved["validation"], saved["log"]
        for name, part in self._parts.items():
            try:
                if not saved[name].keys() & part.state_dict().keys():  # a schedule would take any
                    raise ValueError("none of its names")
                part.load_state_dict(saved[name])
            except Exception as error:  # torch's own words, of names and shapes
                what, path = "holds a state that does not fit this run", self.folder / files.CHECKPOINT
                hint = "Use another run folder (-o), or remove this file to train anew"
                raise CheckpointError(what, path=path, field=name, found=error, hint=hint) from error

    def card(self) -> dict[str, Any]:
        """The model card's facts so far."""
        return {
            "method": METHODS[self.config.method].title,
            "preset": self.config.preset,
            "trained_on": {key: value for key, value in self.data.to_dict().items() if key in _TRAINED_ON},
            "images_seen": self.images,
            "seconds": round(self.clock.seconds, 1),
            "steps": self.step,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            **({} if self.begun is None else {"started_from": self.begun}),
            "validation_loss": self.validation,
            "validation_loss_other_images": self.blind,
            "log": files.log_sum(self.folder),
            "device": device_name(self.fabric.device),
            "versions": {"modiff": __version__, "torch": torch.__version__},
            "date": datetime.now(UTC).date().isoformat(),
            "not_for": "not a medical device; research only",
        }


def train(
    config: RunConfig,
    data: str | Path,
    folder: str | Path,
    *,
    fold: int | None = None,
    max_seconds: float | None = None,
    quiet: bool = False,
    start: Start | None = None,
    tell: Callable[[list[Tensors]], None] = lambda parts: None,
) -> TrainingResult:
    """Trains on a store's split "train", validates on "val"; with a fold on the patients outside it.

    start: weights to begin with, and parts that are not trained; `tell` is called with what of them fits.
    Raises CheckpointError where `folder` is another run's, DataError where another process trains in it.
    """
    _end_with_the_first()
    check_ranges(config)
    check_logger(config.trainer.logger)
    folder, settings = Path(folder), config.training
    with Store.open(data) as store:
        training, validation = (load(store, fold_split(fold, split)) for split in ("train", "val"))
    if said := little_contrast(used_range(training.image[evenly_spaced(len(training), _LOOKED_AT)])):
        logging.getLogger("modiff").warning(said)
    described = files.describe_data(training, Path(data).resolve(), fold=fold)
    torch.manual_seed(seed_for(config.seed, "weights"))
    model = build(config.method, config.model, described)
    parts, begun = ([], None) if start is None else start.apply(model)
    fabric = _fabric(config)
    with alone(folder) if fabric.is_global_zero else nullcontext():  # one start, of however many processes
        saved = _begin(config, described, folder, begun, first=fabric.is_global_zero)
        clock = Clock(settings.budget, max_seconds, before=saved["seconds"] if saved else 0.0)
        if saved and clock.progress(images := saved["step"] * settings.batch_size) >= 1.0:
            reason = "budget already spent"
            if fabric.is_global_zero:
                files.save_weights(saved["average"], folder / files.WEIGHTS)  # they may be gone or damaged since
            return TrainingResult(folder, True, reason, saved["step"], images, clock.seconds, saved["validation"])
        _launch(fabric)
        run = Run(fabric, model, described, config, folder, clock)
        run.begun = begun
        tell(parts)
        if saved:
            run.load(saved)
            saved.clear()  # as large as the run itself
        each = {"size": settings.batch_size, "rank": fabric.global_rank, "world": fabric.world_size}
        augment = Augmentation(settings.augment, settings.deformation, settings.intensity_augmentation)
        batch_at = partial(_batches(training, fabric.device), seed=config.seed, augment=augment, **each)
        fixed = validation_batches(validation, images=settings.validation_images, **each)
        run.fit(batch_at, fixed, quiet=quiet)
    finished = clock.reason == SPENT
    return TrainingResult(
        folder, finished, clock.reason, run.step, run.images, clock.seconds, run.validation, clock.signalled
    )


def _graph(fabric: Fabric, config: RunConfig, rng: torch.Generator) -> CudaGraph | None:
    """What captures steps; None on a CPU and where it is switched off, and with several devices, which wait for one
    another."""
    if fabric.device.type != "cuda" or not config.trainer.graph:
        return None
    if fabric.world_size > 1:
        if fabric.is_global_zero:
            logging.getLogger("modiff").warning("several devices train without a CUDA graph")
        return None
    return CudaGraph(fabric.device, rng)


def _batches(store: MemoryStore, device: torch.device) -> Callable[..., Batch]:
    """Makes batches: on the device, where it is a GPU (CUDA), on which the store lies if there is room."""
    if device.type != "cuda":
        return partial(training_batch, store)
    needed, (free, _) = DeviceStore.needed(store), torch.cuda.mem_get_info(device)
    resident = needed <= _HELD * free
    if not resident:
        found = f"the images take {needed / 1e9:.1f} GB, the device has {free / 1e9:.1f} GB free"
        logging.getLogger("modiff").warning("each batch's images are copied to the device: %s", found)
    return DeviceStore(store, device, resident=resident).training_batch


def _begin(
    config: RunConfig, described: DataSpec, folder: Path, begun: dict[str, Any] | None, *, first: bool
) -> dict[str, Any] | None:
    """Readies the folder for this start; a checkpoint's content if there is one. first: the process that writes."""
    saved, path = None, folder / files.CHECKPOINT
    if path.exists():
        files.check_resumable(folder, config, described)
        check_start(folder, begun)
        saved = read_checkpoint(path)
    if first:  # only after all checks: a refused start must not leave a config.yaml that makes the next one fail
        files.write_config(folder / files.CONFIG, config)
        files.write_json(folder / files.DATA, described.to_dict())
        write_start(folder, begun)
        files.check_log(folder)
        files.truncate_log(folder / files.LOG, saved["step"] if saved is not None else -1)
        if (folder / files.CARD).exists():  # perhaps of a later step than the checkpoint
            files.write_json(folder / files.CARD, files.read_json(folder / files.CARD) | {"log": files.log_sum(folder)})
    return saved


def _launch(fabric: Fabric) -> None:
    """Starts the other processes of this machine, where nothing else has: they come this far by themselves."""
    if threading.current_thread() is threading.main_thread():  # Linux would end them with the thread that started them
        os.environ[_FIRST] = str(os.getpid())
    try:
        fabric.launch()
    finally:
        os.environ.pop(_FIRST, None)  # it must not reach what is started later


def _end_with_the_first() -> None:
    """Lets Linux end a process that `_launch` of another one started, when that one is killed.

    It would wait for it for ever. Raises TrainingError where that one has ended already.
    """
    first = os.environ.pop(_FIRST, None)
    if first is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if first != str(os.getppid()):
            raise TrainingError("the process that started this one has ended")


def _fabric(config: RunConfig) -> Fabric:
    """Devices and processes; ConfigError where this machine does not have them or a batch does not divide over them."""
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    settings, size = config.trainer, config.training.batch_size
    device = choose_device(settings.accelerator, field="trainer.accelerator (--device)")
    several = settings.devices * settings.num_nodes > 1
    if several and device.index is not None:
        found = f"{device} and {settings.devices * settings.num_nodes} devices"
        raise ConfigError("names one device", field="trainer.accelerator (--device)", found=found, expected=device.type)
    try:
        strategy = "ddp_find_unused_parameters_true" if several else "auto"
        where: dict[str, Any] = {"num_nodes": settings.num_nodes}
        where["devices"] = [device.index] if device.type == "cuda" and device.index is not None else settings.devices
        fabric = Fabric(accelerator=device.type, strategy=strategy, **where)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ConfigError("does not fit this machine", field="trainer", found=str(error)) from error
    if size % fabric.world_size:
        field, expected = "training.batch_size", f"a multiple of {fabric.world_size}"
        raise ConfigError("does not divide over the devices", field=field, found=size, expected=expected)
    return fabric
