"""`modiff evaluate` scores what `modiff sample` wrote as it lies there: pictures, scans, folders of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from described import spec
from discs import Discs
from PIL import Image
from series_files import write_series

from modiff import cli
from modiff.evaluation.records import read_result, select
from modiff.io.image import write_png
from modiff.prediction.predictor import Predictor

AFFINE = np.diag([-0.7, -0.7, 2, 1])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a verb; `discs` is a model of crops, `organs` one of two classes."""
    about: dict[str, Any] = {"size": (32, 32), "intensity": "minmax-slice"}
    models = {
        "discs": (Discs(), about | {"prompt": "centre"}),
        "organs": (Discs(classes=2), about | {"classes": ("outer rim", "core")}),
    }

    def load(cls: type[Predictor], name: str, device: str = "cpu") -> Predictor:
        return Predictor(models[str(name)][0], device=device, data=spec(models[str(name)][1]))

    monkeypatch.setattr(Predictor, "from_path", classmethod(load))
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli.main(list(map(str, words)))


def picture(path: str, shape: tuple[int, int] = (32, 32)) -> Path:
    image = np.random.default_rng(0).integers(0, 200, shape, dtype=np.uint8)
    image[14, 18] = 255
    return write_png(Path(path), image)


def scan(path: str) -> Path:
    volume = np.random.default_rng(0).integers(0, 300, (4, 40, 36)).astype(np.int16)
    volume[2, 20, 18] = 900
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume.T, AFFINE), path)
    return Path(path)


def samples_as_raters(samples: str, truth: str) -> None:
    """The masks of the samples, by their files alone, as raters of a case."""
    Path(truth).mkdir(parents=True)
    for path in sorted(Path(samples).glob("sample-*")):
        if path.suffix != ".npz":
            shutil.copy(path, Path(truth) / path.name.replace("sample", "rater"))


def scores(folder: str, **wanted: Any) -> tuple[float, dict[str, Any]]:
    """GED of the samples, and how it was made."""
    result = read_result(Path(folder) / "all.json")
    wanted = {"metric": "ged", "predictor": "model", "protocol": "standard", "stratum": "all", **wanted}
    return select(result.results, **wanted)[0].value, result.made


def test_a_pictures_folder_is_its_samples_with_their_weights_and_number(command):
    assert command("sample", "discs", picture("p1.png"), "-n", 5, "-o", "out") == 0
    samples_as_raters("out", "truth/p1")
    assert command("evaluate", "out", "--truth", "truth", "-o", "scores") == 0
    value, made = scores("scores")
    assert value == pytest.approx(0, abs=1e-12)
    assert made["settings"]["n"] == [5]
    assert any("out, samples of p1.png, for p1" in note for note in made["notes"])


def test_folders_of_scans_at_any_depth_are_cases(command):
    for case, at in (("p1/v1", "18,20,2"), ("p1/v2", "17,19,1"), ("p2", "15,12,3")):
        where = ("--at", at, "--slices", 1)
        assert command("sample", "discs", scan(f"{case}.nii.gz"), "-n", 4, *where, "-o", f"pred/{case}") == 0
        samples_as_raters(f"pred/{case}", f"truth/{case}")
    assert command("evaluate", "pred", "--truth", "truth", "-o", "scores") == 0
    value, made = scores("scores", n=4)
    assert value == pytest.approx(0, abs=1e-12)
    assert any("p1/v1 (x 2 to 33, y 4 to 35, z 1 to 3)" in note for note in made["notes"])


def test_a_scan_among_others_is_known_by_its_name(command):
    for name in ("ann", "bob"):
        command("sample", "discs", scan(f"scans/{name}/image.nii.gz"), "-n", 2, "--at", "18,20,2", "-o", f"r/of-{name}")
        samples_as_raters(f"r/of-{name}", f"truth/{name}")
    assert command("evaluate", "r", "--truth", "truth", "-o", "scores") == 0
    assert scores("scores")[0] == pytest.approx(0, abs=1e-12)
    assert "of-ann, samples of scans/ann/image.nii.gz, for ann; of-bob" in " ".join(scores("scores")[1]["notes"])


def test_weights_are_those_of_the_summary(command):
    command("sample", "discs", scan("p1.nii.gz"), "-n", 3, "--at", "18,20,2", "-o", "pred/p1")
    samples_as_raters("pred/p1", "truth/p1")
    for other in list(Path("truth/p1").iterdir())[1:]:
        other.unlink()
    kept = next(Path("truth/p1").iterdir()).name.replace("rater", "sample")
    path = Path("pred/p1/summary.json")
    summary = json.loads(path.read_text())
    del summary["checksum"]
    names = sorted(name for name in summary["files"] if name.startswith("sample"))
    summary["samples"] = [{"weight": float(name == kept)} for name in names]
    path.write_text(json.dumps(summary))
    assert command("evaluate", "pred", "--truth", "truth", "-o", "scores") == 0
    assert scores("scores")[0] == pytest.approx(0, abs=1e-9)


