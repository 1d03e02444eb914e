"""A table of a page, from tables.csv as `modiff benchmark` writes it.

python tools/benchmark_table.py results/phantom/tables.csv --table methods --into docs/comparison.md --mark lidc-time
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from results_table import put, short

NAMES = {"ged": "GED ↓", "hm_iou": "HM-IoU ↑"}
Line = dict[str, str]


def read(path: Path, **wanted: str) -> list[Line]:
    """The lines of a table whose fields are as wanted."""
    with path.open(encoding="utf-8", newline="") as file:
        return [line for line in csv.DictReader(file) if all(line[key] == value for key, value in wanted.items())]


def cell(lines: list[Line]) -> str:
    """**.195** (.153 to .235) where it is the best, ≈ where it is not shown to differ from the best."""
    if not lines or not lines[0]["value"]:
        return "–"
    line = lines[0]
    value = short(float(line["value"]))
    made = f"**{value}**" if line["verdict"] == "best" else value + (" ≈" if line["verdict"] == "same" else "")
    if line["ci_low"]:
        made += f" ({short(float(line['ci_low']))} to {short(float(line['ci_high']))})"
    if line["seeds"] not in ("", "1"):
        made += f" [{short(float(line['seed_low']))} to {short(float(line['seed_high']))}]"
    return made


def count(line: Line) -> str:
    """Images seen: 16,000, or the fewest and the most over the seeds."""
    low, high = line["images_seen_low"], line["images_seen_high"]
    if not low:
        return ""
    return f"{int(low):,}" if low == high else f"{int(low):,} to {int(high):,}"


def block(path: Path, table: str, protocol: str, threshold: str) -> str:
    """Rows by GED and HM-IoU at each n, with what a row costs, under a line that says what was measured."""
    lines = [
        line
        for line in read(path, table=table, protocol=protocol, threshold=threshold)
        if line["kind"] != "published" and line["metric"] in NAMES
    ]
    one = next(line for line in lines if line["kind"] == "measured")
    columns = sorted({(line["metric"], int(line["n"])) for line in lines})
    rows = {row: [line for line in lines if line["row"] == row] for row in dict.fromkeys(x["row"] for x in lines)}
    rule = "argmax" if (protocol, threshold) == ("standard", "0.5") else f"p ≥ {threshold}"
    counts = {row: count(own[0]) for row, own in rows.items()}
    seen = len({made for made in counts.values() if made}) > 1  # where all saw as many, the budget says it
    extra = ["images seen"] * seen + [f"seconds/image (n = {columns[0][1]})"]
    names = [f"{NAMES[metric]}, n = {n}" for metric, n in columns]
    made = [
        f"Protocol `{protocol}`, {rule}, split {one['split']}, {one['images']} images of {one['patients']} patients, "
        f"{one['budget']} per training; in brackets the 95 % interval over patients"
        + (", in square brackets the range over seeds:" if one["seeds"] != "1" else ":"),
        "",
        "| | " + " | ".join(names + extra) + " |",
        "|---|" + "---|" * len(names + extra),
    ]
    for row, own in rows.items():
        cells = [cell([x for x in own if (x["metric"], int(x["n"])) == column]) for column in columns]
        first = next((line for line in own if int(line["n"]) == columns[0][1]), own[0])
        seconds = f"{float(first['seconds_per_image']):.2g}" if first["seconds_per_image"] else ""
        title = first["title"].split(",")[0].split(":")[0] + " (oracle)" * (row == "majority_vote")
        made.append("| " + " | ".join([title, *cells, *[counts[row]] * seen, seconds]) + " |")
    return "\n".join(made)


def main() -> None:
    """Prints the table, or writes it between two marks of a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("--table", default="methods", help="methods, ablations, edges or controls (%(default)s)")
    parser.add_argument("--protocol", default="standard")
    parser.add_argument("--threshold", default="0.5")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--mark", help="of the page: <!-- MARK --> … <!-- end of MARK -->")
    args = parser.parse_args()
    made = block(args.tables, args.table, args.protocol, args.threshold)
    if args.into is None:
        print(made)
    else:
        put(args.into, args.mark or args.table, made)


if __name__ == "__main__":
    main()
