"""`modiff describe METHOD`: parameters, operations an image, network evaluations a sample."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiff.methods.cost import Description


def parser(prog: str) -> argparse.ArgumentParser:
    """The arguments of `modiff describe`."""
    from modiff.methods.registry import METHODS

    made = argparse.ArgumentParser(
        prog=prog,
        description="What a method costs: parameters, floating-point operations (an image's own work and a sample's "
        "apart) and network evaluations a sample.",
        epilog="A multiplication and an addition are two operations. Matrix products, convolutions and attention are "
        "counted; Fourier transforms and element-wise work are not. Every sample is taken to mark something.",
    )
    made.add_argument("method", nargs="+", metavar="METHOD", help=", ".join(METHODS))
    made.add_argument("--preset", help="named settings of the method, in place of its defaults")
    made.add_argument("--config", metavar="FILE", help="YAML file of settings, over the preset's")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the model, e.g. unet.base=64 (may be repeated)",
    )
    made.add_argument("--channels", type=int, default=1, metavar="C", help="image channels (default %(default)s)")
    made.add_argument("--classes", type=int, default=1, metavar="K", help="foreground classes (default %(default)s)")
    made.add_argument("--raters", type=int, default=4, metavar="R", help="raters (default %(default)s)")
    made.add_argument("--size", type=int, default=128, help="side of the image in pixels (default %(default)s)")
    made.add_argument("-n", type=int, default=16, help="samples an image (default %(default)s)")
    made.add_argument(
        "--no-prompt",
        dest="prompt",
        action="store_false",
        help="the lesion may lie anywhere, as in most folders of one's own: MoDiff denoises whole images",
    )
    made.add_argument("--known-raters", action="store_true", help="rater 1 is the same person on every image")
    made.add_argument("--json", action="store_true", help="print a JSON list, an object a method, instead of tables")
    return made


def run(args: argparse.Namespace) -> int:
    """Prints the description of each method."""
    from modiff.methods.cost import describe

    changes = _changes(args.set)
    described = [
        describe(
            method,
            preset=args.preset,
            file=args.config,
            changes=changes,
            channels=args.channels,
            classes=args.classes,
            raters=args.raters,
            size=args.size,
            n=args.n,
            prompt=args.prompt,
            exchangeable=not args.known_raters,
        )
        for method in args.method
    ]
    if args.json:
        print(json.dumps([one.to_dict() for one in described], indent=2))
    else:
        _show(described)
    return 0


def _changes(settings: list[str]) -> dict[str, Any]:
    """Nested settings from "a.b=value"; the later wins."""
    from modiff.config.fields import merge, setting

    changes: dict[str, Any] = {}
    for text in settings:
        merge(changes, setting(text))
    return changes


def _show(described: list[Description]) -> None:
    from rich.table import Table

    from modiff.evaluation.words import wide_console

    first = described[0]
    of = f", preset {first.preset}" if first.preset else ""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for one in described:
        table.add_column(one.method, justify="right", no_wrap=True)

    def row(name: str, values: list[str]) -> None:
        table.add_row(name, *values)

    row("parameters", [f"{one.parameters:,}" for one in described])
    for part in dict.fromkeys(part for one in described for part in one.parts):
        row(f"  {part}", [f"{one.parts[part]:,}" if part in one.parts else "" for one in described])
    if any(one.trained != one.parameters for one in described):
        row("  of these trained", [f"{one.trained:,}" for one in described])
    row("evaluations a sample", [str(one.evaluations) for one in described])
    row("GFLOP: evaluation", [_gflop(one.gflop_evaluation) for one in described])
    row("GFLOP: sample", [_gflop(one.gflop_sample) for one in described])
    row("GFLOP: image, once", [_gflop(one.gflop_image) for one in described])
    row(f"GFLOP: image, n = {first.n}", [_gflop(one.gflop_total) for one in described])
    console = wide_console()
    console.print(
        f"Images of {first.channels}×{first.size}×{first.size}, {first.n} samples each{of}",
        soft_wrap=True,
        highlight=False,
    )
    console.print(table, highlight=False)


def _gflop(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 100 else f"{value:.3f}"
