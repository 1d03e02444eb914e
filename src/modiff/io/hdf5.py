"""HDF5 files of others, within bounds that hold before memory is taken.

HDF5's own filters grow their buffers for as long as a chunk's stream lasts, whatever size the file declares, and links
may lead to other files or go round in circles. So links are counted and followed here, and a chunk is inflated, or its
size made sure of, before HDF5 sees it.
"""

from __future__ import annotations

import errno
import math
import os
import re
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from modiff.errors import DataError
from modiff.io.files import MIB, RATIO_FREE

MAX_OBJECTS, MAX_DEPTH, MAX_CHUNKS = 65_536, 32, 65_536
MAX_NAMES, MAX_TEXT = 1_000_000, 64 * MIB
_DEFLATE, _SHUFFLE, _CHECKSUM, _LZF = 1, 2, 3, 32_000  # numbers of filters
_LZF_RATIO = 90  # a match of 264 bytes takes 3
_ABSENT = re.compile("not allocated|isn't defined")  # what HDF5 says of a chunk that was never written
_NAMES_AT_ONCE = 16
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_CACHED = MIB  # bytes of a chunk that HDF5 keeps at hand


def open_hdf5(path: str | Path, mode: str = "r", **how: Any) -> h5py.File:
    """An HDF5 file, locked where the file system has locks; on network ones without them HDF5 alone would refuse it."""
    try:
        return h5py.File(path, mode, locking="best-effort", **how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return h5py.File(path, mode, locking=False, **how)


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """The datasets of a file by their paths, each once, as `visititems` finds them: by hard links, in order of names.

    Raises DataError for too many objects, for groups too deep, and for data that lie in other files.
    """
    found: dict[str, h5py.Dataset] = {}
    seen, links, waiting = {h5py.h5o.get_info(file.id).addr}, 0, [("", file.id)]
    while waiting:
        path, group = waiting.pop()
        if isinstance(group, h5py.h5d.DatasetID):
            found[path] = checked(h5py.Dataset(group), path)
            continue
        links += group.get_num_objs()
        if links > MAX_OBJECTS:
            raise DataError("too many objects", found=f"{links} or more", expected=f"at most {MAX_OBJECTS}")
        below = []
        for name in group:
            if group.links.get_info(name).type == h5py.h5l.TYPE_HARD:
                about = h5py.h5o.get_info(group, name)
                if about.type in (h5py.h5o.TYPE_GROUP, h5py.h5o.TYPE_DATASET):
                    below.append((name, about.addr))
        if below and path.count("/") + bool(path) >= MAX_DEPTH:
            raise DataError("groups too deep", field=path[:80], expected=f"at most {MAX_DEPTH} within each other")
        fresh = []
        for name, address in sorted(below):
            if address not in seen:
                seen.add(address)
                text = name.decode("utf-8", "surrogateescape")
                fresh.append((f"{path}/{text}".lstrip("/"), h5py.h5o.open(group, name)))
        waiting += reversed(fresh)
    return found


def checked(data: h5py.Dataset, field: str) -> h5py.Dataset:
    """A dataset whose data lie in this very file; raises DataError."""
    if data.external or data.is_virtual:
        raise DataError("data stored in other files is not followed", field=field)
    stored, size = data.id.get_storage_size(), os.path.getsize(data.file.filename)
    if stored > size:
        raise DataError("declares more bytes than the file has", field=field, found=stored, expected=f"≤ {size}")
    return data


def rows(data: h5py.Dataset, start: int = 0, stop: int | None = None) -> np.ndarray:
    """`data[start:stop]` of a `checked` dataset; a caller has compared its declared size with its limits.

    Raises DataError for filters other than deflate, shuffle, checksum and LZF, and for a chunk that does not hold what
    it declares.
    """
    stop = data.shape[0] if stop is None else stop
    if data.chunks is None:
        return data[start:stop]
    plist = data.id.get_create_plist()
    steps = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    if len({*steps}) < len(steps) or not {*steps} <= {_DEFLATE, _SHUFFLE, _CHECKSUM, _LZF}:
        hint = "Write it again with compression gzip"
        raise DataError("compressed by an unsupported filter", found=steps, expected="gzip, lzf or none", hint=hint)
    lows = (start // data.chunks[0] * data.chunks[0], *[0] * (data.ndim - 1))
    sides = [range(low, end, step) for low, end, step in zip(lows, (stop, *data.shape[1:]), data.chunks, strict=True)]
    if (count := math.prod(map(len, sides))) > MAX_CHUNKS:
        raise DataError("in chunks too small", found=f"{count} chunks", expected=f"at most {MAX_CHUNKS}")
    nbytes = math.prod(data.chunks) * data.dtype.itemsize
    plain = data.dtype.kind in "biuf" and data.id.get_type() == h5py.h5t.py_create(data.dtype, logical=True)
    made = None
    if plain and {*steps} <= {_DEFLATE, _SHUFFLE}:
        made = np.full((stop - start, *data.shape[1:]), data.fillvalue, data.dtype)
    for place in product(*sides) if steps else ():
        try:
            skipped, raw = data.id.read_direct_chunk(place)
        except RuntimeError as error:
            if not _ABSENT.search(str(error)):
                raise
            continue
        used = [step for index, step in enumerate(steps) if not skipped >> index & 1]
        chunk = _unpacked(raw, used, nbytes, keep=made is not None)
        if made is not None:
            flat = np.frombuffer(chunk, np.uint8)
            if _SHUFFLE in used:
                flat = np.ascontiguousarray(flat.reshape(data.dtype.itemsize, -1).T).reshape(-1)
            _put(made, flat.view(data.dtype).reshape(data.chunks), (place[0] - start, *place[1:]))
    return data[start:stop] if made is None or not steps else made


def _unpacked(raw: bytes, used: list[int], nbytes: int, *, keep: bool) -> bytes:
    """A chunk inflated, where its only compression is deflate; DataError unless it has `nbytes`, as far as can be told.

    keep: the bytes are wanted, and have no checksum behind them.
    """
    if _LZF in used:
        if len(raw) * _LZF_RATIO > RATIO_FREE:
            hint = "Write it again in smaller chunks"
            raise DataError("an LZF chunk too large", found=f"{len(raw)} bytes", hint=hint)
        return raw
    raw = raw[:-4] if used[-1:] == [_CHECKSUM] else raw
    if _DEFLATE in used:
        stream, checked = zlib.decompressobj(), 4 * (_CHECKSUM in used and used[-1] != _CHECKSUM)
        try:
            chunk, wanted = stream.decompress(raw, nbytes + checked + 1), nbytes + checked
        except zlib.error as error:
            raise DataError("a damaged chunk", found="compressed content that is damaged") from error
    else:
        chunk, wanted = raw, nbytes
    if len(chunk) != wanted or (_DEFLATE in used and not stream.eof):
        found = f"{len(chunk)} bytes" if len(chunk) <= wanted else "more"
        raise DataError("a chunk that is not of the size it declares", found=found, expected=f"{wanted} bytes")
    return chunk if keep else b""


def _put(made: np.ndarray, chunk: np.ndarray, place: tuple[int, ...]) -> None:
    """Copies a chunk to its place in an array, as far as it lies inside."""
    ends = [min(at + step, side) for at, step, side in zip(place, chunk.shape, made.shape, strict=True)]
    there = tuple(slice(max(at, 0), end) for at, end in zip(place, ends, strict=True))
    here = tuple(slice(max(at, 0) - at, end - at) for at, end in zip(place, ends, strict=True))
    made[there] = chunk[here]


def names(data: h5py.Dataset) -> list[str]:
    """Texts, or whole numbers as texts, of a table (n,); DataError for another type, and for more than 64 MiB."""
    texts = h5py.check_string_dtype(data.dtype)
    count = data.shape[0]
    if data.ndim != 1 or not (texts or data.dtype.kind in "iu"):
        raise DataError("is not a list of names", found=f"{data.dtype} {data.shape}")
    if count > MAX_NAMES or count * data.dtype.itemsize > MAX_TEXT:
        raise DataError("too many or too long names", found=f"{count} of {data.dtype.itemsize} bytes")
    if texts is None or texts.length is not None:
        found = rows(data).tolist()
    else:  # each of them may name the same long text
        if data.chunks and data.chunks[0] * data.dtype.itemsize > _CACHED:
            raise DataError("names in chunks too large", found=data.chunks[0], expected=f"≤ {_CACHED} bytes")
        found, held = [], 0
        for start in range(0, count, _NAMES_AT_ONCE):
            part = rows(data, start, min(start + _NAMES_AT_ONCE, count)).tolist()
            found += part
            held += sum(map(len, part))
            if held > MAX_TEXT:
                raise DataError("too long names", found=f"more than {MAX_TEXT} bytes")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in found]
