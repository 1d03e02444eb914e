"""Checksums that files carry themselves, so that damage is seen where they are read.

What modiff writes to read again holds the first 64 bits of the SHA-256 of its own bytes, taken with zeros in their
place: JSON, and each line of a JSONL file, in a last member "checksum"; safetensors in its metadata; YAML in a comment,
its first line. What holds none, of people or of earlier versions, is taken as it is. They find damage, not a forger.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from modiff.errors import DataError
from modiff.io.files import told
from modiff.plain import MAX_JSON, json_text, parse_json

NAME = "checksum"
BLANK = {NAME: "0" * 16}  # the member, before the rest is known
COMMENT = f"# {NAME}: {BLANK[NAME]}\n"
_MOST = 1 << 30  # bytes of a JSONL file
_COMMENT = re.compile(rb"# checksum: ([0-9a-f]{16})")
_MEMBER = re.compile(rb'"checksum": ?"([0-9a-f]{16})"')
# The same with any letters: one that is damaged itself is not taken for none.
_LAST = re.compile(rb'"(.{8})": ?"(.{16})"\s*\}\s*\Z', re.DOTALL)
_FIRST = re.compile(rb"(.{12})(.{16})\n", re.DOTALL)


def stamped(data: bytes) -> bytes:
    """`data`, which has BLANK as its last member or begins with COMMENT, with its checksum in place of the zeros."""
    made = _sum(data)
    assert made is not None
    start, end, own = made
    return data[:start] + own + data[end:]


def check(data: bytes, path: str | Path, field: str | None = None) -> None:
    """DataError where the content of `path` (or of its `field`) holds a checksum that is not its own, or was one."""
    made = _sum(data)
    if _was_one(data) if made is None else data[made[0] : made[1]] != made[2]:
        found, hint = "content that does not fit its checksum", f"If you changed it on purpose, remove its {NAME}"
        raise DataError("is damaged", path=path, field=field, found=found, hint=hint)


def _sum(data: bytes) -> tuple[int, int, bytes] | None:
    """Where a checksum lies, and what it must be; None where there is none."""
    found = _COMMENT.match(data) or _MEMBER.match(data, max(data.rfind(b'"checksum":'), 0))
    if found is None:
        return None
    start, end = found.span(1)
    sha = hashlib.sha256(data[:start] + b"0" * (end - start))
    sha.update(memoryview(data)[end:])
    return start, end, sha.hexdigest()[: end - start].encode()


def _was_one(data: bytes) -> bool:
    """Whether it ends or begins with what is a checksum but for a letter."""
    for found, name in ((_LAST.search(data[-64:]), b"checksum"), (_FIRST.match(data), b"# checksum: ")):
        if found is not None:
            letters = sum(a != b for a, b in zip(found[1], name, strict=True))
            if letters + len(re.sub(b"[0-9a-f]", b"", found[2])) < 2:
                return True
    return False


def stamped_json(content: Mapping[str, Any], *, indent: int | None = None, nan: bool = False) -> str:
    """A JSON object with its checksum and a line's end; indent and nan as of `json_text`."""
    return stamped((json_text({**content, **BLANK}, indent=indent, nan=nan) + "\n").encode()).decode()


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file without their checksums; NaN and infinity are numbers.

    A last line without an end, of a program that was killed, is left out. Raises DataError for any other that is not an
    object or is damaged.
    """
    path = Path(path)
    with told(path, "cannot be read"):
        if not path.is_file() or path.stat().st_size > _MOST:
            raise DataError("is not a log", path=path, expected=f"a file of up to {_MOST} bytes")
        with path.open("rb") as file:
            return _rows(path, iter(partial(file.readline, MAX_JSON), b""))


def _rows(path: Path, lines: Iterable[bytes]) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") and len(line) < MAX_JSON:
            break
        try:
            row = parse_json(line.decode(), nan=True)
        except (DataError, UnicodeDecodeError):
            row = None
        if not isinstance(row, dict):
            raise DataError("is damaged", path=path, field=f"line {number}", expected="a JSON object")
        check(line, path, f"line {number}")
        row.pop(NAME, None)
        rows.append(row)
    return rows
