"""A fuzzer for each format: valid files, changed at random in their bytes or their structure.

What reads them ends with a result or a typed error, within bounds of memory and time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pydicom
import yaml
from tools.campaign.run import Target, Try, apart
from tools.campaign.scenes import World

_INTS = (0, 1, 2, 3, 7, 8, 16, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63)
_WORDS = (
    *("0", "-1", "1e400", "-1e-400", "nan", "NaN", "-Infinity", "9" * 40, "9" * 6000, "0x10", "1_000", "true", "null"),
    *("~", "''", '"', "'", "[", "]", "{", "}", "[" * 3000, "&a *a", "*x", "!!int abc", "!!python/name:os.system"),
    *(
        "2001-99-99",
        "12:99:99",
        "\x1b[31m",
        "\u202e",
        "\0",
        "é",
        "x" * 70000,
        "../../x",
        "/",
        "\n",
        "\r",
        ",",
        ";;",
        "|",
    ),
    *("<a>", "</a>", "&lt;", "&x;", "<!DOCTYPE a>", "<!--", "=1+1", "%s%n", "1.2.3", "𝟚", "²"),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 0.5, -0.5, 1e308, 2**31, 2**63, -(2**70), 10**40, float("nan"), float("inf")),
    *("", "x", "x" * 70000, "\x1b]0;a\x07", "=1+1", "[/x]<b>", "../..", "nan", [], {}, [[]], [None], [0, 0], [1, 2, 3]),
    *(["a"] * 5000, [1e9, 1e9], {"a": 1}, {"": {}}, [[[[[[[[]]]]]]]]),
)


def targets(world: World) -> dict[str, Target]:
    """Every kind of file that any scene reads."""
    found: dict[str, Target] = {}
    for name, scene in world.scenes.items():
        for pattern in (*scene.foreign, *scene.own):
            victims = world.victims(name, [pattern])
            if victims:
                action = partial(_fuzz, world, name, victims)
                found[f"{name}:{pattern}"] = Target(action, quick=int(name.startswith("import") and len(found) % 2))
    return found


def _fuzz(world: World, name: str, victims: list[str], attempt: Try, rng: Random) -> None:
    scene = world.lay(name, attempt)
    path = attempt.place / rng.choice(victims)
    mutate(path, rng)
    allowed = (0, 1, 2) if scene.words[0] == "benchmark" else (0, 2)
    outcome = attempt.run(scene.bounded, allowed, usual=world.clean(name).cpu)
    if outcome.status == 2 and scene.words[0] == "import":
        attempt.check(not any((attempt.place / made).exists() for made in scene.makes), "refused, and yet written")
    attempt.check_clean()


def mutate(path: Path, rng: Random) -> None:
    """Changes a file in place."""
    name = path.name
    by_file = next((way for ending, way in _FILES.items() if name.endswith(ending)), None)
    seed = rng.getrandbits(64)
    if by_file is not None and rng.random() < 0.5:
        with suppress(RuntimeError):  # the library refused to write it: the file stays as it is
            apart(lambda: by_file(path, Random(seed)))
        return
    data = path.read_bytes()
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        with suppress(Exception):  # no longer what it was after the first change
            data = _mutated(data, name, rng)
    path.write_bytes(data)


def unsealed(data: bytes) -> bytes:
    """Without the checksum that modiff's own text files hold: what is behind it is read, too."""
    return re.sub(rb',\s*"checksum": ?"[0-9a-f]{16}"|# checksum: [0-9a-f]{16}', b"", data)


def _mutated(data: bytes, name: str, rng: Random) -> bytes:
    ways = next((ways for ending, ways in _WAYS.items() if name.endswith(ending)), ())
    return rng.choice((_bytes, *ways))(data, rng)


