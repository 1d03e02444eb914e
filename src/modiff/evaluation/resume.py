"""Rows of an evaluation in progress: appended to a file as they come, so that the same command resumes.

The first line says what the rows are of; rows of another model, data set or setting are never mixed in. Each process
appends to a file of its own; whoever resumes reads them all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modiff.errors import CheckpointError

Row = dict[str, Any]


class PartialRows:
    """The finished rows on disk, and the file that this process appends to.

    target: the evaluation's JSON; rows lie beside it as <stem>.partial-<process>.jsonl. identity: what must be equal
    for rows to belong together, flat names and JSON values.
    """

    def __init__(self, target: Path, identity: dict[str, Any], rank: int) -> None:
        self.target, self.identity = target, json.loads(json.dumps(identity))
        self._path = target.with_name(f"{target.stem}.partial-{rank}.jsonl")

    def files(self) -> list[Path]:
        """The partial files of all processes, of this start and of earlier ones."""
        start = f"{self.target.stem}.partial-"
        there = self.target.parent.glob("*.jsonl")
        return sorted(path for path in there if path.name.startswith(start) and path.is_file())

    def read(self) -> list[Row]:
        """The finished rows of all processes.

        Raises:
            CheckpointError: they are of another model, data set or setting; says which.
        """
        rows: list[Row] = []
        for path in self.files():
            first, *more = _whole_lines(path) or [{"identity": self.identity}]
            there = dict.fromkeys(self.identity) | first.get("identity", {})
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

    def __enter__(self) -> PartialRows:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._path.read_bytes().rfind(b"\n") + 1 if self._path.exists() else 0
        self._file = self._path.open("a", encoding="utf-8")
        self._file.truncate(whole)  # a line that was cut off is written again
        if not whole:
            self.append([{"identity": self.identity}])
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, rows: list[Row]) -> None:
        """Adds finished rows; they survive the program's end. An undefined value is NaN here, which Python reads."""
        self._file.write("".join(json.dumps(row) + "\n" for row in rows))
        self._file.flush()


def _whole_lines(path: Path) -> list[Row]:
    """What a program that was killed in the middle of a line left whole."""
    try:
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    except ValueError:
        rows = [None]
    if not all(isinstance(row, dict) for row in rows):
        hint = "Add --restart to begin again."
        raise CheckpointError("rows of an unfinished evaluation that cannot be read", path=path, hint=hint)
    return rows


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:20]}…"
