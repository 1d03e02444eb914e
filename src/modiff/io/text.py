"""Tables and JSON that people make by hand, as spreadsheets and editors write them; names as one spelling."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipInfo

from modiff.errors import DataError, printable
from modiff.io import checksum
from modiff.plain import MAX_JSON, parse_json, read_text

if TYPE_CHECKING:
    import pandas as pd

OTHER_COLUMNS = "unexpected columns"  # the message of `read_table` about a table that is whole, but another one
_SEPARATORS = ",;\t"
_MOST_CELLS = 1 << 21  # of a table; an evaluation of all of LIDC has a million
_SAYS_UTF8 = 0x800  # flag of a file in a zip archive
_LITTER = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "icon\r")
# Where a cell begins that a spreadsheet computes, be cells parted by commas or semicolons; and such a place, quoted.
_COMPUTED = re.compile(r"(^|;\s*)(?='*[=+\-@\uff1d\uff0b\uff0d\uff20])")
_QUOTED = re.compile(_COMPUTED.pattern.replace("(?=", "'(?="))


def one_spelling(name: str) -> str:
    """A name without blanks around it, `printable`, accents composed (Unicode NFC): some systems take them apart."""
    return unicodedata.normalize("NFC", printable(name.strip()))


def is_litter(path: str) -> bool:
    """What systems put beside people's files: hidden ones (.DS_Store, ._name), Thumbs.db, desktop.ini, __MACOSX/…."""
    return any(part.startswith(".") or part.lower() in _LITTER for part in path.split("/"))


def name_in_zip(entry: ZipInfo) -> str:
    """A file's name as people made it: some programs write backslashes, or UTF-8 without saying so."""
    name = entry.filename
    if not entry.flag_bits & _SAYS_UTF8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def read_json_text(path: str | Path, *, kind: str, hint: str | None = None, nan: bool = False) -> Any:
    """The content of a JSON file; DataError, which calls it `kind` and ends in `hint`, where it is none.

    nan: as for `parse_json`. Content that does not fit the checksum that it holds is refused.
    """
    text = read_text(path, kind=kind, most=MAX_JSON)
    try:
        content = parse_json(text, nan=nan)
    except DataError as error:
        where: Any = {"path": path, "field": error.field, "found": error.found}
        raise DataError(error.message, **where, expected=kind, hint=hint) from None
    if isinstance(content, dict):
        checksum.check(text.encode(), path)
        if re.fullmatch("[0-9a-f]{16}", str(content.get(checksum.NAME))):
            del content[checksum.NAME]
    return content


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV, `printable`, a line per row. What is not there is an empty cell.

    Text that a spreadsheet would compute has an apostrophe before it, which `read_table` takes away; numbers are as
    they are.
    """
    rows: Iterable[Iterable[object]] = frame.astype(object).where(frame.notna(), "").itertuples(index=False, name=None)
    return "".join(f"{','.join(map(_cell, row))}\n" for row in (frame.columns, *rows))


def _cell(value: object) -> str:
    if not isinstance(value, str):
        return str(value)
    text = _COMPUTED.sub(r"\1'", printable(value)).replace('"', '""')
    return f'"{text}"' if "," in text or '"' in text else text


def read_table(
    path: str | Path, needed: Sequence[str], optional: Sequence[str] | None = (), *, kind: str
) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file by column, each with its place, "line 5"; columns not asked for are ignored.

    optional: further columns that are taken, where None all. Cells, and names of columns, have one spelling; empty rows
    are skipped. Commas, semicolons or tabs separate cells, whichever give the columns needed. Raises DataError for
    other columns, for more cells than columns or than any table needs, and for quotes that do not end with their cell.
    """
    text = read_text(path, kind=kind)
    if max(map(text.count, _SEPARATORS)) + text.count("\n") > _MOST_CELLS:  # at least as many as it has
        found = f"more than {_MOST_CELLS} cells"
        raise DataError("the table is too large", path=path, found=found, expected=kind)
    if text[:4].lower() == "sep=":  # what some spreadsheets put first
        text = "\n" + text.partition("\n")[2]
    expected = ", ".join(needed) + (f", and any of {', '.join(optional)}" if optional else "")
    heads: list[str] = []
    broken: DataError | None = None
    for separator in _SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
        lines: list[tuple[str, list[str]]] = []
        error: DataError | None = None
        try:
            for row in reader:
                if any(cells := [_QUOTED.sub(r"\1", one_spelling(cell)) for cell in row]):
                    lines.append((f"line {reader.line_num}", cells))
        except csv.Error as found:  # perhaps a quote before another separator
            error = DataError("cannot be read as CSV", path=path, field=f"line {reader.line_num}", found=found)
        own = lines[0][1] if lines else []
        if lines and set(needed) <= set(own):
            if error is not None:
                raise error
            return _rows(path, lines, {*needed, *(own if optional is None else optional)} - {""})
        heads, broken = heads or own, broken or error
    if broken is not None and not heads:
        raise broken
    raise DataError(OTHER_COLUMNS, path=path, found=", ".join(heads) or "an empty file", expected=expected)


def _rows(path: str | Path, lines: list[tuple[str, list[str]]], wanted: set[str]) -> list[tuple[str, dict[str, str]]]:
    heads = lines[0][1]
    heads = heads[: max(place for place, head in enumerate(heads, 1) if head)]  # empty columns behind the last
    if twice := [name for name in wanted if heads.count(name) > 1]:
        raise DataError("a column occurs twice", path=path, found=twice[0])
    rows = []
    for place, row in lines[1:]:
        if any(row[len(heads) :]):
            raise DataError("more cells than columns", path=path, field=place, found=len(row), expected=len(heads))
        cells = dict(zip(heads, row + [""] * len(heads), strict=False))
        rows.append((place, {name: cell for name, cell in cells.items() if name in wanted}))
    return rows
