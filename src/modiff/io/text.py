"""Tables and JSON that people make by hand, as spreadsheets and editors write them; names as one spelling."""

from __future__ import annotations

import codecs
import csv
import io
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modiff.errors import DataError

MAX_BYTES = 64 << 20
_SEPARATORS = ",;\t"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def one_spelling(name: str) -> str:
    """A name without surrounding blanks, its accents composed (Unicode NFC): some file systems take them apart."""
    return unicodedata.normalize("NFC", name.strip())


def read_text(path: str | Path, *, kind: str) -> str:
    """A file's text, UTF-8 or UTF-16; DataError, which calls it `kind`, for another encoding."""
    path = Path(path)
    try:
        if not path.is_file():
            found = "a folder or a device" if path.exists() else "nothing there"
            raise DataError(f"is no {kind}", path=path, found=found, expected="a file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise DataError(f"too large for a {kind}", path=path, found=f"{size} bytes", expected=f"up to {MAX_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise DataError("cannot be read", path=path, found=error.strerror or error) from error
    try:
        return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        hint = 'A spreadsheet\'s "CSV UTF-8" is.'
        raise DataError(f"this {kind} is not UTF-8", path=path, field=f"line {line}", hint=hint) from None


def read_json_text(path: str | Path, *, kind: str) -> Any:
    """The content of a JSON file; DataError, which calls it `kind`, where it is none."""
    try:
        return json.loads(read_text(path, kind=kind))
    except RecursionError:
        raise DataError("cannot be read as JSON", path=path, found="too many brackets within brackets") from None
    except ValueError as error:
        raise DataError("cannot be read as JSON", path=path, found=error) from None


def read_table(
    path: str | Path, needed: Sequence[str], optional: Sequence[str] = (), *, kind: str
) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file by column, each with its place, "line 5"; columns not asked for are ignored.

    Cells, and names of columns, have one spelling; empty rows are skipped. Commas, semicolons or tabs separate cells,
    whichever give the columns needed. Raises DataError for other columns, and for rows with more cells than columns.
    """
    text = read_text(path, kind=kind)
    if text[:4].lower() == "sep=":  # what some spreadsheets put first
        text = "\n" + text.partition("\n")[2]
    expected = ", ".join(needed) + (f", and any of {', '.join(optional)}" if optional else "")
    heads: list[str] = []
    for separator in _SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
        try:
            lines = [(f"line {reader.line_num}", [one_spelling(cell) for cell in row]) for row in reader]
        except csv.Error as error:
            raise DataError("cannot be read as CSV", path=path, field=f"line {reader.line_num}", found=error) from None
        lines = [(place, row) for place, row in lines if any(row)]
        heads = heads or (lines[0][1] if lines else [])
        if lines and set(needed) <= set(lines[0][1]):
            return _rows(path, lines, {*needed, *optional})
    raise DataError("other columns", path=path, found=", ".join(heads) or "an empty file", expected=expected)


def _rows(path: str | Path, lines: list[tuple[str, list[str]]], wanted: set[str]) -> list[tuple[str, dict[str, str]]]:
    heads = lines[0][1]
    if twice := [name for name in wanted if heads.count(name) > 1]:
        raise DataError("a column twice", path=path, found=twice[0])
    rows = []
    for place, row in lines[1:]:
        if any(row[len(heads) :]):
            raise DataError("more cells than columns", path=path, field=place, found=len(row), expected=len(heads))
        cells = dict(zip(heads, row + [""] * len(heads), strict=False))
        rows.append((place, {name: cell for name, cell in cells.items() if name in wanted}))
    return rows
