"""training.ckpt, from which a run resumes: a line with the SHA-256 of what follows, which is torch's plain data."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from modiff.errors import CheckpointError
from modiff.io.files import write_bytes

_HEAD = b"modiff training checkpoint 1, SHA-256 "
_HINT = "Delete it to start the run again"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain data, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_bytes(path, _HEAD + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, its tensors on the CPU.

    Raises CheckpointError where the file is something else, was damaged since, or holds more than tensors and plain
    data: nothing in it is ever run.
    """
    try:
        head, _, content = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise CheckpointError("cannot be read", path=path, found=error.strerror) from error
    if not head.startswith(_HEAD):
        if head.startswith(b"PK"):  # Lightning's
            hint = f"Finish it with that version, or use its weights as they are. {_HINT}"
            raise CheckpointError("was written by modiff 0.1 and cannot be resumed", path=path, hint=hint)
        raise CheckpointError("is not a training checkpoint", path=path, hint=_HINT)
    if head.removeprefix(_HEAD) != hashlib.sha256(content).hexdigest().encode():
        raise CheckpointError("is damaged", path=path, found="content that does not fit its SHA-256", hint=_HINT)
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        found = type(error).__name__
        raise CheckpointError("is not a training checkpoint", path=path, found=found, hint=_HINT) from error
    return state
