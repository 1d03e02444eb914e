"""Files that carry their checksum: no flipped bit passes, and what carries none is taken as it is."""

from __future__ import annotations

import json
import os
import random
import re

import pytest
from memory import takes_less_than

from modiff.errors import DataError
from modiff.io.checksum import COMMENT, check, read_lines, stamped, stamped_json
from modiff.io.text import read_json_text

CONTENT = {"a": [1, 2.5, None], "b": {"checksum": "no", "text": 'a "checksum": "0123456789abcdef" inside'}}


def flipped(data, bit):
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("indent", [None, 1])
def test_json_is_read_without_its_checksum(tmp_path, indent):
    path = tmp_path / "x.json"
    path.write_text(stamped_json(CONTENT, indent=indent))
    assert read_json_text(path, kind="x") == CONTENT
    assert json.loads(path.read_text()).keys() == {*CONTENT, "checksum"}


def test_no_flipped_bit_of_json_changes_what_is_read(tmp_path):
    path, data = tmp_path / "x.json", stamped_json(CONTENT, indent=1).encode()
    for bit in range(8 * len(data)):  # those of the checksum's own name and digits, too
        path.write_bytes(flipped(data, bit))
        with pytest.raises(DataError, match=re.escape(str(path))):
            read_json_text(path, kind="x")


def test_a_flipped_bit_of_a_line_is_named_and_a_torn_last_one_left_out(tmp_path):
    path, rows = tmp_path / "x.jsonl", [{"step": number, "loss": 1 / number} for number in range(1, 4)]
    data = "".join(map(stamped_json, rows)).encode()
    path.write_bytes(data[:-5])
    assert read_lines(path) == rows[:2]
    rng, named = random.Random(0), set()
    for bit in rng.sample(range(8 * len(data)), 300):
        path.write_bytes(flipped(data, bit))
        try:
            found = read_lines(path)
        except DataError as error:
            named.add(str(error).startswith(f"{path}: line "))
        else:
            assert found == rows[: len(found)]
            assert len(found) >= 2
    assert named == {True}


def test_yaml_says_its_checksum_in_its_first_line():
    data = stamped(COMMENT.encode() + b"seed: 1\n")
    check(data, "config.yaml")
    for change in (
        data.replace(b"# check", b"# chexk"),
        data[:12] + b"g" + data[13:],
        data.replace(b"seed: 1", b"seed: 3"),
        data[:-3],
        data.replace(b"\nseed", b" seed"),
    ):
        with pytest.raises(DataError, match=r"config\.yaml: is damaged.*remove its checksum"):
            check(change, "config.yaml")


@pytest.mark.parametrize(
    "data",
    [b"", b"seed: 1\n", b'{"checksum": "of a patient"}', b'{"checksum": 5}', b'{"chessboard": "0123456789abcdef"}'],
)
def test_what_holds_no_checksum_is_taken_as_it_is(data):
    check(data, "x")


def test_a_huge_line_of_a_log_takes_no_more_memory_than_a_line_may(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n')
    os.truncate(path, 600 << 20)
    with takes_less_than(400 << 20), pytest.raises(DataError, match="line 2: is damaged"):
        read_lines(path)
