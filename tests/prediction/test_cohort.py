"""`modiff sample` of a cohort: a folder per lesion, a table; it resumes, and one broken scan does not lose others."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from described import spec
from discs import Discs
from local import Local
from PIL import Image
from pydicom.fileset import FileSet
from series_files import PERSON, write_series

from modiff import cli
from modiff.errors import DataError, InUse
from modiff.io import write_png
from modiff.io.output import output_folder
from modiff.prediction import write
from modiff.prediction.cohort.places import points_of
from modiff.prediction.cohort.run import Cohort
from modiff.prediction.predictor import Predictor

AFFINE = np.array([[-0.7, 0, 0, 30], [0, 1.1, 0, -40], [0, 0.2, 2.5, 7], [0, 0, 0, 1]])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the verb with a model of lesion crops."""
    about = {"size": (32, 32), "intensity": "minmax-slice", "prompt": "centre", "classes": ["lesion"]}
    models = {"discs": lambda: Discs(absent=0.0), "pixels": lambda: Local(wiggle=0), "two": lambda: Discs(channels=2)}

    def load(cls: type[Predictor], name: str, device: str = "cpu") -> Predictor:
        more = {"channels": ["flair", "t1"]} if name == "two" else {}
        return Predictor(models[name](), device=device, data=spec(about | more))

    monkeypatch.setattr(Predictor, "from_path", classmethod(load))
    for figure in ("key_figure", "slices_figure"):  # most of the time; they have tests of their own
        monkeypatch.setattr(write, figure, lambda prediction, title="": b"a figure")
    monkeypatch.chdir(tmp_path)
    for place, spot in enumerate([(12, 14), (15, 18), (17, 15)]):
        image = np.zeros((32, 32), np.uint8)
        image[spot] = 255
        write_png(tmp_path / f"scans/{'abc'[place]}.png", image)
    return lambda *words: cli.main(["sample", *map(str, words), "--quiet"])


def table(folder: str = "out") -> list[dict[str, str]]:
    return list(csv.DictReader(Path(folder, "cohort.csv").open()))


def column(name: str, folder: str = "out") -> list[str]:
    return [row[name] for row in table(folder)]


def summary(path: str) -> dict[str, Any]:
    return json.loads(Path(path, "summary.json").read_text())


def scan(path: Path, affine: np.ndarray = AFFINE) -> Path:
    """(6,40,48) with two bright blobs."""
    made = np.zeros((6, 40, 48), np.float32)
    made[1:4, 10:16, 30:36] = made[4, 30:34, 5:9] = 1
    nib.save(nib.Nifti1Image(made.T, affine), path)
    return path


