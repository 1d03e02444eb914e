"""The table of images: column names, CSV and strata."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import IidRaters, discs

from modiff.errors import DataError
from modiff.evaluation.evaluate import evaluate
from modiff.evaluation.settings import EvaluationSettings
from modiff.evaluation.table import ImageTable, Quantity, read_csv, records_of, strata_of, write_csv


@pytest.fixture(scope="module")
def table() -> ImageTable:
    return evaluate(IidRaters(), discs(), EvaluationSettings(ns=(3,), resamples=50), split="val").table


@given(
    st.sampled_from(["ged", "hm_iou_minus_majority_vote"]),
    st.integers(1, 999),
    st.none() | st.integers(1, 250),
    st.sampled_from([0.5, 0.9, 0.25, 0.123456789, 1 / 3]),
)
def test_a_columns_name_says_all_that_a_quantity_is(metric, n, steps, threshold):
    quantity = Quantity("standard", threshold, n, steps, "model", metric)
    assert Quantity.parse(quantity.name) == quantity


@pytest.mark.parametrize("name", ["ged", "ged|model|standard|n=x|threshold=0.5", "ged|model|standard|n=3"])
def test_a_name_that_is_no_quantity_is_refused(name):
    with pytest.raises(DataError, match="not a column of values"):
        Quantity.parse(name)


def test_csv_has_a_row_an_image_and_named_columns(table, tmp_path):
    with write_csv(table, tmp_path / "val.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header[:4] == ["case", "patient", "stratum", "raters"]
    assert "ged|model|standard|n=3|steps=1|threshold=0.5" in header
    assert [row[0] for row in rows] == table.cases


def test_csv_gives_back_every_value_to_the_bit(table, tmp_path):
    table = replace(table, frame=table.frame.copy())
    table.frame.loc[table.cases[2], Quantity("paper", 0.9, 3, 1, "model", "ged")] = np.nan
    again = read_csv(write_csv(table, tmp_path / "val.csv"), "val")
    assert set(again.columns) == set(table.columns)
    for quantity, values in table.columns.items():
        np.testing.assert_array_equal(again.columns[quantity], values)
    about = ["patient", "stratum", "raters"]
    pd.testing.assert_frame_equal(again.frame[about], table.frame[about])


def test_records_follow_from_the_csv_alone(table, tmp_path):
    again = read_csv(write_csv(table, tmp_path / "val.csv"), "val")
    expected = [replace(record, seconds_per_image=None) for record in records_of(table, resamples=50)]
    assert records_of(again, resamples=50) == expected


HEAD = "case,patient,stratum,raters,ged|model|standard|n=3|threshold=0.5"


@given(st.lists(st.floats(), min_size=1, max_size=9))
def test_a_cell_is_the_shortest_text_of_its_number(tmp_path_factory, numbers):
    quantity = Quantity("standard", 0.5, 3, None, "model", "ged")
    cases = [f'c"{i},' for i in range(len(numbers))]
    images = {"case": cases, "patient": cases, "stratum": ["none"] * len(cases), "raters": [2] * len(cases)}
    table = ImageTable.of("val", images, pd.DataFrame({quantity: numbers}, dtype=np.float64))
    path = write_csv(table, tmp_path_factory.mktemp("csv") / "val.csv")
    quoted = [f'"c""{i},"' for i in range(len(numbers))]
    expected = ["" if np.isnan(number) else repr(number) for number in numbers]
    lines = [f"{case},{case},none,2,{number}" for case, number in zip(quoted, expected, strict=True)]
    assert path.read_text() == "\n".join([HEAD, *lines, ""])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n",
        f"{HEAD}\nx\n",
        f"{HEAD}\nx,p,none,2,0.5,1\n",
        f"{HEAD}\nx,p,none,two,0.5\n",
        f"{HEAD}\nx,p,none,2,half\n",
        f"{HEAD}\nx,p,none,2,0.5\nx,p,none,2,0.5\n",
        f"{HEAD},ged|model|standard|n=3|threshold=0.5\n",
        f"{HEAD},ged\n",
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"x\.csv"):
        read_csv(path, "test")


def test_strata_ask_the_readers_only():
    marked = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    read = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    assert strata_of(marked, read) == ["all_marked", "some_empty", "none", "all_marked", "unread"]
