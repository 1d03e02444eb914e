"""Which device computes, how it is called, what is kept on it, and CUDA graphs."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from threading import local
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from modiff.errors import ConfigError

_Arguments = ParamSpec("_Arguments")
_Made = TypeVar("_Made")
_used = local()  # by the graph that this thread captures, if any


def choose_device(name: str | torch.device, *, field: str = "device") -> torch.device:
    """A device of this machine: "auto" is a GPU (CUDA) if there is one, else the CPU; "gpu" is another word for CUDA.

    Every verb that computes takes its device from here. ConfigError where it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda" if name == "gpu" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = f"{name} ({(str(error).splitlines() or ['not available'])[0]})"
        raise ConfigError(
            "cannot be used here", field=field, found=found, expected="auto, cpu, or cuda where there is a GPU"
        ) from error
    return device


def device_name(device: torch.device | str) -> str:
    """What computes, e.g. "cpu (x86_64, 2 threads)" or "cuda (NVIDIA H100)"."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def automatic_precision(device: torch.device) -> str:
    """Lightning's name of bfloat16 where the device computes with it natively, else of float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return "bf16-mixed" if native else "32-true"


@contextmanager
def constants_used() -> Iterator[list[Any]]:
    """Collects the constants that a CUDA graph is captured with: it reads their memory for as long as it lives."""
    _used.constants = found = list[Any]()
    try:
        yield found
    finally:
        del _used.constants


def constant(make: Callable[_Arguments, _Made]) -> Callable[_Arguments, _Made]:
    """Keeps what a function made of its last 32 arguments: tensors on a device, never to be changed."""

    @lru_cache(maxsize=32, typed=True)  # 64 and 64.0 are equal, but their tensors are not alike
    @torch.inference_mode(False)  # kept for training too, which may not save inference tensors
    def made(*args: _Arguments.args, **more: _Arguments.kwargs) -> _Made:
        if hasattr(_used, "constants"):  # its memory would be the graph's, its values there after a replay only
            raise RuntimeError("a constant is made while a graph is captured")
        return make(*args, **more)

    @wraps(make)
    def get(*args: _Arguments.args, **more: _Arguments.kwargs) -> _Made:
        value: _Made = made(*args, **more)  # type: ignore[arg-type]
        if hasattr(_used, "constants"):
            _used.constants.append(value)
        return value

    return get


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given: a GPU works on after a call returns; a clock must not."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@constant
def numbers_on(device: torch.device, *values: float) -> Tensor:
    """Some numbers as a tensor; without this each use would wait for the device."""
    return torch.tensor(values, device=device)


class CudaGraph:
    """Captures work on a CUDA device, and replays it. rng: a generator besides the default one that it draws from."""

    def __init__(self, device: torch.device, rng: torch.Generator | None = None) -> None:
        self._graph, self._stream, self._rng = torch.cuda.CUDAGraph(), torch.cuda.Stream(device), rng
        self._constants: list[Any] = []  # kept alive: replays read them

    @contextmanager
    def beside(self) -> Iterator[None]:
        """On the stream of the capture, as what comes before a capture must be."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    @contextmanager
    def without_waiting(self) -> Iterator[None]:
        """RuntimeError for an operation that makes the CPU wait for the device: it could not be captured."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def capture(self, work: Callable[[], None]) -> None:
        """Takes the work down and does not do it; RuntimeError where it cannot be captured."""
        current = torch.cuda.current_stream(self._stream.device)
        drawn_from = [torch.cuda.default_generators[current.device_index]]
        if self._rng is not None:
            self._graph.register_generator_state(self._rng)
            drawn_from.append(self._rng)
        before = [(rng, rng.clone_state()) for rng in drawn_from]
        try:
            with (
                constants_used() as self._constants,
                torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                work()
        except RuntimeError:
            for rng, state in before:  # a capture that is broken off leaves generators that only a graph can draw from
                rng.graphsafe_set_state(state)
            raise
        finally:
            torch.cuda.set_stream(current)  # a capture that fails leaves its own

    def replay(self) -> None:
        """Does the work, on the current stream."""
        self._graph.replay()
