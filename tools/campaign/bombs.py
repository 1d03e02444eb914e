"""Bombs: small files that claim, or inflate to, far more than they hold; and what only looks like a file.

Each takes the place of one file of a scene. The command refuses it, or passes it over, within bounds.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import h5py
import pydicom
from pydicom.uid import RLELossless
from tools.campaign.formats import unsealed
from tools.campaign.run import Target, Try, apart
from tools.campaign.scenes import World

MIB = 1 << 20
Bomb = Callable[[Path], object]


def targets(world: World) -> dict[str, Target]:
    """Every bomb in every place that it is made for."""
    found = {}
    for scene, victim, bombs in _PLACES:
        for name, bomb in bombs.items():
            action = partial(_explode, world, scene, victim, bomb)
            found[f"{scene}:{victim}:{name}"] = Target(action, once=True, quick=int((victim, name) in _QUICK))
    return found


def _explode(world: World, name: str, victim: str, bomb: Bomb, attempt: Try, rng: Random) -> None:
    scene = world.lay(name, attempt)
    path = next(path for path in sorted(attempt.place.glob(victim)) if path.is_file())
    apart(lambda: bomb(path))
    statuses = (0, 1, 2) if scene.words[0] == "benchmark" else (0, 2)
    outcome = attempt.run(scene.bounded, statuses, usual=world.clean(name).cpu)
    if outcome.status == 2 and scene.words[0] == "import":
        attempt.check(not (attempt.place / "out.h5").exists(), "refused, and yet written")


def _put(make: Callable[[bytes], bytes] | bytes) -> Bomb:
    """Another content; from the sound one, where `make` is a function: what is large is made only where it is used."""
    return lambda path: path.write_bytes(make if isinstance(make, bytes) else make(path.read_bytes()))


def _late(make: Callable[[], Bomb]) -> Bomb:
    def act(path: Path) -> None:
        make()(path)

    return act


def _setting(line: str, value: str) -> Bomb:
    """Another value, as YAML has it, of the first setting of a name."""
    return _put(
        lambda data: re.sub(
            rf"(?m)^(\s*){line}:.*(?:\n\1\s*-.*)*", rf"\g<1>{line}: {value}", unsealed(data).decode(), count=1
        ).encode()
    )


def _field(name: str, value: object) -> Bomb:
    return _put(lambda data: json.dumps(json.loads(unsealed(data)) | {name: value}).encode())


def _zeros(size: int, form: int = 15, head: bytes = b"") -> bytes:
    """`size` zeros behind `head`, deflated. form: of zlib (15), raw (-15) or gzip (31)."""
    packer, block = zlib.compressobj(9, zlib.DEFLATED, form), bytes(16 * MIB)
    return b"".join(
        [packer.compress(head), *(packer.compress(block) for _ in range(size // len(block))), packer.flush()]
    )


def _aliases(levels: int, one: str) -> str:
    rows = (f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels))
    return "\n".join([f"a0: &a0 {one}", *rows])


_NESTED = "&a [x,x,x,x,x,x,x,x,x,x]"
for _level in range(1, 9):
    _NESTED = f"&{'abcdefghij'[_level]} [{_NESTED}, " + ", ".join([f"*{'abcdefghij'[_level - 1]}"] * 9) + "]"
_MERGED = "\n".join(
    ["a0: &a0 {k: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 9))]
)

_YAML: dict[str, Bomb] = {
    "aliases": _setting("seed", _NESTED),
    "aliases of the method": _setting("method", _NESTED),
    "aliases by line": _put(_aliases(9, "[x, x, x, x, x, x, x, x, x, x]").encode()),
    "merge keys": _put(_MERGED.encode()),
    "an alias of itself": _setting("seed", "&a [*a]"),
    "brackets": _setting("seed", "[" * 100_000),
    "deep": _setting("seed", "[" * 3000 + "]" * 3000),
    "keys": _put(lambda data: data + b"".join(b"k%d: 1\n" % i for i in range(600_000))),
    "a number of 20 MB": _late(lambda: _setting("seed", "9" * 20_000_000)),
    "a number of 5000 digits": _setting("seed", "9" * 5000),
    "a text of 60 MB": _late(lambda: _setting("seed", "x" * 60_000_000)),
    "100 MB of comments": _put(lambda data: data + (b"#" + b" " * 98 + b"\n") * 1_000_000),
    **{
        f"seed {value}": _setting("seed", value)
        for value in ("2001-99-99", "!!int x", "!!bool x", "2001-01-01T0:0:0+99:99")
    },
}
_NETWORK: dict[str, Bomb] = {
    **{f"{name} {value[:12]}": _setting(name, value) for name, value in (
        ("base", "4096"), ("base", "1000000000"), ("blocks", "20000"), ("blocks", "1000000000"), ("dim", "1000000000"),
        ("multipliers", f"[{', '.join(['1'] * 100_000)}]"), ("kernels", f"[{', '.join(['3'] * 100_000)}]"),
        ("kernels", "[100001]"), ("dropout", "-5.5"), ("steps", "1000000000"), ("window", "1000000000"), ("heads", "0"),
    )},
}  # fmt: skip
_DATA: dict[str, Bomb] = {
    f"{name} {str(value)[:12]}": _field(name, value) for name, value in (
        ("size", "x"), ("size", [32]), ("size", [0, 0]), ("size", [1e9, 1e9]), ("size", [10**9, 10**9]),
        ("intensity", 5), ("spacing", [0, 0]),
    )
} | {
    f"a million {name}": _late(lambda name=name: _field(name, [f"c{i}" for i in range(1_000_000)]))
    for name in ("channels", "classes", "raters")
}  # fmt: skip
_JSON: dict[str, Bomb] = {
    "brackets": _put(b"[" * 100_000),
    "deep": _put(b'{"a":' * 3000 + b"1" + b"}" * 3000),
    "wide": _put(lambda _: b"[" + b"0," * 10_000_000 + b"0]"),
    "keys": _put(lambda _: b"{" + b",".join(b'"%d":0' % i for i in range(2_000_000)) + b"}"),
    "a number of 5000 digits": _put(b'{"size": ' + b"9" * 5000 + b"}"),
    "a number of 20 MB": _put(lambda _: b'{"size": ' + b"9" * 20_000_000 + b"}"),
    "a name of 50 MB": _put(lambda _: b'{"' + b"x" * 50_000_000 + b'": 1}'),
    "1 GiB": lambda path: os.truncate(path, 1 << 30),
}


def _tensors(data: bytes) -> bytes:
    head = json.dumps(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(600_000)}
    ).encode()
    return struct.pack("<Q", len(head)) + head


def _dtype(data: bytes) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(unsealed(data[8 : 8 + size]))
    name = next(name for name in head if name != "__metadata__" and len(head[name]["shape"]) == 4)
    one = head[name]
    one["dtype"], one["shape"] = "F8_E4M3", [*one["shape"][:3], one["shape"][3] * 4]
    packed = json.dumps(head).encode()
    return struct.pack("<Q", len(packed)) + packed + data[8 + size :]


_WEIGHTS: dict[str, Bomb] = {
    "a million tensors": _put(_tensors),
    "a header of 2^63": _put(struct.pack("<Q", 1 << 63) + b"{}"),
    "a header of 90 MB": _put(lambda _: struct.pack("<Q", 90 * MIB) + b"{" + b" " * (90 * MIB - 1)),
    "8-bit floats": _put(_dtype),
    "4 GiB": lambda path: os.truncate(path, 4 << 30),
}


def _png(before: bytes = b"", side: int = 64, rows: int = 64) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = [chunk(before[:4], before[4:])] if before else []
    pixels = _zeros(rows * (side + 1) // MIB // 16 * 16 * MIB or MIB)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(parts) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


_PNG: dict[str, Bomb] = {
    "65535×65535": _put(lambda _: _png(side=65535, rows=1)),
    "24000×24000": _put(lambda _: _png(side=24000, rows=24000)),
    "4 GiB of pixels": _put(lambda _: _png(rows=64 * MIB)),
    "zTXt of 1 GiB": _put(lambda _: _png(b"zTXtComment\0\0" + _zeros(1 << 30))),
    "iCCP of 1 GiB": _put(lambda _: _png(b"iCCPProfile\0\0" + _zeros(1 << 30))),
    "iTXt of 1 GiB": _put(lambda _: _png(b"iTXtComment\0\1\0\0\0" + _zeros(1 << 30))),
    "tEXt of 300 MB": _put(lambda _: _png(b"tEXtComment\0" + b"a" * (300 * MIB))),
}


def _tiff(tags: dict[int, tuple[int, int, int]], more: int = 0, body: bytes = bytes(8192)) -> bytes:
    every = {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 4096)}
    every |= {277: (3, 1, 1), 278: (4, 1, 64), 279: (4, 1, 4096)} | tags
    packed = b"".join(struct.pack("<HHII", tag, *every[tag]) for tag in sorted(every))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", len(every)) + packed + struct.pack("<I", more)).ljust(
        4096, b"\0"
    ) + body


_TIFF: dict[str, Bomb] = {
    "60000×60000": _put(_tiff({256: (4, 1, 60000), 257: (4, 1, 60000)})),
    "deflated 1 GiB": _put(lambda _: _tiff({259: (3, 1, 8), 279: (4, 1, MIB)}, body=_zeros(1 << 30))),
    "damaged LZW": _put(_tiff({259: (3, 1, 5)}, body=b"\x12\x34" * 2048)),
    "a circle of pages": _put(_tiff({}, more=8)),
    "a tag of 200 MB": _put(lambda _: _tiff({65000: (4, 50_000_000, 8192)}, body=bytes(200_100_000))),
    "a tag of 4 thousand million": _put(_tiff({65000: (4, 4_000_000_000, 8192)})),
}


def _npy(shape: str, kind: str = "|u1", version: int = 1, pad: int = 0) -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode() + b" " * pad + b"\n"
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + bytes(4096)
    )


_NPY: dict[str, Bomb] = {
    "10^12": _put(_npy("(1000000000000, 1000000000000)")),
    "60000×60000": _put(_npy("(60000, 60000)")),
    "a header of 300 MB": _put(lambda _: _npy("(64, 64)", version=2, pad=300 * MIB)),
    "a header of 4 GiB": _put(b"\x93NUMPY\x02\0" + struct.pack("<I", 0xFFFFFFF0) + b"{" * 100),
    "brackets": _put(_npy("(" * 5000 + ")" * 5000)),
    "4 GiB behind it": lambda path: os.truncate(path, 4 << 30),
}


def _sized(data: bytes, *sides: int) -> bytes:
    raw = gzip.decompress(data)
    return gzip.compress(raw[:40] + struct.pack(f"<{len(sides)}h", *sides) + raw[40 + 2 * len(sides) :])


_EMPTY = gzip.compress(b"", mtime=0)
_NIFTI: dict[str, Bomb] = {
    "empty members behind": _put(lambda data: data + _EMPTY * 500_000),
    "empty members before": _put(lambda data: _EMPTY * 500_000 + data),
    "4 GiB behind the voxels": _put(lambda data: _zeros(4 << 30, 31, gzip.decompress(data))),
    "8192×8192×30": _put(lambda data: _sized(data, 3, 8192, 8192, 30)),
    "32767^7": _put(lambda data: _sized(data, 7, *[32767] * 7)),
    "a member's name of 100 MB": _put(lambda data: data[:3] + b"\x08" + data[4:10] + b"a" * (100 * MIB) + b"\0"),
    "zeros behind it": _put(lambda data: data + bytes(100 * MIB)),
}  # fmt: skip


def _rle(rows: int, *segments: bytes) -> Bomb:
    """A slice of RLE segments, declared rows×rows, 8 bits for each segment."""

    def make(path: Path) -> None:
        made = pydicom.dcmread(path)
        places = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
        frame = struct.pack("<16L", len(segments), *places, *[0] * (15 - len(segments))) + b"".join(segments)
        made.file_meta.TransferSyntaxUID, made.Rows, made.Columns = RLELossless, rows, rows
        made.BitsAllocated = made.BitsStored = 8 * len(segments)
        made.HighBit, made.PixelRepresentation = made.BitsStored - 1, 0
        made.PixelData = pydicom.encaps.encapsulate([frame])
        made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
        made.save_as(path)

    return make


def _element(**values: object) -> Bomb:
    def make(path: Path) -> None:
        made = pydicom.dcmread(path)
        for name, value in values.items():
            setattr(made, name, value)
        made.save_as(path)

    return make


_RUN = b"\x81\x00"  # 128 zeros
_SEQUENCE = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
_DICOM: dict[str, Bomb] = {
    "RLE of 64×64 that is 2.6 GiB": _late(lambda: _rle(64, _RUN * (20 * MIB))),
    "RLE of no-ops": _late(lambda: _rle(64, b"\x80" * (40 * MIB))),
    "RLE of 8192×8192 in 1 MB": _rle(8192, _RUN * 500_000, _RUN * 500_000),
    "RLE, 65535×65535": _rle(65535, _RUN, _RUN),
    "65535×65535": _element(Rows=65535, Columns=65535),
    "60000 frames": _element(NumberOfFrames=60000),
    "a text of 200 MB": _late(lambda: _element(ImageComments="x" * (200 * MIB))),
    "sequences in sequences": _put(lambda data: data[:-8] + _SEQUENCE * 50_000),
}  # fmt: skip


def _chunk(name: str, size: int) -> Bomb:
    """The only chunk of a dataset inflates to so many bytes."""

    def make(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            old = file[name][...]
            del file[name]
            made = file.create_dataset(name, old.shape, old.dtype, chunks=old.shape, compression="gzip")
            made.id.write_direct_chunk((0,) * old.ndim, _zeros(size))

    return make


def _groups(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        group = file
        for _ in range(3000):
            group = group.create_group("g")


def _circle(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_group("g")["again"] = file["/"]


_HDF5: dict[str, Bomb] = {"groups 3000 deep": _groups, "a circle of hard links": _circle}


def _members(count: int, name: str = "{}", method: int = 0, content: bytes = b"", said: int | None = None) -> Bomb:
    """Further members of a zip. said: the size that directory and header give for the last."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "a", method, compresslevel=9) as archive:
            for number in range(count):
                info = zipfile.ZipInfo("x")
                info.filename, info.compress_type = name.format(number), method
                with archive.open(info, "w") as member:  # `writestr` cannot write one without a name
                    member.write(content)
        if said is not None:
            data = bytearray(path.read_bytes())
            for mark, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
                place = data.rfind(mark) + at
                data[place : place + 4] = struct.pack("<I", said)
            path.write_bytes(data)

    return make