def _bytes(data: bytes, rng: Random) -> bytes:
    """What any fuzzer does: bits, numbers, pieces that are gone, doubled, moved, cut off or new."""
    made = bytearray(data) or bytearray(1)
    at = rng.randrange(min(len(made), rng.choice((64, 512, len(made)))))
    size = min(rng.choice((1, 2, 4, 8, 64, 1000)), len(made) - at)
    way = rng.randrange(8)
    if way == 0:
        made[at] ^= 1 << rng.randrange(8)
    elif way == 1:
        value, form = rng.choice(_INTS), rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q", "B"))
        packed = struct.pack(form, value & (1 << 8 * struct.calcsize(form)) - 1)
        made[at : at + len(packed)] = packed
    elif way == 2:
        del made[at : at + size]
    elif way == 3:
        made[at:at] = made[at : at + size] * rng.choice((1, 2, 50))
    elif way == 4:
        del made[at:]
    elif way == 5:
        made[at : at + size] = rng.randbytes(size)
    elif way == 6:
        other = rng.randrange(len(made))
        made[at : at + size] = made[other : other + size]
    else:
        made[at : at + size] = bytes(size)
    return bytes(made)


def _text(data: bytes, rng: Random) -> bytes:
    """A word that is another, or a line that is gone or doubled."""
    text = (unsealed(data) if rng.random() < 0.8 else data).decode("utf-8", "surrogateescape")
    if rng.random() < 0.2:
        lines = text.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        lines[at : at + 1] = rng.choice(([], [lines[at]] * 2, [lines[at].strip()], ["\ufeff" + lines[at]]))
        return "".join(lines).encode("utf-8", "surrogateescape")
    word = rng.choice(list(re.finditer(r"[^\s,:{}\[\]<>\"=;|']+", text)))
    return (text[: word.start()] + rng.choice(_WORDS) + text[word.end() :]).encode("utf-8", "surrogateescape")


def _tree(data: bytes, rng: Random, load: Callable[[bytes], Any], dump: Callable[[Any], str]) -> bytes:
    """A value, at any depth, that is another one or gone, or a name that is another."""
    made = load(unsealed(data) if rng.random() < 0.8 else data)
    places: list[tuple[Any, Any]] = []
    todo = [made]
    while todo:
        item = todo.pop()
        inside = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, value in inside:
            places.append((item, key))
            todo.append(value)
    item, key = rng.choice(places)
    way = rng.random()
    if way < 0.7:
        item[key] = rng.choice(_VALUES)
    elif way < 0.85:
        del item[key]
    elif isinstance(item, dict):
        item[rng.choice(("", "x" * 500, "\x1b[2J", "a.b", "seed"))] = item.pop(key)
    else:
        item += item * rng.choice((1, 3))
    return dump(made).encode("utf-8", "surrogateescape")


_json = partial(_tree, load=json.loads, dump=json.dumps)
_yaml = partial(_tree, load=yaml.safe_load, dump=lambda value: yaml.safe_dump(value, allow_unicode=True))


def _jsonl(data: bytes, rng: Random) -> bytes:
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    return b"\n".join([*lines[:at], _json(lines[at], rng), *lines[at + 1 :]]) + b"\n"


def _gz(data: bytes, rng: Random) -> bytes:
    return gzip.compress(_bytes(gzip.decompress(data), rng), mtime=0)


def _png(data: bytes, rng: Random) -> bytes:
    """A chunk with other content, and the CRC of that; pixels are compressed anew."""
    chunks, at = [], 8
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += size + 12
    chunk = rng.choice(chunks)
    pixels = chunk[0] == b"IDAT" and rng.random() < 0.7
    chunk[1] = zlib.compress(_bytes(zlib.decompress(chunk[1]), rng)) if pixels else _bytes(chunk[1], rng)
    if rng.random() < 0.2:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:8] + b"".join(parts)


