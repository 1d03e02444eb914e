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
import pandas as pd

from modiff.errors import DataError
from modiff.evaluation import words
from modiff.evaluation.bootstrap import mean_interval
from modiff.evaluation.records import read_csv

METRICS, ARGMAX = ("ged", "hm_iou"), 0.5


def pooled(tables: Sequence[Path]) -> pd.DataFrame:
    """A row per image: its patient, and a column per metric, predictor and selection. DataError for one twice."""
    rows = pd.concat([_columns(path) for path in tables])
    if not rows.index.is_unique:
        twice = rows.index[rows.index.duplicated()][0]
        raise DataError("an image in two folds", found=twice, expected="evaluations of folds that share no image")
    return rows.sort_index()


def _columns(path: Path) -> pd.DataFrame:
    table = read_csv(path, path.stem)
    keys = {
        (one.metric, one.predictor, one.select): None
        for one in table.columns
        if one.metric in METRICS and one.protocol == "standard"
    }
    chosen = {
        key: table.largest(metric=key[0], predictor=key[1], select=key[2], protocol="standard", threshold=ARGMAX)
        for key in keys
    }
    return pd.DataFrame({"patient": table.patients, **chosen}, index=pd.Index(table.cases))


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
    patients = own.pop("patient").tolist()
    print(f"{len(patients)} images of {len(set(patients))} patients, {len(args.tables)} folds")
    for key, values in own.items():
        assert isinstance(key, tuple)
        metric, predictor, select = key
        line = f"{metric}, {predictor}, {select}: {said(values.to_numpy(), patients)}"
        if other is not None and key in other:
            theirs = other[key].to_numpy()
            line += f"; the other {said(theirs, patients)}, less it {said(values - theirs, patients, signed=True)}"
        print(line)


if __name__ == "__main__":
    main()
