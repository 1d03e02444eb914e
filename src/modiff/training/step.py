"""What a step of training does on the device: forward, backward, clipping, optimiser; on a GPU as one CUDA graph.

A graph is a list of kernels with their arguments: captured once, it is replayed without the CPU starting each kernel.
What a step is given therefore lies at fixed places: batch, learning rate, and the state of its random generators.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from modiff.devices import CudaGraph
from modiff.training.optimizer import set_rate
from modiff.types import Batch

_WARM = 3  # steps before the capture (PyTorch's notes on CUDA graphs): libraries choose their kernels in them


class Step:
    """A step whose operations are started one by one.

    compute: the terms of a batch's loss, with their graph. backward: of the loss. clip: largest norm of the gradient,
    0 for none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        compute: Callable[[Batch], dict[str, Tensor]],
        backward: Callable[[Tensor], None],
        *,
        clip: float,
    ) -> None:
        self.model, self.optimizer, self.clip = model, optimizer, clip
        self._compute, self._backward = compute, backward

    def __call__(self, batch: Batch, rate: float, seed: Callable[[], None]) -> dict[str, Tensor]:
        """Takes the step; returns the terms of the loss before it. seed: sets the random generators for it."""
        set_rate(self.optimizer, rate)
        seed()
        terms = self.differentiate(batch)
        self.optimizer.step()
        return terms

    def differentiate(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss, detached; leaves clipped gradients."""
        self.optimizer.zero_grad()
        terms = self._compute(batch)
        self._backward(terms["loss"])
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        return {name: value.detach() for name, value in terms.items()}


class GraphStep(Step):
    """A step that is captured after a few of its like, and replayed from then on: the same numbers, up to rounding.

    Where it cannot be captured, the log says so in one line, and its operations are started one by one. graph: does the
    capture.
    """

    def __init__(self, *args: Any, graph: CudaGraph, **more: Any) -> None:
        super().__init__(*args, **more)
        self._graph: CudaGraph | None = graph
        self._taken, self._captured = 0, False
        self._batch: Batch | None = None  # what the graph reads
        self._terms: dict[str, Tensor] = {}  # what it writes

    def __call__(self, batch: Batch, rate: float, seed: Callable[[], None]) -> dict[str, Tensor]:
        if self._graph is None:
            return super().__call__(batch, rate, seed)
        set_rate(self.optimizer, rate)
        held = self._hold(batch)
        seed()
        if self._captured:
            self._graph.replay()
        else:
            with self._graph.beside():
                self._warm(held, seed, self._graph)
        terms = {name: value.clone() for name, value in self._terms.items()}  # a replay overwrites them
        self._taken += 1
        if self._taken == _WARM and self._graph is not None:
            self._capture(held, self._graph)
        return terms

    def _hold(self, batch: Batch) -> Batch:
        """Copies the batch to where the graph reads it."""
        tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
        if self._batch is None:
            places: dict[str, Any] = {name: value.clone() for name, value in tensors.items()}
            self._batch = replace(batch, **places)
        for name, value in tensors.items():
            getattr(self._batch, name).copy_(value)
        return self._batch

    def _warm(self, batch: Batch, seed: Callable[[], None], graph: CudaGraph) -> None:
        """A step as it is; the last one before the capture finds out whether it waits for the device."""
        if self._taken < _WARM - 1:
            self._terms = self.differentiate(batch)
        else:
            before = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
            try:
                with graph.without_waiting():
                    self._terms = self.differentiate(batch)
            except RuntimeError as error:
                self._give_up(error)
                for buffer, value in before:
                    buffer.copy_(value)
                seed()
                self._terms = self.differentiate(batch)
        self.optimizer.step()

    def _capture(self, batch: Batch, graph: CudaGraph) -> None:
        def work() -> None:
            self._terms = self.differentiate(batch)
            self.optimizer.step()

        try:
            self.optimizer.zero_grad()
            graph.capture(work)
            self._captured = True
        except RuntimeError as error:
            self._give_up(error)

    def _give_up(self, error: RuntimeError) -> None:
        self._graph = None
        why = (str(error).splitlines() or [type(error).__name__])[0]
        logging.getLogger("modiff").warning("training steps are not captured in a CUDA graph, and slower: %s", why)
