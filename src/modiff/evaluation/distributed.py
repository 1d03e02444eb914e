"""Several processes share the images: each takes every world-size-th one, so that each image is counted exactly once.

A DistributedSampler would repeat images until all processes have equally many, and a mean over them would be off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from modiff.errors import ModiffError

T = TypeVar("T")


def is_parallel() -> bool:
    """Whether this is one of several processes that know each other."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """This process's number; 0 does the printing and writing."""
    return distributed.get_rank() if is_parallel() else 0


def count() -> int:
    """How many processes share the work."""
    return distributed.get_world_size() if is_parallel() else 1


def share(rows: Sequence[T]) -> list[T]:
    """This process's part of `rows`: every row is in the part of exactly one process."""
    return list(rows[rank() :: count()])


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in every process; an error of the first is raised in all of them."""
    if not is_parallel():
        return make()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = make()
        except ModiffError as raised:
            box[1] = raised
    distributed.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return cast(T, box[0])


def gather(rows: list[T]) -> list[T]:
    """All processes' rows together, in every process."""
    if not is_parallel():
        return rows
    parts: list[list[T]] = [[] for _ in range(count())]
    distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


@contextmanager
def started_by_torchrun(device: torch.device) -> Iterator[torch.device]:
    """Joins the other processes if torchrun started several; yields this process's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()