def _zip(data: bytes, rng: Random) -> bytes:
    """A member with another content, name, place or compression."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    odd = ("", "../x.png", "/x.png", "a\\b.png", "x" * 5000, "a/\x1b[2J.png", "C:x", "a//b", ".", name.upper())
    changed = [(name, _mutated(content, name, rng)), (rng.choice(odd), content)]
    members[at : at + 1] = rng.choice(([changed[0]], [changed[0]], [changed[1]], [], [(name, content), changed[0]]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((0, 8, 8, 12, 14))) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name or "?"), content, compress_type=archive.compression)
    made = buffer.getvalue()
    return made if rng.random() < 0.7 else _bytes(made, rng)


def _head(data: bytes, rng: Random, form: str, at: int, change: Callable[[bytes, Random], bytes]) -> bytes:
    """A header behind its length, changed, and the length with it."""
    start = at + struct.calcsize(form)
    end = start + struct.unpack(form, data[at:start])[0]
    head = change(data[start:end], rng)
    return data[:at] + struct.pack(form, len(head)) + head + data[end:]


_npy = partial(_head, form="<H", at=8, change=_text)
_tensors = partial(_head, form="<Q", at=0, change=_json)


def _checkpoint(data: bytes, rng: Random) -> bytes:
    """Other content, and the SHA-256 of that."""
    head, _, content = data.partition(b"\n")
    content = rng.choice((_zip, _bytes))(content, rng)
    return head.rpartition(b" ")[0] + b" " + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


_WAYS: dict[str, tuple[Callable[[bytes, Random], bytes], ...]] = {
    ".gz": (_gz, _gz), ".png": (_png, _png), ".zip": (_zip, _zip), ".npz": (_zip, _zip), ".npy": (_npy,),
    ".json": (_json, _json, _json, _text), ".yaml": (_yaml, _yaml, _yaml, _text), ".jsonl": (_jsonl, _jsonl, _text),
    ".csv": (_text, _text), ".xml": (_text, _text, _text), ".safetensors": (_tensors, _tensors),
    ".ckpt": (_checkpoint,) * 3,
}  # fmt: skip


def _hdf5(path: Path, rng: Random) -> None:
    """A dataset or attribute that is another, gone, a link or a group."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        owner, name = file, rng.choice(names)
        if rng.random() < 0.4 and file.attrs:
            name, owner = rng.choice(list(file.attrs)), file.attrs
        value = rng.choice([value for value in _VALUES if value is not None and not isinstance(value, dict)])
        way = rng.randrange(6)
        old = owner[name][()] if isinstance(owner[name], h5py.Dataset) else owner[name]
        del owner[name]
        if way == 0 and isinstance(old, np.ndarray) and old.dtype.kind in "iuf":
            owner[name] = (old.astype(float) * rng.choice((-1, np.nan, 1e30, 0.5))).astype(rng.choice("fdbBhq"))
        elif way == 1 and isinstance(old, np.ndarray) and old.ndim:
            owner[name] = old[: len(old) // 2] if rng.random() < 0.5 else old[..., None]
        elif way == 2 and owner is file:
            owner[name] = rng.choice((h5py.SoftLink("/x"), h5py.ExternalLink("/etc/passwd", "/"), h5py.SoftLink(name)))
        elif way == 3 and owner is file:
            owner.create_group(name)
        elif way < 5:
            owner[name] = value


def _dicom(path: Path, rng: Random) -> None:
    """Elements of a header that are others, doubled or gone."""
    made = pydicom.dcmread(path)
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    for _ in range(rng.choice((1, 1, 2, 4))):
        where = made.file_meta if rng.random() < 0.1 else made
        element = rng.choice(list(where))
        if rng.random() < 0.2:
            del where[element.tag]
            continue
        texts = ("", "x", "1\\2", "nan", "-1", "1e400", "9" * 30, "\x1b[31m", "0\\0\\0\\0\\0\\0", "1.2.840.10008.1.2.5")
        packed = (0, 1, 3, 7, 16, 255, 65535)
        element.value = rng.choice(packed) if element.VR in ("US", "SS", "UL") else rng.choice(texts)
    made.save_as(path)


_FILES: dict[str, Callable[[Path, random.Random], None]] = {
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".dcm": _dicom,
}
