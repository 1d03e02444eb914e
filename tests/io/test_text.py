"""Tables and JSON as spreadsheets and editors write them."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from pathlib import Path
from zipfile import ZipInfo

import pandas as pd
import pytest

from modiff.errors import DataError, printable
from modiff.io.text import (
    csv_text,
    is_litter,
    name_in_zip,
    one_spelling,
    read_json_text,
    read_table,
    read_text,
)
from modiff.plain import json_text

NAME = unicodedata.normalize("NFC", "Ölund, p3")
ROWS = [("line 2", {"case": NAME, "patient": "p3"}), ("line 3", {"case": "b", "patient": "p4"})]
PLAIN = f'case,patient,age\n"{NAME}",p3,60\nb,p4,\n'


def _read(path: Path) -> list[tuple[str, dict[str, str]]]:
    return read_table(path, ["case"], ["patient"], kind="table of cases")


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode(),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.encode("utf-16"),
        unicodedata.normalize("NFD", PLAIN).encode(),
        PLAIN.replace('"', "").replace(",", ";").replace("Ölund; p3", NAME).encode(),
        PLAIN.replace("a,b", "")
        .replace(f'"{NAME}",', f"{NAME}\t")
        .replace(",", "\t")
        .replace("Ölund\t", "Ölund,")
        .encode(),
        PLAIN.replace("case,patient", ' case , "patient"').encode(),
    ],
    ids=["plain", "bom", "crlf", "cr", "utf-16", "nfd", "semicolons", "tabs", "blanks"],
)
def test_tables_of_spreadsheets_are_alike(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    assert _read(tmp_path / "t.csv") == ROWS


def test_empty_rows_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("case,patient\n\na,p\n,,\n  \nb,p\n\n")
    assert [(place, row["case"]) for place, row in _read(tmp_path / "t.csv")] == [("line 3", "a"), ("line 6", "b")]


def test_columns_without_a_name_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",case,patient,,\n0,a,p,,\n")
    assert _read(tmp_path / "t.csv") == [("line 2", {"case": "a", "patient": "p"})]


def test_names_in_a_zip_are_those_that_people_gave() -> None:
    entry = ZipInfo("p1\\Zoe\u0308.png".encode().decode("cp437"))
    assert one_spelling(name_in_zip(entry)) == "p1/Zo\u00eb.png"
    entry = ZipInfo("p1/\u00e9.png".encode("latin-1").decode("cp437"))
    assert name_in_zip(entry) == entry.filename
    entry = ZipInfo("p1/Zo\u00eb.png")
    entry.flag_bits |= 0x800
    assert name_in_zip(entry) == "p1/Zo\u00eb.png"


@pytest.mark.parametrize("path", [".DS_Store", "a/._b.png", "__MACOSX/a/b.png", "a/Thumbs.db", "a/Desktop.ini"])
def test_what_systems_put_beside_files(path: str) -> None:
    assert is_litter(path)
    assert not is_litter("a/b.png")


def test_a_line_that_names_the_separator_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=;\ncase;patient\na;p\n")
    assert _read(tmp_path / "t.csv") == [("line 3", {"case": "a", "patient": "p"})]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_cells_in_quotes_may_stand_before_any_separator(tmp_path: Path, separator: str) -> None:
    for head in ("case,patient", '"case","patient"'):
        (tmp_path / "t.csv").write_text(f'{head}\n"a","p"\n'.replace(",", separator))
        assert _read(tmp_path / "t.csv") == [("line 2", {"case": "a", "patient": "p"})]
    (tmp_path / "t.csv").write_text('"name","patient"\n"a","p"\n'.replace(",", separator))
    with pytest.raises(DataError, match="unexpected columns; found name, patient"):
        _read(tmp_path / "t.csv")


def test_a_short_row_has_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("case,patient\na\n")
    assert _read(tmp_path / "t.csv") == [("line 2", {"case": "a", "patient": ""})]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,patient\na,p\n", "unexpected columns; found name, patient; expected case"),
        ("", "an empty file"),
        ("case,case\na,b\n", "a column occurs twice; found case"),
        ("case;patient;;\na;p;q;\n", "line 2: more cells than columns; found 4; expected 2"),
        ("case,patient\na,p,q\n", "line 2: more cells than columns; found 3; expected 2"),
        ('case,patient\n"a"b,p\n', "cannot be read as CSV"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        _read(tmp_path / "t.csv")


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"case,patient\na,b\n\xd6lund,p\n")
    with pytest.raises(DataError, match="line 3: is not UTF-8; expected table of cases"):
        _read(tmp_path / "t.csv")


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file; found a folder or a device; expected list"):
        read_text(tmp_path, kind="list")


def test_json_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(b"\xef\xbb\xbf" + b'{"train": ["a"]}')
    assert read_json_text(tmp_path / "s.json", kind="list of patients") == {"train": ["a"]}


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[NaN]", '{"a": 1, "a": 2}', ""])
def test_what_is_no_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_json_text(tmp_path / "s.json", kind="list of patients")


def test_one_spelling_of_names() -> None:
    assert one_spelling("  O\u0308lund ") == "Ölund"


FORMULAS = ["=1+1", "@SUM(1)", "+1", "-2+3", "\uff1d1", "'=1", "''-1", "a;=1", "a, b", 'a "b"', "=1,2"]
PLAIN_NAMES = ["p-1", "'a", "3=2", "Ölund", "-", "ab;c"]


@pytest.mark.parametrize("name", FORMULAS + PLAIN_NAMES)
def test_a_name_in_a_table_is_no_formula_and_is_read_as_it_was(tmp_path, name):
    text = csv_text(pd.DataFrame({"case": [name], name: ["b"], "value": [-0.5]}))
    (heads, cells) = csv.reader(io.StringIO(text))
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in (*heads, *cells[:2]))
    assert cells[2] == "-0.5"
    for row in csv.reader(io.StringIO(text), delimiter=";"):  # as a spreadsheet splits it in many countries
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row[1:])
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    ((_, row),) = read_table(tmp_path / "table.csv", ["case", name], kind="table")
    assert row == {"case": name, name: "b"}


def test_a_table_has_one_line_per_row_and_nothing_that_steers_a_terminal():
    frame = pd.DataFrame({"case": ["a\nb", "\x1b[31m\udcff"], "n": [1, 2], "value": [0.25, None]})
    assert csv_text(frame) == "case,n,value\na\\nb,1,0.25\n\\x1b[31m\\udcff,2,\n"


@pytest.mark.parametrize(
    "name", ["\x1b[31m", "\x9b", "\u202e", "\udcff", "\U000e0041", "a\nb", "Ölund – 山田\u3000太郎"]
)
def test_json_is_read_back_as_it_was_and_steers_nothing(name):
    text = json_text({name: [name]}, indent=1)
    assert json.loads(text) == {name: [name]}
    assert text.encode()
    assert printable(text, keep="\n") == text


def test_one_spelling_is_printable():
    assert one_spelling(" a\x1b\udcff ") == "a\\x1b\\udcff" == one_spelling(one_spelling(" a\x1b\udcff "))


@pytest.mark.parametrize("text", ["case," + "a," * (3 << 20), "case,x\n" + "a,b\n" * (2 << 20)])
def test_a_table_of_more_cells_than_any_needs_is_refused_at_once(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"table\.csv: the table is too large; found more than 2097152 cells"):
        read_table(path, ["case"], kind="table")
