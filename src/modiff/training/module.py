"""The Lightning module around any Segmenter: loss, optimiser, learning rate, moving average."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from modiff.config import TrainingConfig, parse_budget
from modiff.data.batches import generator
from modiff.methods.base import Segmenter
from modiff.rng import seed_for
from modiff.training.ema import EMA
from modiff.types import Batch

_COSINE_END = 0.05  # of the learning rate, at the end of the budget


class TrainingModule(LightningModule):
    """Step i of a run depends on (seed, i), the weights and the optimiser's state alone, so that resuming is exact.

    With a budget of time, a cosine decay makes the learning rate depend on the clock as well.
    """

    def __init__(self, model: Segmenter, config: TrainingConfig, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.ema = EMA(model, config.ema_decay)
        self.budget_seconds, self.budget_images = parse_budget(config.budget)
        self.seconds_before = 0.0  # of earlier starts, for budgets of time
        self.seconds_now = 0.0  # of this start
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self.validation: float | None = None

    # Progress

    @property
    def images_seen(self) -> int:
        """Images of all optimiser steps so far."""
        return self.global_step * self.config.batch_size

    @property
    def seconds(self) -> float:
        """Training time of all starts."""
        return self.seconds_before + self.seconds_now

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        if self.budget_images is not None:
            return min(1.0, self.images_seen / self.budget_images)
        return min(1.0, self.seconds / (self.budget_seconds or 1.0))

    # Steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One optimiser step's loss; the global generator serves dropout alone and is reseeded from the step."""
        step, rank = self.global_step, self.global_rank
        torch.manual_seed(seed_for(self.seed, "dropout", step, rank))
        rng = generator(self.seed, "loss", step, rank, device=self.device)
        terms = self.model.training_loss(batch, rng=rng)
        self.terms = {name: value.detach() for name, value in terms.items()}
        return terms["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The step's learning rate: warm-up times decay."""
        rate = self.plateau_rate if self.plateau is not None else self.config.learning_rate
        if self.config.decay == "cosine":
            rate *= _COSINE_END + (1 - _COSINE_END) * 0.5 * (1 + math.cos(math.pi * self.progress))
        rate *= min(1.0, (self.global_step + 1) / max(1, self.config.warmup))
        for group in optimizer.param_groups:
            group["lr"] = rate
        self.rate = rate

    def on_validation_start(self) -> None:
        self._averaged = ExitStack()
        self._averaged.enter_context(self.ema.applied(self.model))
        self._sums: dict[str, Tensor] = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The averaged weights' loss with the same times and noise every time."""
        rng = generator(self.seed, "validation", batch_idx, self.global_rank, device=self.device)
        terms = self.model.training_loss(batch, rng=rng)
        weighted = {name: value.detach() * len(batch) for name, value in terms.items()}
        for name, value in (weighted | {"images": torch.tensor(float(len(batch)), device=self.device)}).items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def on_validation_epoch_end(self) -> None:
        """The terms' means over all processes; in this hook, so that callbacks find them at the validation's end."""
        self._averaged.close()
        total = self._total(self._sums)
        images = max(total.pop("images", 0.0), 1.0)
        terms = {name: value / images for name, value in total.items()}
        self.validation = terms.get("loss")
        # A start that ends between two validations validates once more; the schedule and the log must not see it, or a
        # run would depend on where it was interrupted.
        due = self.global_step % self.config.validate_every == 0
        self.validation_terms = terms if due else {}
        if due and self.plateau is not None and self.validation is not None:
            self.plateau.step(self.validation)

    def _total(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Sums over all processes; one without images has no names of its own."""
        if self.trainer.world_size == 1:
            return {name: float(value) for name, value in sums.items()}
        known: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(known, sorted(sums))
        names = sorted(set().union(*known))
        nothing = torch.zeros((), device=self.device)
        values = torch.stack([sums.get(name, nothing).float() for name in names])
        torch.distributed.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    # Optimiser

    @property
    def plateau_rate(self) -> float:
        """The learning rate that ReduceLROnPlateau has come to."""
        return self._plateau_group.param_groups[0]["lr"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, or AdamW where there is weight decay; the learning rate is set before each step."""
        config = self.config
        optimizer: torch.optim.Optimizer
        if config.weight_decay:
            decayed = [p for p in self.model.parameters() if p.ndim > 1]
            others = [p for p in self.model.parameters() if p.ndim <= 1]
            groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        else:
            optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, fused=True)
        if config.decay == "plateau":
            # On a group of its own: the scheduler's rate is one factor of the step's rate.
            self._plateau_group = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                self._plateau_group, factor=config.plateau_factor, patience=config.plateau_patience
            )
        return optimizer

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the norm of all gradients. Lightning's own refuses fused optimisers for the sake of scaled float16."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), float(gradient_clip_val))

    # State beyond Lightning's own

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["modiff"] = {
            "ema": self.ema.state,
            "seconds": self.seconds,
            "plateau": self.plateau.state_dict() if self.plateau is not None else None,
            "plateau_rate": self.plateau_rate if self.plateau is not None else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["modiff"]
        self.ema.load(state["ema"])
        self.seconds_before = state["seconds"]
        self._restored_plateau = (state["plateau"], state["plateau_rate"])

    def on_fit_start(self) -> None:
        self.ema.state = {name: value.to(self.device) for name, value in self.ema.state.items()}
        saved = getattr(self, "_restored_plateau", None)
        if saved is not None and self.plateau is not None and saved[0] is not None:
            self.plateau.load_state_dict(saved[0])
            self._plateau_group.param_groups[0]["lr"] = saved[1]
