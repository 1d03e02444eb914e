"""The weights' moving average, which is what is validated, saved and published."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class EMA:
    """Exponential moving average of a module's state with decay min(limit, (1 + step)/(10 + step)), in float32.

    module: a copy in evaluation mode that has the averaged state. state: its tensors by name, not copies.
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