class TestTable:
    def test_a_folder_of_images_is_a_cohort_with_a_row_each(self, command):
        assert command("discs", "scans", "-n", 4, "-o", "out") == 0
        assert column("folder") == ["a", "b", "c"]
        assert set(column("status")) == {"done"}
        assert sorted(column("rank")) == ["1", "2", "3"]
        assert (Path("out") / "a" / "overlay.png").is_file()

    def test_numbers_are_those_of_the_masks(self, command):
        command("discs", "scans", "-n", 5, "--select", "iid", "-o", "out")
        for row in table():
            masks = np.load(f"out/{row['folder']}/samples.npz")["maps"][:, 0] > 0.5
            sizes = masks.sum((1, 2))
            assert float(row["all_samples"]) == masks.all(0).sum()
            assert float(row["any_sample"]) == masks.any(0).sum()
            assert float(row["median"]) == np.median(sizes)
            pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
            iou = [(masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum() for i, j in pairs]
            assert float(row["disagreement"]) == pytest.approx(1 - np.mean(iou))

    def test_ranks_go_by_disagreement(self, command):
        command("discs", "scans", "-n", 3, "--select", "iid", "-o", "out")
        rows = sorted(table(), key=lambda row: int(row["rank"]))
        values = [float(row["disagreement"]) for row in rows]
        assert values == sorted(values, reverse=True)

    def test_a_scan_is_drawn_as_alone(self, command):
        command("discs", "scans", "-n", 4, "-o", "out")
        command("discs", "scans/b.png", "-n", 4, "-o", "alone")
        for name in ("sample-02.png", "mean.png"):
            assert Path("out/b", name).read_bytes() == Path("alone", name).read_bytes()

    def test_the_page_shows_each_and_opens_its_picture(self, command):
        command("discs", "scans", "-n", 2, "-o", "out")
        page = Path("out/cohort.html").read_text()
        assert all(f'href="{name}/overlay.png"' in page for name in "abc")
        assert page.count("data:image/png") == 3

    def test_names_are_text_and_paths_stay_inside(self, command):
        text = "scan,name\nscans/a.png,../../up\nscans/b.png,<script>\nscans/c.png,=1+1\n"
        Path("cohort.csv").write_text(text)
        assert command("discs", "cohort.csv", "-n", 1, "-o", "out") == 0
        assert sorted(path.name for path in Path("out").iterdir() if path.is_dir()) == ["1+1", "script", "up"]

    def test_same_names_in_several_folders_are_told_apart(self, command):
        for folder in ("x", "y"):
            Path(folder).mkdir()
            shutil.copy("scans/a.png", f"{folder}/a.png")
        Path("cohort.csv").write_text("scan\nx/a.png\ny/a.png\n")
        command("discs", "cohort.csv", "-n", 1, "-o", "out")
        assert column("folder") == ["x-a", "y-a"]


WRONG = {
    "capitals": ("scan,X,Y\nscans/a.png,1,1\n", "X: does not say its unit"),
    "mm of no side": ("scan,x_mm\nscans/a.png,1\n", "x_mm: does not say its unit"),
    "no scan": ("scan,x\n,1\n", "line 2: names no scan"),
    "no column": ("image\nscans/a.png\n", "unexpected columns"),
    "empty": ("scan\n", "has no scans"),
}
FAILING = {
    "half a voxel": "scans/a.png,1.5,2,,,",
    "outside": "scans/a.png,40,2,,,",
    "mm of a picture": "scans/a.png,,,1,2,3",
    "two places": "scans/a.png,1,2,1,2,3",
    "words": "scans/a.png,one,2,,,",
    "no file": "scans/none.png,1,2,,,",
}


class TestPlaces:
    @pytest.mark.parametrize("sign", ["ras", "lps"])
    def test_millimetres_and_voxels_are_the_same_place(self, command, tmp_path, sign):
        scan(tmp_path / "scan.nii.gz")
        point = (AFFINE @ [33, 13, 2, 1])[:3] * ((-1, -1, 1) if sign == "lps" else (1, 1, 1))
        names = ",".join(f"{axis}_{sign}" for axis in "xyz")
        text = f"scan,x,y,z,{names}\nscan.nii.gz,33,13,2,,,\nscan.nii.gz,,,,{','.join(map(str, point))}\n"
        Path("cohort.csv").write_text(text)
        assert command("pixels", "cohort.csv", "-n", 1, "-o", "out") == 0
        assert [summary(f"out/scan-{k}")["at"] for k in (1, 2)] == [[33, 13, 2]] * 2

    def test_a_mask_has_a_lesion_per_object(self, command, tmp_path):
        scan(tmp_path / "scan.nii.gz")
        shutil.copy("scan.nii.gz", "mask.nii.gz")
        Path("cohort.csv").write_text("scan,mask,slices\nscan.nii.gz,mask.nii.gz,1\n")
        assert command("pixels", "cohort.csv", "-n", 1, "-o", "out") == 0
        places = [summary(f"out/scan-{k}")["at"] for k in (1, 2)]
        assert [(30 <= x < 36 and 10 <= y < 16 and z == 1) for x, y, z in places] == [True, False]
        assert places[1][2] == 4
        assert summary("out/scan-1")["box"]["z"] == [0, 3]

    def test_a_mask_on_another_grid_is_placed_by_its_own(self, command, tmp_path):
        scan(tmp_path / "scan.nii.gz")
        mask = np.zeros((6, 40, 48), np.uint8)
        mask[2, 12, 33] = 1
        image = nib.Nifti1Image(mask.T, AFFINE)
        nib.save(image.slicer[10:, 5:, 1:], "part.nii.gz")
        Path("cohort.csv").write_text("scan,mask\nscan.nii.gz,part.nii.gz\n")
        command("pixels", "cohort.csv", "-n", 1, "-o", "out")
        assert summary("out/scan-1" if Path("out/scan-1").exists() else "out/scan")["at"] == [33, 12, 2]

    def test_points_of_slicer(self, command, tmp_path):
        scan(tmp_path / "scan.nii.gz")
        x, y, z = (AFFINE @ [33, 13, 2, 1])[:3]
        points = [{"label": "F-1", "position": [-x, -y, z], "positionStatus": "defined"}]
        markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}
        Path("points.mrk.json").write_text(json.dumps({"markups": [markup]}))
        Path("cohort.csv").write_text("scan,points\nscan.nii.gz,points.mrk.json\n")
        assert command("pixels", "cohort.csv", "-n", 1, "-o", "out") == 0
        assert summary("out/scan-F-1")["at"] == [33, 13, 2]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "points.csv.*nothing there"),
            ("x,y,x\n1,2,3\n", "a column occurs twice; found x"),
            ('x,y\n1,"2\n', "cannot be read as CSV"),
            ("a,b\n1,2\n", "unexpected columns; found a, b; expected x, y, z in voxels"),
        ],
    )
    def test_a_file_of_points_that_is_not_one_says_why(self, tmp_path, text, message):
        if text is not None:
            (tmp_path / "points.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            points_of(tmp_path / "points.csv")

    @pytest.mark.parametrize("case", WRONG)
    def test_a_table_that_is_not_one_is_a_line(self, command, capsys, case):
        text, message = WRONG[case]
        Path("cohort.csv").write_text(text)
        assert command("discs", "cohort.csv", "-o", "out") == 2
        assert message in capsys.readouterr().err
        assert not Path("out").exists()

    @pytest.mark.parametrize(
        "words", [("-n", 0), ("--threshold", 2), ("--raters", "9"), ("--at", "3,3"), ("--intensity", "x")]
    )
    def test_settings_that_no_scan_can_have_are_a_line(self, command, capsys, words):
        assert command("discs", "scans", *words, "-o", "out") == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not Path("out").exists()

    def test_a_series_for_a_whole_table_is_refused(self, command, capsys):
        Path("table.csv").write_text("scan\nscans\n")
        assert command("discs", "table.csv", "--series", 1, "-o", "out") == 2
        assert "--series: applies to one scan, not to a cohort. A table has a column for it" in capsys.readouterr().err

    @pytest.mark.parametrize("case", FAILING)
    def test_a_row_that_cannot_be_drawn_does_not_lose_the_others(self, command, capsys, case):
        text = f"scan,x,y,x_ras,y_ras,z_ras\n{FAILING[case]}\nscans/b.png,5,5,,,\n"
        Path("cohort.csv").write_text(text)
        assert command("discs", "cohort.csv", "-n", 1, "-o", "out") == 1
        assert column("status") == ["failed", "done"]
        assert table()[0]["error"]
        assert "Failed" in capsys.readouterr().out


class TestResuming:
    def test_what_is_finished_is_kept(self, command):
        command("discs", "scans", "-n", 2, "-o", "out")
        before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("sample-*.png")}
        shutil.rmtree("out/b")
        assert command("discs", "scans", "-n", 2, "-o", "out") == 0
        after = {path: path.stat().st_mtime_ns for path in Path("out").rglob("sample-*.png")}
        assert {path.parent.name for path in after if after[path] != before[path]} == {"b"}

    def test_other_settings_are_refused_and_touch_nothing(self, command, capsys):
        command("discs", "scans", "-n", 2, "-o", "out")
        before = Path("out/cohort.csv").read_bytes()
        assert command("discs", "scans", "-n", 3, "-o", "out") == 2
        assert "n: 2 → 3" in capsys.readouterr().err
        assert Path("out/cohort.csv").read_bytes() == before
        assert command("discs", "scans", "-n", 3, "-o", "out", "--overwrite") == 0
        assert summary("out/a")["n"] == 3

    def test_another_image_under_the_name_is_seen(self, command):
        command("discs", "scans", "-n", 2, "-o", "out")
        shutil.copy("scans/b.png", "scans/a.png")
        assert command("discs", "scans", "-n", 2, "-o", "out") == 1
        assert column("status") == ["failed", "done", "done"]

    def test_damaged_results_are_seen(self, command):
        command("discs", "scans", "-n", 2, "-o", "out")
        Path("out/c/mean.png").unlink()
        text = Path("out/a/summary.json").read_text()
        Path("out/a/summary.json").write_text(text.replace('"nothing": false', '"nothing": true', 1))
        assert command("discs", "scans", "-n", 2, "-o", "out") == 1
        assert column("status") == ["failed", "done", "failed"]
        assert command("discs", "scans", "-n", 2, "-o", "out", "--overwrite") == 0

    @pytest.mark.parametrize("change", [{"presence": {"probability": "x"}}, {"cohort": {"any_sample": {}}}, {"at": 3}])
    def test_a_summary_that_lacks_what_the_table_needs_is_a_failure(self, command, change):
        command("discs", "scans", "-n", 2, "-o", "out")
        content = summary("out/a")
        del content["checksum"]
        content |= {key: content[key] | value if isinstance(value, dict) else value for key, value in change.items()}
        Path("out/a/summary.json").write_text(json.dumps(content))
        assert command("discs", "scans", "-n", 2, "-o", "out") == 1
        assert column("status") == ["failed", "done", "done"]

    def test_files_that_were_taken_for_the_wrong_channels_are_seen(self, command, capsys):
        for order in ("flair=scans/a.png | t1=scans/b.png", "t1=scans/a.png | flair=scans/b.png"):
            Path("table.csv").write_text(f"scan\n{order}\n")
            command("two", "table.csv", "-n", 2, "-o", "out")
        assert "was made with other settings" in column("error")[0]
        assert command("two", "table.csv", "-n", 2, "-o", "out", "--overwrite") == 0
        assert [Path(path).name for path in summary("out/a")["image"]["channel_paths"]] == ["b.png", "a.png"]

    def test_older_results_are_not_done_while_another_process_draws_them_anew(self, command):
        command("discs", "scans", "-n", 2, "-o", "out")
        with suppress(InterruptedError), output_folder(Path("out/b"), overwrite=True):
            assert command("discs", "scans", "-n", 3, "-o", "out", "--overwrite") == 0
            raise InterruptedError
        assert column("status") == ["done", "unfinished", "done"]
        assert command("discs", "scans", "-n", 3, "-o", "out", "--overwrite") == 0
        assert (column("status"), summary("out/b")["n"]) == (["done"] * 3, 3)

    def test_what_a_killed_process_was_to_replace_is_drawn(self, command, monkeypatch):
        command("discs", "scans", "-n", 2, "-o", "out")
        inner, lost = Cohort._draw, ["b"]

        def draw(self, scan, lesion):
            if lesion.name in lost:  # another process has it, and is killed before it ends
                lost.remove(lesion.name)
                self.requests[lesion.name] = self._request(scan, lesion)
                raise InUse("another process writes this")
            return inner(self, scan, lesion)

        monkeypatch.setattr(Cohort, "_draw", draw)
        assert command("discs", "scans", "-n", 3, "-o", "out", "--overwrite") == 0
        assert (column("status"), summary("out/b")["n"]) == (["done"] * 3, 3)

    def test_a_failure_that_was_mended_goes(self, command):
        Path("scans/b.png").rename("b.png")
        Path("scans/b.png").write_bytes(b"no image")
        assert command("discs", "scans", "-n", 2, "-o", "out") == 1
        Path("b.png").replace("scans/b.png")
        assert command("discs", "scans", "-n", 2, "-o", "out") == 0
        assert set(column("status")) == {"done"}
        assert not Path("out/failures").exists()

    @pytest.mark.parametrize("kind", ["array", "nodes"])
    def test_two_processes_share_a_cohort(self, command, kind):
        """As tasks of a SLURM array do, or of one job on two nodes."""
        children = []
        for task in (1, 2):
            if (child := os.fork()) == 0:
                values = {"ARRAY_TASK_ID": task, "ARRAY_TASK_MIN": 1, "ARRAY_TASK_COUNT": 2}
                values = values if kind == "array" else {"PROCID": task - 1, "NTASKS": 2}
                os.environ.update({f"SLURM_{name}": str(value) for name, value in values.items()})
                os._exit(command("discs", "scans", "-n", 2, "-o", "out"))
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
        assert column("status") == ["done"] * 3
        assert not list(Path("out").glob(".*"))
        command("discs", "scans", "-n", 2, "-o", "alone")
        assert Path("out/a/samples.npz").read_bytes() == Path("alone/a/samples.npz").read_bytes()

    @pytest.mark.slow
    def test_workers_are_processes_of_the_same_command(self, command, tmp_path):
        words = ["sample", "lidc", "scans", "-n", "1", "--select", "iid", "--steps", "1", "-o", "out", "--workers", "2"]
        found = subprocess.run([sys.executable, "-m", "modiff", *words], capture_output=True, text=True, check=False)
        assert (found.returncode, found.stderr) == (0, "")
        assert column("status") == ["done"] * 3


