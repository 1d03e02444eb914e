"""Records and their JSON: exactly the agreed keys, whole files, and errors that name the place."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest

from modiff.errors import DataError
from modiff.evaluation.records import KEYS, Record, Result, read_result, select, write_result

RECORD = Record("ged", "model", "standard", 16, 10, 0.5, "test", "all", 20, 6, 0.25, 0.2, 0.3, 1.5)


@pytest.fixture
def written(tmp_path):
    result = Result({"seed": 0, "note": "é"}, {"all": {"images": 22, "patients": 6}}, [RECORD])
    return write_result(result, tmp_path / "evaluation" / "test.json")


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_a_record_has_exactly_the_agreed_keys():
    agreed = """metric predictor protocol n steps threshold split stratum images patients
                value ci_low ci_high seconds_per_image"""
    assert sorted(KEYS) == sorted(agreed.split())


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
