"""Tables from results whose numbers are known: what each cell holds, what is compared, what never stands together."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from modiff.benchmark import tables as room
from modiff.benchmark.numbers import _costs, read_numbers
from modiff.benchmark.plan import BenchmarkSettings
from modiff.benchmark.state import RowFacts, Run, State, write_state
from modiff.benchmark.tables import as_csv, markdown_text, tables_of, write_tables
from modiff.errors import DataError
from modiff.evaluation.bootstrap import Interval, differences_from, mean_interval
from modiff.evaluation.records import EMPTY, ImageTable, Quantity, Result, write_csv, write_result
from modiff.evaluation.scoring import EvaluationSettings

LIDC = "LIDC-IDRI nodule crops (PNG); Armato et al. 2015"
PATIENTS = [f"p{i // 2}" for i in range(12)]
WAYS = (("standard", 0.5), ("standard", 0.9), ("paper", 0.5), ("paper", 0.9))
BASE = np.linspace(0.1, 0.7, 12)
VOTE = np.full(12, 0.5)


def result_of(folder, name, values, *, metrics=("ged",), n=16):
    """An evaluation as `modiff evaluate` writes it. values: function of protocol, threshold and metric."""
    cases = [f"c{i}" for i in range(12)]
    columns = {}
    for protocol, threshold in WAYS:
        for metric in metrics:
            columns[Quantity(protocol, threshold, n, 5, "model", metric)] = values(protocol, threshold, metric)
            columns[Quantity(protocol, threshold, n, None, "majority_vote", metric)] = VOTE
    header = ["case", "patient", "stratum", "raters", *(quantity.name for quantity in columns)]
    rows = zip(cases, PATIENTS, ["all_marked"] * 12, [4] * 12, *columns.values(), strict=True)
    table = ImageTable.of("test", header, rows)
    table.seconds = {(5, n): 0.25}
    scoring = EvaluationSettings(ns=(n,), thresholds=(0.5, 0.9), metrics=metrics).to_dict()
    made = {"split": "test", "store": {"fingerprint": "f"}, "model": {"name": name}, "date": "today"}
    made["settings"] = scoring
    target = folder / name / "evaluation" / "test.json"
    write_csv(table, target.with_suffix(".csv"))
    write_result(Result(made, table.counts(), table.records(resamples=50)), target)


def state_of(rows, *, seeds=(0,), source=LIDC, metrics=("ged",), tables=("methods",), n=16):
    """The state of a benchmark in which all of `rows` (key: title) are done."""
    settings = BenchmarkSettings("20m", tuple(seeds), ns=(n,), metrics=metrics)
    state = State(settings, {"source": source, "fingerprint": "f", "path": "gone.h5"}, {"versions": {"modiff": "1"}})
    for key, title in rows.items():
        cost = {"parameters": 1234567, "evaluations": 5, "gflop_image": 1.0, "gflop_sample": 0.5}
        state.rows[key] = RowFacts(title, key, tables, None, (), cost)
        for seed in seeds:
            name = f"{key}-seed{seed}"
            state.runs[name] = Run(name, key, seed, "done", None, 1000 + seed, 10, 60.0)
    return state


def built(folder, state, **more):
    write_state(state, folder)
    return read_numbers(folder, state, **more)


def markdown(numbers):
    return room.markdown(numbers, tables_of(numbers))


def records(numbers, **wanted):
    """The numbers whose columns are as wanted."""
    return [
        number for number in numbers.numbers.itertuples() if all(getattr(number, key) == wanted[key] for key in wanted)
    ]


def plain(offset):
    return lambda protocol, threshold, metric: BASE + offset


@pytest.fixture
def two(tmp_path):
    """Method a at two seeds, 0.02 apart; method b everywhere 0.1 worse than a's mean."""
    for name, offset in (("a-seed0", 0.0), ("a-seed1", 0.02), ("b-seed0", 0.11), ("b-seed1", 0.11)):
        result_of(tmp_path, name, plain(offset))
    return tmp_path, state_of({"a": "A", "b": "B"}, seeds=(0, 1))


def first(numbers, metric="ged"):
    """The measured numbers of the first table by row."""
    wanted = {"kind": "measured", "table": "methods", "protocol": "standard", "threshold": 0.5, "metric": metric}
    return {number.row: number for number in records(numbers, **wanted)}


def test_a_cell_is_the_mean_over_seeds_and_images_with_its_interval_over_patients(two):
    cell = first(built(*two))["a"]
    found = Interval(cell.value, cell.ci_low, cell.ci_high, cell.images, cell.patients)
    assert found == mean_interval(BASE + 0.01, PATIENTS)
    assert cell.value == pytest.approx(0.41)
    assert (cell.images, cell.patients) == (12, 6)


