"""`modiff info STORE`: what is in a store. `modiff info METHOD`: what a method costs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.cli.options import parser_of
from modiff.config.fields import merged, setting
from modiff.config.run import build_config, presets, read_preset
from modiff.errors import ConfigError, DataError, counted
from modiff.methods.registry import METHODS

if TYPE_CHECKING:
    from rich.table import Table

    from modiff.methods.cost import Description


_SETTINGS, _COUNTS = ("preset", "file", "changes"), ("channels", "classes", "raters", "size", "n")
_OPTIONS = (*_SETTINGS, *_COUNTS, "prompt", "exchangeable")
_LARGEST = 100_000  # of channels, classes, raters, pixels per side, samples

parser = partial(parser_of, "info")


def run(args: argparse.Namespace) -> int:
    """Prints the description, and draws the contact sheet where one is wanted."""
    from modiff.data.describe import describe, listed
    from modiff.data.splits import lacking
    from modiff.data.store import Store
    from modiff.io.output import check_file_output
    from modiff.io.text import csv_text
    from modiff.plain import json_text

    if len(args.what) > 1 or _is_model(args.what[0]):
        return _methods(args)
    if not Path(args.what[0]).exists():
        names = ", ".join(dict.fromkeys([*METHODS, *presets()]))
        raise DataError("no such store, run folder, method or preset", path=args.what[0], expected=f"a path or {names}")
    if args.list and (args.json or args.contact_sheet):
        raise ConfigError("prints nothing else", field="--list", expected="no --json and no --contact-sheet beside it")
    if args.contact_sheet:
        check_file_output(args.contact_sheet)
    with Store.open(args.what[0]) as store:
        if args.verify:
            store.verify()
        if args.list:
            print(csv_text(listed(store)), end="")
            return 0
        described, empty = describe(store), lacking(dict(zip(store.patients, store.splits, strict=True)))
        if args.contact_sheet:
            from modiff.report.data import contact_sheet

            contact_sheet(store, args.contact_sheet, count=args.cases, seed=args.seed, split=args.split)
    if args.json:
        print(json_text(described, indent=2))
    else:
        _show(described)
        if empty:
            print(f"note: {empty}")
        if args.verify:
            print("content agrees with the fingerprint")
        if args.contact_sheet:
            print(f"contact sheet: {args.contact_sheet}")
    return 0


def _show(about: dict[str, Any]) -> None:
    from rich.text import Text

    from modiff.terminal import console

    terminal = console()
    terminal.print(_facts(about))
    terminal.print(_splits(about))
    if raters := about["splits"][-1].get("raters"):  # over all splits, where raters are persons
        table = _table("By rater", "rater", "images read", "marks", "area, pixels: median (5–95 %)")
        for one in raters:
            table.add_row(
                Text(one["rater"], overflow="fold"), str(one["read"]), _percent(one["marks"]), _area(one["area_pixels"])
            )
        terminal.print(table)


def _facts(about: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from modiff.io.volume import plane_of

    table = Table(show_header=False, box=None, title=Text(about["path"]), title_justify="left", title_style="bold")
    channels, height, width = about["shape"]
    kind = "exchangeable: a slot is not a person" if about["exchangeable_raters"] else "each a person of the same name"
    spacing, ends, lies = about["spacing_mm"], about["spacing_range_mm"], about["orientation"]
    differing = f", the median of {ends[0]:.3g} to {ends[1]:.3g} mm" if ends else ""
    facts = {
        "images": f"{about['images']} of {counted(about['patients'], 'patient')}, {height}×{width}, {about['dtype']}",
        "channels": f"{channels}: {', '.join(about['channels'])}",
        "classes": ", ".join(about["classes"]),
        "raters": f"{len(about['raters'])}: {', '.join(about['raters'])} ({kind})",
        "intensity": about["intensity"],
        "prompt": "the image's centre says which lesion is meant" if about["prompt"] == "centre" else "none",
        "spacing": f"{spacing[0]:g} × {spacing[1]:g} mm{differing}" if spacing else "unknown",
        "slices": f"{plane_of(lies)}, columns, rows and slices towards {', '.join(lies)}" if len(lies) == 3 else "",
        "size": {"crop": "cropped or padded", "resize": "resized"}.get(about["fit"], ""),
        "modality": about["modality"],
        "part of the body": about["region"],
        **{name: about[name] for name in ("source", "licence", "importer")},
        "files read": "\n".join(f"{name}\n{digest}" for name, digest in about["provenance"].items()) or "none",
        "notes": "\n".join(about.get("notes", ())),
        "fingerprint": about["fingerprint"],
        "folds": ", ".join(f"{fold}: {counted(patients, 'patient')}" for fold, patients in about["folds"].items()),
    }
    for name, fact in facts.items():
        if fact:
            table.add_row(name, Text(fact, overflow="fold"))
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
    among = f"of {len(about['raters'])}" if all(split["read"] == 1 for split in splits) else "who read it"
    for count in splits[0]["markers"]:
        row(f"marked by {count} {among}", "markers", count)
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
    """Prints what each method costs."""
    from modiff.plain import json_text

    options = {name: getattr(args, name) for name in _OPTIONS if name in args}
    for field in _COUNTS:
        if not 1 <= (found := options.get(field, 1)) <= _LARGEST:
            raise ConfigError("impossible number", field=field, found=found, expected=f"from 1 to {_LARGEST:,}")
    described = [_describe(name, options) for name in args.what]
    if args.json:
        print(json_text([asdict(one) for one in described], indent=2))
    else:
        _show_methods(described)
    return 0


def _describe(name: str, options: dict[str, Any]) -> Description:
    from modiff.methods.cost import describe
    from modiff.methods.run_folder import CONFIG, DATA, read_config, read_data
    from modiff.types import DataSpec

    of_preset = name not in METHODS and name in presets() and "preset" not in options
    if name not in METHODS and not of_preset and (Path(name) / CONFIG).is_file():
        if given := sorted(options.keys() - {"size", "n"}):
            what = "a run has its own settings and data"
            raise ConfigError(what, path=name, found=", ".join(given), expected="--size, -n and --json alone")
        config, data = read_config(Path(name) / CONFIG), read_data(Path(name) / DATA)
        return describe(config, data, **{"size": data.size or 128, "n": 16} | options)
    preset = name if of_preset else options.get("preset")
    of = read_preset(preset).get("method", name) if preset else name
    if of != name and not of_preset:
        raise ConfigError("is a preset of another method", field="preset", found=f"{preset}, of {of}", expected=name)
    changes = {"model": merged(*map(setting, options.get("changes", ())))}
    config = build_config(method=of, preset=preset, file=options.get("file"), changes=changes)
    own = {field: options[field] for field in ("channels", "classes", "raters", "exchangeable") if field in options}
    data = DataSpec.of(**own, prompt="centre" if options.get("prompt", True) else "none")
    return describe(config, data, size=options.get("size", 128), n=options.get("n", 16))


def _sides(size: int | tuple[int, int]) -> str:
    """Height × width."""
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height}×{width}"


def _show_methods(described: list[Description]) -> None:
    """Prints a column per method, in as many tables as the terminal needs for whole numbers."""
    from rich.table import Table

    from modiff.evaluation.words import wide_console

    first = described[0]
    alike = all((one.channels, one.size, one.preset) == (first.channels, first.size, first.preset) for one in described)
    rows: dict[str, list[str]] = {"": [one.method for one in described]}
    if not alike:
        rows |= {" ": [one.preset or "defaults" for one in described]}
        rows |= {"  ": [f"{one.channels}×{_sides(one.size)}" for one in described]}

    def row(heading: str, name: str, text: Callable[[Any], str] = "{:,}".format) -> None:
        rows[heading] = [text(getattr(one, name)) for one in described]

    row("parameters", "parameters")
    for part in dict.fromkeys(part for one in described for part in one.parts):
        rows[f"  {part}"] = [f"{one.parts[part]:,}" if part in one.parts else "" for one in described]
    if any(one.trained != one.parameters for one in described):
        row("  of these trained", "trained")
    row("evaluations per sample", "evaluations", str)
    row("GFLOP: evaluation", "gflop_evaluation", _gflop)
    row("GFLOP: sample", "gflop_sample", _gflop)
    row("GFLOP: image, once", "gflop_image", _gflop)
    row(f"GFLOP: image, n = {first.n}", "gflop_total", _gflop)
    console = wide_console()
    images = f"Images of {first.channels}×{_sides(first.size)}" if alike else "Each method, its preset, its images"
    images += f", {counted(first.n, 'sample')} each" + (f", preset {first.preset}" if alike and first.preset else "")
    console.print(images, soft_wrap=True)
    widths = [max(len(texts[i]) for texts in rows.values()) + 1 for i in range(len(described))]
    shown, least = 0, max(map(len, rows)) + 1
    while shown < len(described):
        end = shown + 1
        while end < len(described) and least + sum(widths[shown : end + 1]) <= console.width:
            end += 1
        table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        for _ in range(shown, end):
            table.add_column(justify="right", no_wrap=True)
        for heading, texts in rows.items():
            own = texts[shown:end]
            if any(own):
                table.add_row(heading, *own, style=None if heading.strip() else "bold")
        console.print(table)
        shown = end


def _gflop(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 100 else f"{value:.3f}"
