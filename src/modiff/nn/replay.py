"""Work of the same shapes that comes again and again, such as the steps of a sampler, as CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from modiff.devices import CudaGraph

_MOST = 8  # graphs at once: each holds the memory of its work
_NEAR = 1e-3  # mean difference of a replay from the work itself; a few pixels may fall to the other side of a threshold


@dataclass
class _Captured:
    graph: CudaGraph
    inputs: list[Tensor]
    output: Tensor


class Replays:
    """Does work as it is the first time, captures it the second time, and replays it from then on.

    A capture is compared with the work itself before it is used. Where it fails or differs, the log says so in one
    line, and everything is done as it is. make: a graph, of the device.
    """

    def __init__(self, make: Callable[[], CudaGraph]) -> None:
        self._make, self._usable = make, True
        self._seen: dict[Hashable, CudaGraph] = {}
        self._captured: dict[Hashable, _Captured] = {}

    def __call__(self, work: Callable[..., Tensor], key: Hashable, *inputs: Tensor) -> Tensor:
        """work(*inputs). key: everything else that it depends on, but for weights, which must not be replaced."""
        key = (key, *((part.shape, part.dtype) for part in inputs))
        if not self._usable or (key not in self._seen and len(self._seen) >= _MOST):
            return work(*inputs)
        if key in self._captured:
            return self._replayed(self._captured[key], inputs)
        again, graph = key in self._seen, self._seen.setdefault(key, self._make())
        with graph.beside():
            made = work(*inputs)
        if again:
            self._capture(key, graph, work, inputs, made)
        return made

    @staticmethod
    def _replayed(kept: _Captured, inputs: tuple[Tensor, ...]) -> Tensor:
        for place, value in zip(kept.inputs, inputs, strict=True):
            place.copy_(value)
        kept.graph.replay()
        return kept.output.clone()  # the next replay overwrites it

    def _capture(
        self, key: Hashable, graph: CudaGraph, work: Callable[..., Tensor], inputs: tuple[Tensor, ...], made: Tensor
    ) -> None:
        kept = _Captured(graph, [part.clone() for part in inputs], torch.zeros_like(made))

        def once() -> None:
            kept.output.copy_(work(*kept.inputs))

        try:
            graph.capture(once)
            difference = float((self._replayed(kept, inputs) - made).abs().mean())
        except RuntimeError as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
        else:
            why = "" if difference < _NEAR else f"replays differ by {difference:.2g}"
        if why:
            self._usable = False
            self._captured.clear()
            logging.getLogger("modiff").warning("samples are not drawn by CUDA graphs, and slower: %s", why)
        else:
            self._captured[key] = kept
