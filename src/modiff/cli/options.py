"""The command line of a verb, from its page in `verbs/`: usage, texts, and groups of options.

`absent: true` of a page: an option that is not given is not in the namespace. An option has what
`ArgumentParser.add_argument` takes (type: int, float or Path; without help it is not shown), and besides

- of: a field of the page's `config`, a dataclass in `modiff.config`, from which it has kind, default and help. Where it
  is not given it is not in the namespace: the default is in one place.
- least: the smallest whole number that it may be.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module, resources
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from modiff.config.fields import HelpFormatter, Parser, help_texts
from modiff.errors import ConfigError
from modiff.plain import parse_yaml

_KINDS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "Path": Path}


def parser_of(verb: str, prog: str, kind: type[Parser] = Parser, /, **words: str) -> argparse.ArgumentParser:
    """The parser of a verb. words: the values of the names in braces in its page; {prog} is the command."""
    page = page_of(verb, **words, prog=prog)
    texts: dict[str, Any] = {name: page.get(name) for name in ("usage", "description", "epilog")}
    absent = argparse.SUPPRESS if page.get("absent") else None
    made = kind(prog, formatter_class=HelpFormatter, argument_default=absent, **texts)
    module, _, name = page.get("config", "").rpartition(".")
    config = getattr(import_module(f"modiff.config.{module}"), name) if name else None
    for title, options in page["options"].items():
        group = made.add_argument_group(title) if title else made
        for flags, given in options.items():
            how = (_of_field(config, given["of"]) if "of" in given else {"help": argparse.SUPPRESS}) | given
            how.pop("of", None)
            if "least" in how:
                how["type"] = _at_least(how.pop("least"), flags)
            if isinstance(how.get("type"), str):
                how["type"] = _KINDS[how["type"]]
            group.add_argument(*flags.split(", "), **how)
    return made


def page_of(verb: str, **words: str) -> dict[str, Any]:
    """A verb's page as plain data, its texts with the words for the names in braces."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        for name, word in words.items() if isinstance(value, str) else ():
            value = value.replace(f"{{{name}}}", word)
        return value

    text = (resources.files("modiff.cli") / "verbs" / f"{verb}.yaml").read_text(encoding="utf-8")
    page: dict[str, Any] = filled(parse_yaml(text))
    return page


def _of_field(config: Any, name: str) -> dict[str, Any]:
    """What a field says of its option. A default is shown behind the help, unless it is None or empty."""
    default, kind = config.__dataclass_fields__[name].default, get_type_hints(config)[name]
    text = help_texts(config)[name].replace("%", "%%")
    made: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
    if kind is bool:
        return made | {"action": "store_const", "const": not default}
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    if shown not in (MISSING, None, "", "None"):
        made["help"] += f" ({shown})"
    if get_origin(kind) is tuple:
        made["nargs"], kind = "+", get_args(kind)[0]
    if get_origin(kind) is Literal:
        return made | {"choices": get_args(kind)}
    made["type"] = next((part for part in get_args(kind) if part is not NoneType), kind)
    return made


def add_settings(parser: argparse.ArgumentParser, config: Any, above: str) -> None:
    """Adds an option for each setting below `above`, such as --model.unet.base, by group; its value is YAML's text.

    The help says the value in force with `config`, and the range.
    """
    of: Any = type(config)
    group = parser.add_argument_group(" ".join((of.__doc__ or above).split()).rstrip("."))
    helps, hints = help_texts(of), get_type_hints(of)
    for item in fields(config):
        value, kind, address = getattr(config, item.name), hints[item.name], f"{above}.{item.name}"
        if is_dataclass(value):
            add_settings(parser, value, address)
            continue
        choices = ("true", "false") if kind is bool else get_args(kind) if get_origin(kind) is Literal else ()
        shown = str(value).lower() if kind is bool else list(value) if isinstance(value, tuple) else value
        within = item.metadata.get("range")
        said = f"{shown}; {within.text(several=isinstance(value, tuple))} {item.metadata['unit']}" if within else shown
        group.add_argument(
            f"--{address}",
            default=argparse.SUPPRESS,
            metavar=f"{{{','.join(choices)}}}" if choices else item.name.upper(),
            help=f"{helps[item.name]} ({str(said).strip()})".replace("%", "%%"),
        )


def _at_least(least: int, flag: str) -> Callable[[str], int]:
    """Reads a whole number; ConfigError for one that is too small."""

    def whole(text: str) -> int:
        if (value := int(text)) < least:
            raise ConfigError("too small", field=flag, found=value, expected=f"{least} or more")
        return value

    whole.__name__ = "int"  # as argparse's messages call it
    return whole


def asked(args: argparse.Namespace, config: type) -> dict[str, Any]:
    """The fields of a dataclass that the command line gives, lists as tuples."""
    given = {item.name: getattr(args, item.name) for item in fields(config) if item.name in args}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
