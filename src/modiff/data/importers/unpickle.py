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
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modiff.errors import DataError
from modiff.io.files import guarding, regular, told

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
_STARTS = [b"\x80" + bytes([protocol]) for protocol in range(2, 6)]
_MAX_DIMENSIONS = 8
_MOST_INSTRUCTIONS = 1_000_000  # and one more per 64 bytes: arrays have far more bytes than instructions
_MAX_STACK = 64  # arrays in one list: raters of a slice


def _only(wanted: object, found: str) -> None:
    """Raises DataError for what `read_pickle` does not do; it adds the file's name."""
    if not wanted:
        raise DataError(f"a pickle that {found}", expected="NumPy arrays in plain containers")


class _StandIn:
    """Stands for a function that a pickle may name: it can be called, and has no attributes to set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        _only(False, "gives a state to something that is not an array")


class _Dtype:
    """A type in the making: its byte order comes later, as state."""

    __slots__ = ("dtype",)

    def __init__(self, text: Any, *flags: Any) -> None:
        number = isinstance(text, str) and re.fullmatch("[<>|=]?[biuf][1248]", text)
        _only(number, f"has an array of type {text!r:.40}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        """state: (version, byte order, subtype, names, fields, …) as NumPy writes it."""
        simple = isinstance(state, tuple) and len(state) >= 5 and all(part is None for part in state[2:5])
        _only(simple, "has an array of a compound type")
        _only(state[1] in ("<", ">", "|", "="), f"has a byte order {state[1]!r:.20}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array in the making, or made."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array

    def __setstate__(self, state: Any) -> None:
        """state: (version, shape, type, column-major, bytes) as NumPy writes it."""
        _only(isinstance(state, tuple) and len(state) in (4, 5), "has an array of an unknown form")
        shape, dtype, columns_first, data = state[-4:]
        self.array = _shaped(data, dtype, shape, "F" if columns_first else "C")


def _shaped(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    data = data.encode("latin-1") if isinstance(data, str) else data
    numbers = isinstance(dtype, _Dtype) and isinstance(data, bytes | bytearray) and isinstance(shape, tuple)
    _only(numbers, "has an array of something other than numbers")
    sides = len(shape) <= _MAX_DIMENSIONS and all(isinstance(side, int) and side >= 0 for side in shape)
    _only(sides, f"has an array of shape {shape!r:.60}")
    whole = math.prod(shape) * dtype.dtype.itemsize == len(data)
    _only(whole, f"has an array of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    _only(kind is _NDARRAY, "has an array of another class")
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    _only(encoding in ("latin1", "latin-1") and isinstance(text, str), f"encodes by {encoding!r:.40}")
    return text.encode("latin-1")


def _bytes(*parts: Any) -> bytes:
    _only(all(isinstance(part, bytes) for part in parts) and len(parts) <= 1, "makes bytes from something else")
    return b"".join(parts)


_NDARRAY = _StandIn(lambda *arguments: _only(False, "calls something that is not a constructor of arrays"))
_FUNCTIONS = {
    "_reconstruct": _StandIn(_reconstruct),
    "_frombuffer": _StandIn(lambda data, dtype, shape, order: _Array(_shaped(data, dtype, shape, order))),
    "scalar": _StandIn(lambda dtype, data: _shaped(data, dtype, (), "C").item()),
    "dtype": _StandIn(_Dtype),
    "ndarray": _NDARRAY,
}
_NAMES = {(module, name): function for module in _MODULES for name, function in _FUNCTIONS.items()}
_NAMES |= {(module, "bytes"): _StandIn(_bytes) for module in ("builtins", "__builtin__")}
_NAMES["_codecs", "encode"] = _StandIn(_encode)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        _only((module, name) in _NAMES, f"names {module}.{name}"[:120])
        return _NAMES[module, name]


def _check_program(data: mmap.mmap) -> None:
    """Every instruction is allowed and every length is there; memo places are given out one after the other."""
    most = _MOST_INSTRUCTIONS + len(data) // 64
    for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):  # type: ignore[arg-type]
        _only(count < most, f"has more than {most} instructions")
        _only(instruction.name in _ALLOWED, f"has the instruction {instruction.name}")
        _only(instruction.name != "LONG_BINPUT" or int(argument or 0) <= count, "declares more than it holds")


def _check_keys(value: Any) -> None:
    """Keys are strings in all dictionaries; containers that are named several times are looked at once."""
    seen, waiting = set[int](), [value]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, dict | list | tuple) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict):
            _only(all(isinstance(key, str) for key in one), "has a dictionary whose keys are not strings")
        waiting += one.values() if isinstance(one, dict) else one


def read_pickle(path: Path, max_bytes: int) -> Any:
    """The object in a pickle of protocol 2 to 5: dictionaries, lists, tuples, texts, numbers; arrays via `as_array`.

    It takes about as much memory as the file is large. Raises DataError for a file above `max_bytes`, a damaged one,
    and one that holds, names or does anything else.
    """
    with guarding(path, "a damaged pickle"), told(path, "cannot be read"):
        found = f"{(size := regular(path))} bytes"
        if size > max_bytes:
            hint = "--max-bytes allows more."
            raise DataError("the file is too large", found=found, expected=f"≤ {max_bytes}", hint=hint)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if (start := data[:2]) not in _STARTS:
                raise DataError("not a pickle of protocol 2 to 5", found=repr(start))
            _check_program(data)
            data.seek(0)
            try:  # latin1: how byte strings of Python 2 become texts without loss
                made = _Unpickler(data, encoding="latin1").load()
            except MemoryError as error:
                raise DataError("does not fit into memory", found=found) from error
        _check_keys(made)
        return made


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
