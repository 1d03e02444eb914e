"""`modiff info STORE`: what is in a store. `modiff info METHOD`: what a method costs (`info_method`)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.config.help import verb_parser

if TYPE_CHECKING:
    from rich.table import Table


def parser(prog: str) -> argparse.ArgumentParser:
    """The arguments of `modiff info`."""
    from modiff.cli import info_method

    made = verb_parser(
        prog,
        "What is in a store: cases, patients, raters, splits, how many raters mark and how far they agree, "
        "where the data comes from, its licence and its fingerprint. Or what methods cost: parameters, operations and "
        "network evaluations.",
        epilog=info_method.EPILOG,
    )
    what = "a store written by `modiff import`; or methods, presets or run folders"
    made.add_argument("what", nargs="+", metavar="STORE|METHOD", help=what)
    made.add_argument("--json", action="store_true", help="print everything as JSON instead of tables")
    made.add_argument("--verify", action="store_true", help="also check the content against the fingerprint")
    made.add_argument("--contact-sheet", metavar="PNG", help="draw random cases with every rater's outlines")
    made.add_argument("--split", help="draw the contact sheet's cases from this split only")
    made.add_argument("--cases", type=int, default=12, metavar="N", help="cases on it (default %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="which cases are drawn (default %(default)s)")
    info_method.add_arguments(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Prints the description, and draws the contact sheet where one is wanted."""
    from modiff.cli import info_method
    from modiff.config import presets
    from modiff.data.describe import describe
    from modiff.data.store import Store
    from modiff.errors import ConfigError, DataError
    from modiff.methods.registry import METHODS

    if len(args.what) > 1 or info_method.is_model(args.what[0]):
        return info_method.run(args)
    if not Path(args.what[0]).exists():
        names = ", ".join(dict.fromkeys([*METHODS, *presets()]))
        raise DataError("no such store, run folder, method or preset", path=args.what[0], expected=f"a path or {names}")
    if args.cases < 1:
        raise ConfigError("number of cases", field="--cases", found=args.cases, expected="1 or more")
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
    prompt = "the image's centre says which lesion is meant" if about["prompt"] == "centre" else "none"
    spacing = about["spacing_mm"]
    facts = {
        "images": f"{about['images']} of {about['patients']} patients, {height}×{width}, {about['dtype']}",
        "channels": f"{channels}: {', '.join(about['channels'])}",
        "classes": ", ".join(about["classes"]),
        "raters": f"{len(about['raters'])}: {', '.join(about['raters'])} ({kind})",
        "intensity": about["intensity"],
        "prompt": prompt,
        "spacing": f"{spacing[0]:g} × {spacing[1]:g} mm" if spacing else "not the same for all, or unknown",
        **{name: about[name] for name in ("source", "licence", "importer")},
        "files read": "\n".join(f"{name}\n{digest}" for name, digest in about["provenance"].items()) or "none",
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
    several = len(about["classes"]) > 1
    sections: list[list[tuple[str, list[str]]]] = [
        [(name, [str(split[name]) for split in splits]) for name in ("images", "patients")],
        [
            *(
                (
                    f"marked by {count} of {len(about['raters'])}",
                    [_percent(split["markers"][count]) for split in splits],
                )
                for count in splits[0]["markers"]
            ),
            ("by some, not by all", [_percent(split["some_empty"]) for split in splits]),
            ("masks that are empty", [_percent(split["empty_masks"]) for split in splits]),
        ],
    ]
    if any(split["read"] < 1 for split in splits):
        sections[-1].append(("read, of images × raters", [_percent(split["read"]) for split in splits]))
    for place, name in enumerate(about["classes"]):
        of, classes = f" of {name}" if several else "", [split["classes"][place] for split in splits]
        dice, iou = ([_number(one[key]) for one in classes] for key in ("dice_markers", "iou_readers"))
        areas = [_area(one["area_pixels"]) for one in classes]
        sections.append([(f"Dice{of}", dice), (f"IoU{of}", iou), (f"area{of}", areas)])
    for rows in sections:
        for heading, values in rows:
            table.add_row(heading, *values)
        table.add_section()
    return table
