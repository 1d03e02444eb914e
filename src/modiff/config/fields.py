"""Settings as frozen dataclasses: ranges beside their fields, plain data and YAML to and from them, "group.name=value".

A numeric field states its range and unit in its metadata (`number`), and its help in the docstring below it.
`HelpFormatter` lays out the help of every command.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import shutil
import textwrap
from argparse import ArgumentParser
from argparse import HelpFormatter as Plain
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from modiff.errors import ConfigError, DataError, ModiffError, one_line, shown
from modiff.plain import MAX_DIGITS, MAX_YAML, parse_yaml, read_text

WIDTH = 100  # columns of help, at most
_PLAIN = (  # what argparse says, and what we say
    ("^the following arguments are required: ", "needs "),
    ("^unrecognized arguments: ", "no such option; found "),
    ("^argument ", ""),
    ("invalid int value: ", "not a whole number; found "),
    ("invalid float value: ", "not a number; found "),
    (r"invalid choice: (.*) \(choose from (.*)\)$", r"no such choice; found \1; expected one of \2"),
    ("expected one argument$", "needs a value"),
    ("expected at least one argument$", "needs one value or more"),
)
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)[eE][+-]?\d+|nan|inf)", re.IGNORECASE)  # that YAML reads as text
_T = TypeVar("_T")
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


@dataclass(frozen=True)
class Range:
    """The finite numbers that a setting may have; of a tuple, each of its items.

    above, below: the end itself is left out. odd: odd numbers only. empty: a tuple may have no items. most: of its
    items.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    odd: bool = False
    empty: bool = False
    most: int | None = None

    def allows(self, value: object) -> bool:
        """Whether a number, or every item of a tuple, is finite and within the range; None, not set, is allowed."""
        if value is None:
            return True
        if isinstance(value, tuple):
            fits = (not self.empty) <= len(value) <= (self.most or len(value))
            return fits and all(self.allows(item) for item in value)
        if not isinstance(value, int | float) or not _finite(value):
            return False
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and (not self.odd or value % 2 == 1)

    def text(self, *, several: bool = False) -> str:
        """In words: "1 or more", "from 0 to 1"; several: of a tuple's items."""
        bounded = self.high < math.inf
        if self.low == -math.inf:
            words = f"up to {self.high:g}" if bounded else "finite"
        elif bounded and self.above and self.below:
            words = f"between {self.low:g} and {self.high:g}"
        elif bounded:
            words = f"above {self.low:g}, up to {self.high:g}" if self.above else f"from {self.low:g} to {self.high:g}"
        else:
            words = f"more than {self.low:g}" if self.above else f"{self.low:g} or more"
        words += ", odd" if self.odd else ""
        count = "any number of values" if self.empty else "one or more values"
        count = f"{'up' if self.empty else '1'} to {self.most} values" if self.most else count
        return f"{count}, each {words}" if several else words


ANY = Range()
COUNT = Range(low=1)
NOT_NEGATIVE = Range(low=0)
POSITIVE = Range(low=0, above=True)
FRACTION = Range(low=0, high=1)


def number(default: _T, within: Range, unit: str = "") -> _T:
    """A dataclass field for a number, or a tuple of numbers, with its range and its unit."""
    made: _T = field(default=default, metadata={"range": within, "unit": unit})
    return made


def check(config: object, prefix: str = "") -> None:
    """ConfigError naming the first number that is out of its field's range, infinite, or not a number; or the first
    word that is not one of its field's choices. Groups are checked too."""
    assert is_dataclass(config)
    hints = _hints(type(config))
    for item in fields(config):
        value, name, within = getattr(config, item.name), f"{prefix}{item.name}", item.metadata.get("range")
        if is_dataclass(value):
            check(value, f"{name}.")
        elif get_origin(hints[item.name]) is Literal and not _fits(value, hints[item.name])[0]:
            raise ConfigError("wrong value", field=name, found=shown(value), expected=_hint_text(hints[item.name]))
        elif within is not None and not within.allows(value):
            unit = f" {item.metadata['unit']}" if item.metadata["unit"] else ""
            expected = within.text(several=isinstance(value, tuple)) + unit
            found = list(value) if isinstance(value, tuple) else value
            raise ConfigError("is out of range", field=name, found=found, expected=expected)


