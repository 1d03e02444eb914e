"""weights.safetensors: its header, which says what is in it before anything is read, and loading it into a model."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from modiff.errors import CheckpointError, DataError
from modiff.io import checksum
from modiff.io.files import plain
from modiff.plain import parse_json

_MAX_HEADER = 4 << 20  # bytes; the largest method has 70,000
_FLOATS, _INTEGERS = ("F64", "F32", "F16", "BF16"), ("I64", "I32")
_HINT = "Copy the file again, or train again"


class Stored(NamedTuple):
    """A tensor as a header has it. kind: safetensors' word for its type, such as BF16."""

    kind: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Stored]:
    """What tensors a file of weights holds, by its header alone.

    CheckpointError where it is not such a file or is cut short, where a name or a shape is not one, and for types that
    are not those of weights.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                raise _damaged(path, "another format, or a damaged beginning")
            text, size = file.read(length).decode(), path.stat().st_size - 8 - length
        content = parse_json(text)
        content.pop("__metadata__", None)
        found = {name: Stored(str(one["dtype"]), tuple(one["shape"])) for name, one in content.items()}
        ends = [one["data_offsets"][1] for one in content.values()]
        whole = all(type(side) is int and side >= 0 for one in found.values() for side in one.shape)
        longest = max(ends, default=0)
    except OSError as error:
        raise _damaged(path, plain(error)) from error
    except (UnicodeDecodeError, DataError, AttributeError, LookupError, TypeError) as error:
        raise _damaged(path, "another format, or a damaged beginning") from error
    if not whole:
        raise _damaged(path, "a shape that is not one")
    if longest != size:
        raise _damaged(path, "an end that comes too early" if longest > size else "more than its header says")
    for name, one in found.items():
        if one.kind not in (*_FLOATS, *_INTEGERS):
            expected = ", ".join(_FLOATS)
            raise CheckpointError(
                "has a type that weights do not have", path=path, field=name, found=one.kind, expected=expected
            )
    return found


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError("is not a safetensors file, or a damaged one", path=path, found=found, hint=_HINT)


def count(header: dict[str, Stored]) -> int:
    """How many numbers a file holds."""
    return sum(math.prod(one.shape) for one in header.values())


def check_weights(path: Path) -> str:
    """The SHA-256 of a weights file; CheckpointError where it cannot be read or does not fit the checksum it holds."""
    try:
        data = path.read_bytes()
        checksum.check(data, path)
    except OSError as error:
        raise CheckpointError("cannot be read", path=path, found=error.strerror) from error
    except DataError as error:
        raise CheckpointError(error.message, path=path, found=error.found, hint=_HINT) from error
    return hashlib.sha256(data).hexdigest()


def load_weights(model: nn.Module, path: Path, header: dict[str, Stored]) -> None:
    """Loads a file into a model; CheckpointError naming the first tensor that is missing, surplus, or does not fit."""
    expected = model.state_dict()
    for name, value in expected.items():
        if name not in header:
            raise CheckpointError("lacks a tensor that the configuration asks for", path=path, field=name)
        stored, kinds = header[name], _FLOATS if value.is_floating_point() else _INTEGERS
        if stored.shape != value.shape:
            found, wanted = stored.shape, tuple(value.shape)
            raise CheckpointError(
                "has a tensor of an unexpected shape", path=path, field=name, found=found, expected=wanted
            )
        if stored.kind not in kinds:
            raise CheckpointError(
                "has a tensor of an unexpected type", path=path, field=name, found=stored.kind, expected=kinds[0]
            )
    if surplus := sorted(header.keys() - expected.keys()):
        names = ", ".join(surplus[:3])
        raise CheckpointError("has tensors that the configuration does not know", path=path, found=names)
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, plain(error)) from error
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError("has values that are not finite", path=path, field=name)
    model.load_state_dict(state)
