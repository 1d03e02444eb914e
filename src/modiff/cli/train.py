"""`modiff train`: a method on a store, into a run folder; the same command again resumes."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

from modiff.cli.options import add_settings, parser_of
from modiff.config.fields import WIDTH, merged, setting
from modiff.config.run import RunConfig, build_config, parse_time, presets
from modiff.errors import ConfigError
from modiff.methods.registry import METHODS


class _Parser(argparse.ArgumentParser):
    """Reads --method, --preset and --config first: they decide which settings there are and their defaults."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = list(args or [])
        first = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
        for name in ("--method", "--preset", "--config"):
            first.add_argument(name)
        chosen, _ = first.parse_known_args(words)
        layers = {"method": chosen.method, "preset": chosen.preset, "file": chosen.config}
        parsed, unknown = _full_parser(self.prog, build_config(**layers)).parse_known_args(words)
        if unknown:
            hint = f"`{self.prog} --help` explains every setting"
            raise ConfigError("no such option", found=" ".join(unknown), hint=hint)
        texts = [f"{address}={text}" for address, text in vars(parsed).items() if "." in address]
        own = {} if parsed.seed is None else {"seed": parsed.seed}
        changes = merged(own, *(setting(text, option="--") for text in texts))
        parsed.config = build_config(**layers, changes=changes)
        return parsed


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options; those of the configuration are made when the method is known."""
    return _Parser(prog=prog)


def _full_parser(prog: str, config: RunConfig) -> argparse.ArgumentParser:
    shown = {"method": config.method, "preset": config.preset or "none", "seed": str(config.seed)}
    full = parser_of("train", prog, methods=", ".join(METHODS), presets=_preset_lines(), **shown)
    for group in ("model", "training", "trainer"):
        add_settings(full, getattr(config, group), group)
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
