"""`modiff sample`: one image in, a folder out; wrong input is one line and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from described import spec
from discs import Discs
from PIL import Image

from modiff import cli
from modiff.errors import CheckpointError
from modiff.io import write_png
from modiff.io.results import sample_folder
from modiff.prediction.predictor import Predictor


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, data: dict[str, Any], tmp_path: Path):
    """Runs the verb with models of known distributions: `discs`, and `organs` of two classes."""

    def load(cls: type[Predictor], name: str, device: str = "cpu") -> Predictor:
        models = {"discs": (Discs(), data), "organs": (Discs(classes=2), {**data, "classes": ("outer rim", "core")})}
        if str(name) not in models:
            raise CheckpointError("no such model", path=name)
        model, about = models[str(name)]
        return Predictor(model, device=device, data=spec(about))

    monkeypatch.setattr(Predictor, "from_path", classmethod(load))
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli.main(["sample", *map(str, words)])


@pytest.fixture
def picture(image: np.ndarray, tmp_path: Path) -> Path:
    return write_png(tmp_path / "image.png", image)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


class TestOutput:
    def test_every_file_is_there_and_named(self, command, picture):
        assert command("discs", picture, "-n", 3, "-o", "out") == 0
        names = sorted(path.name for path in Path("out").iterdir())
        samples = ["sample-00.png", "sample-01.png", "sample-02.png"]
        others = ["consensus.png", "mean.png", "overlay.png", "samples.npz", "summary.json", "uncertainty.png"]
        assert names == sorted(samples + others)
        assert json.loads(Path("out/summary.json").read_text())["files"] == names

    def test_the_masks_are_the_maps_above_one_half(self, command, picture):
        command("discs", picture, "-n", 4, "-o", "out")
        arrays = np.load("out/samples.npz")
        assert arrays["maps"].shape == (4, 1, 64, 64)
        for i in range(4):
            np.testing.assert_array_equal(pixels(Path(f"out/sample-{i:02}.png")), 255 * (arrays["maps"][i, 0] > 0.5))

    def test_maps_are_pictures_of_their_values(self, command, picture):
        command("discs", picture, "-o", "out")
        arrays = np.load("out/samples.npz")
        np.testing.assert_allclose(pixels(Path("out/mean.png")) / 255, arrays["mean"][0], atol=0.5 / 255 + 1e-6)
        np.testing.assert_allclose(pixels(Path("out/uncertainty.png")) / 255, arrays["entropy"], atol=0.5 / 255 + 1e-6)

    def test_masks_are_as_large_as_a_large_image(self, command, tmp_path):
        image = np.zeros((150, 200), np.uint8)
        image[90, 120] = 255
        write_png(tmp_path / "large.png", image)
        command("discs", "large.png", "--at", "118,95", "-o", "out")
        rows, columns = np.nonzero(pixels(Path("out/mean.png")) > 100)
        assert pixels(Path("out/sample-00.png")).shape == (150, 200)
        assert (rows.mean(), columns.mean()) == pytest.approx((90, 120), abs=0.5)
        window = json.loads(Path("out/summary.json").read_text())["window"]
        assert (window["left"], window["top"]) == (118 - 32, 95 - 32)

    def test_the_window_is_told_in_the_images_own_pixels(self, command, monkeypatch):
        half = Predictor(Discs(), data=spec({"size": (64, 64), "intensity": "unit", "spacing": (1.0, 1.0)}))
        monkeypatch.setattr(Predictor, "from_path", classmethod(lambda cls, name, device: half))
        write_png("large.png", np.zeros((100, 120), np.uint8))
        words = ["half", "large.png", "--spacing", "0.5,0.5", "--resample-to-model", "-n", 1]
        assert command(*words, "-o", "whole") == command(*words, "--at", "80,60", "-o", "part") == 0
        window = {"left": 0, "top": 0, "width": 120, "height": 100, "reaches_outside": True}
        assert json.loads(Path("whole/summary.json").read_text())["window"] == window
        whole, part = sample_folder(Path("whole")), sample_folder(Path("part"))
        assert whole is not None
        assert part is not None
        assert (whole.part, part.part) == (None, "x 16 to 119")

    def test_classes_have_files_by_name(self, command, picture):
        command("organs", picture, "-n", 1, "-o", "out")
        names = {path.name for path in Path("out").iterdir()}
        assert {"sample-00-outer-rim.png", "sample-00-core.png", "mean-core.png", "consensus-core.png"} <= names

    def test_the_summary_says_how_it_was_made(self, command, picture):
        command("discs", picture, "--seed", 7, "--steps", 5, "--raters", "0,2", "--spacing", "0.5,0.5", "-o", "out")
        found = json.loads(Path("out/summary.json").read_text())
        assert (found["seed"], found["steps"], found["raters"], found["n"]) == (7, 5, "0,2", 16)
        assert found["model"]["name"] == "discs"
        assert len(found["model"]["fingerprint"]) == len(found["image"]["sha256"]) == 64
        assert found["intensity"] == {"training": "minmax-slice", "applied": "minmax-slice"}
        assert found["versions"]["modiff"]
        assert found["spacing_mm"] == [0.5, 0.5]
        assert sum(hypothesis["probability"] for hypothesis in found["hypotheses"]) == pytest.approx(1)

    def test_the_same_call_gives_the_same_files_wherever_the_image_lies(self, command, picture, tmp_path):
        command("discs", picture, "-o", "one")
        (tmp_path / "other").mkdir()
        command("discs", picture.rename(tmp_path / "other" / "name.png"), "-o", "two")
        for name in ("sample-05.png", "mean.png", "uncertainty.png"):
            assert Path("one", name).read_bytes() == Path("two", name).read_bytes()

    def test_nothing_is_written_without_a_folder(self, command, picture, capsys):
        before = sorted(Path().iterdir())
        assert command("discs", picture) == 0
        assert sorted(Path().iterdir()) == before
        assert "nothing there" in capsys.readouterr().out

    def test_json_is_what_the_file_holds(self, command, picture, capsys):
        command("discs", picture, "-o", "out", "--json")
        assert json.loads(capsys.readouterr().out) == json.loads(Path("out/summary.json").read_text())

    def test_json_goes_without_a_folder(self, command, picture, capsys):
        command("discs", picture, "--json")
        assert json.loads(capsys.readouterr().out)["n"] == 16

    def test_earlier_results_are_replaced_when_asked(self, command, picture):
        command("discs", picture, "-n", 5, "-o", "out")
        Path("out/notes.txt").write_text("mine")
        assert command("discs", picture, "-n", 2, "-o", "out") == 2
        assert command("discs", picture, "-n", 2, "-o", "out", "--overwrite") == 0
        assert len(list(Path("out").glob("sample-*.png"))) == 2
        assert Path("out/notes.txt").read_text() == "mine"

    def test_warnings_are_a_line_each_and_in_the_summary(self, command, tmp_path, capsys):
        write_png(tmp_path / "small.png", np.full((9, 9), 5, np.uint8))
        assert command("discs", "small.png", "-o", "out") == 0
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2
        assert all(line.startswith("modiff: warning: small.png: ") for line in lines)
        assert len(json.loads(Path("out/summary.json").read_text())["warnings"]) == 2


WRONG = {
    "missing file": (["discs", "none.png"], "none.png: no such file"),
    "a folder": (["discs", "empty"], "no DICOM image in this folder"),
    "not an image": (["discs", "text.png"], "text.png: is not an image"),
    "colour": (["discs", "colour.png"], "colour.png: image: has other channels"),
    "no such model": (["nobody", "image.png"], "nobody: no such model"),
    "a part outside": (["discs", "large.png", "--roi", "0:500,0:9"], "large.png: --roi: does not lie in the image"),
    "no part": (["discs", "large.png", "--roi", "all"], "--roi: cannot be understood"),
    "place and part": (["discs", "large.png", "--at", "5,5", "--roi", "0:9,0:9"], "--at and --roi: contradict"),
    "overlap": (["discs", "large.png", "--overlap", "1"], "overlap: is out of range"),
    "too large": (["discs", "image.png", "--max-bytes", "99"], "image.png: the file is too large"),
    "outside": (["discs", "large.png", "--at", "500,3"], "large.png: at: lies outside"),
    "no pixel": (["discs", "large.png", "--at", "a,b"], "--at: cannot be understood"),
    "one number": (["discs", "large.png", "--at", "5"], "--at: cannot be understood"),
    "no samples": (["discs", "image.png", "-n", "0"], "n: is out of range"),
    "no steps": (["discs", "image.png", "--steps", "0"], "steps: is out of range"),
    "threshold": (["discs", "image.png", "--threshold", "2"], "threshold: is out of range"),
    "raters": (["discs", "image.png", "--raters", "most"], "--raters: cannot be understood"),
    "rater 9": (["discs", "image.png", "--raters", "9"], "raters: no such subset"),
    "spacing": (["discs", "image.png", "--spacing", "0,1"], "spacing: is not possible"),
    "rule": (["discs", "image.png", "--intensity", "bright"], "intensity: no such rule"),
    "device": (["discs", "image.png", "--device", "cuda:77"], "device: cannot be used"),
    "a file as folder": (["discs", "image.png", "-o", "text.png"], "text.png: output: is a file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(command, picture, tmp_path, capsys, case):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty").mkdir()
    write_png(tmp_path / "large.png", np.zeros((100, 100), np.uint8))
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(tmp_path / "colour.png")
    words, message = WRONG[case]
    before = sorted(Path().iterdir())
    assert command(*words, *([] if "-o" in words else ["-o", "out"])) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("modiff: ")
    assert message in errors[0]
    assert sorted(Path().iterdir()) == before


def test_a_folder_that_cannot_be_used_is_refused_before_the_model_is_loaded(command, picture):
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert command("nobody", picture, "-o", "out") == 2
    assert Path("out/mine.txt").read_text() == "mine"
