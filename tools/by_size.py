"""The scores of an evaluation by the size of what raters marked: the mean area of their masks that are not empty.

Prints GED, its excess over the i.i.d. reference (paired, with a 95 % interval by bootstrap over patients) and HM-IoU of
the model's i.i.d. samples, largest n, argmax. Images that nobody marked are left out.

    python tools/by_size.py RUN/evaluation/val.csv --data STORE.h5 [--ends 40 80 160 400]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from modiff.config.evaluation import IID
from modiff.data.store import Store
from modiff.evaluation import words
from modiff.evaluation.bootstrap import mean_interval
from modiff.evaluation.compare import MODEL
from modiff.evaluation.records import REFERENCE, ImageTable, read_csv
from modiff.metrics.protocols import GIVEN_MARKS

PROTOCOLS, ARGMAX = ("standard", f"standard{GIVEN_MARKS}"), 0.5


def areas(store: Store, cases: list[str]) -> np.ndarray:
    """(cases,) mean number of pixels that a rater who marks anything marks, of any class; NaN where nobody does."""
    places = {case: row for row, case in enumerate(store.cases.tolist())}
    found = np.full(len(cases), np.nan)
    rows = np.array([places[case] for case in cases])
    start = 0
    for _, masks in store.blocks(rows):  # (B,R,H,W), 0 the background
        marked = (masks > 0).sum((2, 3)).astype(float)
        counts = (marked > 0).sum(1)
        found[start : start + len(masks)] = np.where(counts > 0, marked.sum(1) / np.maximum(counts, 1), np.nan)
        start += len(masks)
    return found


def rows_of(table: ImageTable, area: np.ndarray, ends: list[float]) -> list[list[str]]:
    """A row per range of sizes: range, images, GED, excess over the reference, HM-IoU."""
    ged, reference, hm_iou = (
        table.columns[
            table.largest(metric=metric, predictor=predictor, protocol=PROTOCOLS, threshold=ARGMAX, select=IID)
        ]
        for metric, predictor in (("ged", MODEL), ("ged", REFERENCE), ("hm_iou", MODEL))
    )
    values = (ged, ged - reference, hm_iou)
    patients, made = np.array(table.patients), []
    for low, high in zip([0.0, *ends], [*ends, np.inf], strict=True):
        inside = (area > low) & (area <= high)
        text = f"above {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"
        means = (mean_interval(one[inside], patients[inside]) for one in values)
        made.append([text, str(inside.sum()), *map(words.estimate, means)])
    return made


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, metavar="CSV")
    parser.add_argument("--data", type=Path, required=True, metavar="STORE")
    parser.add_argument("--ends", type=float, nargs="+", default=[40, 80, 160, 400], help="pixels between two ranges")
    args = parser.parse_args()
    table = read_csv(args.table, args.table.stem)
    with Store.open(args.data) as store:
        area = areas(store, table.cases)
    print("| pixels marked | images | GED | excess over the i.i.d. reference | HM-IoU |\n|---|---|---|---|---|")
    for row in rows_of(table, area, args.ends):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