def _lzma(change: Callable[[bytearray, int], object]) -> Bomb:
    """A sound member, LZMA-packed, whose stream at a place is changed."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
            for name, content in members:
                archive.writestr(name, content)
        data = bytearray(path.read_bytes())
        name, extra = struct.unpack("<HH", data[26:30])
        change(data, 30 + name + extra)
        path.write_bytes(data)

    return make


def _dictionary(data: bytearray, at: int) -> None:
    data[at + 5 : at + 9] = struct.pack("<I", 0xFFFFFFFF)


def _ruin(data: bytearray, at: int) -> None:
    data[at + 12 : at + 40] = b"\xff" * 28


def _properties(data: bytearray, at: int) -> None:
    data[at + 4] = 0xFF


_ZIP: dict[str, Bomb] = {
    "LZMA with a dictionary of 4 GiB": _lzma(_dictionary),
    "LZMA, a damaged stream": _lzma(_ruin),
    "LZMA, bad properties": _lzma(_properties),
    "an entry without a name": _members(1, ""),
    "500,000 entries": _members(500_000),
    "an entry of 300 MB": _late(lambda: _members(1, "x.npy", 8, bytes(300 * MIB))),
    "BZIP2 of 1 GiB, said to be 2 KB": _late(lambda: _members(1, "x.npy", 12, bytes(1 << 30), said=2048)),
    "deflated 1 GiB, said to be 2 KB": _late(lambda: _members(1, "x.npy", 8, bytes(1 << 30), said=2048)),
}
_ENTITIES = [b'<!ENTITY x%d "%s">' % (i, (b"&x%d;" % (i - 1) if i else b"&x;") * 10) for i in range(9)]
_XML: dict[str, Bomb] = {
    "entities": _put(b'<!DOCTYPE a [<!ENTITY x "xxxxxxxx">' + b"".join(_ENTITIES) + b"]><a>&x8;</a>"),
    "deep": _put(lambda _: b"<a>" * 1_000_000),
    "two million elements": _put(lambda _: b"<LidcReadMessage>" + b"<a/>" * 4_000_000 + b"</LidcReadMessage>"),
    "attributes": _put(lambda _: b"<a " + b"".join(b'a%d="" ' % i for i in range(500_000)) + b"/>"),
    "100 MB of text": _put(lambda data: data.replace(b"2008-08-18", b"x" * (100 * MIB))),
}  # fmt: skip
_CSV: dict[str, Bomb] = {
    "columns": _put(lambda data: b"case," + b"a," * 5_000_000 + b"\n" + data),
    "a cell of 60 MB": _put(lambda data: data + b'"' + b"x" * 60_000_000),
    "rows": _put(lambda data: data + b"g,g,test,A;B\n" * 2_000_000),
}
_PICKLE: dict[str, Bomb] = {
    "2 GiB that are not there": _put(b"\x80\x04B\xff\xff\xff\x7fabc."),
    "a memo at 2^32": _put(b"\x80\x02]r\xff\xff\xff\xff."),
    "lists in lists": _put(lambda _: b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b"."),
    "marks": _put(lambda _: b"\x80\x02" + b"(" * 20_000_000 + b"."),
    "a number of 2 GiB": _put(b"\x80\x02\x8b\xff\xff\xff\x7f."),
    "doubled a million times": _put(lambda _: b"\x80\x02]q\x00" + b"h\x00h\x00\x86" * 1_000_000 + b"."),
}


def _socket(path: Path) -> None:
    path.unlink()
    where = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(where)


def _instead(make: Callable[[Path], object]) -> Bomb:
    def act(path: Path) -> None:
        path.unlink()
        make(path)

    return act


_PASSWD = Path("/etc/passwd")
_ODD: dict[str, Bomb] = {
    "a fifo": _instead(os.mkfifo),
    "a device": _instead(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "a link out of the folder": _instead(lambda path: path.symlink_to(_PASSWD)),
    "a folder": _instead(Path.mkdir),
    "a socket": _socket,
    "nothing": _put(b""),
    "a file that may not be read": lambda path: path.chmod(0),
}
_MODEL = "sample-png"
# Settings that are empty are all at their defaults.
_PLACES: tuple[tuple[str, str, dict[str, Bomb]], ...] = (
    ("train", "tiny.yaml", _YAML | _NETWORK | {name: bomb for name, bomb in _ODD.items() if name != "nothing"}),
    (_MODEL, "run/config.yaml", _YAML | _NETWORK | _ODD),
    (_MODEL, "run/data.json", _JSON | _DATA | _ODD),
    (_MODEL, "run/card.json", _JSON),
    (_MODEL, "run/weights.safetensors", _WEIGHTS | _ODD),
    ("resume", "run/log.jsonl", _JSON),
    ("resume", "run/training.ckpt", {"1 GiB": _JSON["1 GiB"]} | _ODD),
    ("evaluate-on", "run/evaluation/*.jsonl", _JSON),
    ("import-splits", "splits.json", _JSON | _ODD),
    ("compare", "b/evaluation/test.json", _JSON),
    ("compare", "b/evaluation/test.csv", _CSV),
    ("benchmark", "bench/benchmark.json", _JSON | _ODD),
    ("score-drawn", "drawn/a/summary.json", _JSON),
    ("import-table", "table.csv", _CSV | _ODD),
    (_MODEL, "image.png", _PNG | _ODD),
    ("import-png", "own/b/rater-A.png", _PNG | _ODD),
    ("score-folder", "maps/c/1.png", _PNG | _ODD),
    ("sample-tif", "image.tif", _TIFF),
    ("import-tif", "own/b/image.tif", _TIFF),
    ("sample-npy", "image.npy", _NPY),
    ("import-npy", "own/b/rater-A.npy", _NPY),
    ("sample-nii.gz", "image.nii.gz", _NIFTI),
    ("import-nii.gz", "own/b/image.nii.gz", _NIFTI),
    ("sample-dcm", "series/001.dcm", _DICOM | _ODD),
    ("import-dcm", "own/b/image/001.dcm", _DICOM),
    ("import-lidc", "lidc/LIDC-IDRI-0001/*/*/1-096.dcm", _DICOM),
    ("import-lidc", "lidc/LIDC-IDRI-0001/*/*/*.xml", _XML | _ODD),
    (
        "import-hdf5",
        "lidc.hdf5",
        _HDF5 | {f"{at} of 1 GiB": _chunk(at, 1 << 30) for at in ("train/images", "val/uids")},
    ),
    ("score-h5", "maps.h5", _HDF5 | {"maps of 1 GiB": _chunk("c", 1 << 30)}),
    ("info", "store.h5", _HDF5 | {"images of 1 GiB": _chunk("image", 1 << 30)}),
    ("evaluate", "store.h5", {"masks of 1 GiB": _chunk("masks", 1 << 30)} | _ODD),
    ("import-zip", "slices.zip", _ZIP | _ODD),
    ("score-npz", "maps.npz", _ZIP),
    ("import-slices", "slices/*/*/*/images/slice-1.png", _ODD),
    ("import-pickle", "lidc.pickle", _PICKLE | _ODD),
    ("import-jpg", "cimd/training/1/label0_.jpg", _ODD),
    ("import-isbi", "isbi/training02_01_t2_pp.nii", _ODD),
)
_QUICK = (
    *(("run/config.yaml", "aliases"), ("run/config.yaml", "base 4096"), ("run/data.json", "brackets")),
    *(("run/log.jsonl", "brackets"), ("run/weights.safetensors", "8-bit floats"), ("image.png", "a fifo")),
    *(("slices.zip", "LZMA, bad properties"), ("own/b/image.nii.gz", "empty members behind")),
)
