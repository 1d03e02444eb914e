"""`modiff info STORE`: what is in a store. `modiff info METHOD`: what a method costs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial, reduce
from inspect import signature
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.cli.options import parser_of
from modiff.config.fields import merged, setting
from modiff.config.run import presets, read_preset
from modiff.errors import ConfigError, DataError
from modiff.methods.registry import METHODS

if TYPE_CHECKING:
    from rich.table import Table

    from modiff.methods.cost import Description


parser = partial(parser_of, "info")


def run(args: argparse.Namespace) -> int:
    """Prints the description, and draws the contact sheet where one is wanted."""
    from modiff.data.describe import describe
    from modiff.data.store import Store

    if len(args.what) > 1 or _is_model(args.what[0]):
        return _methods(args)
    if not Path(args.what[0]).exists():
        names = ", ".join(dict.fromkeys([*METHODS, *presets()]))
        raise DataError("no such store, run folder, method or preset", path=args.what[0], expected=f"a path or {names}")
    with Store.open(args.what[0]) as store:
        if args.verify:
            store.verify()
        described = describe(store)
        if args.contact_sheet:
            from modiff.report.data import contact_sheet

            contact_sheet(store, args.contact_sheet, count=args.cases, seed=args.seed, split=args.split)
    if args.json:
        print(json.dumps(described, indent=2, ensure_ascii=False))
    else:
        _show(described)
        if args.verify:
            print("content agrees with the fingerprint")
        if args.contact_sheet:
            print(f"contact sheet: {args.contact_sheet}")
    return 0


def _show(about: dict[str, Any]) -> None:
    from rich.console import Console

    # Names are other people's text: square brackets in them are not markup.
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(_facts(about))
    console.print(_splits(about))
    if raters := about["splits"][-1].get("raters"):  # over all splits, where raters are persons
        table = _table("By rater", "rater", "images read", "marks", "area, pixels: median (5–95 %)")
        for one in raters:
            table.add_row(one["rater"], str(one["read"]), _percent(one["marks"]), _area(one["area_pixels"]))
        console.print(table)


def _facts(about: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, title=Text(about["path"]), title_justify="left", title_style="bold")
    channels, height, width = about["shape"]
    kind = "exchangeable: a slot is not a person" if about["exchangeable_raters"] else "each a person of the same name"
    spacing = about["spacing_mm"]
    facts = {
        "images": f"{about['images']} of {about['patients']} patients, {height}×{width}, {about['dtype']}",
        "channels": f"{channels}: {', '.join(about['channels'])}",
        "classes": ", ".join(about["classes"]),
        "raters": f"{len(about['raters'])}: {', '.join(about['raters'])} ({kind})",
        "intensity": about["intensity"],
        "prompt": "the image's centre says which lesion is meant" if about["prompt"] == "centre" else "none",
        "spacing": f"{spacing[0]:g} × {spacing[1]:g} mm" if spacing else "not the same for all, or unknown",
        **{name: about[name] for name in ("source", "licence", "importer")},
        "files read": "\n".join(f"{name}\n{digest}" for name, digest in about["provenance"].items()) or "none",
        "notes": "\n".join(about.get("notes", ())),
        "fingerprint": about["fingerprint"],
        "folds": ", ".join(f"{fold}: {patients} patients" for fold, patients in about["folds"].items()),
    }
    for name, fact in facts.items():
        if fact:
            table.add_row(name, Text(fact))
    return table


def _table(title: str, *headings: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(*headings, box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _area(area: dict[str, float] | None) -> str:
    return "–" if area is None else f"{area['median']:.0f} ({area['q05']:.0f}–{area['q95']:.0f})"


def _splits(about: dict[str, Any]) -> Table:
    """A column per split, a row per number: splits are few, numbers many."""
    splits = about["splits"]
    table = _table("By split", "", *(split["split"] for split in splits))
    table.caption_justify = "left"
    table.caption = (
        "Dice: pairs who both mark. IoU: all pairs of raters who read, two empty masks count 1.\n"
        "Area: pixels of masks that are not empty, median (5–95 %)."
    )
    for column in table.columns[1:]:
        column.justify = "right"

    def row(heading: str, *path: Any, text: Callable[[Any], str] = _percent) -> None:
        table.add_row(heading, *(text(reduce(getitem, path, split)) for split in splits))

    for name in ("images", "patients"):
        row(name, name, text=str)
    table.add_section()
    for count in splits[0]["markers"]:
        row(f"marked by {count} of {len(about['raters'])}", "markers", count)
    row("by some, not by all", "some_empty")
    row("masks that are empty", "empty_masks")
    if any(split["read"] < 1 for split in splits):
        row("read, of images × raters", "read")
    for place, name in enumerate(about["classes"]):
        of = f" of {name}" if len(about["classes"]) > 1 else ""
        table.add_section()
        row(f"Dice{of}", "classes", place, "dice_markers", text=_number)
        row(f"IoU{of}", "classes", place, "iou_readers", text=_number)
        row(f"area{of}", "classes", place, "area_pixels", text=_area)
    return table


def _is_model(name: str) -> bool:
    """Whether this is a method, a preset or a run folder; a file beats names."""
    path = Path(name)
    return not path.is_file() and (name in METHODS or name in presets() or (path / "config.yaml").is_file())


def _methods(args: argparse.Namespace) -> int:
    """Prints what each method costs. The options are arguments of `describe`, which has their defaults."""
    from modiff.methods.cost import describe

    options = {name: value for name, value in vars(args).items() if name in signature(describe).parameters}
    if "changes" in options:
        options["changes"] = merged(*map(setting, options["changes"]))
    described = [_describe(name, options) for name in args.what]
    if args.json:
        print(json.dumps([one.to_dict() for one in described], indent=2))
    else:
        _show_methods(described)
    return 0


def _describe(name: str, options: dict[str, Any]) -> Description:
    from modiff.methods.cost import describe, describe_model
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
    own = {"size": max(data.size)} if data.size else {}
    return describe_model(config.method, config.model, data, preset=config.preset, **own | options)


def _show_methods(described: list[Description]) -> None:
    from rich.table import Table

    from modiff.evaluation.words import wide_console

    first = described[0]
    alike = all((one.channels, one.size, one.preset) == (first.channels, first.size, first.preset) for one in described)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for one in described:
        own = [] if alike else [one.preset or "defaults", f"{one.channels}×{one.size}×{one.size}"]
        table.add_column("\n".join([one.method, *own]), justify="right", no_wrap=True)

    def row(heading: str, name: str, text: Callable[[Any], str] = "{:,}".format) -> None:
        table.add_row(heading, *(text(getattr(one, name)) for one in described))

    row("parameters", "parameters")
    for part in dict.fromkeys(part for one in described for part in one.parts):
        table.add_row(f"  {part}", *(f"{one.parts[part]:,}" if part in one.parts else "" for one in described))
    if any(one.trained != one.parameters for one in described):
        row("  of these trained", "trained")
    row("evaluations per sample", "evaluations", str)
    row("GFLOP: evaluation", "gflop_evaluation", _gflop)
    row("GFLOP: sample", "gflop_sample", _gflop)
    row("GFLOP: image, once", "gflop_image", _gflop)
    row(f"GFLOP: image, n = {first.n}", "gflop_total", _gflop)
    console = wide_console()
    images = f"Images of {first.channels}×{first.size}×{first.size}" if alike else "Each method, its preset, its images"
    images += f", {first.n} samples each" + (f", preset {first.preset}" if alike and first.preset else "")
    console.print(images, soft_wrap=True, highlight=False)
    console.print(table, highlight=False)


def _gflop(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 100 else f"{value:.3f}"
