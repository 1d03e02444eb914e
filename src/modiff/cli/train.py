"""`modiff train`: a method on a store, into a run folder; the same command again resumes."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jsonargparse

from modiff.cli.options import add_options, read_page
from modiff.config import RunConfig, build_config, presets
from modiff.config.help import WIDTH, HelpFormatter
from modiff.config.run import parse_time
from modiff.errors import ConfigError
from modiff.methods.registry import METHODS


class _Formatter(HelpFormatter, jsonargparse.DefaultHelpFormatter):
    """Shows types and defaults of settings."""


class _Parser(argparse.ArgumentParser):
    """Reads --method, --preset and --config first: they decide which settings there are and their defaults."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = list(args or [])
        first = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
        for name in ("--method", "--preset", "--config"):
            first.add_argument(name)
        chosen, _ = first.parse_known_args(words)
        return _parse(self.prog, words, chosen)


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options; those of the configuration are made when the method is known."""
    return _Parser(prog=prog)


def _parse(prog: str, words: list[str], chosen: argparse.Namespace) -> argparse.Namespace:
    config = build_config(method=chosen.method, preset=chosen.preset, file=chosen.config)
    full = _full_parser(prog, config)
    try:
        parsed = full.parse_args(words)
        made = full.instantiate(parsed)
    except (argparse.ArgumentError, jsonargparse.ArgumentError) as error:
        raise ConfigError(str(error).replace("\n", " "), hint=f"`{prog} --help` explains every setting") from error
    parsed.config = replace(config, seed=made.seed, model=made.model, training=made.training, trainer=made.trainer)
    return parsed


def _full_parser(prog: str, config: RunConfig) -> jsonargparse.ArgumentParser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    page = read_page("train", prog=prog, methods=", ".join(METHODS), presets=_preset_lines())
    full = jsonargparse.ArgumentParser(
        prog=prog,
        usage=page["usage"],
        description=page["description"],
        epilog=page["epilog"],
        formatter_class=_Formatter,
        exit_on_error=False,
    )
    add_options(full, page)
    full.set_defaults({name: getattr(config, name) for name in ("method", "preset", "seed")})
    for group in ("model", "training", "trainer"):
        full.add_argument(f"--{group}", type=type(getattr(config, group)), default=getattr(config, group))
    return full


def _preset_lines() -> str:
    """A paragraph per preset, under its name."""
    found = presets()
    indent = max(map(len, found)) + 4
    return "\n".join(
        textwrap.fill(f"  {name:<{indent - 2}}{text}", WIDTH, subsequent_indent=" " * indent)
        for name, text in found.items()
    )


def run(args: argparse.Namespace) -> int:
    """Trains and says how it ended."""
    from lightning.fabric.utilities import rank_zero_only

    from modiff.training.loop import train

    say = rank_zero_only(print)  # the first of several processes says it for all
    limit = parse_time(args.max_time, field="--max-time")
    result = train(args.config, args.data, args.output, fold=args.fold, max_seconds=limit)
    validation = "" if result.validation is None else f", validation loss {result.validation:.4f}"
    say(
        f"{result.reason}: {result.steps:,} steps, {result.images:,} images, "
        f"{result.seconds / 60:.1f} min{validation} -> {result.folder}"
    )
    if not result.finished:
        say("the same command resumes from here")
    return 0 if result.finished or result.reason != "interrupted" else 130