@cache
def help_texts(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, in one line; those of its base first."""
    body = cast(ast.ClassDef, ast.parse(inspect.getsource(kind)).body[0]).body
    found = {**help_texts(kind.__base__)} if is_dataclass(kind.__base__) else {}
    for item, below in pairwise(body):
        if isinstance(item, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(item.target)] = " ".join(str(below.value.value).split())
    return found


class HelpFormatter(Plain):
    """Fills each paragraph of description and epilog; one with an indented line is a list or a command and is kept."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(WIDTH, shutil.get_terminal_size().columns) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = [part.strip("\n") for part in textwrap.dedent(text).split("\n\n")]
        kept = [any(line.startswith(" ") for line in part.split("\n")) for part in parts]
        filled = [part if as_is else textwrap.fill(part, width) for part, as_is in zip(parts, kept, strict=True)]
        return textwrap.indent("\n\n".join(filled), indent)


class Parser(ArgumentParser):
    """Says what is wrong in one line, as every other error, and not below the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        for theirs, ours in _PLAIN:
            message = re.sub(theirs, ours, message)
        self.exit(2, one_line(f"{self.prog}: {message}. `{self.prog} --help` explains every option") + "\n")


def _finite(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain data: dictionaries, lists, strings, numbers."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return data


def _fits(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether plain data fits a type hint, and the value it becomes."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True, value
    if origin is Literal:
        return value in args, value
    if origin in (Union, UnionType):
        return next((fit for fit in (_fits(value, option) for option in args) if fit[0]), (False, value))
    if origin is tuple:
        fits = [_fits(item, args[0]) for item in value] if isinstance(value, (list, tuple)) else [(False, value)]
        good = all(fit for fit, _ in fits)
        return good, tuple(made for _, made in fits) if good else value
    if kind in (int, float) and isinstance(value, bool):
        return False, value
    # YAML 1.1 reads 1e-3, without a point, and 1.5e3, without a sign, as text.
    if kind is float and (isinstance(value, int) or (isinstance(value, str) and _NUMBER.fullmatch(value[:MAX_DIGITS]))):
        with suppress(OverflowError):
            return True, float(value)
        return False, value
    return isinstance(value, origin or kind), value


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def _hint_text(kind: Any) -> str:
    """What a value must be, in words."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, parts))
    if get_origin(kind) is tuple:
        return f"a list, each {_hint_text(parts[0])}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_hint_text, parts))
    return _WORDS.get(kind, str(getattr(kind, "__name__", kind)))


def _fitted(value: Any, kind: Any, error: type[ModiffError], path: str | Path | None, field: str) -> Any:
    """Plain data as the type hint has it; `error` where it does not fit or is not finite."""
    good, made = _fits(value, kind)
    if not good:
        raise error("wrong value", path=path, field=field, found=shown(value), expected=_hint_text(kind))
    if not _finite(made):
        raise error("is out of range", path=path, field=field, found=value, expected="a finite number")
    return made


def update(config: Any, changes: Mapping[str, Any], *, path: str | Path | None = None, prefix: str = "") -> Any:
    """A copy of a configuration with changes from plain, nested data; ConfigError for unknown names and wrong types."""
    hints = _hints(type(config))
    new: dict[str, Any] = {}
    for key, value in changes.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise ConfigError("no such setting", path=path, field=name, expected=f"one of {', '.join(sorted(hints))}")
        current = getattr(config, key)
        if not is_dataclass(current):
            new[key] = _fitted(value, hints[key], ConfigError, path, name)
        elif isinstance(value, Mapping):
            new[key] = update(current, value, path=path, prefix=f"{name}.")
        else:
            raise ConfigError("is a group of settings", path=path, field=name, found=shown(value))
    return replace(config, **new)


def typed(kind: type[_T], data: Any, message: str, *, path: Path, field: str, optional: Collection[str] = ()) -> _T:
    """A dataclass from plain data; DataError for names that are missing, but for `optional`, or unknown, wrong types.

    message: what the data are not, where their names are wrong.
    """
    hints = _hints(kind)
    if not isinstance(data, dict):
        raise DataError(message, path=path, field=field, found=type(data).__name__, expected=", ".join(hints))
    unknown, missing = data.keys() - hints.keys(), hints.keys() - set(optional) - data.keys()
    if unknown or missing:
        found = ", ".join(islice(map(str, sorted(unknown) or data), 20))
        raise DataError(message, path=path, field=field, found=found, expected=", ".join(hints))
    return kind(**{name: _fitted(item, hints[name], DataError, path, f"{field}.{name}") for name, item in data.items()})


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as plain data; ConfigError if it is not a mapping."""
    try:
        data = parse_yaml(read_text(path, kind="settings in YAML", most=4 * MAX_YAML))
    except DataError as error:
        found, expected = error.found, error.expected
        raise ConfigError(error.message, path=path, field=error.field, found=found, expected=expected) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError("is not a mapping of settings", path=path, found=type(data).__name__)
    return data


def setting(text: str, *, option: str = "--set ", expected: str = "NAME=VALUE") -> dict[str, Any]:
    """{"model": {"unet": {"base": 32}}} of "model.unet.base=32", the value read as YAML; ConfigError of the option."""
    address, equals, value = text.partition("=")
    groups = address.split(".")
    if not equals or not all(groups):
        raise ConfigError("is not a setting", field=option.strip(), found=shown(text), expected=expected)
    try:
        made: Any = parse_yaml(value)
    except DataError as error:
        raise ConfigError(error.message, field=f"{option}{address}", found=shown(value)) from error
    for group in reversed(groups):
        made = {group: made}
    return cast(dict[str, Any], made)


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all layers, group by group; the later ones win."""
    made: dict[str, Any] = {}
    for key, value in (item for layer in layers for item in layer.items()):
        below = made.get(key)
        made[key] = merged(below if isinstance(below, dict) else {}, value) if isinstance(value, Mapping) else value
    return made


def flatten(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"training.batch_size": 4} of {"training": {"batch_size": 4}}."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flatten(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found
