"""Reads NumPy arrays in plain containers out of a pickle, and nothing else: nothing that the file names is called.

A pickle is a program. Before it is loaded, its instructions are listed without being carried out: only those that build
dictionaries, lists, tuples, texts, bytes, numbers and arrays pass, and no length that the file does not have, for which
Python's loader would reserve memory. Then `find_class` knows a few names alone, and gives stand-ins for NumPy's
constructors that check what they are given: no function or class of Python, NumPy or anything else is reachable.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modiff.errors import DataError

# fmt: off
_ALLOWED = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING",
    "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINGET", "LONG_BINGET",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
))
# fmt: on
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_MAX_DIMENSIONS = 8
_MAX_STACK = 64  # arrays in one list: raters of a slice


class _Refused(Exception):
    """What `read_pickle` does not do; becomes a DataError with the file's name."""


class _Dtype:
    """A type in the making: its byte order comes later, as state."""

    __slots__ = ("dtype",)

    def __init__(self, text: Any, *flags: Any) -> None:
        text = text.decode("ascii") if isinstance(text, bytes) else text
        if not isinstance(text, str) or len(text) > 4 or text[:1] not in tuple("biuf<>|="):
            raise _Refused(f"has an array of type {text!r:.40}")
        self.dtype = np.dtype(text)
        if self.dtype.kind not in "biuf" or self.dtype.itemsize > 8:
            raise _Refused(f"has an array of type {text!r:.40}")

    def __setstate__(self, state: Any) -> None:
        """state: (version, byte order, subtype, names, fields, …) as NumPy writes it."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise _Refused("has an array of a compound type")
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise _Refused(f"has a byte order {order!r:.20}")
        self.dtype = np.dtype(f"{order}{self.dtype.kind}{self.dtype.itemsize}")


class _Array:
    """An array in the making, or made."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array

    def __setstate__(self, state: Any) -> None:
        """state: (version, shape, type, column-major, bytes) as NumPy writes it."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise _Refused("has an array of an unknown form")
        shape, dtype, columns_first, data = state[-4:]
        self.array = _shaped(data, dtype, shape, "F" if columns_first else "C")


def _shaped(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    data = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
        raise _Refused("has an array of something other than numbers")
    if len(shape) > _MAX_DIMENSIONS or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise _Refused(f"has an array of shape {shape!r:.60}")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise _Refused(f"has an array of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY:
        raise _Refused("has an array of another class")
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise _Refused(f"encodes by {encoding!r:.40}")
    return text.encode("latin-1")


def _bytes(*parts: Any) -> bytes:
    if parts and not (len(parts) == 1 and isinstance(parts[0], bytes)):
        raise _Refused("makes bytes from something else")
    return parts[0] if parts else b""


def _named_only(*arguments: Any) -> None:
    raise _Refused("calls something that is not a constructor of arrays")


class _StandIn:
    """Stands for a function that a pickle may name: it can be called, and has no attributes to set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("gives a state to something that is not an array")


_NDARRAY = _StandIn(_named_only)
_FUNCTIONS = {
    "_reconstruct": _StandIn(_reconstruct),
    "_frombuffer": _StandIn(lambda data, dtype, shape, order: _Array(_shaped(data, dtype, shape, order))),
    "scalar": _StandIn(lambda dtype, data: _shaped(data, dtype, (), "C").item()),
    "dtype": _StandIn(_Dtype),
    "ndarray": _NDARRAY,
}
_NAMES = {(module, name): function for module in _MODULES for name, function in _FUNCTIONS.items()}
_NAMES |= {("_codecs", "encode"): _StandIn(_encode)}
_NAMES |= {(module, "bytes"): _StandIn(_bytes) for module in ("builtins", "__builtin__")}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise _Refused(f"names {module}.{name}"[:120])
        return found


def _check_program(data: mmap.mmap) -> None:
    """Every instruction is allowed and every length is there; memo places are given out one after the other."""
    for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):  # type: ignore[arg-type]
        if instruction.name not in _ALLOWED:
            raise _Refused(f"has the instruction {instruction.name}")
        if instruction.name == "LONG_BINPUT" and int(argument or 0) > count:
            raise _Refused("declares more than it holds")


def _check_keys(value: Any) -> None:
    """Keys are strings in all dictionaries; containers that are named several times are looked at once."""
    seen, waiting = set[int](), [value]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, dict | list | tuple) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict) and not all(isinstance(key, str) for key in one):
            raise _Refused("has a dictionary whose keys are not strings")
        waiting += one.values() if isinstance(one, dict) else one


def read_pickle(path: Path, max_bytes: int) -> Any:
    """The object in a pickle of protocol 2 to 5: dictionaries, lists, tuples, texts, numbers; arrays via `as_array`.

    It takes about as much memory as the file is large. Raises DataError for a file above `max_bytes`, a damaged one,
    and one that holds, names or does anything else.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            found, hint = f"{size} bytes", "--max-bytes allows more."
            raise DataError("the file is too large", path=path, found=found, expected=f"≤ {max_bytes}", hint=hint)
        with path.open("rb") as file:
            if (start := file.read(2))[:1] != b"\x80" or start[1] not in range(2, 6):
                raise DataError("not a pickle of protocol 2 to 5", path=path, found=repr(start))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check_program(data)
                data.seek(0)
                # latin1: how byte strings of Python 2 become texts without loss
                made = _Unpickler(data, encoding="latin1").load()
        _check_keys(made)
        return made
    except _Refused as refused:
        raise DataError(f"a pickle that {refused}", path=path, expected="NumPy arrays in plain containers") from None
    except DataError:
        raise
    except OSError as error:
        raise DataError("cannot be read", path=path, found=error.strerror) from error
    except MemoryError as error:
        raise DataError("does not fit into memory", path=path, found=f"{path.stat().st_size} bytes") from error
    except Exception as error:  # a damaged pickle makes the loader raise nearly anything
        raise DataError("a damaged pickle", path=path, found=(str(error) or repr(error))[:200]) from error


def as_array(value: Any) -> np.ndarray:
    """An array, or arrays of one shape in a list stacked; raises DataError for anything else."""
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    # A list in a pickle can name one array a million times, so what is stacked is bounded.
    if isinstance(value, list | tuple) and 1 <= len(value) <= _MAX_STACK:
        parts = [part.array for part in value if isinstance(part, _Array) and part.array is not None]
        if len(parts) == len(value) and len({part.shape for part in parts}) == 1:
            return np.stack(parts)
    found = type(value).__name__.strip("_")
    raise DataError("not an array", found=found, expected="an array, or arrays of one shape")
