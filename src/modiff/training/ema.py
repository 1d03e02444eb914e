"""The weights' moving average, which is what is validated, saved and published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of a module's state with decay min(limit, (1 + step)/(10 + step)), in float32."""

    def __init__(self, module: nn.Module, limit: float) -> None:
        self.limit = limit
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """After optimiser step number `step`, counted from 0."""
        share = 1 - min(self.limit, (1 + step) / (10 + step))
        averages, values = [], []
        for name, value in module.state_dict().items():
            average = self.state[name]
            if average.is_floating_point():
                averages.append(average)
                values.append(value.detach())
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, share)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with the averaged weights, and its own again afterwards."""
        own = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.state)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes over a saved average, on the device the present one is on."""
        self.state = {name: state[name].to(value.device, value.dtype) for name, value in self.state.items()}
