"""Reads NumPy arrays in plain containers out of a pickle, and nothing else: nothing in the file is ever called.

A pickle is a program. Here only the instructions that build dictionaries, lists, tuples, texts, bytes, numbers and
NumPy arrays are carried out; names of functions stand for the few constructors below, whatever NumPy calls them in its
versions, and any other name or instruction is refused. The interpreter is Python's own in Python, not the one in C:
that takes a declared size at its word and reserves memory for it.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from modiff.errors import DataError

# fmt: off
_ALLOWED = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING",
    "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINGET", "LONG_BINGET",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
)
# fmt: on
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_MAX_NAME = 200  # bytes of a line that names a module or function
_MAX_DIMENSIONS = 8
_MAX_STACK = 64  # arrays in one list: raters of a slice


class _Refused(Exception):
    """What this reader does not do; becomes a DataError with the file's name."""


class _Constructor:
    """Stands for a function that a pickle may name. It has no attributes to set and no state to take."""

    __slots__ = ("make",)
    make: Any

    def __init__(self, make: Any) -> None:
        object.__setattr__(self, "make", make)

    def __setattr__(self, name: str, value: object) -> None:
        raise _Refused("sets an attribute of a function")


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

    def build(self, state: Any) -> None:
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

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        """state: (version, shape, type, column-major, bytes) as NumPy writes it."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise _Refused("has an array of an unknown form")
        shape, dtype, columns_first, data = state[-4:]
        self.array = _shaped(data, dtype, shape, "F" if columns_first else "C")


def _shaped(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    data = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
        raise _Refused("has an array of something other than numbers")
    if len(shape) > _MAX_DIMENSIONS or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise _Refused(f"has an array of shape {shape!r:.60}")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise _Refused(f"has an array of shape {shape} with {len(data)} bytes")
    flat = np.frombuffer(data, dtype.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY:
        raise _Refused("has an array of another class")
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.array = _shaped(data, dtype, shape, order)
    return made


def _scalar(dtype: Any, data: Any) -> Any:
    return _shaped(data, dtype, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise _Refused(f"encodes by {encoding!r:.40}")
    return text.encode("latin-1")


def _bytes(*parts: Any) -> bytes:
    if parts and not (len(parts) == 1 and isinstance(parts[0], bytes)):
        raise _Refused("makes bytes from something else")
    return parts[0] if parts else b""


_NDARRAY = _Constructor(None)  # the class itself is only ever named, never called
_FUNCTIONS = {
    "_reconstruct": _Constructor(_reconstruct),
    "_frombuffer": _Constructor(_from_buffer),
    "scalar": _Constructor(_scalar),
    "dtype": _Constructor(_Dtype),
    "ndarray": _NDARRAY,
}
_NAMES = {(module, name): function for module in _MODULES for name, function in _FUNCTIONS.items()}
_NAMES |= {("_codecs", "encode"): _Constructor(_encode)}
_NAMES |= {(module, "bytes"): _Constructor(_bytes) for module in ("builtins", "__builtin__")}


class _File:
    """Reads no further than the file goes: a declared length is compared with what is left before memory is taken."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        if count < 0 or count > self._size - self._file.tell():
            raise _Refused("is cut short, or declares more than it holds")
        return self._file.read(count)

    def readinto(self, buffer: bytearray) -> int:
        return self._file.readinto(buffer)  # type: ignore[attr-defined]

    def readline(self) -> bytes:
        line = self._file.readline(_MAX_NAME)
        if not line.endswith(b"\n"):
            raise _Refused("has a name beyond reason")
        return line


class _Reader(pickle._Unpickler):
    stack: list[Any]  # the interpreter's own, as are the next three
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    dispatch = {  # noqa: RUF012 — pickle's own name for its table of instructions
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _ALLOWED
    }

    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise _Refused(f"names {module}.{name}"[:120])
        return found

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(function, _Constructor) or function.make is None or not isinstance(arguments, tuple):
            raise _Refused("calls something that is no constructor of arrays")
        self.stack[-1] = function.make(*arguments)

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, _Array | _Dtype):
            raise _Refused("gives a state to something that is no array")
        made.build(state)

    def load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        self.append(self.read(length))

    def _check_keys(self, keys: list[Any]) -> None:
        if not all(isinstance(key, str) for key in keys):
            raise _Refused("has a dictionary whose keys are no texts")

    def load_setitem(self) -> None:
        self._check_keys(self.stack[-2:-1])
        value, key = self.stack.pop(), self.stack.pop()
        self._dictionary()[key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._check_keys(items[::2])
        self._dictionary().update(zip(items[::2], items[1::2], strict=True))

    def _dictionary(self) -> dict[str, Any]:
        if type(self.stack[-1]) is not dict:
            raise _Refused("puts items into something that is no dictionary")
        return self.stack[-1]

    def load_append(self) -> None:
        value = self.stack.pop()
        self._list().append(value)

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._list().extend(items)

    def _list(self) -> list[Any]:
        if type(self.stack[-1]) is not list:
            raise _Refused("appends to something that is no list")
        return self.stack[-1]


for _name in ("reduce", "build", "bytearray8", "setitem", "setitems", "append", "appends"):
    _Reader.dispatch[getattr(pickle, _name.upper())[0]] = getattr(_Reader, f"load_{_name}")


def read_pickle(path: Path, max_bytes: int) -> Any:
    """The object in a pickle of protocol 2 to 5: dictionaries, lists, tuples, texts, numbers; arrays via `as_array`.

    It takes about as much memory as the file is large. Raises DataError for a file above `max_bytes`, a damaged one,
    and one that holds, names or does anything else.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            hint = "--max-bytes allows more."
            raise DataError(
                "the file is too large", path=path, found=f"{size} bytes", expected=f"≤ {max_bytes}", hint=hint
            )
        with path.open("rb") as file:
            if (start := file.read(2))[:1] != b"\x80" or start[1] not in range(2, 6):
                raise DataError("not a pickle of protocol 2 to 5", path=path, found=repr(start))
            file.seek(0)
            # latin1: how byte strings of Python 2 become texts without loss
            return _Reader(_File(file, size), encoding="latin1").load()
    except _Refused as refused:
        raise DataError(f"a pickle that {refused}", path=path, expected="NumPy arrays in plain containers") from None
    except DataError:
        raise
    except OSError as error:
        raise DataError("cannot be read", path=path, found=error.strerror) from error
    except MemoryError as error:
        raise DataError("does not fit into memory", path=path, found=f"{path.stat().st_size} bytes") from error
    except KeyError as error:
        found = f"instruction {error.args[0]!r}" if error.args else "an unknown instruction"
        raise DataError("a pickle that does something else", path=path, found=found[:100]) from error
    except Exception as error:  # a damaged pickle makes the interpreter raise nearly anything
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
    raise DataError("no array", found=type(value).__name__.strip("_"), expected="an array, or arrays of one shape")