def test_volumes_are_scored_in_the_slices_that_the_model_judged(command):
    """A sagittally stored scan of an axial model, against the same files turned by nibabel."""
    rng = np.random.default_rng(0)
    folders = {"own": "RSA", "turned": "LPS"}
    for case in ("p1", "p2"):
        blocks = {"sample": rng.random((2, 4, 6, 5)) < 0.3, "rater": rng.random((2, 4, 6, 5)) < 0.3}
        for folder, axes in folders.items():
            turn = nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(axes)
            )
            for kind, block in blocks.items():
                path = Path(folder, kind, case)
                path.mkdir(parents=True)
                for number, voxels in enumerate(block):
                    image = nib.Nifti1Image(voxels.T.astype(np.uint8), AFFINE).as_reoriented(turn)
                    nib.save(image, path / f"{kind}-0{number}.nii.gz")
            summary = {"image": {}, "classes": ["x"], "n": 2, "samples": [{"weight": 0.5}] * 2}
            summary["files"] = [f"sample-0{number}.nii.gz" for number in range(2)]
            summary |= {"model_sees": {"orientation": "LPS"}} if axes != "LPS" else {}
            Path(folder, "sample", case, "summary.json").write_text(json.dumps(summary))
    values = {}
    for folder in folders:
        assert command("evaluate", f"{folder}/sample", "--truth", f"{folder}/rater", "-o", f"of-{folder}") == 0
        values[folder], made = scores(f"of-{folder}")
        assert "volumes are scored in axial slices" in made["notes"]
    assert values["own"] == values["turned"]
    for case in ("p1", "p2"):
        path = Path("own/sample", case, "summary.json")
        path.write_text(path.read_text().replace('"LPS"', '"LPP"'))
    assert command("evaluate", "own/sample", "--truth", "own/rater", "-o", "bad") == 2


def test_a_file_per_class_is_one_sample(command):
    assert command("sample", "organs", scan("p1.nii.gz"), "-n", 2, "--at", "18,20,2", "-o", "pred/p1") == 0
    Path("truth/p1").mkdir(parents=True)
    for number in range(2):
        rim, core = (
            np.asarray(nib.load(f"pred/p1/sample-0{number}-{name}.nii.gz").dataobj) for name in ("outer-rim", "core")
        )
        assert rim.any()
        assert core.any()
        label = (rim + 2 * core).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, AFFINE), f"truth/p1/rater-{number}.nii.gz")
    assert command("evaluate", "pred", "--truth", "truth", "--classes", 2, "-o", "scores") == 0
    assert scores("scores")[0] == pytest.approx(0, abs=1e-12)


def test_a_series_without_a_name_belongs_to_the_only_case(command):
    write_series(Path("series"), np.random.default_rng(0).integers(0, 300, (4, 40, 36)).astype(np.int16))
    assert command("sample", "discs", "series", "-n", 2, "--at", "18,20,2", "-o", "out") == 0
    samples_as_raters("out", "truth/somebody")
    assert command("evaluate", "out", "--truth", "truth/somebody", "-o", "scores") == 0
    value, made = scores("scores")
    assert value == pytest.approx(0, abs=1e-12)
    assert "out, samples of a scan without a name, for somebody" in " ".join(made["notes"])
    assert "raters rater-00, rater-01" in " ".join(made["notes"])


def test_maps_of_a_place_are_in_the_pictures_own_frame(command):
    command("sample", "discs", picture("p1.png", (70, 90)), "-n", 2, "--at", "18,14", "-o", "pred/p1")
    samples_as_raters("pred/p1", "truth/p1")
    assert np.asarray(Image.open("truth/p1/rater-00.png")).shape == (70, 90)
    assert command("evaluate", "pred", "--truth", "truth", "-o", "scores") == 0
    assert scores("scores")[0] == pytest.approx(0, abs=1e-12)
    assert "p1 (x 2 to 33, y 0 to 29)" in " ".join(scores("scores")[1]["notes"])


def test_a_sample_that_is_gone_and_two_predictions_for_a_case_are_named(command, capsys):
    command("sample", "discs", scan("p1.nii.gz"), "-n", 2, "--at", "18,20,2", "-o", "pred/p1")
    samples_as_raters("pred/p1", "truth/p1")
    shutil.copytree("pred/p1", "pred/again/p1")
    assert command("evaluate", "pred", "--truth", "truth", "-o", "scores") == 2
    assert "p1: two predictions for one case; found again/p1, p1" in capsys.readouterr().err
    shutil.rmtree("pred/again")
    assert command("evaluate", "truth", "--truth", "pred", "-o", "scores") == 2
    assert "pred: p1: a model's samples in place of raters" in capsys.readouterr().err
    Path("pred/p1/sample-01.nii.gz").unlink()
    assert command("evaluate", "pred", "--truth", "truth", "-o", "scores") == 2
    assert "pred/p1: lacks a sample that its summary names; found no sample-01.nii.gz" in capsys.readouterr().err


