"""Plain data from text that anyone may have written: JSON and YAML, whose size is bounded before they are parsed.

Everything that reads either goes through here. Errors are DataErrors whose field is the place in the text.
"""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.constructor import ConstructorError

from modiff.errors import DataError, printable, shown

MAX_BYTES = 64 << 20  # of a file of text
MAX_JSON = 32 << 20  # characters
MAX_VALUES = (1 << 20) + 1024  # of a JSON text: a list of all patients that a phantom may have
MAX_YAML = 1 << 20  # characters, and of all nodes where aliases stand for what they name
MAX_DEPTH = 64  # of lists and objects within one another
MAX_DIGITS = 400  # of a number; the largest float has 309
_NODE = 32  # characters that a node of YAML counts for beside its text
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_text(path: str | Path, *, kind: str, most: int = MAX_BYTES) -> str:
    """A file's text, UTF-8 or UTF-16; DataError, which calls it `kind`, for another encoding, or where there is none.

    most: bytes of the file.
    """
    path = Path(path)
    try:
        if not path.is_file():
            found = "a folder or a device" if path.exists() else "nothing there"
            raise DataError("is not a file", path=path, found=found, expected=kind)
        if (size := path.stat().st_size) > most:
            expected = f"{kind}, up to {most} bytes"
            raise DataError("the file is too large", path=path, found=f"{size} bytes", expected=expected)
        data = path.read_bytes()
    except OSError as error:
        raise DataError("cannot be read", path=path, found=error.strerror or error) from error
    try:
        return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        expected, hint = f"{kind} in UTF-8 or UTF-16", 'Save it as UTF-8, in a spreadsheet as "CSV UTF-8"'
        raise DataError("is not UTF-8", path=path, field=f"line {line}", expected=expected, hint=hint) from None


# JSON


def parse_json(text: str, *, nan: bool = False) -> Any:
    """What JSON says; DataError where it is none, or has more values, or deeper ones, than anything here needs.

    nan: NaN and infinity, which JSON does not have, are let pass. A name twice in one object is refused.
    """
    field = None
    if len(text) > MAX_JSON:
        found = f"{len(text)} characters, more than {MAX_JSON}"
    elif sum(map(text.count, ",[{")) > MAX_VALUES:  # at least as many as its values
        found = f"more than {MAX_VALUES} values"
    else:
        try:
            data = _DECODERS[nan].decode(text)
            _check_values(data, nan=nan)
            return data
        except RecursionError:
            found = "too many brackets within brackets"
        except json.JSONDecodeError as error:
            field, there = f"line {error.lineno}, column {error.colno}", text[error.pos : error.pos + 40].strip()[:20]
            found = repr(there) if there else "the end of the file" if text.strip() else "an empty file"
        except ValueError as error:
            found = "a number of too many digits" if "digits" in str(error) else str(error)
    raise DataError("cannot be read as JSON", field=field, found=found)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"the name {Counter(name for name, _ in pairs).most_common(1)[0][0][:60]!r} occurs twice")
    return made


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")


_DECODERS = {
    True: json.JSONDecoder(object_pairs_hook=_once),
    False: json.JSONDecoder(object_pairs_hook=_once, parse_constant=_not_json),
}


def _check_values(data: Any, *, nan: bool) -> None:
    """ValueError for values too deep, and for numbers that are infinite as floats, unless `nan`."""
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        if not nan and any(type(value) is float and not math.isfinite(value) for value in level):
            raise ValueError("a number that is too large")
        inside = [value for value in level if isinstance(value, dict | list)]
        if not inside:
            return
        level = [item for value in inside for item in (value.values() if isinstance(value, dict) else value)]
    raise RecursionError


def finite(value: Any) -> Any:
    """Plain data with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value


def json_text(value: object, *, indent: int | None = None, nan: bool = False) -> str:
    """JSON that is read back as it was, its letters as they are but for those that `printable` escapes.

    nan: NaN and infinity are let pass, which raise ValueError otherwise.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=nan)
    return printable(text, keep="\n", escape=lambda letter: json.dumps(letter)[1:-1])


# YAML

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, ten times as fast


class _Loader(_Base):
    """YAML's plain data, where a name stands once in a mapping."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._seen: set[int] = set()

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A node's value; ConstructorError where PyYAML raises others, as for !!int abc and the date 2026-13-45."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
            problem = f"{shown(node.value)}, which is not {node.tag.rpartition(':')[2]}"
            raise ConstructorError(problem=problem, problem_mark=node.start_mark) from error

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Takes merged mappings in. It is called before anything else touches a mapping, and perhaps again."""
        if id(node) not in self._seen:
            self._seen.add(id(node))
            names = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in names:
                    raise ConstructorError(None, None, f"the name {key.value[:60]!r} occurs twice", key.start_mark)
                names.add((key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)))
        super().flatten_mapping(node)


def parse_yaml(text: str) -> Any:
    """What YAML says, without tags that build objects.

    DataError where it is none, where it is larger or deeper than settings are, aliases counted as what they stand for,
    and where a value is not what its tag says, such as the date 2026-13-45.
    """
    mark: Any = None
    try:
        if len(text) > MAX_YAML:
            raise ValueError(f"{len(text)} characters, more than {MAX_YAML}")
        _check_nodes(text)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark, found = getattr(error, "problem_mark", None), getattr(error, "problem", None) or ""
    except ValueError as error:  # also of UTF-8 that a command line does not have
        found = str(error)
    field = f"line {mark.line + 1}, column {mark.column + 1}" if mark else None
    raise DataError("is not YAML", field=field, found=found.removeprefix("found ") or "other characters than text")


def _check_nodes(text: str) -> None:
    """ConstructorError naming the first place where YAML is larger or deeper than its bounds."""
    total, sizes = 0, dict[str | None, int]()
    inside: list[tuple[str | None, int]] = []  # collections that are open: anchor, and the total before
    events: Iterator[Any] = yaml.parse(text, _Base)
    for event in events:
        fault = None
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in [anchor for anchor, _ in inside]:
                fault = "an alias within what it stands for"
            total += sizes.get(event.anchor, 0)
        elif isinstance(event, yaml.ScalarEvent):
            number = event.tag in _NUMBERS or (not event.style and event.value[:1] in "+-.0123456789")
            if number and len(event.value) > MAX_DIGITS:
                fault = f"a number of {len(event.value)} digits"
            total += _NODE + len(event.value)
            sizes[event.anchor] = _NODE + len(event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            inside.append((event.anchor, total))
            total += _NODE
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            sizes[anchor] = total - before
        if total > MAX_YAML or len(inside) > MAX_DEPTH:
            fault = "more values than settings have" if total > MAX_YAML else "too many values within values"
        if fault:
            raise ConstructorError(problem=fault, problem_mark=event.start_mark)