class TestDevices:
    @pytest.fixture
    def started(self, command, monkeypatch):
        """The commands of helpers, none of which is started; on a machine of three GPUs, where nothing is drawn."""
        commands: list[list[str]] = []

        class Started:
            def __init__(self, words: list[str], **_: Any) -> None:
                commands.append(words)

            def wait(self) -> int:
                return 0

            poll = wait

        monkeypatch.setattr("modiff.cli.cohort.subprocess.Popen", Started)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
        load = Predictor.from_path

        def from_path(cls: type[Predictor], name: str, device: str = "cpu") -> Predictor:
            commands.append([name, "--device", device])
            return load(name)

        monkeypatch.setattr(Predictor, "from_path", classmethod(from_path))
        return commands

    def of(self, words: list[str], option: str) -> str:
        return words[len(words) - words[::-1].index(option)]

    def test_each_process_has_a_gpu_of_its_own(self, command, started, monkeypatch):
        monkeypatch.setenv("SLURM_PROCID", "1")
        monkeypatch.setenv("SLURM_NTASKS", "2")
        assert command("discs", "scans", "-n", 1, "-o", "out", "--devices", 3) == 0
        assert [self.of(words, "--device") for words in started] == ["cuda:0", "cuda:1", "cuda:2"]
        assert [words[-1] for words in started[1:]] == ["666", "833"]  # where they begin, in thousandths
        assert all(self.of(words, "--devices") == self.of(words, "--workers") == "1" for words in started[1:])

    def test_more_workers_share_them(self, command, started):
        command("discs", "scans", "-n", 1, "-o", "out", "--devices", 2, "--workers", 3)
        assert [self.of(words, "--device") for words in started] == ["cuda:0", "cuda:1", "cuda:0"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--devices", 4], "--devices: are not there; found 4; expected at most 3"),
            (["--devices", 2, "--device", "cpu"], "--workers is for CPUs"),
            (["--devices", 2, "--device", "cuda:1"], "Leave one of the two out"),
            (["--devices", 0], "--devices: too small"),
        ],
    )
    def test_what_is_not_there_is_a_line(self, command, started, capsys, words, message):
        assert command("discs", "scans", "-n", 1, "-o", "out", *words) == 2
        assert message in capsys.readouterr().err
        assert not Path("out").exists()

    def test_they_are_for_cohorts(self, command, capsys):
        assert command("discs", "scans/a.png", "--devices", 2) == 2
        assert "--devices: applies to a cohort only" in capsys.readouterr().err


