"""Files are the channels that their names say, in the model's order; what cannot be told is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from described import spec
from local import Local

from modiff import cli
from modiff.errors import DataError
from modiff.io.image import named_file, read_channels
from modiff.prediction.channels import arranged
from modiff.prediction.predictor import Predictor

NAMES = ("flair", "t1", "t1ce")


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """Makes files of these names, the i-th full of i; gives them as `modiff sample` does."""

    def make(*words: str) -> list[tuple[str | None, Path]]:
        for number, word in enumerate(words):
            path = tmp_path / word.rpartition("=")[2]
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(np.full((4, 5, 2), number, np.uint8), np.eye(4)), path)
        said = [word.rpartition("=") for word in words]
        return [named_file(f"{name}={tmp_path / file}" if name else str(tmp_path / file)) for name, _, file in said]

    return make


def order(given: list[tuple[str | None, Path]], names: tuple[str, ...] = NAMES) -> tuple[list[int], list[str]]:
    scan = read_channels([path for _, path in given])
    found, paths, notes = arranged(scan, given, names)
    numbers = found.array[:, 0, 0, 0].tolist()
    assert paths == [given[number][1] for number in numbers]
    return numbers, notes


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("p1_T1ce.nii", "p1_FLAIR.nii.gz", "p1_T1.nii"), [1, 2, 0]),
        (("flair.nii", "t1.nii", "t1ce.nii"), [0, 1, 2]),
        (("t1/x.nii", "t1ce/x.nii", "flair/x.nii"), [2, 0, 1]),
        (("t1ce=a.nii", "flair=b.nii", "T1=c.nii"), [1, 2, 0]),
        (("t1ce=a.nii", "t1.nii", "b_flair.nii"), [2, 1, 0]),
        (("flair_to_t1.nii", "t1.nii", "t1ce.nii"), [0, 1, 2]),
        (("flair=a.nii", "t1=b.nii", "c.nii"), [0, 1, 2]),
    ],
)
def test_names_decide(files: Any, words: tuple[str, ...], expected: list[int]) -> None:
    assert order(files(*words)) == (expected, [])


def test_names_that_say_nothing_are_taken_in_the_order_given_with_a_note(files: Any) -> None:
    numbers, (note,) = order(files("a.nii", "b.nii", "c.nii"))
    assert numbers == [0, 1, 2]
    assert "in the order given, a.nii as flair, b.nii as t1, c.nii as t1ce" in note


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("flair.nii", "t1.nii"), "t1ce: no file for a channel"),
        (("t1.nii",), "flair, t1ce: no file for a channel"),
        (("flair.nii", "t1.nii", "t2.nii"), "t1ce: no file for a channel"),
        (("flair.nii", "t1.nii", "t1ce.nii", "t2.nii"), "t2.nii: is not a channel of the model"),
        (("flair.nii", "flair_t1.nii", "t1ce.nii", "x_flair.nii"), "x_flair.nii: is not a channel"),
        (("t1=a.nii", "t1=b.nii", "flair.nii"), "is not one channel of the model"),
        (("t2=a.nii", "flair.nii", "t1.nii"), "found t2="),
        (("flair_t1.nii", "t1_flair.nii", "t1ce.nii"), "several files or channels of one name"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(files: Any, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        order(files(*words))


@pytest.mark.parametrize("words", [("x.nii",), ("flair=x.nii",)])
def test_one_channel_is_one_file_of_any_name(files: Any, words: tuple[str, ...]) -> None:
    assert order(files(*words), ("flair",)) == ([0], [])


def test_a_file_of_several_channels_is_taken_in_its_order_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "x.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 2, 2), np.uint8), np.eye(4)), path)
    scan, given = read_channels([path]), [(None, path)]
    (note,) = arranged(scan, given, ("flair", "t1"))[2]
    assert "in its order, as flair, t1" in note
    assert arranged(scan, given, ("channel 1", "channel 2"))[2] == []
    with pytest.raises(DataError, match="several channels in the file of one channel"):
        arranged(scan, [("flair", path)], ("flair", "t1"))


def test_a_file_whose_name_has_an_equals_sign_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.nii").touch()
    assert named_file("a=b.nii") == (None, Path("a=b.nii"))
    assert named_file("a=c.nii") == ("a", Path("c.nii"))


def test_a_file_may_be_called_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="a URL of a kind that cannot be read; found s3://…"):
        named_file("s3://disk/b.nii")
    Path("s3:/disk").mkdir(parents=True)
    Path("s3:/disk/b.nii").touch()
    assert named_file("s3://disk/b.nii") == (None, Path("s3:/disk/b.nii"))


class First(Local):
    """Looks at the first of two channels."""

    def __init__(self) -> None:
        super().__init__(wiggle=0)
        self.channels = 2

    def encode(self, image: Any) -> Any:
        return super().encode(image[:, :1])


class TestCommand:
    @pytest.fixture(autouse=True)
    def model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = spec({"channels": ["flair", "t1"], "size": (8, 8), "intensity": "unit"})
        monkeypatch.setattr(Predictor, "from_path", lambda name, device: Predictor(First(), data=data))
        monkeypatch.chdir(tmp_path)
        ramp = np.arange(64, dtype=np.float32).reshape(8, 8, 1) / 63
        nib.save(nib.Nifti1Image(ramp, np.eye(4)), "flair.nii")
        nib.save(nib.Nifti1Image(1 - ramp, np.eye(4)), "t1.nii")

    def test_swapped_files_give_the_same(self) -> None:
        for name, files in (("one", ["flair.nii", "t1.nii"]), ("two", ["t1.nii", "flair.nii"])):
            assert cli.main(["sample", "m", *files, "-n", "2", "-o", name]) == 0
        one, two = (json.loads(Path(name, "summary.json").read_text()) for name in ("one", "two"))
        assert one["case"] == two["case"]
        assert two["image"]["channel_paths"] == ["flair.nii", "t1.nii"]
        maps = [np.asarray(nib.load(f"{name}/mean.nii.gz").dataobj) for name in ("one", "two")]
        np.testing.assert_array_equal(*maps)

    def test_a_missing_channel_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["sample", "m", "t1.nii"]) == 2
        assert "flair: no file for a channel of the model" in capsys.readouterr().err

    def test_pictures_may_be_channels_too(self) -> None:
        from modiff.io import write_png

        for name in ("t1", "flair"):
            write_png(f"{name}.png", np.full((8, 8), 255 * (name == "flair"), np.uint8))
        assert cli.main(["sample", "m", "t1.png", "flair.png", "-n", "1", "-o", "out"]) == 0
        summary = json.loads(Path("out", "summary.json").read_text())
        assert summary["classes"]["lesion"]["consensus_area_px"] == 64
