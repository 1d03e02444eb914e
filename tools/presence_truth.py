"""Presence against the truth that simulated data know: |fraction of samples that mark − exact probability| per image,
the mean of each evaluation and their paired differences, with intervals by bootstrap over patients.

python tools/presence_truth.py STORE.h5 RUN/evaluation/test.csv OTHER/evaluation/test.csv
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np

from modiff.config.evaluation import IID
from modiff.data.phantom.case import config_of, load_phantom_case
from modiff.data.store import Store
from modiff.evaluation import words
from modiff.evaluation.bootstrap import mean_interval
from modiff.evaluation.compare import MODEL
from modiff.evaluation.records import ImageTable, read_csv


def fractions(table: ImageTable) -> np.ndarray:
    """(images,) of the samples that mark anything, of the largest n of i.i.d. samples."""
    return table.columns[table.largest(metric="presence_samples", predictor=MODEL, select=IID)]


def main() -> None:
    """Prints a line per evaluation and per pair of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("tables", type=Path, nargs="+", metavar="CSV")
    args = parser.parse_args()
    tables = [read_csv(path, "test") for path in args.tables]
    cases = tables[0].frame.index
    if any(not table.frame.index.equals(cases) for table in tables):
        parser.error("the tables are of different images")
    with Store.open(args.store) as store:
        config = config_of(store.info)
    exact = np.array([load_phantom_case(config, str(case)).presence_probability for case in cases])
    errors = []
    for path, table in zip(args.tables, tables, strict=True):
        patients = table.frame["patient"].tolist()
        errors.append(np.abs(fractions(table) - exact))
        print(f"{path}: {words.estimate(mean_interval(errors[-1], patients), digits=4)}")
    for (a, one), (b, other) in combinations(zip(args.tables, errors, strict=True), 2):
        print(f"{a} − {b}: {words.estimate(mean_interval(one - other, patients), digits=4)}")


if __name__ == "__main__":
    main()
