"""The table of README.md and of docs/results.md, from results as `modiff evaluate` writes them.

python tools/results_table.py results/lidc-test.json --into README.md
python tools/results_table.py results/lidc-test.json --protocol paper --threshold 0.9 --into docs/results.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modiff.evaluation import words
from modiff.evaluation.bootstrap import Interval
from modiff.evaluation.records import Record, Result, read_result

ROWS = (("MoDiff", "model"), ("majority vote (oracle)", "majority_vote"), ("i.i.d. reference", "iid_reference"))


def cell(result: Result, **wanted: object) -> str:
    """A value and its interval, or a dash."""
    found = [r for r in result.results if all(getattr(r, key) == value for key, value in wanted.items())]
    return text(found[0]) if found and found[0].value is not None else "–"


def short(value: float) -> str:
    """.209"""
    return words.number(value).replace("0.", ".", 1)


def put(page: Path, mark: str, made: str) -> None:
    """Replaces what is between two marks of a page."""
    start, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = page.read_text(encoding="utf-8").split(start, 1)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{start}\n\n{made}\n\n{end}{after}", encoding="utf-8")


def text(record: Record | Interval) -> str:
    """.209 (.190 to .228)"""
    if record.ci_low is None or record.ci_high is None:
        return short(record.value or 0.0)
    return f"{short(record.value or 0.0)} ({short(record.ci_low)} to {short(record.ci_high)})"


def block(result: Result, protocol: str, threshold: float) -> str:
    """One protocol's table: predictors in rows, GED and HM-IoU at each n in columns."""
    ns = sorted({r.n for r in result.results})
    columns = [(metric, name, n) for metric, name in (("ged", "GED ↓"), ("hm_iou", "HM-IoU ↑")) for n in ns]
    one = next(r for r in result.results if r.stratum == "all" and r.metric == "ged" and r.predictor == "model")
    rule = "argmax" if protocol == "standard" and threshold == 0.5 else f"p ≥ {threshold}"
    lines = [
        f"Protocol `{protocol}`, threshold {rule}, split {one.split}, {one.images} images of {one.patients} patients, "
        f"{one.steps} steps; in brackets 95 % intervals (bootstrap over patients):",
        "",
        "| | " + " | ".join(f"{name}, n = {n}" for _, name, n in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for title, predictor in ROWS:
        fixed = {"predictor": predictor, "protocol": protocol, "stratum": "all", "threshold": threshold}
        cells = [cell(result, metric=metric, n=n, **fixed) for metric, _, n in columns]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table, or writes it between the page's two marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--protocol", default="standard")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--into", type=Path)
    args = parser.parse_args()
    result = read_result(args.result)
    made = block(result, args.protocol, args.threshold)
    if args.into is None:
        print(made)
        return
    put(args.into, "results", made)


if __name__ == "__main__":
    main()
