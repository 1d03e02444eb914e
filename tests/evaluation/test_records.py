"""The table of images and the records, in CSV and JSON: agreed names, whole files, and errors that name the place."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import IidRaters, discs

from modiff.errors import DataError
from modiff.evaluation.evaluate import evaluate
from modiff.evaluation.records import (
    ImageTable,
    Quantity,
    Record,
    Result,
    read_csv,
    read_result,
    select,
    strata_of,
    write_csv,
    write_result,
)
from modiff.evaluation.scoring import EvaluationSettings

RECORD = Record("ged", "model", "standard", 16, 10, 0.5, "test", "all", 20, 6, 0.25, 0.2, 0.3, 1.5)


@pytest.fixture
def written(tmp_path):
    result = Result({"seed": 0, "note": "é"}, {"all": {"images": 22, "patients": 6}}, [RECORD])
    return write_result(result, tmp_path / "evaluation" / "test.json")


def edited(path, change):
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_a_record_has_exactly_the_agreed_keys():
    agreed = """metric predictor protocol n steps threshold split stratum images patients
                value ci_low ci_high seconds_per_image select"""
    assert sorted(asdict(RECORD)) == sorted(agreed.split())


def test_what_is_read_is_what_was_written(written):
    assert read_result(written).results == [RECORD]


def test_the_file_is_json_with_made_and_results(written):
    content = json.loads(written.read_text())
    assert content["results"] == [asdict(RECORD)]
    assert content["made"]["note"] == "é"


def test_undefined_numbers_become_null(tmp_path):
    record = replace(RECORD, value=math.nan, ci_low=math.inf)
    path = write_result(Result({"x": math.nan}, {}, [record]), tmp_path / "x.json")
    content = json.loads(path.read_text())
    assert content["results"][0]["value"] is None
    assert content["results"][0]["ci_low"] is None
    assert content["made"]["x"] is None


def test_undefined_images_are_counted(written):
    assert read_result(written).undefined(RECORD) == 2


def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(written):
    before = written.read_text()
    with pytest.raises(TypeError):
        write_result(Result({"x": object()}, {}, []), written)
    assert written.read_text() == before
    assert [path.name for path in written.parent.iterdir()] == ["test.json"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.pop("results"), "schema, made, strata, results"),
        (lambda c: c.update(schema=99), "schema"),
        (lambda c: c.update(results={}), "results: not a list"),
        (lambda c: c.update(strata=[]), "strata"),
        (lambda c: c.update(strata={"all": {"images": "many"}}), "strata"),
        (lambda c: c.update(made=[]), "made: not an object"),
        (lambda c: c["made"].update(store="lidc.h5"), "made.store: not an object"),
        (lambda c: c["results"][0].pop("n"), r"results\[0\]: not a record"),
        (lambda c: c["results"][0].update(extra=1), r"results\[0\]: not a record"),
        (lambda c: c["results"][0].update(n="16"), r"results\[0\].n"),
        (lambda c: c["results"][0].update(n=True), r"results\[0\].n"),
        (lambda c: c["results"][0].update(value="low"), r"results\[0\].value"),
        (lambda c: c["results"][0].update(threshold=None), r"results\[0\].threshold"),
        (lambda c: c["results"][0].update(stratum="some"), "unknown stratum"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused_by_name(written, change, match):
    with pytest.raises(DataError, match=match) as raised:
        read_result(edited(written, change))
    assert str(written) in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"results": [NaN]}', "\x00"])
def test_a_file_that_is_not_json_of_ours_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError):
        read_result(path)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="modiff evaluate"):
        read_result(tmp_path / "none.json")


def test_select_takes_records_by_their_fields():
    other = replace(RECORD, n=32)
    assert select([RECORD, other], metric="ged", n=32) == [other]
    assert select([RECORD, other], n=(16, 32)) == [RECORD, other]


def test_select_refuses_a_field_that_records_do_not_have():
    with pytest.raises(TypeError, match="samples"):
        select([RECORD], samples=16)


@pytest.fixture(scope="module")
def table() -> ImageTable:
    return evaluate(IidRaters(), discs(), EvaluationSettings(ns=(3,), resamples=50), split="val")


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
    expected = [replace(record, seconds_per_image=None) for record in table.records(resamples=50)]
    assert again.records(resamples=50) == expected


HEAD = "case,patient,stratum,raters,ged|model|standard|n=3|threshold=0.5"


@given(st.lists(st.floats(), min_size=1, max_size=9))
def test_a_cell_is_the_shortest_text_of_its_number(tmp_path_factory, numbers):
    quantity = Quantity("standard", 0.5, 3, None, "model", "ged")
    cases = [f'c"{i},' for i in range(len(numbers))]
    assert quantity.name == HEAD.rpartition(",")[2]
    rows = [(case, case, "none", 2, number) for case, number in zip(cases, numbers, strict=True)]
    table = ImageTable.of("val", HEAD.split(","), rows)
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
        f"{HEAD}\nx,p,none,2,1e400\n",
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


def test_a_table_that_a_spreadsheet_saved_again_is_the_same(tmp_path):
    text = f"{HEAD}\nx,p,none,2,0.5\ny,q,none,3,\n"
    (tmp_path / "x.csv").write_text(text)
    (tmp_path / "y.csv").write_bytes((text.replace(",", ";") + ";;;;\n").replace("\n", "\r\n").encode("utf-8-sig"))
    one, other = (read_csv(tmp_path / f"{name}.csv", "test") for name in "xy")
    assert one.frame.equals(other.frame)
    assert one.frame["raters"].tolist() == [2, 3]


def test_strata_ask_only_the_raters_who_read_the_image():
    marked = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    read = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    assert strata_of(marked, read) == ["all_marked", "some_empty", "none", "all_marked", "unread"]