def test_a_run_folder_wants_data_and_an_empty_folder_says_what_it_wants(command, capsys):
    Path("run").mkdir()
    Path("run/config.yaml").write_text("")
    assert command("evaluate", "run", "--truth", "truth") == 2
    assert "--truth: is not an option where a model is scored. Use --data" in capsys.readouterr().err
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("")
    assert command("evaluate", "empty", "--truth", "empty") == 2
    assert "no cases; found notes.txt; expected a folder (a sub-folder per case" in capsys.readouterr().err


def test_a_representative_set_is_scored_as_one_and_not_in_part(command, capsys):
    assert command("sample", "discs", picture("p1.png"), "-n", 4, "-o", "out") == 0
    samples_as_raters("out", "truth/p1")
    assert command("evaluate", "out", "--truth", "truth", "-o", "scores") == 0
    records = read_result(Path("scores/all.json")).results
    assert {record.select for record in records if record.predictor == "model"} == {"representative"}
    for words in (["-n", "2"], ["--select", "iid"]):
        assert command("evaluate", "out", "--truth", "truth", "-o", "other", *words) == 2
        assert "representative" in capsys.readouterr().err


def test_sets_of_different_selections_are_not_mixed(command, capsys):
    for name, how in (("p1", "iid"), ("p2", "representative")):
        command("sample", "discs", picture(f"{name}.png"), "-n", 4, "--select", how, "-o", f"pred/{name}")
        samples_as_raters(f"pred/{name}", f"truth/{name}")
    assert command("evaluate", "pred", "--truth", "truth", "-o", "scores") == 2
    assert "sets of different selections; found iid, representative" in capsys.readouterr().err


def test_files_of_many_samples_give_both_selections(command):
    command("sample", "discs", picture("p1.png"), "-n", 16, "--select", "iid", "-o", "out")
    samples_as_raters("out", "truth/p1")
    words = ["-n", 4, "--select", "iid", "representative"]
    assert command("evaluate", "out", "--truth", "truth", "-o", "scores", *words) == 0
    records = read_result(Path("scores/all.json")).results
    found = {r.select: r.value for r in records if (r.predictor, r.metric, r.protocol) == ("model", "ged", "standard")}
    assert found["representative"] < found["iid"]
    assert not [note for note in scores("scores")[1]["notes"] if "representative" in note]
    words = ["-n", 8, "--select", "iid", "representative"]
    assert command("evaluate", "out", "--truth", "truth", "-o", "few", *words) == 0
    assert "representative sets are chosen from 16 samples, not 4 n" in scores("few")[1]["notes"]


def test_samples_of_raters_who_mark_are_scored_against_them(command, capsys):
    command("sample", "discs", picture("p1.png"), "-n", 6, "--raters", "marking", "--select", "iid", "-o", "out")
    samples_as_raters("out", "truth/p1")
    assert command("evaluate", "out", "--truth", "truth", "-o", "scores") == 2
    assert "--given marks" in capsys.readouterr().err
    assert command("evaluate", "out", "--truth", "truth", "-o", "scores", "--given", "marks") == 0
    records = read_result(Path("scores/all-given-marks.json")).results
    assert {record.protocol for record in records} == {"standard-marks", "paper-marks"}


def test_files_given_marks_count_their_marking_samples_only(command):
    command("sample", "discs", picture("p1.png"), "-n", 16, "--select", "iid", "-o", "out")
    samples_as_raters("out", "truth/p1")
    assert command("evaluate", "out", "--truth", "truth", "-o", "scores", "-n", 4, "--given", "marks") == 0
    assert read_result(Path("scores/all-given-marks.json")).strata["all"]["images"] == 1


@pytest.mark.parametrize("end", [".png", "-t1.png"])
def test_the_image_in_the_layout_of_an_import_is_not_a_rater(command, capsys, end: str) -> None:
    Path("data/p1").mkdir(parents=True)
    picture(f"data/p1/image{end}")
    command("sample", "discs", f"data/p1/image{end}", "-n", "3", "-o", "out", "--quiet")
    samples_as_raters("out", "alone")
    for path in Path("alone").iterdir():
        shutil.copy(path, f"data/p1/rater-{path.name}")
    for truth in ("alone", "data/p1", "data"):
        assert command("evaluate", "out", "--truth", truth, "-o", f"scores-{Path(truth).name}", "--quiet") == 0
    assert "passed over" in capsys.readouterr().out
    found = {name: read_result(next(Path(f"scores-{name}").glob("*.json"))).results for name in ("alone", "p1", "data")}
    values = {name: [(r.metric, r.n, r.value) for r in results] for name, results in found.items()}
    assert values["alone"] == values["p1"] == values["data"]
    picture("data/p1/extra.png")  # not a name of this layout: nothing is passed over
    assert command("evaluate", "out", "--truth", "data/p1", "--quiet") == 2
