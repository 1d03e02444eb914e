"""`tools/by_size.py` against sums written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from store_helpers import make_info

from modiff.data.store import Store, StoreWriter
from modiff.evaluation.records import ImageTable, read_csv, write_csv

MODEL = "ged|model|standard|n=8|steps=5|threshold=0.5"
FEWER = "ged|model|standard|n=4|steps=5|threshold=0.5"
CHOSEN = "ged|model|standard|n=8|steps=5|threshold=0.5|select=representative"
STRICT = "ged|model|paper|n=8|steps=5|threshold=0.9"
REFERENCE = "ged|iid_reference|standard|n=8|threshold=0.5"
HM_IOU = "hm_iou|model|standard|n=8|steps=5|threshold=0.5"


@pytest.fixture
def by_size(tool):
    return tool("by_size")


def test_scores_by_the_area_of_the_masks_that_are_not_empty(tmp_path, by_size):
    marks = {"a": (3, 5), "b": (0, 4), "c": (30, 50), "d": (0, 0)}  # pixels of two raters
    with StoreWriter(tmp_path / "s.h5", make_info(raters=("A", "B"))) as writer:
        for case, sizes in marks.items():
            masks = np.zeros((2, 8, 8), np.uint8)
            for mask, size in zip(masks, sizes, strict=True):
                mask.flat[:size] = 1 + np.arange(size) % 2
            writer.add(np.zeros((2, 8, 8), np.uint8), masks, np.ones(2, bool), case=case, patient=case, split="val")
    header = ["case", "patient", "stratum", "raters", MODEL, FEWER, CHOSEN, STRICT, REFERENCE, HM_IOU]
    rows = [
        ["d", "d", "none", 2, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0],
        ["c", "c", "all_marked", 2, 0.9, 9.0, 9.0, 9.0, 0.2, 0.8],
        ["a", "a", "all_marked", 2, 0.5, 9.0, 9.0, 9.0, 0.1, 0.2],
        ["b", "b", "some_empty", 2, 0.7, 9.0, 9.0, 9.0, 0.5, 0.4],
    ]
    table = read_csv(write_csv(ImageTable.of("val", header, rows), tmp_path / "val.csv"), "val")
    with Store.open(tmp_path / "s.h5") as store:
        area = by_size.areas(store, table.cases)
    np.testing.assert_array_equal(area, [np.nan, 40.0, 4.0, 4.0])
    small, large = by_size.rows_of(table, area, [10.0])
    assert [cell.split(" (")[0] for cell in small] == ["0 to 10", "2", "0.600", "0.300", "0.300"]
    assert [cell.split(" (")[0] for cell in large] == ["above 10", "1", "0.900", "0.700", "0.800"]
