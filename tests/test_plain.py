"""YAML and JSON from anyone: bounds act before they are parsed, and what is wrong is said with its place."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import yaml

from modiff.config.fields import read_yaml, setting
from modiff.config.run import build_config, parse_budget
from modiff.errors import ConfigError, DataError, ModiffError, shown
from modiff.io.checksum import read_lines
from modiff.io.text import read_json_text
from modiff.plain import MAX_DEPTH, MAX_JSON, MAX_YAML, finite, json_text, parse_json, parse_yaml

TEN = ",".join("x" * 10)
BOMB = f"a0: &a0 [{TEN}]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9))
YAML = {
    "aliases": (BOMB, "more values than settings have"),
    "aliases of a long text": (f"[&a {'x' * 100_000}, {', '.join(['*a'] * 1000)}]", "more values"),
    "merged mappings": (MERGES, "more values than settings have"),
    "an alias of itself": ("a: &a [*a]", "line 1, column 8: .* an alias within what it stands for"),
    "a mapping merged with itself": ("&a {<<: *a}", "an alias within"),
    "no such anchor": ("*a", "undefined alias"),
    "depth": ("[" * 3000 + "]" * 3000, "too many values within values"),
    "depth by lines": ("- " * 3000, "too many values within values"),
    "keys": ("".join(f"key{i}: 1\n" for i in range(60_000)), "more values than settings have"),
    "a long key": (f"{'k' * (MAX_YAML + 1)}: 1", "more than 1048576"),
    "a long integer": ("seed: " + "9" * 5000, "a number of 5000 digits"),
    "a long hexadecimal": ("seed: 0x" + "f" * 500_000, "a number of 500002 digits"),
    "a long sexagesimal": ("seed: 1" + ":59" * 200_000, "a number of 600001 digits"),
    "a long number with a tag": (f"seed: !!int '{'9' * 5000}'", "a number of 5000 digits"),
    "no integer": ("seed: !!int abc", "line 1, column 7: is not YAML; found 'abc', which is not int"),
    "an empty integer": ("!!int ''", "which is not int"),
    "no float": ("!!float abc", "which is not float"),
    "no timestamp": ("!!timestamp x", "which is not timestamp"),
    "no date": ("2001-99-99", "which is not timestamp"),
    "no offset": ("2001-01-01T00:00:00+99:99", "which is not timestamp"),
    "no bytes": ("!!binary a", "which is not binary|failed to decode"),
    "a name twice": ("seed: 1\nseed: 2", "line 2, column 1: .* the name 'seed' occurs twice"),
    "a list as a name": ("{[1]: 2}", "unhashable key"),
    "an object": ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "two documents": ("--- 1\n--- 2", "another document"),
}
JSON = {
    "lists": ("[" + "[]," * 2_000_000 + "[]]", "more than 1049600 values"),
    "keys": ("{" + ",".join(f'"{i}":1' for i in range(1_100_000)) + "}", "more than 1049600 values"),
    "depth": ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "too many brackets within brackets"),
    "more depth": ('{"a":' * 100_000 + "1" + "}" * 100_000, "too many brackets within brackets"),
    "open brackets": ("[" * 1_000_000, "too many brackets within brackets"),
    "length": ('"' + "x" * MAX_JSON + '"', "33554434 characters"),
    "a long integer": ("9" * 5000, "a number of too many digits"),
    "an infinite number": ("[1e999]", "a number that is too large"),
    "a constant": ("[NaN]", "NaN, which JSON does not have"),
    "a name twice": ('{"a": 1, "a": 2}', "the name 'a' occurs twice"),
    "two values": ("{} {}", "line 1, column 4: cannot be read as JSON; found '{}'"),
    "nothing": ("", "an empty file"),
}


@pytest.mark.parametrize(("text", "match"), YAML.values(), ids=YAML)
def test_yaml_beyond_what_settings_need_is_refused_at_once(text: str, match: str) -> None:
    start = time.process_time()
    with pytest.raises(DataError, match=match) as refused:
        parse_yaml(text)
    assert time.process_time() - start < 2
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(("text", "match"), JSON.values(), ids=JSON)
def test_json_beyond_what_anything_needs_is_refused_at_once(text: str, match: str) -> None:
    start = time.process_time()
    with pytest.raises(DataError, match=match) as refused:
        parse_json(text)
    assert time.process_time() - start < 2
    assert len(str(refused.value)) < 300


def test_aliases_and_merged_mappings_stand_for_what_they_name() -> None:
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 2}\nc: *a\nd: [*a, *a]\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml(text)["b"] == {"x": 2, "y": [1, 2]}


@pytest.mark.parametrize("name", ["lidc", "paper", "cimd", "ccdm"])
def test_presets_say_what_pyyaml_reads(name: str) -> None:
    import modiff.config

    text = (Path(modiff.config.__path__[0]) / "presets" / f"{name}.yaml").read_text()
    assert parse_yaml(text) == yaml.safe_load(text)


def test_json_is_what_it_says_down_to_the_depth_that_is_allowed() -> None:
    assert parse_json('{"a": [1, 2.5, null, true, "x"]}') == {"a": [1, 2.5, None, True, "x"]}
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_json("[1e999]", nan=True) == [float("inf")]


@pytest.mark.parametrize("seed", range(40))
def test_mutations_of_settings_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    """Deleted, doubled and inserted pieces: nothing but a typed error in one short line."""
    rng, text = random.Random(seed), bytearray(b"seed: 3\nmodel: {unet: {base: 8, multipliers: [1, 2]}}\n")
    for _ in range(rng.choice([1, 2, 4])):
        at = rng.randrange(len(text))
        pieces = [
            b"*",
            b"&a ",
            b"!!int ",
            b"[",
            b"]",
            b"{",
            b": ",
            b"\0",
            b"9" * 500,
            b"\xff",
            b"<<: ",
            b"2001-01-01",
            b"0x",
        ]
        text[at : at + rng.choice([0, 1, 9])] = rng.choice([*pieces, bytes(text[at : at + 20])])
    (tmp_path / "own.yaml").write_bytes(text)
    said = ""
    try:
        build_config(file=tmp_path / "own.yaml")
    except ConfigError as error:
        said = str(error)
    assert len(said.removeprefix(str(tmp_path))) < 600
    assert "\n" not in said


def test_settings_that_are_no_file_or_too_large_are_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="is not a file"):  # and does not wait
        read_yaml(tmp_path / "fifo")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(ConfigError, match="is too large"):
        read_yaml(tmp_path / "large.yaml")
    with pytest.raises(DataError, match="is too large"):
        read_json_text(tmp_path / "large.yaml", kind="list")
    with pytest.raises(ConfigError, match=r"--set seed: is not YAML; found '!!int abc'"):
        setting("seed=!!int abc")


def test_a_log_is_read_to_its_last_whole_line_and_what_is_no_log_not_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 3}\n{"step": 4, "torn')
    assert read_lines(path) == [{"step": 1}, {"step": 3}]
    for bad in (b"[" * 100_000 + b"\n{}\n", b"x\n" * 3_000_000):
        path.write_bytes(b'{"step": 1}\n' + bad)
        start = time.process_time()
        with pytest.raises(DataError, match="line 2: is damaged"):
            read_lines(path)
        assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "value",
    [
        "text",
        3,
        -2.5,
        None,
        True,
        [1, "a", None],
        (1,),
        (1, 2),
        (),
        [],
        {},
        {"a": [1, {"b": 2}], 3: (1.5,)},
        b"bytes",
        Path("a/b"),
        10**300 - 1,
    ],
)
def test_what_is_shown_is_what_python_writes(value: object) -> None:
    written = repr(value)
    assert shown(value) == (written if len(written) <= 200 else "a number of about 299 digits")


def test_messages_are_short_however_large_what_was_found() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested, nested]  # 2^100000 parts
    start = time.process_time()
    for found in (
        nested,
        ["x" * 10**6] * 10**6,
        dict.fromkeys(range(10**5), nested),
        "x" * 10**7,
        1 << 10**7,
        {"k" * 10**6: 1},
    ):
        error = ModiffError("is wrong", path="a.yaml", field="f" * 10**6, found=found, expected="less")
        assert len(str(error)) < 450
        assert str(error).endswith("…; expected less") or "digits; expected less" in str(error)
    assert time.process_time() - start < 1


def test_a_budget_is_a_number_that_can_be_counted() -> None:
    for text in ("9" * 400 + "img", "9" * 400 + "m"):
        with pytest.raises(ConfigError, match="is not a budget"):
            parse_budget(text)


def test_what_json_does_not_have_becomes_none() -> None:
    given = {"a": [1, 2.5, float("nan")], "b": {"c": float("-inf"), "d": "nan"}, "e": None, "f": True}
    assert finite(given) == {"a": [1, 2.5, None], "b": {"c": None, "d": "nan"}, "e": None, "f": True}
    json_text(finite(given))
