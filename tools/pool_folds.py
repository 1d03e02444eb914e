"""The scores of one method's folds together: each image by the run that was trained without it.

Prints the mean over all images with a 95 % interval by bootstrap over patients, largest n, argmax, protocol `standard`;
with --against also another method's scores of the same images and the paired difference.

    python tools/pool_folds.py runs/fold*/evaluation/fold*-test.csv [--against runs/other*/evaluation/fold*-test.csv]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modiff.errors import DataError
from modiff.evaluation import words
from modiff.evaluation.bootstrap import mean_interval
from modiff.evaluation.records import read_csv, select

METRICS, ARGMAX = ("ged", "hm_iou"), 0.5


def pooled(tables: Sequence[Path]) -> pd.DataFrame:
    """A row per image: its patient, and a column per metric, predictor, selection and n.

    DataError for an image twice, and for folds of another n, selection or number of steps.
    """
    read = [_columns(path) for path in tables]
    for path, (_, how) in zip(tables, read, strict=True):
        if how != read[0][1]:
            found, expected = (", ".join(sorted(one)) for one in (how ^ (how & read[0][1]), read[0][1]))
            what = "folds that are scored differently cannot be pooled"
            raise DataError(what, path=path, found=found or "fewer values", expected=expected)
    rows = pd.concat([columns for columns, _ in read])
    if not rows.index.is_unique:
        twice = rows.index[rows.index.duplicated()][0]
        raise DataError("an image in two folds", found=twice, expected="evaluations of folds that share no image")
    return rows.sort_index()


def _columns(path: Path) -> tuple[pd.DataFrame, set[str]]:
    """A table's columns, and in words what each of them is."""
    table = read_csv(path, path.stem)
    keys = {
        (one.metric, one.predictor, one.select): None
        for one in table.columns
        if one.metric in METRICS and one.protocol == "standard"
    }
    chosen: dict[Any, Any] = {"patient": table.patients}
    how: set[str] = set()
    for metric, predictor, drawn in keys:
        found = select(table.columns, metric=metric, predictor=predictor, select=drawn, protocol="standard")
        largest = max(select(found, threshold=ARGMAX), key=lambda quantity: quantity.n)
        chosen[metric, predictor, drawn, largest.n] = table.columns[largest]
        how.add(f"{metric} of {predictor}, {drawn}, n = {largest.n}, {largest.steps} steps")
    return pd.DataFrame(chosen, index=pd.Index(table.cases)), how


def said(values: np.ndarray, patients: Sequence[str], *, signed: bool = False) -> str:
    """A mean with its interval."""
    return words.estimate(mean_interval(values, patients), signed=signed)


def main() -> None:
    """Prints a line per column."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", metavar="CSV")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="CSV", help="of another method")
    args = parser.parse_args()
    own = pooled(args.tables)
    other = pooled(args.against) if args.against else None
    if other is not None and not own.index.equals(other.index):
        parser.error("the two methods were scored on different images")
    if other is not None and not set(own) & set(other) - {"patient"}:
        parser.error("the two methods were scored with different n or selections")
    patients = own.pop("patient").tolist()
    print(f"{len(patients)} images of {len(set(patients))} patients, {len(args.tables)} folds")
    for key, values in own.items():
        assert isinstance(key, tuple)
        metric, predictor, drawn, n = key
        line = f"{metric}, {predictor}, {drawn}, n = {n}: {said(values.to_numpy(), patients)}"
        if other is not None and key in other:
            theirs = other[key].to_numpy()
            line += f"; the other {said(theirs, patients)}, less it {said(values - theirs, patients, signed=True)}"
        print(line)


if __name__ == "__main__":
    main()
