"""Comparing results: differences on the same images, and refusal of what cannot be compared."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from oracles import IidRaters, Majority, Soft, discs

from modiff.cli import main
from modiff.errors import ConfigError, DataError
from modiff.evaluation.bootstrap import mean_interval, pooled_difference, pooled_error_interval
from modiff.evaluation.compare import compare, find_result, read_methods
from modiff.evaluation.evaluate import evaluate
from modiff.evaluation.records import Quantity, Result, write_csv, write_result
from modiff.evaluation.scoring import EvaluationSettings

SETTINGS = EvaluationSettings(ns=(4, 8), resamples=100)
STANDARD = ("standard", 0.5, 8)


def write(folder, model, split=None, *, settings=SETTINGS, name=None, store="s", called="test", reverse=False, **more):
    split = split or discs(40, 10)
    if reverse:
        order = list(range(40))[::-1]
        split = replace(
            split,
            masks=split.masks[order],
            cases=[split.cases[i] for i in order],
            patients=[split.patients[i] for i in order],
            read=split.read[order],
        )
    table = evaluate(model, split, settings, split=called, **more)
    made = {"split": called, "store": {"fingerprint": store}, "model": {"name": name or type(model).__name__}}
    write_csv(table, folder / f"{called}.csv")
    records = table.records(seed=settings.seed, resamples=settings.resamples)
    return write_result(Result(made, table.counts(), records), folder / f"{called}.json")


@pytest.fixture(scope="module")
def iid(tmp_path_factory):
    return write(tmp_path_factory.mktemp("iid"), IidRaters())


@pytest.fixture(scope="module")
def majority(tmp_path_factory):
    return write(tmp_path_factory.mktemp("majority"), Majority())


def one(comparison, metric="ged", way=STANDARD, stratum="all"):
    (found,) = [
        row
        for row in comparison.differences
        if (row.metric, row.protocol, row.threshold, row.n, row.stratum) == (metric, *way, stratum)
    ]
    return found


def test_a_difference_is_the_mean_over_images_of_a_minus_b(iid, majority):
    methods = read_methods([iid, majority])
    quantity = Quantity(*STANDARD, 1, "model", "ged")
    a, b = (evaluate(m, discs(40, 10), SETTINGS, split="test").columns[quantity] for m in (IidRaters(), Majority()))
    found = one(compare(methods))
    assert found.difference == pytest.approx(np.mean(a - b), abs=1e-12)
    assert (found.value_a, found.value_b) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    expected = mean_interval(a - b, discs(40, 10).patients)
    assert (found.ci_low, found.ci_high) == (expected.ci_low, expected.ci_high)


def test_which_is_better_depends_on_the_metric(iid, majority):
    comparison = compare(read_methods([iid, majority]))
    ged, hm_iou = one(comparison), one(comparison, "hm_iou")
    assert ged.difference < 0 < hm_iou.difference
    assert ged.better == hm_iou.better == "IidRaters"


def test_a_method_does_not_differ_from_itself(iid):
    comparison = compare(read_methods([iid, iid], ["a", "b"]))
    assert {row.difference for row in comparison.differences} == {0.0}
    assert {row.better for row in comparison.differences} == {None}


def test_swapping_methods_changes_the_sign_only(iid, majority):
    ours, theirs = one(compare(read_methods([iid, majority]))), one(compare(read_methods([majority, iid])))
    assert theirs.difference == -ours.difference
    assert theirs.ci_low == pytest.approx(-ours.ci_high)
    assert theirs.better == ours.better


def test_the_order_of_images_in_the_files_does_not_show(tmp_path, iid, majority):
    other = write(tmp_path, Majority(), reverse=True)
    assert compare(read_methods([iid, majority])).differences == compare(read_methods([iid, other])).differences


def test_every_pair_is_compared(tmp_path, iid, majority):
    soft = write(tmp_path, Soft())
    comparison = compare(read_methods([iid, majority, soft]))
    pairs = {(row.a, row.b) for row in comparison.differences}
    assert pairs == {("IidRaters", "Majority"), ("IidRaters", "Soft"), ("Majority", "Soft")}
    assert "not widened" in comparison.notes[0]


def test_numbers_of_steps_are_methods_of_their_own(tmp_path):
    path = write(tmp_path, IidRaters(), settings=replace(SETTINGS, steps=(5, 10)))
    assert [method.name for method in read_methods([path])] == ["IidRaters, 5 steps", "IidRaters, 10 steps"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"settings": replace(SETTINGS, protocols=("standard",))},
            r"protocol: .*found standard; expected paper, standard",
        ),
        ({"settings": replace(SETTINGS, ns=(8,))}, r"n: .*found 8; expected 4, 8.*-n compares"),
        ({"settings": replace(SETTINGS, thresholds=(0.25,))}, r"threshold: .*found paper 0.25, paper 0.9"),
        ({"called": "val"}, r"split: .*found val; expected test"),
        ({"store": "other"}, r"data: .*found store other"),
        ({"settings": replace(SETTINGS, limit=20)}, r"images: .*found 20 images; expected 40 images"),
        ({"split": replace(discs(40, 10), patients=discs(40, 8).patients)}, r"patients, raters or strata"),
    ],
)
def test_results_of_different_things_are_refused_and_it_says_what_differs(tmp_path, iid, change, match):
    with pytest.raises(DataError, match=match):
        read_methods([iid, write(tmp_path, Majority(), **change)])


def test_a_comparison_can_be_narrowed_to_what_both_have(tmp_path, iid):
    other = write(tmp_path, Majority(), settings=replace(SETTINGS, ns=(8,), protocols=("standard",)))
    comparison = compare(read_methods([iid, other], wanted={"protocol": ["standard"], "n": [8]}))
    assert {(row.protocol, row.n) for row in comparison.differences} == {("standard", 8)}


def test_narrowing_to_nothing_says_what_there_is(iid):
    with pytest.raises(DataError, match=r"n 4, 8"):
        read_methods([iid, iid], ["a", "b"], wanted={"n": [99]})


def test_undefined_images_are_left_out_of_both_and_counted(tmp_path):
    settings = replace(SETTINGS, ns=(4,), protocols=("standard",), metrics=("hd95",))
    a, b = (write(tmp_path / m.__name__, m(), settings=settings) for m in (IidRaters, Majority))
    found = one(compare(read_methods([a, b]), ["hd95"]), "hd95", ("standard", 0.5, 4))
    assert 0 < found.images < 40
    assert found.images + found.undefined == 40


def test_pooled_errors_are_compared_pooled(tmp_path):
    settings = replace(SETTINGS, ns=(4,), protocols=("standard",), metrics=("ece", "presence"))
    a, b = (write(tmp_path / m.__name__, m(), settings=settings) for m in (IidRaters, Majority))
    comparison = compare(read_methods([a, b]), ["all"])
    assert {row.metric for row in comparison.differences} == {"ece", "presence_ece"}
    found = one(comparison, "ece", ("standard", 0.5, 4))
    means = [
        next(record.value for record in table.records(resamples=1) if record.metric == "ece")
        for table in (evaluate(m(), discs(40, 10), settings, split="test") for m in (IidRaters, Majority))
    ]
    assert found.difference == pytest.approx(means[0] - means[1], abs=1e-12)


def test_a_pooled_difference_is_that_of_both_errors():
    rng = np.random.default_rng(0)
    a, b, patients = rng.normal(0, 1, (30, 5)), rng.normal(0.2, 1, (30, 5)), [f"p{i // 3}" for i in range(30)]
    interval, one_, other = pooled_difference(a, b, patients)
    assert one_ == pytest.approx(pooled_error_interval(a, patients).value)
    assert other == pytest.approx(pooled_error_interval(b, patients).value)
    assert interval.value == pytest.approx(one_ - other)


def test_metrics_that_only_some_have_are_named(tmp_path, iid):
    more = write(tmp_path, Majority(), settings=replace(SETTINGS, metrics=("ged", "hm_iou", "dmax")))
    comparison = compare(read_methods([iid, more]), ["all"])
    assert {row.metric for row in comparison.differences} == {"ged", "hm_iou"}
    assert comparison.notes == ("only some results have dmax",)
    with pytest.raises(ConfigError, match="not in every result"):
        compare(read_methods([iid, more]), ["dmax"])


def test_a_main_metric_that_is_not_compared_is_named(iid, majority):
    methods = read_methods([iid, majority])
    assert compare(methods, ["hm_iou"]).notes == ("every result has GED too, by which another may be better",)
    assert compare(methods).notes == ()


def test_one_result_is_nothing_to_compare(iid):
    with pytest.raises(ConfigError, match="2 or more"):
        compare(read_methods([iid]))


def test_two_methods_of_one_name_must_be_told_apart(iid):
    with pytest.raises(DataError, match="--names"):
        read_methods([iid, iid], ["same", "same"])


def test_a_run_folder_leads_to_its_evaluation(tmp_path):
    path = write(tmp_path / "run" / "evaluation", IidRaters())
    assert find_result(tmp_path / "run") == path
    write(tmp_path / "run" / "evaluation", IidRaters(), called="val")
    assert find_result(tmp_path / "run") == path
    assert find_result(tmp_path / "run", "val").stem == "val"


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no result"):
        find_result(tmp_path)


def test_a_csv_of_another_result_is_refused(tmp_path, iid):
    path = write(tmp_path, IidRaters())
    lines = path.with_suffix(".csv").read_text().splitlines()
    path.with_suffix(".csv").write_text("\n".join(lines[:-3]) + "\n")
    with pytest.raises(DataError, match="does not belong to this result"):
        read_methods([path])


def test_a_csv_with_another_number_is_refused(tmp_path, iid):
    path = write(tmp_path, IidRaters())
    head, first, *rest = path.with_suffix(".csv").read_text().splitlines()
    place = next(i for i, name in enumerate(head.split(",")) if name.startswith("ged|model"))
    cells = first.split(",")
    path.with_suffix(".csv").write_text(
        "\n".join([head, ",".join([*cells[:place], "9.0", *cells[place + 1 :]]), *rest]) + "\n"
    )
    with pytest.raises(DataError, match="does not belong to this result"):
        read_methods([path])


def test_of_several_results_the_files_are_named(tmp_path, iid):
    path = write(tmp_path, IidRaters())
    for name in ("test-limit2", "test-limit3"):
        for suffix in (".json", ".csv"):
            shutil.copy(path.with_suffix(suffix), path.with_name(name + suffix))
    for suffix in (".json", ".csv"):
        path.with_suffix(suffix).unlink()
    with pytest.raises(DataError, match=r"test-limit2\.json, .*test-limit3\.json.*Name the file"):
        find_result(path.parent)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_command_writes_a_table_and_a_plot(tmp_path, iid, majority, capsys, kind):
    words = ["compare", iid.parent, majority, "--format", kind, "-o", tmp_path / "c", "-n", "8"]
    assert main(list(map(str, words))) == 0
    content = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert [method["name"] for method in content["made"]["methods"]] == ["IidRaters", "Majority"]
    assert content["differences"][0]["protocol"] == "standard"
    start = (tmp_path / "c" / f"comparison.{kind}").read_bytes()[:8]
    assert start.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    lines = [line for line in capsys.readouterr().out.splitlines() if "GED" in line or "HM-IoU" in line]
    assert len(lines) == 4
    assert all(("standard" in line) != ("paper" in line) for line in lines)


def test_of_three_methods_each_line_names_its_pair(tmp_path, iid, majority, capsys):
    soft = write(tmp_path, Soft())
    words = ["compare", iid, majority, soft, "-o", tmp_path / "c", "-n", "8", "--protocol", "standard"]
    assert main(list(map(str, words))) == 0
    out = capsys.readouterr().out
    assert all(pair in out for pair in ("IidRaters − Majority", "IidRaters − Soft", "Majority − Soft"))


def test_the_command_refuses_in_one_line(tmp_path, iid, capsys):
    other = write(tmp_path, Majority(), store="other")
    assert main(["compare", str(iid), str(other), "-o", str(tmp_path / "c")]) == 2
    error = capsys.readouterr().err
    assert "data" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_names_of_methods_are_text_and_no_markup(tmp_path, iid, capsys):
    other = write(tmp_path, Majority(), name="[red]$x$[/red]")
    assert main(["compare", str(iid), str(other), "-o", str(tmp_path / "c"), "-n", "8"]) == 0
    assert "[red]$x$" in capsys.readouterr().out
