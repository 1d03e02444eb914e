"""`modiff info METHOD`: parameters, operations per image, network evaluations per sample."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiff.methods.cost import Description

EPILOG = (
    "Of a method, a preset or a run folder: what it costs. A multiplication and an addition are two operations. Matrix "
    "products, convolutions and attention are counted; Fourier transforms and element-wise work are not. Every sample "
    "is taken to mark something."
)
_OPTIONS = ("preset", "file", "changes", "channels", "classes", "raters", "size", "n", "prompt", "exchangeable")


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options of a method, named as `modiff.methods.cost.describe` names them, which has their defaults."""
    group = made.add_argument_group("of a method")

    def add(flag: str, text: str, **more: Any) -> None:
        group.add_argument(flag, help=text, default=argparse.SUPPRESS, **more)

    add("--preset", "named settings of the method, in place of its defaults")
    add("--config", "YAML file of settings, over the preset's", dest="file", metavar="FILE")
    text = "a setting of the model, e.g. unet.base=64 (may be repeated)"
    add("--set", text, dest="changes", action="append", metavar="NAME=VALUE")
    add("--channels", "image channels (default 1)", type=int, metavar="C")
    add("--classes", "foreground classes (default 1)", type=int, metavar="K")
    add("--raters", "raters (default 4)", type=int, metavar="R")
    add("--size", "side of the image in pixels (default 128, or a run's own)", type=int)
    add("-n", "samples per image (default 16)", type=int)
    text = "the lesion may lie anywhere, as in most folders of one's own: MoDiff denoises whole images"
    add("--no-prompt", text, dest="prompt", action="store_false")
    add("--known-raters", "rater 1 is the same person on every image", dest="exchangeable", action="store_false")


def is_model(name: str) -> bool:
    """Whether this is a method, a preset or a run folder; a file beats names."""
    from modiff.config import presets
    from modiff.methods.registry import METHODS

    path = Path(name)
    return not path.is_file() and (name in METHODS or name in presets() or (path / "config.yaml").is_file())


def run(args: argparse.Namespace) -> int:
    """Prints what each method costs."""
    from modiff.config.fields import merge, setting

    options = {name: getattr(args, name) for name in _OPTIONS if name in args}
    if "changes" in options:  # nested settings; the later wins
        texts, options["changes"] = options["changes"], {}
        for text in texts:
            merge(options["changes"], setting(text))
    described = [_describe(name, options) for name in args.what]
    if args.json:
        print(json.dumps([one.to_dict() for one in described], indent=2))
    else:
        _show(described)
    return 0


def _describe(name: str, options: dict[str, Any]) -> Description:
    from modiff.config import presets, read_preset
    from modiff.errors import ConfigError
    from modiff.methods.cost import describe, describe_model
    from modiff.methods.registry import METHODS
    from modiff.methods.run_folder import CONFIG, DATA, read_config, read_data

    if name in METHODS:
        return describe(name, **options)
    if name in presets() and "preset" not in options:
        return describe(read_preset(name)["method"], preset=name, **options)
    if not (Path(name) / CONFIG).is_file():
        return describe(name, **options)  # says which methods there are
    if given := sorted(options.keys() - {"size", "n"}):
        what = "a run has its own settings and data"
        raise ConfigError(what, path=name, found=", ".join(given), expected="--size, -n and --json alone")
    config, data = read_config(Path(name) / CONFIG), read_data(Path(name) / DATA)
    more = {"size": max(data.size or (128,)), "n": 16} | options
    return describe_model(config.method, config.model, data, preset=config.preset, **more)


def _show(described: list[Description]) -> None:
    from rich.table import Table

    from modiff.evaluation.words import wide_console

    first = described[0]
    alike = all((one.channels, one.size, one.preset) == (first.channels, first.size, first.preset) for one in described)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for one in described:
        own = [] if alike else [one.preset or "defaults", f"{one.channels}×{one.size}×{one.size}"]
        table.add_column("\n".join([one.method, *own]), justify="right", no_wrap=True)
    table.add_row("parameters", *(f"{one.parameters:,}" for one in described))
    for part in dict.fromkeys(part for one in described for part in one.parts):
        table.add_row(f"  {part}", *(f"{one.parts[part]:,}" if part in one.parts else "" for one in described))
    if any(one.trained != one.parameters for one in described):
        table.add_row("  of these trained", *(f"{one.trained:,}" for one in described))
    table.add_row("evaluations per sample", *(str(one.evaluations) for one in described))
    table.add_row("GFLOP: evaluation", *(_gflop(one.gflop_evaluation) for one in described))
    table.add_row("GFLOP: sample", *(_gflop(one.gflop_sample) for one in described))
    table.add_row("GFLOP: image, once", *(_gflop(one.gflop_image) for one in described))
    table.add_row(f"GFLOP: image, n = {first.n}", *(_gflop(one.gflop_total) for one in described))
    console = wide_console()
    images = f"Images of {first.channels}×{first.size}×{first.size}" if alike else "Each method, its preset, its images"
    images += f", {first.n} samples each" + (f", preset {first.preset}" if alike and first.preset else "")
    console.print(images, soft_wrap=True, highlight=False)
    console.print(table, highlight=False)


def _gflop(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 100 else f"{value:.3f}"
