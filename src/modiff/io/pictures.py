"""What PNG, TIFF and JPEG files hold beside their pixels, judged before Pillow reads it all.

Texts, profiles and lists of numbers become Python objects of many times their size, whatever the picture's own size.
"""

from __future__ import annotations

import ctypes
import os
import struct
import zlib
from contextlib import suppress
from functools import cache
from typing import IO

from modiff.errors import DataError
from modiff.io.files import LIMITS, MIB

_BESIDE = 16 * MIB  # bytes that are no pixels
_PIECES = 100_000  # chunks of a PNG; segments of a JPEG
_LIKELY_RATIO = 200  # of a PNG's pixels to what they are packed in; beyond it they are counted
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by the kind of colour of a PNG
_FROM, _COUNTED = MIB // 8, 512 * MIB  # bytes of a PNG's pixels that are counted: for fewer it costs too much
_PAGES = 1000
_TAGS, _NUMBERS = 1000, 1_000_000  # of a page of a TIFF; of all its tags, each a Python object
MAX_SCANS = 20  # of a JPEG: each goes over all of the picture; encoders make up to 10
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_PLAIN = (1, 2, 6, 7)  # types whose values stay bytes


def check_container(kind: str, stream: IO[bytes]) -> None:
    """Raises DataError where a picture holds far more than pixels, or several pages; others for damage.

    kind: PNG, TIFF, GIF or JPEG; BMP has nothing beside its pixels that would be read.
    """
    stream.seek(0)
    checks = {"PNG": _check_png, "TIFF": _check_tiff, "GIF": _check_gif, "JPEG": _check_jpeg}
    if kind in checks:
        checks[kind](stream)
    stream.seek(0)


def _check_png(stream: IO[bytes]) -> None:
    """Also raises zlib.error where a chunk of pixels does not fit its CRC, which Pillow does not look at."""
    stream.seek(8)
    beside, pieces, needed, pixels = 0, 0, 0, b""
    while len(head := stream.read(8)) == 8:
        left, found = int.from_bytes(head[:4]), zlib.crc32(head[4:])
        if head[4:] == b"IHDR" and len(said := stream.read(13)) == 13:
            columns, rows, bits, kind = struct.unpack(">2L2B3x", said)
            needed = rows * (columns * bits * _SAMPLES.get(kind, 1) // 8)
            if max(rows, columns) > LIMITS.max_side or not _FROM < needed <= _COUNTED:
                needed = 0  # larger ones are refused for that alone
            stream.seek(-13, os.SEEK_CUR)
        pieces += 1
        beside += left if head[4:] != b"IDAT" else 0
        _compare(beside, pieces)
        if head[4:] != b"IDAT":
            stream.seek(left + 4, os.SEEK_CUR)
            continue
        while left and (piece := stream.read(min(left, MIB))):
            left, found = left - len(piece), zlib.crc32(piece, found)
            if len(pixels) * _LIKELY_RATIO < needed:
                pixels += piece
        if not left and stream.read(4) != found.to_bytes(4):  # Pillow says where one is cut off
            raise zlib.error("CRC of a chunk")
    if len(pixels) * _LIKELY_RATIO < needed:
        _check_all_there(pixels, needed)


def _check_all_there(packed: bytes, needed: int) -> None:
    """DataError where rows are missing, which Pillow would fill with zeros."""
    inflater, found = zlib.decompressobj(), 0
    while found < needed and (piece := inflater.decompress(packed, MIB)):
        found, packed = found + len(piece), inflater.unconsumed_tail
    if found < needed and inflater.eof:  # of a stream that is cut off Pillow says so
        raise DataError("holds fewer pixels than it says", found=f"{found} bytes", expected=f"{needed} or more")


def _check_gif(stream: IO[bytes]) -> None:
    """A code of up to 12 bits stands for one pixel or more."""
    columns, rows = struct.unpack("<6x2H", stream.read(10).ljust(10, b"\0"))
    _compare(stream.seek(0, os.SEEK_END) - 2 * columns * rows, 0)


def _compare(beside: int, pieces: int) -> None:
    if beside > _BESIDE or pieces > _PIECES:
        found = f"{beside} bytes beside its pixels" if beside > _BESIDE else f"{pieces} or more parts"
        expected = f"at most {_BESIDE if beside > _BESIDE else _PIECES}"
        raise DataError("holds too much besides its pixels", found=found, expected=expected)


def _check_jpeg(stream: IO[bytes]) -> None:
    scans, last = 0, b""
    while piece := stream.read(MIB):
        scans += (last + piece).count(b"\xff\xda")  # in pixels a zero follows each 255
        last = piece[-1:]
    check_scans(scans)


def check_scans(scans: int) -> None:
    """Raises DataError where a JPEG has so many that decoding takes seconds."""
    if scans > MAX_SCANS:
        raise DataError("too many scans in a JPEG", found=scans, expected=f"at most {MAX_SCANS}")


def _check_tiff(stream: IO[bytes]) -> None:
    _silence_libtiff()
    head = stream.read(16)
    order = "<" if head[:1] == b"I" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack(f"{order}Q", head[8:16]) if big else struct.unpack(f"{order}L", head[4:8])
    pages = set[int]()
    while at and len(pages) < _PAGES:
        pages.add(at)
        at = _check_page(stream, at, order, big)
        if at in pages:
            raise DataError("has pages that go round in a circle")
    if len(pages) > 1:
        found = f"{len(pages)} pages" + " or more" * (len(pages) == _PAGES)
        raise DataError("has several pages", found=found, expected="one image")


def _check_page(stream: IO[bytes], at: int, order: str, big: bool) -> int:
    """Judges the tags of a page, and returns where the next one begins, 0 where there is none."""
    kinds, width, first = ("Q", 20, "HHQ") if big else ("H", 12, "HHL")
    stream.seek(at)
    count_bytes = struct.calcsize(f"{order}{kinds}")
    data = stream.read(count_bytes)
    if len(data) < count_bytes:
        return 0
    (count,) = struct.unpack(f"{order}{kinds}", data)
    if count > _TAGS:
        raise DataError("holds too much besides its pixels", found=f"{count} tags", expected=f"at most {_TAGS}")
    data = stream.read(count * width)
    beside, numbers = 0, 0
    for place in range(0, len(data) - width + 1, width):
        _, kind, values = struct.unpack(f"{order}{first}", data[place : place + struct.calcsize(f"{order}{first}")])
        beside += values * _SIZES.get(kind, 1)
        numbers += 0 if kind in _PLAIN else values
    if beside > _BESIDE or numbers > _NUMBERS:
        found = f"{beside} bytes in its tags, {numbers} numbers"
        expected = f"at most {_BESIDE} bytes, {_NUMBERS} numbers"
        raise DataError("holds too much besides its pixels", found=found, expected=expected)
    rest = stream.read(8 if big else 4)
    return struct.unpack(f"{order}{'Q' if big else 'L'}", rest)[0] if len(rest) == (8 if big else 4) else 0


@cache
def _silence_libtiff() -> None:
    """libtiff writes its own lines about a damaged file to standard error; ours says so."""
    from PIL import _imaging

    with suppress(OSError, AttributeError):  # a Pillow that hides its libtiff
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