def test_the_seeds_means_stand_apart_from_the_interval(two):
    cell = first(built(*two))["a"]
    assert (cell.seeds, cell.seed_low, cell.seed_high) == (2, pytest.approx(0.40), pytest.approx(0.42))


def test_the_best_is_compared_with_every_other_on_the_same_images(two):
    cells = first(built(*two))
    assert (cells["a"].verdict, cells["b"].verdict) == ("best", "worse")
    expected = differences_from(np.stack([BASE + 0.01, BASE + 0.11]), 0, PATIENTS)[1]
    found = (cells["b"].difference_from_best, cells["b"].difference_ci_low, cells["b"].difference_ci_high)
    assert found == (expected.value, expected.ci_low, expected.ci_high)
    assert expected.value == pytest.approx(0.1)


def test_what_is_not_outside_the_paired_interval_is_said_so(tmp_path):
    noise = np.array([0.3, -0.29] * 6)
    result_of(tmp_path, "a-seed0", plain(0.0))
    result_of(tmp_path, "b-seed0", plain(np.roll(noise, 1) + np.repeat([0.2, -0.2], 6)))
    tables = built(tmp_path, state_of({"a": "A", "b": "B"}))
    assert first(tables)["b"].verdict == "same"
    assert tables_of(tables)[0].findings == ("GED ↓, n = 16: A has the best mean; not shown to differ from it: B.",)
    assert "0.405 ≈" in markdown(tables)


def test_more_is_better_where_the_metric_says_so(tmp_path):
    result_of(tmp_path, "a-seed0", plain(0.0), metrics=("hm_iou",))
    result_of(tmp_path, "b-seed0", plain(0.1), metrics=("hm_iou",))
    tables = built(tmp_path, state_of({"a": "A", "b": "B"}, metrics=("hm_iou",)))
    assert {key: cell.verdict for key, cell in first(tables, "hm_iou").items()} == {"a": "worse", "b": "best"}


def test_the_best_is_chosen_where_all_have_a_value(tmp_path):
    """b is undefined on its hard images: its mean is lower, yet on the images of both a is better."""
    easy = np.where(np.arange(12) < 6, BASE + 0.05, np.nan)
    result_of(tmp_path, "a-seed0", plain(0.0))
    result_of(tmp_path, "b-seed0", lambda *_: easy)
    cells = first(built(tmp_path, state_of({"a": "A", "b": "B"})))
    assert cells["b"].value < cells["a"].value
    assert (cells["a"].verdict, cells["b"].undefined) == ("best", 6)
    # What they are compared by stands in the cell.
    assert cells["a"].value_where_all_defined == pytest.approx(BASE[:6].mean())
    assert cells["a"].images_where_all_defined == 6


def test_where_rows_have_other_images_signs_stand_at_the_means_that_were_compared(tmp_path):
    noise, easy = np.repeat([0.2, -0.19] * 3, 2), np.arange(12) < 10
    result_of(tmp_path, "a-seed0", plain(0.0))
    result_of(tmp_path, "b-seed0", lambda *_: np.where(easy, BASE + noise, np.nan))
    (table, *_) = tables_of(built(tmp_path, state_of({"a": "A", "b": "B"})))
    cells = [row.cells[0] for row in table.rows[:2]]
    assert not any("≈" in cell.value or cell.best for cell in cells)
    marked = [note for cell in cells for note in cell.notes if "best" in note or "≈" in note]
    assert marked == [
        f"{BASE[:10].mean():.3f}, best on the 10 images that all rows have",
        f"{(BASE + noise)[:10].mean():.3f} ≈ on the 10 images that all rows have",
    ]
    (said,) = table.findings
    assert said.startswith("GED ↓, n = 16 on the 10 images that all rows have: A has the best mean;")


def test_a_method_that_marks_nothing_is_named(two):
    folder, state = two
    for name in ("b-seed0", "b-seed1"):
        path = folder / name / "evaluation" / "test.json"
        content = json.loads(path.read_text())
        del content["checksum"]
        content["made"]["notes"] = [EMPTY]
        path.write_text(json.dumps(content))
    numbers = built(folder, state)
    assert all(table.findings[-1] == "No sample of B marks anything on any image." for table in tables_of(numbers))
    assert "No sample of B marks anything" in markdown(numbers)


def test_majority_vote_stands_below_and_is_not_compared(two):
    numbers = built(*two)
    table = tables_of(numbers)[0]
    assert [row.title for row in table.rows] == ["A", "B", "majority vote (oracle), repeated"]
    found = {(c.row, c.value, c.verdict, c.parameters) for c in records(numbers, kind="reference")}
    assert found == {("majority_vote", 0.5, None, None)}


