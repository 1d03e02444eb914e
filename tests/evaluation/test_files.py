"""Samples in files score as the same samples of a model do; mistakes are named by case."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import h5py
import nibabel
import numpy as np
import pytest
import torch
from oracles import Soft, discs

from modiff.cli import main
from modiff.data.store import StoreWriter
from modiff.data.store_format import StoreInfo
from modiff.evaluation.evaluate import evaluate
from modiff.evaluation.file_samples import draw_order
from modiff.evaluation.records import Quantity, read_csv, read_result, select
from modiff.evaluation.scoring import EvaluationSettings
from modiff.evaluation.source import rows_to_score
from modiff.io.image import write_png
from modiff.metrics import functional
from modiff.rng import seeds_for

NAMES = ("a", "b", "c", "d")
MODEL = {"predictor": "model", "stratum": "all"}


@pytest.fixture(scope="module")
def split():
    return discs(24)


@pytest.fixture(scope="module")
def store(tmp_path_factory, split):
    path = tmp_path_factory.mktemp("store") / "discs.h5"
    info = StoreInfo(("x",), ("disc",), NAMES, exchangeable_raters=True, intensity="unit", prompt="none")
    with StoreWriter(path, info) as writer:
        for i, case in enumerate(split.cases):
            masks = split.masks[i].astype(np.uint8)
            writer.add(255 * masks[:1], masks, split.read[i], case=case, patient=split.patients[i], split="test")
    return path


@pytest.fixture(scope="module")
def soft(split):
    """(24,8,1,16,16) float32: samples of the model `Soft`."""
    batch = split.batch(range(24))
    return Soft().draw(batch.image, 8, seeds_for(0, batch.case)).maps


def write_hdf5(path, cases, maps):
    with h5py.File(path, "w") as file:
        for case, one in zip(cases, maps, strict=True):
            file[case] = np.asarray(one)
    return path


@pytest.fixture
def predictions(tmp_path, split, soft):
    return write_hdf5(tmp_path / "soft.h5", split.cases, soft)


def score(*words):
    return main(["evaluate", *map(str, words)])


def scored(folder, split="test"):
    return read_result(folder / f"{split}.json"), read_csv(folder / f"{split}.csv", split)


def test_scores_are_those_of_the_evaluation_of_the_same_samples(tmp_path, store, split, soft):
    # Where two samples are equally good, greedy matching sees their order: the draw is to give the model's own.
    drawn = np.empty(soft.shape, np.float32)
    for i, case in enumerate(split.cases):
        drawn[i, draw_order(0, case, [str(j) for j in range(8)])] = soft[i]
    predictions = write_hdf5(tmp_path / "soft.h5", split.cases, drawn)
    assert score(predictions, "--truth", store, "-n", 8, "--metrics", "all", "-o", tmp_path / "s") == 0
    result, table = scored(tmp_path / "s")
    settings = EvaluationSettings(ns=(8,), metrics=("all",), one_rater=True)
    expected = evaluate(Soft(), split, settings, split="test")
    assert table.cases == list(split.cases)
    columns = {replace(quantity, steps=None): values for quantity, values in expected.columns.items()}
    assert set(table.columns) == set(columns)
    for quantity, values in columns.items():
        np.testing.assert_allclose(table.columns[quantity], values, atol=1e-9, err_msg=quantity.name)
    assert result.strata == expected.counts()


def test_the_files_are_of_one_form_with_those_of_an_evaluation(tmp_path, predictions, store):
    score(predictions, "--truth", store, "-n", 4, "-o", tmp_path / "s")
    content = json.loads((tmp_path / "s" / "test.json").read_text())
    assert set(content) == {"schema", "made", "strata", "results", "checksum"}
    made = content["made"]
    assert {"command", "commit", "versions", "device", "store", "model", "date", "seed", "split", "settings"} <= set(
        made
    )
    assert made["model"]["name"] == "soft"
    assert len(made["model"]["fingerprint"]) == 64


def test_several_n_and_thresholds_under_both_protocols_at_once(tmp_path, predictions, store):
    score(predictions, "--truth", store, "-n", 2, 8, "--threshold", 0.25, "-o", tmp_path / "s")
    records = scored(tmp_path / "s")[0].results
    found = {(r.protocol, r.n, r.threshold) for r in select(records, metric="ged", **MODEL)}
    assert found == {(p, n, t) for n in (2, 8) for p, own in (("standard", 0.5), ("paper", 0.9)) for t in (0.25, own)}


@pytest.mark.parametrize("limit", [3, 8])
def test_a_limit_counts_the_images_that_are_scored_given_marks(tmp_path, predictions, store, split, limit):
    settings = EvaluationSettings(ns=(4,), given="marks", limit=limit)
    rows = rows_to_score(split, settings)
    assert len(rows) == limit
    words = ["-n", 4, "--given", "marks", "--limit", limit, "--select", "iid", "-o", tmp_path / "out"]
    assert score(predictions, "--truth", store, "--split", "test", *words) == 0
    _, table = scored(tmp_path / "out", f"test-given-marks-limit{limit}")
    assert table.cases == [split.cases[row] for row in rows]


def test_fewer_samples_are_a_fixed_random_subset(tmp_path, predictions, store, split, soft):
    score(predictions, "--truth", store, "-n", 3, 8, "-o", tmp_path / "s")
    table = scored(tmp_path / "s")[1]
    batch = split.batch(range(24))
    chosen = [draw_order(0, case, [str(i) for i in range(8)])[:3] for case in split.cases]
    samples = torch.stack([soft[i, rows] for i, rows in enumerate(chosen)]) > 0.5
    expected = functional.ged(samples, batch.masks)
    np.testing.assert_allclose(table.columns[Quantity("standard", 0.5, 3, None, "model", "ged")], expected)
    assert any(rows != [0, 1, 2] for rows in chosen)


def test_the_draw_takes_each_sample_about_equally_often():
    first = [draw_order(0, f"case {i}", ["a", "b", "c", "d"])[0] for i in range(400)]
    assert min(np.bincount(first, minlength=4)) > 70


def test_references_stand_beside_the_scores(tmp_path, predictions, store):
    score(predictions, "--truth", store, "-n", 4, "-o", tmp_path / "s")
    records = scored(tmp_path / "s")[0].results
    found = {r.predictor for r in select(records, metric="ged", protocol="standard", stratum="all")}
    assert found == {"model", "majority_vote", "one_rater", "iid_reference"}


def test_every_table_names_one_protocol(tmp_path, predictions, store, capsys):
    score(predictions, "--truth", store, "-n", 4, "-o", tmp_path / "s")
    titles = [line for line in capsys.readouterr().out.splitlines() if "split test" in line]
    assert len(titles) == 4  # two protocols, on all images and by stratum
    assert all(("standard protocol" in title) != ("paper protocol" in title) for title in titles)


def test_a_folder_of_pictures_with_raters_in_files_scores_as_the_store(tmp_path, store, split):
    masks = split.masks[:, [0, 0, 1, 3]]
    for i, case in enumerate(split.cases):
        for j in range(4):
            write_png(tmp_path / "samples" / case / f"{j}.png", masks[i, j])
            write_png(tmp_path / "raters" / case / f"{NAMES[j]}.png", split.masks[i, j])
    samples, options = tmp_path / "samples", ("-n", 4, "--metrics", "all", "-o")
    assert score(samples, "--truth", store, *options, tmp_path / "one") == 0
    assert score(samples, "--truth", tmp_path / "raters", *options, tmp_path / "two") == 0
    one, two = scored(tmp_path / "one")[0], scored(tmp_path / "two", "all")[0]
    assert [{**asdict(r), "split": ""} for r in one.results] == [{**asdict(r), "split": ""} for r in two.results]


def test_probabilities_in_eight_bits_score_within_their_rounding(tmp_path, store, split, soft):
    for i, case in enumerate(split.cases):
        for j in range(8):
            write_png(tmp_path / "samples" / case / f"{j}.png", np.rint(soft[i, j, 0].numpy() * 255).astype(np.uint8))
    score(tmp_path / "samples", "--truth", store, "-n", 8, "--metrics", "brier", "-o", tmp_path / "s")
    batch = split.batch(range(24))
    expected = float(functional.brier(soft, batch.masks).mean())
    (found,) = select(scored(tmp_path / "s")[0].results, metric="brier", protocol="standard", **MODEL)
    assert found.value == pytest.approx(expected, abs=1e-3)


def nifti(path, volume, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.uint8).T, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def volumes(tmp_path):
    """Three volumes of four slices, two raters and two samples, in NIfTI."""
    rng = np.random.default_rng(1)
    for case in ("x", "y", "z"):
        for j in range(2):
            nifti(tmp_path / "raters" / case / f"r{j}.nii.gz", rng.random((4, 6, 5)) < 0.3)
            nifti(tmp_path / "samples" / case / f"s{j}.nii.gz", rng.random((4, 6, 5)) < 0.3)
    return tmp_path


def test_slices_of_a_volume_are_images_of_one_patient(volumes):
    assert score(volumes / "samples", "--truth", volumes / "raters", "-n", 2, "-o", volumes / "s") == 0
    table = scored(volumes / "s", "all")[1]
    assert table.cases[:2] == ["x/slice-000", "x/slice-001"]
    assert len(table) == 12
    assert set(table.patients) == {"x", "y", "z"}


def test_how_many_images_are_scored_at_once_does_not_show(volumes, monkeypatch):
    words = (volumes / "samples", "--truth", volumes / "raters", "-n", 2, "--metrics", "all", "-o")
    score(*words, volumes / "one")
    monkeypatch.setattr("modiff.evaluation.file_samples._VALUES_AT_ONCE", 2 * 2 * 6 * 5)
    score(*words, volumes / "two")
    assert scored(volumes / "one", "all")[0].results == scored(volumes / "two", "all")[0].results


def test_another_place_in_space_names_the_case(volumes, capsys):
    moved = np.diag([2.0, 1, 1, 1])
    for j in range(2):
        nifti(volumes / "samples" / "y" / f"s{j}.nii.gz", np.zeros((4, 6, 5)), moved)
    assert score(volumes / "samples", "--truth", volumes / "raters", "-n", 2, "-o", volumes / "s") == 2
    assert "y: lies elsewhere in space" in capsys.readouterr().err
    assert not (volumes / "s").exists()


def test_another_size_names_the_case(tmp_path, store, split, soft, capsys):
    path = write_hdf5(tmp_path / "x.h5", split.cases, soft[..., :12])
    assert score(path, "--truth", store, "-n", 8) == 2
    assert f"{split.cases[0]}: unexpected size; found 16×12; expected 16×16" in capsys.readouterr().err


def test_too_few_samples_name_the_case(predictions, store, split, capsys):
    assert score(predictions, "--truth", store) == 2
    assert f"{split.cases[0]}: too few samples; found 8; expected 32" in capsys.readouterr().err


def test_cases_without_predictions_are_named(tmp_path, store, split, soft, capsys):
    path = write_hdf5(tmp_path / "x.h5", split.cases[2:], soft[2:])
    assert score(path, "--truth", store, "-n", 8) == 2
    assert f"none for {split.cases[0]} and 1 more" in capsys.readouterr().err


def test_cases_without_predictions_can_be_left_out_and_are_counted(tmp_path, store, split, soft):
    path = write_hdf5(tmp_path / "x.h5", split.cases[2:], soft[2:])
    assert score(path, "--truth", store, "-n", 8, "--allow-missing", "-o", tmp_path / "s") == 0
    result, table = scored(tmp_path / "s")
    assert len(table) == 22
    assert "2 cases have no predictions" in result.made["notes"][0]


def test_predictions_for_unknown_cases_are_named(tmp_path, store, split, soft, capsys):
    path = write_hdf5(tmp_path / "x.h5", [*split.cases[:-1], "p99/slice-0"], soft)
    assert score(path, "--truth", store, "-n", 8) == 2
    assert "found p99/slice-0" in capsys.readouterr().err


def test_missing_raters_name_the_case_or_count_as_unread(volumes, capsys):
    (volumes / "raters" / "y" / "r1.nii.gz").unlink()
    words = (volumes / "samples", "--truth", volumes / "raters", "-n", 2, "-o", volumes / "s")
    assert score(*words) == 2
    assert "y: missing raters; found 1 rater; expected 2" in capsys.readouterr().err
    assert score(*words, "--unread-missing") == 0
    table = scored(volumes / "s", "all")[1]
    assert table.frame["raters"]["y/slice-000"] == 1


def test_a_store_says_whose_its_images_are(predictions, store, tmp_path, capsys):
    assert score(predictions, "--truth", store, "-n", 8, "--patients", tmp_path / "x.csv") == 2
    assert "--patients" in capsys.readouterr().err


def test_patients_can_be_given_and_must_be_complete(volumes, capsys):
    patients = volumes / "patients.csv"
    patients.write_text("case,patient\nx,one\ny,one\nz,two\n")
    words = (volumes / "samples", "--truth", volumes / "raters", "-n", 2, "--patients", patients, "-o", volumes / "s")
    assert score(*words) == 0
    assert set(scored(volumes / "s", "all")[1].patients) == {"one", "two"}
    patients.write_bytes(b"\xef\xbb\xbf case ; patient\r\nx;one\r\ny; one\r\n;\r\nz;two\r\n\r\n")
    assert score(*words) == 0
    assert set(scored(volumes / "s", "all")[1].patients) == {"one", "two"}
    patients.write_text("case,patient\nx,one\n")
    assert score(*words) == 2
    assert "2 cases without a patient" in capsys.readouterr().err


def test_weights_of_samples_count(tmp_path, store, split):
    """Two samples of weights 3 and 1 are as the first three times and the second once."""
    first, second = split.masks[:, 0].astype(np.float32), split.masks[:, 3].astype(np.float32)
    for i, case in enumerate(split.cases):
        (tmp_path / "two" / case).mkdir(parents=True)
        np.savez(tmp_path / "two" / case / "samples.npz", maps=np.stack([first[i], second[i]]), weights=[0.75, 0.25])
    four = write_hdf5(tmp_path / "four.h5", split.cases, np.stack([first, first, first, second], 1))
    options = ("--truth", store, "--protocol", "standard", "-o")
    score(tmp_path / "two", "-n", 2, *options, tmp_path / "a")
    score(four, "-n", 4, *options, tmp_path / "b")
    for metric in ("ged", "hm_iou"):
        weighted, repeated = (
            scored(tmp_path / name)[1].columns[Quantity("standard", 0.5, n, None, "model", metric)]
            for name, n in (("a", 2), ("b", 4))
        )
        np.testing.assert_allclose(weighted, repeated, atol=1e-9)


def test_weights_of_a_case_do_not_change_the_other_cases(tmp_path):
    """NCC, CI and surface distances are undefined for unequal weights, and for no other case of the same files."""
    rng = np.random.default_rng(3)
    for case, weights in {"a": [1, 1, 1], "b": [2, 1, 1], "c": [0.2, 0.2, 0.2]}.items():
        (tmp_path / "samples" / case).mkdir(parents=True)
        maps = rng.random((3, 8, 8)) < 0.4
        np.savez(tmp_path / "samples" / case / "samples.npz", maps=maps.astype(np.float32), weights=weights)
        for j in range(2):
            write_png(tmp_path / "raters" / case / f"{j}.png", rng.random((8, 8)) < 0.4)
    words = ("-n", 3, "--metrics", "all", "--protocol", "standard", "-o", tmp_path / "s")
    assert score(tmp_path / "samples", "--truth", tmp_path / "raters", *words) == 0
    table = scored(tmp_path / "s", "all")[1]
    for metric in ("ncc", "ci", "hd95"):
        found = table.columns[Quantity("standard", 0.5, 3, None, "model", metric)]
        assert np.isnan(found).tolist() == [False, True, False], metric


def test_a_fixed_subset_of_the_images_can_be_scored(tmp_path, predictions, store):
    score(predictions, "--truth", store, "-n", 8, "--limit", 5, "-o", tmp_path / "s")
    assert (tmp_path / "s" / "test-limit5.csv").is_file()
    score(predictions, "--truth", store, "-n", 8, "--limit", 50, "-o", tmp_path / "s")
    notes = read_result(tmp_path / "s" / "test-limit50.json").made["notes"]
    assert "--limit 50: there are 24, all of them are scored" in notes


def test_results_go_beside_the_predictions_where_nothing_is_said(tmp_path, predictions, store):
    score(predictions, "--truth", store, "-n", 8)
    assert (predictions.with_name("soft-scores") / "test.json").is_file()


def test_results_of_a_folder_with_a_dot_in_its_name_keep_the_name(tmp_path, store, split, monkeypatch):
    for i, case in enumerate(split.cases):
        write_png(tmp_path / "model.v2" / case / "0.png", split.masks[i, 0])
    monkeypatch.chdir(tmp_path / "model.v2")
    assert score(".", "--truth", store, "-n", 1) == 0
    assert scored(tmp_path / "model.v2-scores")[0].made["model"]["name"] == "model.v2"


def test_several_classes_are_scored_from_class_indices(tmp_path):
    rng = np.random.default_rng(2)
    cases = [f"p{i}/s" for i in range(6)]
    raters, samples = rng.integers(0, 3, (6, 2, 8, 8)), rng.integers(0, 3, (6, 4, 8, 8))
    for i, case in enumerate(cases):
        for j in range(2):
            write_png(tmp_path / "raters" / case / f"{j}.png", raters[i, j].astype(np.uint8))
    path = write_hdf5(tmp_path / "samples.h5", cases, samples.astype(np.uint8))
    assert score(path, "--truth", tmp_path / "raters", "--classes", 2, "-n", 4, "-o", tmp_path / "s") == 0
    ours, theirs = (torch.from_numpy(np.stack([labels == 1, labels == 2], 2)) for labels in (samples, raters))
    found = scored(tmp_path / "s", "all")[1].columns[Quantity("standard", 0.5, 4, None, "model", "ged")]
    np.testing.assert_allclose(found, functional.ged(ours, theirs))
