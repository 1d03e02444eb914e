"""An evaluation in several processes, and in several starts.

Processes share the images: each takes every world-size-th one, so that each image is counted exactly once. (A
DistributedSampler would repeat images until all processes have equally many, and a mean over them would be off.)

Rows in progress are appended to a file as they come, so that the same command resumes. The first line says what the
rows are of; rows of another model, data set or setting are never mixed in. Each process appends to a file of its own;
a process that resumes reads them all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from modiff.config.fields import typed
from modiff.errors import CheckpointError, DataError, ModiffError
from modiff.io.checksum import read_lines, stamped_json
from modiff.io.files import files_in, told
from modiff.io.output import alone

_AGAIN = "Add --restart to begin again."
T = TypeVar("T")
Row = dict[str, Any]


def count() -> int:
    """How many processes share the work."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 does the printing and writing."""
    return distributed.get_rank() if count() > 1 else 0


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in every process; an error of the first is raised in all of them."""
    if count() == 1:
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


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """`alone` of the first process, for all of them: an error is raised in each."""
    with ExitStack() as held:
        from_first(lambda: held.enter_context(alone(folder)))
        yield


def gather(rows: list[T]) -> list[T]:
    """All processes' rows together, in every process."""
    if count() == 1:
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


class PartialRows:
    """The finished rows on disk, which every process appends to a file of its own.

    target: the evaluation's JSON; rows lie beside it as <stem>.partial-<process>.jsonl. identity: what must be equal
    for rows to belong together, flat names and JSON values.
    """

    def __init__(self, target: Path, identity: dict[str, Any]) -> None:
        self.target, self.identity = target, json.loads(json.dumps(identity))

    def files(self) -> list[Path]:
        """The partial files of all processes, of this start and of earlier ones."""
        there = files_in(self.target.parent, ".jsonl")
        return [path for path in there if path.name.startswith(f"{self.target.stem}.partial-")]

    def read(self) -> list[Row]:
        """The finished rows of all processes; CheckpointError for those of another model, data set or setting."""
        rows: list[Row] = []
        for path in self.files():
            with _refused(path):
                first, *more = read_lines(path) or [{"identity": self.identity}]
                for line, row in enumerate(more, 2):
                    _check_row(row, line, path)
            own = first.get("identity")
            there = dict.fromkeys(self.identity) | (own if isinstance(own, dict) else {})
            differ = [
                f"{key} ({_short(there[key])} there, {_short(self.identity.get(key))} here)"
                for key in sorted(there)
                if there[key] != self.identity.get(key)
            ]
            if differ:
                what = f"rows of an unfinished evaluation that differs in {', '.join(differ)}"
                hint = "Finish that one with its own command, or add --restart to throw its rows away."
                raise CheckpointError(what, path=path, hint=hint)
            rows += more
        return rows

    def discard(self) -> None:
        """Removes the partial files: their result is written, or not wanted."""
        for path in self.files():
            path.unlink(missing_ok=True)

    @contextmanager
    def appending(self) -> Iterator[Callable[[list[Row]], None]]:
        """What adds finished rows to this process's file, where they survive the program's end."""
        path = self.target.with_name(f"{self.target.stem}.partial-{rank()}.jsonl")
        with ExitStack() as opened:
            with told(path, "cannot be written"):
                path.parent.mkdir(parents=True, exist_ok=True)
                whole = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
                file = opened.enter_context(path.open("a", encoding="utf-8"))
                file.truncate(whole)  # a line that was cut off is written again

            def append(rows: list[Row]) -> None:
                with told(path, "cannot be written"):  # NaN where undefined, which Python reads
                    file.write("".join(stamped_json(row, nan=True) for row in rows))
                    file.flush()

            if not whole:
                append([{"identity": self.identity}])
            yield append


@dataclass(frozen=True)
class _Finished:
    """What a finished row is, as `evaluate` makes it; marked, few and control are not in all files."""

    case: str
    patient: str
    stratum: str
    raters: int
    values: dict[str, Any]
    seconds: dict[str, Any]
    marked: bool = True
    few: bool = False
    control: dict[str, Any] | None = None


def _check_row(row: Row, line: int, path: Path) -> None:
    """DataError where a row lacks a name, or a value is another type."""
    what, where = "not a row of scores", f"line {line}"
    try:
        made = typed(_Finished, row, "other names", path=path, field="row", optional=("marked", "few", "control"))
    except DataError as error:
        raise DataError(what, field=where, found=f"{error.field}: {error.message}") from error
    other = made.control or {"case": "", "values": {}}
    good = isinstance(other.get("case"), str) and isinstance(other.get("values"), dict)
    numbers = [*made.values.values(), *made.seconds.values(), *(other["values"].values() if good else ())]
    if not good or any(value is not None and type(value) not in (int, float) for value in numbers):
        raise DataError(what, field=where, found=f"values of {made.case}", expected="numbers")


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        what = f"rows of an unfinished evaluation: {error.message}"
        raise CheckpointError(what, path=path, field=error.field, found=error.found, hint=_AGAIN) from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:20]}…"
