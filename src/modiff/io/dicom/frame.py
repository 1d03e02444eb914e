"""The frame of compressed pixels in a DICOM file: what size it says that it has, before any of it is decoded.

A decoder takes the memory that the stream asks for, not what the header declares. So nothing is decoded whose size is
not known, or is another; RLE, which states none, is unpacked up to the header's.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
from PIL import Image

from modiff.errors import DataError
from modiff.io.pictures import check_scans

_CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000: its start, and the segment of its sizes
_BOXES = b"\0\0\0\x0cjP  \r\n\x87\n"  # a JPEG 2000 file around it, which DICOM does not want and some writers make
_RLE_HEAD = 64  # bytes: the number of segments, and where each of up to 15 begins (PS3.5 Annex G.5)
_RLE_SPARE = 4096  # bytes by which an unpacked segment may exceed the picture: some writers pad


def codestream_of(frame: bytes) -> tuple[bytes, tuple[int, int]]:
    """A JPEG, JPEG-LS or JPEG 2000 stream, without the file format that may be around it, and the (H,W) it declares.

    Raises DataError for what is none of them, or where that cannot be told.
    """
    if frame.startswith(_BOXES):
        frame = _unboxed(frame)
    if frame.startswith(_CODESTREAM) and len(frame) >= 42:
        width, height, left, top = struct.unpack(">4I", frame[8:24])
        size, components = (height - top, width - left), int.from_bytes(frame[40:42], "big")
    elif (at := _frame_header(frame)) is not None:
        height, width, components = struct.unpack(">HHB", frame[at + 5 : at + 10])
        size = height, width
        check_scans(frame.count(b"\xff\xda"))
    else:
        raise DataError("pixels cannot be decoded: the stream does not say what size it has", field="PixelData")
    if components != 1:
        raise DataError("pixels do not fit the size", field="PixelData", found=f"{components} components", expected="1")
    return frame, size


def _unboxed(frame: bytes) -> bytes:
    """The codestream of a JPEG 2000 file (ISO 15444-1 Annex I), empty where it has none."""
    at = 0
    while at + 8 <= len(frame):
        length, kind = struct.unpack(">I4s", frame[at : at + 8])
        if kind == b"jp2c":
            return frame[at + (16 if length == 1 else 8) :]
        if length < 8:
            break
        at += length
    return b""


def _frame_header(frame: bytes) -> int | None:
    """Where the one frame header (SOF) of a JPEG stream begins, ahead of its first scan; None without, or with two."""
    found, at = None, 2
    while frame.startswith(b"\xff\xd8") and at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xDA:
            return found
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            if found is not None:
                return None
            found = at
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def unpack_rle(frame: bytes, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """(H,W) of an RLE frame, one segment per byte of a value, the highest first (PS3.5 Annex G).

    Raises DataError for other segments, and for segments that hold less, or much more, than `shape` does.
    """
    count, pixels = int.from_bytes(frame[:4], "little"), shape[0] * shape[1]
    starts = list(struct.unpack("<15L", frame[4:_RLE_HEAD]))[:count] if len(frame) > _RLE_HEAD else []
    ends = [*starts, len(frame)]
    if (
        count != dtype.itemsize
        or len(starts) != count
        or ends[0] < _RLE_HEAD
        or any(start >= end for start, end in pairwise(ends))
    ):
        expected = f"{dtype.itemsize}, one behind the other"
        raise DataError("RLE segments do not fit the values", field="PixelData", found=count, expected=expected)
    made = np.empty((pixels, dtype.itemsize), np.uint8)
    for place, (start, end) in enumerate(pairwise(ends)):
        segment = frame[start:end]
        plane = _unpacked(segment, pixels)
        if plane is None or _unpacked(segment, pixels + _RLE_SPARE) is not None:
            found = "fewer bytes" if plane is None else "more bytes"
            raise DataError("RLE pixels do not fit the size", field="PixelData", found=found, expected=f"{pixels}")
        made[:, dtype.itemsize - 1 - place] = plane
    return made.view(dtype.newbyteorder("<")).reshape(shape)


def _unpacked(segment: bytes, count: int) -> np.ndarray | None:
    """The first `count` bytes that a segment (PackBits) holds, None where it holds fewer; never takes more memory."""
    try:
        return np.asarray(Image.frombytes("L", (count, 1), segment, "packbits", "L"))[0]
    except ValueError:
        return None
