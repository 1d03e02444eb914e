"""The optimiser, the learning rate of each of its steps, and the moving average of the weights that it makes."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from modiff.config.run import TrainingConfig

_COSINE_END = 0.05  # of the learning rate, at the end of the budget


def make_optimizer(model: nn.Module, config: TrainingConfig, device: torch.device | None = None) -> Optimizer:
    """Adam, or AdamW where there is weight decay; biases and gains do not decay.

    device: that of the training. On a GPU (CUDA) the learning rate is a tensor on it, so that a graph can read it.
    """
    graphed = device is not None and device.type == "cuda"
    rate = torch.tensor(config.learning_rate, device=device) if graphed else config.learning_rate
    how: dict[str, Any] = {"lr": rate, "fused": True, "capturable": graphed}
    if not config.weight_decay:
        return Adam(model.parameters(), **how)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, **how)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the learning rate of all groups, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class OptimizerState:
    """An optimiser's state as plain data that does not tell on which device it was used."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """Its moments, and its settings with the learning rate as a number."""
        state = self.optimizer.state_dict()
        groups = [group | {"lr": float(group["lr"]), "capturable": False} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the state over; what depends on the device stays as it was made for it."""
        own = [{name: group[name] for name in ("lr", "capturable")} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state)
        for group, kept in zip(self.optimizer.param_groups, own, strict=True):
            group.update(kept)


class Schedule:
    """A step's learning rate: warm-up times decay, which is ReduceLROnPlateau, a cosine over the budget, or none."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        # On an optimiser of its own, which steps nothing: its rate is one factor of the step's rate.
        self.own = SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
        self.plateau = ReduceLROnPlateau(self.own, factor=config.plateau_factor, patience=config.plateau_patience)

    def rate(self, step: int, progress: float) -> float:
        """Learning rate of step `step`, counted from 0. progress: fraction of the budget that is spent, 0 to 1."""
        rate: float = self.own.param_groups[0]["lr"]
        if self.config.decay == "cosine":
            rate *= _COSINE_END + (1 - _COSINE_END) * 0.5 * (1 + math.cos(math.pi * progress))
        return rate * min(1.0, (step + 1) / max(1, self.config.warmup))

    def validated(self, loss: float) -> None:
        """Passes a validation's loss to ReduceLROnPlateau."""
        if self.config.decay == "plateau":
            self.plateau.step(loss)


class EMA:
    """Exponential moving average of a module's state with decay min(limit, (1 + step)/(10 + step)), in float32.

    It is what is validated, saved and published. module: a copy in evaluation mode that has the averaged state. state:
    its tensors by name, not copies.
    """

    def __init__(self, module: nn.Module, limit: float) -> None:
        self.limit, self.module = limit, deepcopy(module).eval()
        self.state = self.module.state_dict()

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """After optimiser step number `step`, counted from 0."""
        averages, values = [], []
        for name, value in module.state_dict().items():
            average = self.state[name]
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, 1 - min(self.limit, (1 + step) / (10 + step)))
