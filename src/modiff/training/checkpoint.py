"""training.ckpt, from which a training resumes: a line with the SHA-256 of what follows, torch's plain data."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from modiff.errors import CheckpointError, DataError
from modiff.io.files import regular, sha256_of
from modiff.io.output import write_bytes

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
        regular(path)
        with path.open("rb") as file:
            head = file.readline(len(_HEAD) + 65).removesuffix(b"\n")
            file.seek(max(0, path.stat().st_size - 22))
            whole = file.read(4) == b"PK\5\6"  # as a zip archive ends: what is cut or has more behind it is not hashed
    except OSError as error:
        raise CheckpointError("cannot be read", path=path, found=error.strerror) from error
    except DataError as error:
        raise CheckpointError(error.message, path=path, hint=_HINT) from error
    if not head.startswith(_HEAD):
        if head.startswith(b"PK"):  # Lightning's
            hint = f"Finish it with that version, or use its weights as they are. {_HINT}"
            raise CheckpointError("was written by modiff 0.1 and cannot be resumed", path=path, hint=hint)
        raise CheckpointError("is not a training checkpoint", path=path, hint=_HINT)
    if not whole or head.removeprefix(_HEAD).decode("latin-1") != sha256_of(path, start=len(head) + 1):
        raise CheckpointError("is damaged", path=path, found="content that does not fit its SHA-256", hint=_HINT)
    try:
        content = io.BytesIO(path.read_bytes()[len(head) + 1 :])
        state: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        found = type(error).__name__
        raise CheckpointError("is not a training checkpoint", path=path, found=found, hint=_HINT) from error
    return state
