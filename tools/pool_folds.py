"""The scores of one method's folds together: each image by the run that was trained without it.

Prints the mean over all images with a 95 % interval by bootstrap over patients, largest n, argmax, protocol `standard`;
with --against also another method's scores of the same images and the paired difference.

    python tools/pool_folds.py runs/fold*/evaluation/fold*-test.csv [--against runs/other*/evaluation/fold*-test.csv]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modiff.errors import DataError
from modiff.evaluation import words
from modiff.evaluation.bootstrap import mean_interval
from modiff.evaluation.records import ImageTable, Quantity, read_csv

METRICS, PROTOCOL, ARGMAX = ("ged", "hm_iou"), "standard", 0.5


def pooled(paths: Sequence[Path]) -> tuple[ImageTable, list[Quantity]]:
    """The images of all folds, and the columns that are shown: of each metric, predictor and selection the largest n.

    DataError for an image twice, and for folds of another n, selection or number of steps.
    """
    tables = [read_csv(path, path.stem) for path in paths]
    first = _shown(tables[0])
    for path, table in zip(paths, tables, strict=True):
        if set(own := _shown(table)) != set(first):
            found, expected = ("; ".join(f"{_called(q)}, {q.steps} steps" for q in some) for some in (own, first))
            what = "folds that are scored differently cannot be pooled"
            raise DataError(what, path=path, found=found, expected=expected)
    return ImageTable.together(tables, "all folds"), first


def _shown(table: ImageTable) -> list[Quantity]:
    kinds = dict.fromkeys(
        (one.metric, one.predictor, one.select)
        for one in table.columns
        if one.metric in METRICS and one.protocol == PROTOCOL
    )
    return [
        table.largest(metric=metric, predictor=who, select=drawn, protocol=PROTOCOL, threshold=ARGMAX)
        for metric, who, drawn in kinds
    ]


def _called(one: Quantity) -> str:
    return f"{one.metric}, {one.predictor}, {one.select}, n = {one.n}"


def said(values: np.ndarray, patients: Sequence[str], *, signed: bool = False) -> str:
    """A mean with its interval."""
    return words.estimate(mean_interval(values, patients), signed=signed)


def main() -> None:
    """Prints a line per column."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", metavar="CSV")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="CSV", help="of another method")
    args = parser.parse_args()
    own, shown = pooled(args.tables)
    print(f"{len(own.cases)} images of {len(set(own.patients))} patients, {len(args.tables)} folds")
    other, theirs = pooled(args.against) if args.against else (None, [])
    beside = {_called(one): one for one in theirs}
    for one in shown:
        values = own.columns[one]
        line = f"{_called(one)}: {said(values, own.patients)}"
        if other is not None:
            if set(other.cases) != set(own.cases) or _called(one) not in beside:
                parser.error("the two methods were scored on different images, or with different n or selections")
            their = other.columns[beside[_called(one)]][[other.cases.index(case) for case in own.cases]]
            apart = said(values - their, own.patients, signed=True)
            line += f"; the other {said(their, own.patients)}, less it {apart}"
        print(line)


if __name__ == "__main__":
    main()