def test_each_protocol_and_threshold_has_its_own_table(tmp_path):
    numbers = dict(zip(WAYS, (0.0, 0.1, 0.2, 0.3), strict=True))
    result_of(tmp_path, "a-seed0", lambda protocol, threshold, _: BASE + numbers[protocol, threshold])
    tables = built(tmp_path, state_of({"a": "A"}))
    found = {(c.protocol, c.threshold): c.value for c in records(tables, kind="measured")}
    assert len(tables_of(tables)) == len(WAYS)
    assert found == pytest.approx({way: 0.4 + offset for way, offset in numbers.items()})


def test_a_metric_without_a_threshold_stands_where_it_was_measured_only(tmp_path):
    def values(protocol, threshold, metric):
        return BASE

    result_of(tmp_path, "a-seed0", values, metrics=("ged", "ncc"))
    for file in tmp_path.glob("*/evaluation/test.csv"):
        text = list(csv.reader(io.StringIO(file.read_text())))
        keep = [
            i for i, head in enumerate(text[0]) if not (head.startswith("ncc") and "standard" in head and "0.9" in head)
        ]
        file.write_text("\n".join(",".join(row[i] for i in keep) for row in text) + "\n")
    tables = built(tmp_path, state_of({"a": "A"}, metrics=("ged", "ncc")))
    heads = {table.title: table.heads[1:3] for table in tables_of(tables)}
    assert heads["standard protocol, argmax"] == ("GED ↓, n = 16", "NCC ↑, n = 16")
    assert heads["standard protocol, p ≥ 0.9"] == ("GED ↓, n = 16", "parameters")


def test_published_numbers_stand_under_their_own_protocol_and_threshold_only(two):
    rows = list(csv.DictReader(io.StringIO(as_csv(built(*two)))))
    printed = [row for row in rows if row["kind"] == "published"]
    ways = {(row["protocol"], row["threshold"]) for row in printed}
    assert ways == {("standard", "0.5"), ("paper", "0.9")}
    modiff = [row for row in printed if row["title"] == "MoDiff"]
    assert [(row["protocol"], row["value"]) for row in modiff] == [("paper", "0.1159")]
    assert ("CCDM", "standard", "0.212") in {(row["title"], row["protocol"], row["value"]) for row in printed}
    assert all(row["source"] for row in printed)


def test_published_numbers_are_in_a_table_of_their_own(two):
    text = markdown(built(*two))
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert ("| A |" in block) != ("| published |" in block)


def test_data_that_nobody_published_on_has_no_published_numbers(tmp_path):
    result_of(tmp_path, "a-seed0", plain(0.0))
    assert "published" not in as_csv(built(tmp_path, state_of({"a": "A"}, source="simulated nodules")))


def test_table_three_has_its_own_published_rows(tmp_path):
    keys = {"modiff": "MoDiff", "modiff-mca": "MoDiff, MCA only"}
    for key in keys:
        result_of(tmp_path, f"{key}-seed0", plain(0.0), n=32)
    state = state_of(keys, tables=("ablations",), n=32)
    tables = built(tmp_path, state)
    printed = [row for row in csv.DictReader(io.StringIO(as_csv(tables))) if row["kind"] == "published"]
    assert [row["title"] for row in printed] == ["MoDiff", "MoDiff, MCA only", "MoDiff, LDF only"]
    assert [row["value"] for row in printed] == ["0.1163", "0.1432", "0.1339"]
    assert "MoDiff, both" in markdown(tables)


def test_modiff_alone_makes_no_table_of_ablations(tmp_path):
    result_of(tmp_path, "modiff-seed0", plain(0.0))
    state = state_of({"modiff": "MoDiff"}, tables=("methods", "ablations", "edges"))
    assert {number.table for number in built(tmp_path, state).numbers.itertuples()} == {"methods"}


def test_csv_has_the_mean_that_rows_of_unequal_images_are_compared_by(tmp_path):
    result_of(tmp_path, "a-seed0", plain(0.0))
    gaps = np.where(np.arange(12) < 6, BASE, np.nan)
    result_of(tmp_path, "b-seed0", lambda protocol, threshold, metric: gaps)
    rows = csv.DictReader(io.StringIO(as_csv(built(tmp_path, state_of({"a": "A", "b": "B"})))))
    whole = next(row for row in rows if row["row"] == "a")
    assert float(whole["value_where_all_defined"]) == pytest.approx(BASE[:6].mean())
    assert whole["images_where_all_defined"] == "6"


def test_seeds_that_are_defined_on_different_images_are_told_of(tmp_path):
    gaps = np.where(np.arange(12) < 6, BASE, np.nan)
    result_of(tmp_path, "a-seed0", plain(0.0))
    result_of(tmp_path, "a-seed1", lambda protocol, threshold, metric: gaps)
    numbers = built(tmp_path, state_of({"a": "A"}, seeds=(0, 1)))
    cell = first(numbers)["a"]
    assert (cell.undefined, cell.undefined_at_some_seed) == (0, 6)
    assert "6 undefined at some seed" in tables_of(numbers)[0].rows[0].cells[0].notes


