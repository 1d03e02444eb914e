"""Quality against time: the points are the files' numbers, and files of different images are refused."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import pytest
from oracles import IidRaters, discs

from modiff.cli import main
from modiff.errors import ConfigError, DataError
from modiff.evaluation.evaluate import evaluate
from modiff.evaluation.records import Record, Result, write_result
from modiff.evaluation.scoring import EvaluationSettings
from modiff.evaluation.tradeoff import tradeoff_of

MADE = {
    "device": "cpu (x86_64, 1 threads)",
    "processes": 1,
    "store": {"fingerprint": "s" * 64},
    "model": {"name": "one", "fingerprint": "m1"},
    "seed": 0,
    "split": "test",
    "settings": {"limit": 32},
    "unread": 0,
}
STRATA = {"all": {"images": 32, "patients": 9}, "all_marked": {"images": 12, "patients": 7}}


def record(**changes):
    row = Record("ged", "model", "standard", 16, 5, 0.5, "test", "all", 32, 9, 0.3, 0.25, 0.36, 0.5)
    return replace(row, **changes)


def references(**changes):
    beside = {"steps": None, "seconds_per_image": None, **changes}
    return [
        record(predictor="majority_vote", value=0.4, **beside),
        record(predictor="iid_reference", value=0.1, **beside),
    ]


def write(path, *, steps=(5,), seconds=0.1, model="m1", name="one", records=(), strata=STRATA, made=()):
    """A file of one model; `seconds` a step."""
    rows = [record(steps=s, value=0.3 + 0.01 * s, seconds_per_image=seconds * s) for s in steps]
    how = deepcopy(MADE) | {"model": {"name": name, "fingerprint": model}} | dict(made)
    return write_result(Result(how, strata, [*rows, *references(), *records]), path)


@pytest.fixture
def one(tmp_path):
    return write(tmp_path / "one.json")


# What is gathered


def test_points_are_the_records_of_an_evaluation(tmp_path):
    settings = EvaluationSettings(ns=(4, 8), steps=(5, 10), resamples=100)
    made = evaluate(IidRaters(), discs(40, 10), settings, split="test")
    records = made.records(resamples=100)
    path = write_result(Result({}, made.counts(), records), tmp_path / "r.json")
    (line,) = tradeoff_of([path], metric="hm_iou", n=8, protocol="paper").lines
    wanted = [
        (r.steps, r.seconds_per_image, r.value, r.ci_low, r.ci_high, r.images)
        for r in records
        if (r.metric, r.n, r.protocol, r.stratum, r.predictor) == ("hm_iou", 8, "paper", "all", "model")
    ]
    assert [(p.steps, p.seconds_per_image, p.value, p.ci_low, p.ci_high, p.images) for p in line.points] == wanted
    assert [p.steps for p in line.points] == [5, 10]


def test_references_are_those_of_what_is_asked(tmp_path):
    other = [*references(protocol="paper", threshold=0.9), record(protocol="paper", threshold=0.9)]
    changed = [replace(row, value=0.7) for row in other]
    path = write(tmp_path / "r.json", records=changed)
    found = {row.predictor: row.value for row in tradeoff_of([path]).references}
    assert found == {"majority_vote": 0.4, "iid_reference": 0.1}
    found = {row.predictor: row.value for row in tradeoff_of([path], protocol="paper").references}
    assert found == {"majority_vote": 0.7, "iid_reference": 0.7}


def test_the_threshold_is_the_protocols_own_unless_given(tmp_path):
    of = {"protocol": "paper"}
    path = write(tmp_path / "r.json", records=[record(**of, threshold=0.9), record(**of, threshold=0.5)])
    assert tradeoff_of([path]).of.threshold == 0.5
    assert tradeoff_of([path], **of).of.threshold == 0.9
    assert tradeoff_of([path], **of, threshold=0.5).of.threshold == 0.5


def test_the_control_is_no_point(tmp_path):
    shuffled = record(predictor="shuffled", steps=10, seconds_per_image=1.0)
    (line,) = tradeoff_of([write(tmp_path / "r.json", records=[shuffled])]).lines
    assert [point.steps for point in line.points] == [5]


def test_files_of_one_model_join_in_the_order_of_steps(tmp_path):
    later = write(tmp_path / "b.json", steps=(25,))
    earlier = write(tmp_path / "a.json", steps=(10, 5))
    (line,) = tradeoff_of([later, earlier]).lines
    assert line.name == "one"
    assert [point.steps for point in line.points] == [5, 10, 25]


def test_files_of_two_models_are_two_lines_in_the_order_given(tmp_path, one):
    other = write(tmp_path / "two.json", model="m2", name="two")
    assert [line.name for line in tradeoff_of([other, one]).lines] == ["two", "one"]


def test_two_models_of_one_name_are_told_apart_by_their_files(tmp_path, one):
    other = write(tmp_path / "again.json", model="m2")
    assert [line.name for line in tradeoff_of([one, other]).lines] == ["one, one", "one, again"]


def test_one_model_on_two_devices_is_two_lines_with_a_note(tmp_path, one):
    other = write(tmp_path / "gpu.json", steps=(10,), made={"device": "cuda (NVIDIA H200)"})
    found = tradeoff_of([one, other])
    assert [line.name for line in found.lines] == ["one, cpu (x86_64, 1 threads)", "one, cuda (NVIDIA H200)"]
    assert found.notes == (
        "seconds of different devices are not comparable: cpu (x86_64, 1 threads); cuda (NVIDIA H200)",
    )


def test_processes_that_share_a_machine_are_another_device(tmp_path, one):
    other = write(tmp_path / "two.json", model="m2", made={"processes": 2})
    assert tradeoff_of([one, other]).devices == ("cpu (x86_64, 1 threads)", "cpu (x86_64, 1 threads), 2 processes")


def test_names_name_the_lines(tmp_path, one):
    other = write(tmp_path / "two.json", model="m2")
    assert [line.name for line in tradeoff_of([one, other], names=["A", "B"]).lines] == ["A", "B"]


def test_one_name_for_two_files_of_a_model_is_one_line(tmp_path, one):
    other = write(tmp_path / "two.json", steps=(10,))
    assert [line.name for line in tradeoff_of([one, other], names=["A", "A"]).lines] == ["A"]


def test_different_names_keep_files_of_one_model_apart(tmp_path, one):
    other = write(tmp_path / "two.json")
    assert [line.name for line in tradeoff_of([one, other], names=["A", "B"]).lines] == ["A", "B"]


def test_images_on_which_a_metric_is_undefined_are_named(tmp_path):
    path = write(tmp_path / "r.json", steps=(), records=[record(images=30)])
    assert tradeoff_of([path]).notes == ("one, 5 steps: GED is defined on 30 of 32 images",)


def test_a_point_without_seconds_is_left_out_and_named(tmp_path):
    path = write(tmp_path / "r.json", records=[record(steps=10, seconds_per_image=None)])
    found = tradeoff_of([path])
    assert [point.steps for point in found.lines[0].points] == [5]
    assert found.notes == (f"{path}: 10 steps left out, no seconds",)


def test_a_limit_beyond_all_images_is_no_limit(tmp_path, one):
    other = write(tmp_path / "two.json", model="m2", made={"settings": {"limit": None}})
    assert len(tradeoff_of([one, other]).lines) == 2


# What is refused

FEWER = {"all": {"images": 16, "patients": 9}}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"made": {"store": {"fingerprint": "t" * 64}}}, r"data: .*found store tttt.*expected store ssss.*one\.json"),
        ({"made": {"seed": 3}}, r"seed: .*found 3; expected 0"),
        ({"strata": FEWER, "made": {"settings": {"limit": 16}}}, r"images: .*found 16 of stratum all; expected 32"),
        ({"strata": FEWER}, r"images: .*found 16 of stratum all; expected 32"),
        ({"strata": {"all": {"images": 32, "patients": 8}}}, r"patients: .*found 8 of stratum all; expected 9"),
    ],
)
def test_evaluations_of_different_images_are_refused_and_it_says_what_differs(tmp_path, one, change, match):
    other = write(tmp_path / "other.json", model="m2", **change)
    with pytest.raises(DataError, match=match):
        tradeoff_of([one, other])


def test_another_split_is_refused(tmp_path, one):
    how = deepcopy(MADE) | {"model": {"name": "two", "fingerprint": "m2"}}
    other = write_result(Result(how, STRATA, [record(split="val")]), tmp_path / "val.json")
    with pytest.raises(DataError, match=r"val\.json: split: .*found val; expected test"):
        tradeoff_of([one, other])


def test_the_counts_are_those_of_the_stratum(tmp_path):
    marked = record(stratum="all_marked", images=12, patients=7)
    other = {**STRATA, "all_marked": {"images": 11, "patients": 7}}
    a = write(tmp_path / "a.json", records=[marked])
    b = write(tmp_path / "b.json", model="m2", records=[marked], strata=other)
    assert tradeoff_of([a, b]).images == 32
    with pytest.raises(DataError, match="found 11 of stratum all_marked; expected 12"):
        tradeoff_of([a, b], stratum="all_marked")


def test_another_majority_vote_betrays_other_images(tmp_path, one):
    rows = [record(), *[replace(row, value=0.41) for row in references()]]
    how = deepcopy(MADE) | {"model": {"name": "two", "fingerprint": "m2"}}
    other = write_result(Result(how, STRATA, rows), tmp_path / "other.json")
    with pytest.raises(DataError, match=r"majority vote \(oracle\): .*found 0\.41; expected 0\.4"):
        tradeoff_of([one, other])


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"metric": "ncc"}, r"metric: .*found ged; expected ncc"),
        ({"protocol": "paper"}, r"protocol: .*found standard; expected paper"),
        ({"threshold": 0.9}, r"threshold: .*found 0\.5; expected 0\.9"),
        ({"n": 32}, r"n: .*found 16; expected 32"),
        ({"stratum": "none"}, r"stratum: .*found all; expected none"),
    ],
)
def test_what_a_file_has_not_is_refused_with_what_it_has(one, asked, match):
    with pytest.raises(DataError, match=rf"one\.json: {match}"):
        tradeoff_of([one], **asked)


def test_samples_from_files_have_no_seconds(tmp_path):
    path = write(tmp_path / "scores.json", steps=(), records=[record(steps=None, seconds_per_image=None)])
    with pytest.raises(DataError, match=r"scores\.json: seconds_per_image: no seconds per image"):
        tradeoff_of([path])


def test_a_metric_that_is_defined_nowhere_is_refused(tmp_path):
    path = write(tmp_path / "r.json", steps=(), records=[record(value=None, ci_low=None, ci_high=None)])
    with pytest.raises(DataError, match="ged: has no value on any image"):
        tradeoff_of([path])


def test_the_same_steps_twice_are_refused(one):
    with pytest.raises(DataError, match=r"5 steps again.*name of its own"):
        tradeoff_of([one, one])


@pytest.mark.parametrize(
    ("names", "match"),
    [(["A"], "found 1; expected 2"), (["A", "A"], "two models of one name"), (["A", "\x1b[2J"], "not a name")],
)
def test_names_that_do_not_fit_are_refused(tmp_path, one, names, match):
    other = write(tmp_path / "two.json", model="m2")
    with pytest.raises(ConfigError, match=f"names: .*{match}"):
        tradeoff_of([one, other], names=names)


@pytest.mark.parametrize("asked", [{"protocol": "own"}, {"stratum": "some"}])
def test_a_protocol_or_stratum_that_does_not_exist_is_refused(one, asked):
    with pytest.raises(ConfigError, match="no such"):
        tradeoff_of([one], **asked)


# The command


def test_the_command_draws_and_prints_the_points(tmp_path, one, capsys):
    assert main(["compare", "--seconds", str(one), "-o", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "seconds.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    (point,) = [line.split() for line in out.splitlines() if line.lstrip().startswith("one")]
    assert point == ["one", "5", "32", "0.5", "0.350", "0.250", "to", "0.360"]
    assert "majority vote" in out
    assert str(tmp_path / "new" / "seconds.png") in out


def test_the_command_passes_on_what_is_asked(tmp_path, one, capsys):
    path = write(tmp_path / "p.json", records=[record(metric="hm_iou", protocol="paper", threshold=0.25, n=8)])
    words = ["--metrics", "hm_iou", "-n", 8, "--protocol", "paper", "--threshold", 0.25, "--names", "X"]
    words += ["--format", "svg", "-o", tmp_path / "q"]
    assert main(["compare", "--seconds", str(path), *map(str, words)]) == 0
    out = capsys.readouterr().out
    assert "X, HM-IoU, paper protocol, n = 8, p ≥ 0.25, split test, all images" in out
    assert (tmp_path / "q" / "seconds.svg").read_bytes().startswith(b"<?xml")


def test_different_devices_are_said_on_standard_error(tmp_path, one, capsys):
    other = write(tmp_path / "gpu.json", model="m2", made={"device": "cuda (NVIDIA H200)"})
    assert main(["compare", "--seconds", str(one), str(other), "-o", str(tmp_path / "q")]) == 0
    streams = capsys.readouterr()
    assert "not comparable" in streams.err
    assert "not comparable" not in streams.out


@pytest.mark.parametrize("words", [["-n", "99"], ["-n", "16", "32"], ["--metrics", "ged", "hm_iou"]])
def test_the_command_refuses_in_one_line_and_leaves_nothing(tmp_path, one, capsys, words):
    before = sorted(tmp_path.iterdir())
    assert main(["compare", "--seconds", str(one), *words, "-o", str(tmp_path / "q")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_hostile_file_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"schema": 1, "made": [], "strata": {}, "results": []}))
    with pytest.raises(DataError, match="made"):
        tradeoff_of([path])
