"""`modiff train`: a method on a store, into a run folder; the same command again resumes."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.cli.options import add_settings, parser_of
from modiff.config.fields import WIDTH, Parser, merged, read_yaml, setting, to_dict
from modiff.config.run import AUTO, RunConfig, build_config, parse_budget, parse_time, presets, read_preset
from modiff.errors import ConfigError, counted
from modiff.methods.registry import METHODS

if TYPE_CHECKING:
    from modiff.methods.start import Tensors
    from modiff.training.auto import Facts


# Settings that no weight's shape depends on: what of an image a network looks at.
_LOOKS = ("model.window", "model.crop", "model.presence.window", "model.presence.single_share")


class _Parser(argparse.ArgumentParser):
    """Reads --method, --preset and --config first: they decide which settings there are and their defaults.

    Without all three the preset is `auto`, for which --data, --fold and the run folder are read first, too.
    """

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = list(args or [])
        first = Parser(self.prog, add_help=False, allow_abbrev=False)
        alone = ("--method", "--preset", "--config", "--data", "--fold", "--init")
        for names in (*((name,) for name in alone), ("-o", "--output")):
            first.add_argument(*names)
        chosen, _ = first.parse_known_args(words)
        if not (chosen.method or chosen.preset or chosen.config or chosen.init):
            chosen.preset = AUTO
        layers: dict[str, Any] = {"method": chosen.method, "preset": chosen.preset, "file": chosen.config}
        told = list[tuple[str, str]]()
        if chosen.init and not (chosen.method or chosen.preset or chosen.config):
            layers, told = _as_start(chosen)
        if chosen.preset == AUTO:
            layers["fitted"] = {}  # words that are wrong are refused before a store is read
            if {"-h", "--help"} & {*words} and (chosen.data or chosen.output):
                layers |= _fitted(chosen, argparse.Namespace())[0]
        parsed, unknown = _full_parser(self.prog, build_config(**layers)).parse_known_args(words)
        if unknown:
            hint = f"`{self.prog} --help` explains every setting"
            raise ConfigError("no such option", found=" ".join(unknown), hint=hint)
        texts = [f"{address}={text}" for address, text in vars(parsed).items() if "." in address]
        own: dict[str, Any] = {} if parsed.seed is None else {"seed": parsed.seed}
        own |= {} if parsed.device is None else {"trainer": {"accelerator": parsed.device}}
        changes = merged(own, *(setting(text, option="--") for text in texts))
        parsed.config = build_config(**layers, changes=changes)
        if chosen.preset == AUTO:
            more, told = _fitted(chosen, parsed)
            parsed.config = build_config(**layers | more, changes=changes)
        parsed.told = [line for name, line in told if name not in vars(parsed)]
        return parsed


def _fitted(chosen: argparse.Namespace, given: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What preset `auto` adds to `build_config`, and setting and line of each choice. given: settings by address.

    A run that was begun keeps the settings that were chosen then.
    """
    from modiff.training.auto import choose, settings

    begun = _begun(chosen)
    if begun is not None and read_yaml(begun).get("preset") == AUTO:
        return {"fitted": {}} | ({} if chosen.config else {"file": begun}), [("", f"{AUTO}: as chosen before, {begun}")]
    if chosen.data is None:  # only the help can do without
        return {"fitted": {}}, []
    budget, batch = (getattr(given, f"training.{name}", None) for name in ("budget", "batch_size"))
    images = None if budget is None else parse_budget(str(budget))[1]
    choices = choose(_measured(chosen), images=images, batch=None if batch is None else int(batch))
    return {"fitted": settings(choices)}, [(one.name, f"{AUTO}: {one}") for one in choices]


def _as_start(chosen: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What --init alone adds to `build_config`: the start's own network; how it is trained, and what of an image it
    looks at, as preset `auto` chooses for the data. And setting and line of each choice.
    """
    from modiff.methods.run_folder import CONFIG, model_folder, read_config
    from modiff.training.auto import choose, settings

    begun = _begun(chosen)
    if begun is not None:
        return {"file": begun}, [("", f"settings as chosen before, {begun}")]
    start = read_config(model_folder(chosen.init) / CONFIG)
    layers: dict[str, Any] = {"method": start.method, "preset": None}
    own = {"model": to_dict(start)["model"], "training": read_preset(AUTO)["training"]}
    if chosen.data is None:  # only the help can do without
        return layers | {"fitted": own}, []
    looks = _LOOKS if start.method == "modiff" else ()
    choices = [one for one in choose(_measured(chosen)) if one.name.startswith(("training.", *looks))]
    return layers | {"fitted": merged(own, settings(choices))}, [(one.name, f"{AUTO}: {one}") for one in choices]


def _begun(chosen: argparse.Namespace) -> Path | None:
    """The configuration of the run folder, where a run was begun in it."""
    from modiff.methods.run_folder import CHECKPOINT, CONFIG

    folder = Path(chosen.output or "")
    return folder / CONFIG if chosen.output and (folder / CHECKPOINT).exists() else None


def _measured(chosen: argparse.Namespace) -> Facts:
    """What preset `auto` knows of the store, without the fold that is held out."""
    from modiff.training.auto import measure

    return measure(chosen.data, fold=int(chosen.fold) if (chosen.fold or "").isdecimal() else None)


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

    from modiff.methods.run_folder import CARD, hardly_trained, read_card
    from modiff.methods.start import Start
    from modiff.training.budget import INTERRUPTED
    from modiff.training.loop import train

    say = rank_zero_only(print)  # the first of several processes says it for all
    for line in args.told:
        say(line)
    limit = parse_time(args.max_time, field="--max-time")
    start = Start(args.init, tuple(args.freeze)) if args.init or args.freeze else None
    more: dict[str, Any] = {"fold": args.fold, "max_seconds": limit, "quiet": args.quiet}
    result = train(args.config, args.data, args.output, **more, start=start, tell=rank_zero_only(_show_start))
    validation = "" if result.validation is None else f", validation loss {result.validation:.4f}"
    say(
        f"{result.reason}: {counted(result.steps, 'step', ',')}, {counted(result.images, 'image', ',')}, "
        f"{result.seconds / 60:.1f} min{validation} -> {result.folder}"
    )
    if result.finished and (told := hardly_trained(read_card(result.folder / CARD))):
        say(f"note: {told}")
    if not result.finished:
        say("the same command resumes from here")
    return 0 if result.finished or result.reason != INTERRUPTED else 130


def _show_start(parts: Sequence[Tensors]) -> None:
    """A table of what of the start fits."""
    from rich.table import Table

    from modiff.terminal import console

    if not parts:
        return
    table = Table("part", "", "parameters", "what does not fit", title="Weights to start from", title_justify="left")
    table.columns[2].justify = "right"
    for one in parts:
        table.add_row(one.part, one.state, f"{one.count:,}", one.why)
    total, loaded = sum(one.count for one in parts), sum(one.count for one in parts if one.state == "loaded")
    table.add_section()
    table.add_row("in all", "loaded", f"{loaded:,}", f"of {total:,}")
    console().print(table)