def test_csv_has_what_is_needed_to_read_a_number(two):
    row = next(csv.DictReader(io.StringIO(as_csv(built(*two)))))
    expected = {
        "title": "A",
        "protocol": "standard",
        "threshold": "0.5",
        "metric": "ged",
        "n": "16",
        "seeds": "2",
        "images": "12",
        "patients": "6",
        "split": "test",
        "budget": "20m",
        "images_seen_low": "1000",
        "images_seen_high": "1001",
        "parameters": "1234567",
        "gflop": "9.0",
        "evaluations": "5",
        "seconds_per_image": "0.25",
    }
    assert {key: row[key] for key in expected} == expected
    assert float(row["value"]) == pytest.approx(0.41)


@pytest.mark.parametrize(("select", "gflop"), [("iid", 9.0), ("stratified", 9.0), ("representative", 33.0)])
def test_all_that_is_drawn_is_counted(select, gflop):
    """1 + .5 a sample: 16, or 64 candidates."""
    assert _costs("a", 16, select, [], state_of({"a": "A"}))["gflop"] == gflop


def test_costs_stand_in_the_row(two):
    line = next(line for line in markdown(built(*two)).splitlines() if line.startswith("| A |"))
    assert line.split(" | ")[2:] == ["1,234,567", "9", "5", "0.25", "1,000 to 1,001", "2 |"]


def test_runs_that_failed_are_named(two):
    folder, state = two
    state.runs["b-seed1"] = replace(state.runs["b-seed1"], status="failed", error="RuntimeError: no <b>memory</b>")
    tables = built(folder, state)
    assert tables.left_out == ("b-seed1: failed, RuntimeError: no <b>memory</b>",)
    assert first(tables)["b"].seeds == 1


def test_nothing_finished_is_an_error(tmp_path):
    state = state_of({"a": "A"})
    state.runs["a-seed0"].status = "waiting"
    with pytest.raises(DataError, match="no run is finished; found 1 waiting"):
        built(tmp_path, state)


@pytest.mark.parametrize(
    ("group", "name", "value", "field"),
    [
        ("store", "fingerprint", "another", "store"),
        ("model", "name", "a-seed0", "model"),
        ("settings", "n", [4], "n"),
        (None, "split", "val", "split"),
    ],
)
def test_an_evaluation_of_something_else_is_refused(two, group, name, value, field):
    folder, state = two
    path = folder / "b-seed0" / "evaluation" / "test.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    (content["made"][group] if group else content["made"])[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="not this benchmark's evaluation") as refused:
        built(folder, state)
    assert refused.value.field == field


def test_rows_that_are_equal_are_best_together(tmp_path):
    for name in ("a-seed0", "b-seed0"):
        result_of(tmp_path, name, plain(0.0))
    tables = built(tmp_path, state_of({"a": "A", "b": "B"}))
    assert [cell.verdict for cell in first(tables).values()] == ["best", "best"]
    assert tables_of(tables)[0].findings == ("GED ↓, n = 16: A, B have the best mean alike.",)


NASTY = "A|B <script>alert(1)</script> & *c*_d_ `e` [f](g) \\ \n# h"


def test_markdown_text_is_shown_as_it_is():
    markdown_it = pytest.importorskip("markdown_it", reason="needs markdown-it-py, which rich brings")
    page = markdown_it.MarkdownIt("commonmark").enable("table").render(f"| x |\n| --- |\n| {markdown_text(NASTY)} |\n")
    cells = [cell.text for cell in ET.fromstring(f"<div>{page}</div>").iter("td")]
    assert cells == [" ".join(NASTY.split())]


@pytest.fixture
def nasty(two):
    folder, state = two
    state.rows["a"].title = NASTY
    state.data["source"] = NASTY
    write_state(state, folder)
    return folder


def test_names_do_not_become_markup_in_the_page(nasty):
    write_tables(nasty, cases=0, resamples=50)
    page = (nasty / "tables" / "tables.html").read_text()
    assert "<script" not in page
    assert "A|B &lt;script&gt;alert(1)&lt;/script&gt; &amp; *c*_d_" in page


def test_names_do_not_add_cells_to_a_markdown_table(nasty):
    write_tables(nasty, cases=0, resamples=50)
    text = (nasty / "tables" / "tables.md").read_text()
    assert "<script" not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_without_the_store_there_are_tables_and_a_word_on_the_figure(two):
    folder, state = two
    write_state(state, folder)
    written = write_tables(folder, folder / "out", resamples=50)
    assert "no Figure 2" in written.note
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["tables.csv", "tables.html", "tables.md"]
