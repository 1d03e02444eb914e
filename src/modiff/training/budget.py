"""How long a training lasts: the clock, the budget, and signals that end it early."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from lightning.fabric import Fabric

from modiff.config.run import parse_budget

SPENT, INTERRUPTED = "budget spent", "interrupted"
_REASONS = ("", SPENT, "time of this start over", INTERRUPTED)  # by the number that processes share


class Clock:
    """Measures training time and says at a step's end whether training must end.

    budget: of the whole run, as `parse_budget` reads it. max_seconds: of this start, validations and saves included.
    seconds: training time of all starts, those `before` this one included. reason: why this start ended, "" before.
    signalled: a signal asked to end, perhaps after the last step: the callers of a training must stop too.

    A budget of time is spent by training alone, not by validations and the saves that follow them: methods validate
    more or less often. With several processes the slowest clock decides, so that all stop at the same step.
    """

    def __init__(self, budget: str, max_seconds: float | None = None, *, before: float = 0.0) -> None:
        self.budget_seconds, self.budget_images = parse_budget(budget)
        self.max_seconds, self.before, self.seconds = max_seconds, before, before
        self.reason = ""
        self.signalled = False
        self._paused = 0.0

    def progress(self, images: int) -> float:
        """Fraction of the budget that is spent once `images` were seen, 0 to 1."""
        if self.budget_images is not None:
            return min(1.0, images / self.budget_images)
        return min(1.0, self.seconds / (self.budget_seconds or 1.0))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Starts the clock, and listens to signals until the block, the last save included, ends."""
        self._started = time.monotonic()
        listened = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        handlers = {number: signal.signal(number, self._note) for number in listened}  # elsewhere the caller listens
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the step's end
        self.signalled = True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not training."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def stops(self, images: int, fabric: Fabric) -> bool:
        """Whether the step that ends now, after `images` in all, is this start's last; sets `seconds` and `reason`."""
        since_start = time.monotonic() - self._started
        self.seconds = self.before + since_start - self._paused
        code = 2 if self.max_seconds is not None and since_start >= self.max_seconds else 0
        code = 1 if self.progress(images) >= 1.0 else code
        code = 3 if self.signalled else code
        if fabric.world_size > 1:
            shared = torch.tensor([code, self.seconds], device=fabric.device, dtype=torch.float64)
            torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
            code, self.seconds = int(shared[0]), float(shared[1])
        self.reason = _REASONS[code]
        return code > 0