class TestDicom:
    def test_nobody_is_named(self, command, tmp_path, capsys):
        write_series(tmp_path / "Doe_Jane" / "one", np.zeros((3, 40, 48)) + 20)
        Path("cohort.csv").write_text("scan,x,y,z\nDoe_Jane/one,20,20,1\nDoe_Jane/two,1,1,1\n")
        Path("Doe_Jane/two").mkdir()
        assert command("pixels", "cohort.csv", "-n", 1, "-o", "out") == 1
        assert column("folder") == ["scan-2", "scan-3"]
        texts = [path.read_bytes() for path in Path("out").rglob("*") if path.suffix in (".csv", ".html", ".json")]
        said = b"".join(texts).decode() + "".join(capsys.readouterr())
        assert not any(name in said for name in ("Doe", PERSON["PatientID"]))

    def test_what_is_written_is_not_mixed(self, command, tmp_path, capsys):
        write_series(tmp_path / "one", np.zeros((3, 40, 48)) + 20)
        Path("cohort.csv").write_text("scan,x,y,z\none,20,20,1\n")
        words = ["pixels", "cohort.csv", "-n", 1, "-o", "out"]
        assert command(*words, "--rtstruct") == 0
        assert Path("out/scan-2/hypotheses.rtstruct.dcm").is_file()
        for more in ([], ["--rtstruct", "--seg-full-header"]):
            assert command(*words, *more) == 2
            assert "with other settings" in capsys.readouterr().err
        assert command(*words, "--rtstruct") == 0

    def test_a_folder_of_patients_is_a_cohort(self, command, tmp_path, monkeypatch):
        for name in ("Doe_Jane", "Roe_Rick"):
            for file in write_series(tmp_path / "Doe_Ward" / name, np.zeros((3, 24, 28)) + 20).iterdir():
                header = pydicom.dcmread(file)
                header.PatientID = name
                header.save_as(file)
        words = ["sample", "pixels", "Doe_Ward", "-n", "1", "-o", "out"]
        monkeypatch.setattr(sys, "argv", ["modiff", *words])
        assert command(*words[1:]) == 0
        assert column("folder") == ["scan-1", "scan-2"]
        assert not any(
            b"Doe" in path.read_bytes() for path in Path("out").rglob("*") if path.is_file() and path.suffix != ".dcm"
        )
        assert "FOLDER" in summary("out/scan-1")["command"]

    def test_no_file_of_a_series_that_fails_is_named(self, command, tmp_path):
        folder = write_series(tmp_path / "ward", np.zeros((3, 24, 28)) + 20)
        one, other, *_ = sorted(folder.glob("*.dcm"))
        header = pydicom.dcmread(one)
        header.PatientComments = "another file of the same slice"
        header.save_as(folder / "DOE_JOHN.dcm")
        (tmp_path / "elsewhere").mkdir()
        write_series(tmp_path / "links", np.zeros((3, 24, 28)) + 20)
        (tmp_path / "links" / "DOE_ANN.dcm").symlink_to(other)
        Path("cohort.csv").write_text("scan\nward\nlinks\n")
        assert command("pixels", "cohort.csv", "-n", 1, "-o", "out") == 1
        assert column("status") == ["failed"] * 2
        assert "claim to be one slice" in column("error")[0]
        assert "leads out of the folder" in column("error")[1]
        assert not any(b"DOE" in path.read_bytes() for path in Path("out").rglob("*") if path.is_file())

    def test_a_palette_whose_first_colour_is_not_the_background_is_refused(self, command, tmp_path):
        mask = Image.new("P", (32, 32), 1)
        mask.putpalette([255, 0, 0, 0, 0, 0])
        mask.paste(0, (14, 12, 16, 14))
        mask.save(tmp_path / "mask.png")
        Path("cohort.csv").write_text("scan,mask\nscans/a.png,mask.png\n")
        assert command("pixels", "cohort.csv", "-n", 1, "-o", "out") == 1
        assert "palette whose first colour is not black" in column("error")[0]

    @pytest.mark.parametrize("together", [False, True])
    def test_a_damaged_slice_loses_its_own_series_or_says_so(self, command, tmp_path, capsys, together):
        for name in ("one", "two"):
            place = tmp_path / "ward" / ("deep/all" if together else name)
            for file in write_series(place, np.zeros((3, 24, 28))).glob("0*.dcm"):
                header = pydicom.dcmread(file)
                header.PatientID = name
                header.save_as(file.with_name(f"{name}-{file.name}"))
                file.unlink()
        file = next((tmp_path / "ward").rglob("two-002.dcm"))
        file.write_bytes(file.read_bytes()[:300])
        assert command("pixels", "ward", "-n", 1, "-o", "out") == (2 if together else 1)
        if together:  # whose slice it is cannot be told
            assert "two-002.dcm" in capsys.readouterr().err
        else:
            assert column("status") == ["done", "failed"]

    def test_several_series_of_one_patient_are_a_choice(self, command, tmp_path, capsys):
        for place, values in (("a/x", 3), ("b/y", 2)):
            write_series(tmp_path / "export" / place, np.zeros((values, 40, 48)) + 20)
        assert command("pixels", "export", "--at", "20,20,1", "-n", 1, "-o", "out") == 2
        said = capsys.readouterr().err
        assert "1: CT, " in said
        assert "2: CT, " in said
        assert command("pixels", "export", "--series", "3", "--at", "20,20,1", "-n", 1) == 2
        numbers = [line.split(" slices")[0][-1] for line in said.split("CT, ")[1:]]
        series = str(1 + numbers.index("2"))
        assert command("pixels", "export", "--series", series, "--at", "20,20,1", "-n", 1, "-o", "out") == 0
        assert summary("out")["image_size"]["slices"] == 2

    def test_a_zip_and_a_nested_folder_are_the_series_in_them(self, command, tmp_path):
        write_series(tmp_path / "deep/er/series", np.arange(3 * 40 * 48).reshape(3, 40, 48) % 700)
        with zipfile.ZipFile("export.zip", "w") as archive:
            for file in Path("deep").rglob("*.dcm"):
                archive.write(file)
        words = ["--at", "20,20,1", "-n", 1, "-o"]
        assert command("pixels", "deep", *words, "one") == command("pixels", "export.zip", *words, "two") == 0
        assert command("pixels", "deep/er/series", *words, "three") == 0
        assert summary("one")["case"] == summary("two")["case"] == summary("three")["case"]
        assert "export" not in Path("two/summary.json").read_text()

    def test_a_dicomdir_stands_for_its_folder(self, command, tmp_path):
        files = sorted(write_series(tmp_path / "series", np.zeros((3, 40, 48)) + 20).iterdir())
        disk = FileSet()
        for number, file in enumerate(files):
            header = pydicom.dcmread(file)
            header.InstanceNumber = number
            disk.add(header)
        disk.write(tmp_path / "disk")
        words = ["--at", "20,20,1", "-n", 1, "-o"]
        assert command("pixels", "disk/DICOMDIR", *words, "one") == command("pixels", "disk", *words, "two") == 0
        assert command("pixels", "series", *words, "three") == 0
        assert summary("one")["case"] == summary("two")["case"] == summary("three")["case"]
