"""`modiff sample` on scans: results lie where the scan lies, in every viewer, and name nobody."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from described import spec
from discs import Discs
from local import Local
from pydicom.config import disable_value_validation
from series_files import DATES, PERSON, write_series

from modiff import cli
from modiff.errors import CheckpointError
from modiff.io import write_png
from modiff.prediction.predictor import Predictor

SHAPE = (6, 40, 50)
AFFINE = np.array([[-0.7, 0, 0, 30], [0, 1.1, 0, -40], [0, 0.2, 2.5, 7], [0, 0, 0, 1]])
OBJECTS = {"probability.seg.dcm", "hypotheses.seg.dcm", "measurements.sr.dcm"}
LABELS = ("mean", "consensus", "uncertainty")


def blob(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """(Z,H,W) 1 inside an asymmetric object, 0 outside."""
    made = np.zeros(shape, np.float32)
    made[1:4, 10:20, 30:38], made[1, 10:14, 22:38] = 1, 1
    return made


class Second(Local):
    """Looks at the second of two channels."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.channels = 2

    def encode(self, image: Any) -> Any:
        return super().encode(image[:, 1:])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, data: dict[str, Any], tmp_path: Path):
    """Runs the verb with models of known distributions; `pixels` marks what is bright, at every pixel by itself."""
    models = {
        "pixels": (
            Local(wiggle=0),
            {"size": (32, 32), "intensity": "minmax-slice", "prompt": None, "classes": ["lesion"]},
        ),
        "window": (
            Local(wiggle=0),
            {"size": (32, 32), "intensity": "window:-500:500", "prompt": None, "classes": ["lesion"]},
        ),
        "axial": (
            Local(wiggle=0),
            {"size": (32, 32), "intensity": "percentiles:0:100", "classes": ["lesion"], "orientation": "LPS"},
        ),
        "second": (Second(wiggle=0), {"size": (64, 64), "intensity": "unit", "classes": ["lesion"]}),
        "crops": (Discs(), {**data, "size": (32, 32)}),
        "never": (Discs(absent=1.0), {**data, "size": (32, 32)}),
        "organs": (
            Local(classes=2, wiggle=0),
            {"size": (64, 64), "intensity": "minmax-slice", "classes": ["rim", "core"]},
        ),
    }

    def load(cls: type[Predictor], name: str, device: str = "cpu") -> Predictor:
        if str(name) not in models:
            raise CheckpointError("no such model", path=name)
        model, about = models[str(name)]
        return Predictor(model, device=device, data=spec(about))

    monkeypatch.setattr(Predictor, "from_path", classmethod(load))
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["modiff", "sample", *map(str, words)])
        return cli.main(["sample", *map(str, words)])

    return call


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    nib.save(nib.Nifti1Image(blob().T, AFFINE), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "Doe_Jane", blob() * 900 - 400, order=[3, 1, 5, 0, 2, 4])


def summary(folder: str = "out") -> dict[str, Any]:
    return json.loads(Path(folder, "summary.json").read_text())


def image(name: str, folder: str = "out") -> nib.Nifti1Image:
    return nib.load(Path(folder, f"{name}.nii.gz"))


class TestNifti:
    def test_every_file_is_there_and_named(self, command, nifti):
        assert command("pixels", nifti, "-n", 2, "-o", "out") == 0
        names = {path.name for path in Path("out").iterdir()}
        expected = {f"{name}.nii.gz" for name in (*LABELS, "sample-00", "sample-01", "hypothesis-1")}
        assert names == expected | {"overlay.png", "slices.png", "summary.json"}
        assert summary()["files"] == sorted(names)

    def test_what_is_marked_lies_where_the_object_lies(self, command, nifti):
        command("pixels", nifti, "-n", 2, "-o", "out")
        for name in ("consensus", "sample-00", "sample-01", "hypothesis-1"):
            found = image(name)
            np.testing.assert_array_equal(np.asarray(found.dataobj), blob().T, err_msg=name)
            np.testing.assert_allclose(found.affine, nib.load(nifti).affine, atol=1e-5)
        assert image("mean").get_fdata()[blob().T > 0].min() > 0.9
        assert image("uncertainty").get_data_dtype() == np.float32

    def test_monai_opens_them_on_the_scan(self, command, nifti):
        from monai.transforms import LoadImage

        command("pixels", nifti, "-n", 1, "-o", "out")
        load = LoadImage(image_only=True)
        scan, found = load(nifti), load("out/consensus.nii.gz")
        np.testing.assert_array_equal(found.numpy(), scan.numpy())
        np.testing.assert_allclose(found.affine.numpy(), scan.affine.numpy(), atol=1e-5)

    def test_volumes_are_in_mm3(self, command, nifti):
        command("pixels", nifti, "-n", 2, "-o", "out")
        voxel = abs(np.linalg.det(AFFINE[:3, :3]))
        found = summary()
        assert found["voxel_mm3"] == pytest.approx(voxel, rel=1e-6)
        assert found["hypotheses"][0]["volume_mm3"]["lesion"] == pytest.approx(blob().sum() * voxel, rel=1e-5)
        assert found["classes"]["lesion"]["standard_deviation_mm3"] == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("codes", [(0, 0), (0, 1), (1, 0), (1, 2)], ids=str)
    def test_results_have_the_scans_own_header_whatever_it_says(self, command, tmp_path, codes):
        scan = nib.Nifti1Image(blob().T, None)
        scan.header["pixdim"][1:4] = [0.5, 0.6, 3]
        scan.set_sform(AFFINE if codes[0] else None, code=codes[0])
        scan.set_qform(np.diag([0.5, 0.6, 3, 1]) if codes[1] else None, code=codes[1])
        nib.save(scan, "forms.nii")
        assert command("pixels", "forms.nii", "-n", 1, "-o", "out") == 0
        theirs, ours = nib.load("forms.nii").header, image("consensus").header
        for name in ("srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "sform_code", "qform_code", "pixdim"):
            np.testing.assert_array_equal(ours[name], theirs[name])
        np.testing.assert_array_equal(np.asarray(image("consensus").dataobj), blob().T)
        found, used = summary(), {(0, 0): None, (0, 1): "qform"}.get(codes, "sform")
        assert found["image"]["geometry"] == used
        assert ("affine_ras_mm" in found) == (used is not None)
        note = {(0, 0): "neither sform nor qform", (1, 2): "the sform is used"}.get(codes)
        assert note is None or any(note in warning for warning in found["warnings"])

    def test_two_dimensions_go_out_as_two(self, command, tmp_path):
        nib.save(nib.Nifti1Image(blob()[1].T, AFFINE), tmp_path / "flat.nii")
        assert command("pixels", "flat.nii", "-n", 1, "-o", "out") == 0
        np.testing.assert_array_equal(np.asarray(image("consensus").dataobj), blob()[1].T)

    def test_a_part_is_marked_in_the_whole_grid(self, command, nifti):
        command("pixels", nifti, "-n", 1, "--roi", "30:50,0:40,2:6", "-o", "out")
        part = blob().copy()
        part[:2], part[:, :, :30] = 0, 0
        np.testing.assert_array_equal(np.asarray(image("consensus").dataobj), part.T)
        assert summary()["box"] == {"x": [30, 50], "y": [0, 40], "z": [2, 6]}

    def test_a_place_is_looked_at_with_its_neighbours(self, command, nifti):
        command("crops", nifti, "-n", 4, "--at", "33,15,2", "--slices", "1", "-o", "out")
        assert summary()["box"]["z"] == [1, 4]
        marked = np.argwhere(image("mean").get_fdata() > 0.1)
        assert set(marked[:, 2]) == {1, 2, 3}

    def test_classes_have_files_by_name(self, command, nifti):
        assert command("organs", nifti, "-n", 1, "-o", "out") == 0
        names = {path.name for path in Path("out").iterdir()}
        assert {"sample-00-rim.nii.gz", "hypothesis-1-core.nii.gz", "mean-core.nii.gz"} <= names

    def test_earlier_results_are_replaced_when_asked(self, command, nifti):
        command("pixels", nifti, "-n", 5, "-o", "out")
        assert command("pixels", nifti, "-n", 2, "-o", "out") == 2
        assert command("pixels", nifti, "-n", 2, "-o", "out", "--overwrite") == 0
        assert len(list(Path("out").glob("sample-*"))) == 2

    def test_json_is_what_the_file_holds(self, command, nifti, capsys):
        command("pixels", nifti, "-n", 1, "-o", "out", "--json")
        assert json.loads(capsys.readouterr().out) == summary()

    def test_the_terminal_speaks_of_mm3(self, command, nifti, capsys):
        command("pixels", nifti, "-n", 2)
        assert "mm³" in capsys.readouterr().out
        assert not Path("out").exists()


class TestChannels:
    def test_files_on_one_grid_are_the_channels_of_one_scan(self, command, nifti):
        nib.save(nib.Nifti1Image(1 - blob().T, AFFINE), "other.nii")
        assert command("second", nifti, "other.nii", "-n", 1, "-o", "out") == 0
        np.testing.assert_array_equal(np.asarray(image("consensus").dataobj), 1 - blob().T)
        assert summary()["image"]["channels"] == 2
        assert summary()["image"]["channel_paths"] == [str(nifti), "other.nii"]

    @pytest.mark.parametrize("other", ["shape", "affine", "picture"])
    def test_another_grid_is_refused(self, command, nifti, capsys, other):
        shifted = AFFINE + np.array([[0, 0, 0, 0.5]] + [[0] * 4] * 3)
        values = blob().T[:-1] if other == "shape" else blob().T
        nib.save(nib.Nifti1Image(values, shifted if other == "affine" else AFFINE), "other.nii")
        write_png("other.png", np.zeros((40, 50), np.uint8))
        assert command("second", nifti, "other.png" if other == "picture" else "other.nii") == 2
        expected = "channels of one scan" if other == "picture" else "another grid than the first"
        assert expected in capsys.readouterr().err


class TestDicom:
    def test_every_file_is_there_and_named(self, command, series):
        assert command("window", series, "-n", 2, "-o", "out") == 0
        names = {path.name for path in Path("out").iterdir()}
        assert {path for path in names if path.endswith(".dcm")} == OBJECTS
        assert {"mean.nii.gz", "overlay.png"} <= names
        assert summary()["files"] == sorted(names)

    def test_segments_mark_the_slices_that_show_the_object(self, command, series):
        command("window", series, "-n", 2, "-o", "out")
        seg = hd.seg.segread("out/hypotheses.seg.dcm")
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in series.iterdir()]
        headers.sort(key=lambda header: float(header.ImagePositionPatient[2]))
        uids = [header.SOPInstanceUID for header in headers]
        pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
        np.testing.assert_array_equal(pixels[..., 0], blob())
        assert [item.SegmentLabel for item in seg.SegmentSequence] == ["hypothesis 1: 100 %"]
        mean = hd.seg.segread("out/probability.seg.dcm")
        pixels = mean.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
        expected = image("mean").get_fdata(dtype=np.float32).T
        np.testing.assert_allclose(pixels[..., 0], expected, atol=0.5 / 255 + 1e-6)

    def test_nifti_and_segmentation_lie_in_one_place(self, command, series):
        command("window", series, "-n", 1, "-o", "out")
        found = image("consensus")
        nifti = nib.affines.apply_affine(found.affine, np.argwhere(np.asarray(found.dataobj)))
        volume = hd.seg.segread("out/hypotheses.seg.dcm").get_volume()
        index = np.argwhere(volume.array[..., 0])
        lps = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        both = [np.unique(places.round(3), axis=0) for places in (nifti, lps * [-1, -1, 1])]
        np.testing.assert_allclose(both[0], both[1], atol=2e-3)

    def test_one_file_is_a_scan_of_one_slice(self, command, series):
        file = sorted(series.iterdir())[1]  # slice 1
        assert command("window", file, "-n", 1, "-o", "out") == 0
        np.testing.assert_array_equal(np.asarray(image("consensus").dataobj)[..., 0], blob()[1].T)

    def test_a_series_that_cannot_be_referred_to_has_no_segmentations(self, command, series, capsys):
        for path in series.iterdir():
            header = pydicom.dcmread(path)
            del header.FrameOfReferenceUID
            header.save_as(path)
        assert command("window", series, "-n", 1, "-o", "out") == 0
        assert "no FrameOfReferenceUID to refer to" in capsys.readouterr().err
        assert "no FrameOfReferenceUID" in summary()["warnings"][0]
        assert not list(Path("out").glob("*.dcm"))
        assert Path("out/mean.nii.gz").exists()

    def test_odd_headers_are_mended_and_the_warning_says_it_before_drawing(self, command, series, capsys):
        for path in series.iterdir():
            with disable_value_validation():
                header = pydicom.dcmread(path)
                header.PatientSex, header.StudyTime = "U", "11:22:33"
                header.save_as(path)
        assert command("window", series, "-n", 1, "-o", "out") == 0
        said = [
            "DICOM objects: StudyTime is written as DICOM has it now",
            "DICOM objects: PatientSex does not fit its type CS: it is left empty",
        ]
        assert summary()["warnings"][-2:] == said
        assert [line.split("DICOM series: ")[1] for line in capsys.readouterr().err.splitlines()][:2] == said
        seg = pydicom.dcmread("out/hypotheses.seg.dcm")
        assert (seg.PatientSex, seg.StudyTime) == ("", "112233")

    def test_without_a_segmentation_the_rest_is_written(self, command, series, capsys, monkeypatch):
        import highdicom

        def refuse(*_, **__):
            raise ValueError("no good value for PatientID: HIDDEN-4711")

        monkeypatch.setattr(highdicom.seg, "Segmentation", refuse)
        assert command("window", series, "-n", 1, "-o", "out") == 0
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "objects" in line]
        assert "no DICOM objects are written: PatientID: cannot be referred to" in line
        assert "HIDDEN" not in line
        assert Path("out/mean.nii.gz").exists()
        assert not list(Path("out").glob("*.dcm"))

    def test_what_was_said_before_drawing_holds_for_a_part_too(self, command, series, capsys):
        lowest = min(series.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
        header = pydicom.dcmread(lowest)
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.3.4.5"
        header.save_as(lowest)
        assert command("window", series, "-n", 1, "--roi", "0:50,0:40,2:6", "-o", "out") == 0
        (said,) = summary()["warnings"]
        assert said.startswith("no DICOM objects are written: SOPClassUID")
        assert capsys.readouterr().err.count(said) == 1
        assert not list(Path("out").glob("*.dcm"))

    def test_a_broken_slice_is_named_and_left_out_when_asked(self, command, series, capsys):
        last = max(series.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
        last.write_bytes(b"")
        assert command("window", series, "-n", 1, "-o", "out") == 2
        assert f"{last}: the file is empty" in capsys.readouterr().err
        assert command("window", series, "-n", 1, "-o", "out", "--skip-broken") == 0
        said = f"{last.name} cannot be read and is left out: the file is empty"
        assert said in capsys.readouterr().err
        assert summary()["warnings"][0] == "files of the series that cannot be read are left out: 1"
        assert last.name not in Path("out/summary.json").read_text()  # it may be the patient's
        assert command("window", series, "-n", 1, "-o", "out", "--skip-broken", "--identify", "--overwrite") == 0
        assert summary()["image"]["left_out"] == [said]
        assert image("mean").shape[2] == SHAPE[0] - 1

    def test_a_missing_slice_is_refused_by_its_place(self, command, tmp_path, capsys):
        write_series(tmp_path / "gap", blob() * 900 - 400, without=[2])
        assert command("window", "gap", "-o", "out") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "from 14.50 to 19.50" in line
        assert not Path("out").exists()


class TestPrivacy:
    SECRETS = (*PERSON.values(), *DATES.values(), "Doe", "Jane", "Roe", "A-815", "S-1")

    def found(self, text: str) -> list[str]:
        return [secret for secret in self.SECRETS if secret in text]

    def test_nothing_but_the_dicom_objects_names_the_patient(self, command, series, capsys):
        assert command("window", series, "-n", 2, "--rtstruct", "-o", "out") == 0
        assert {path.name for path in Path("out").glob("*.dcm")} == OBJECTS | {"hypotheses.rtstruct.dcm"}
        printed = capsys.readouterr()
        assert self.found(printed.out + printed.err) == []
        import gzip

        for path in Path("out").iterdir():
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            secrets = self.found(data.decode("latin-1"))
            assert bool(secrets) == path.name.endswith(".dcm"), (path.name, secrets)

    def test_no_uid_of_the_series_is_in_the_summary(self, command, series):
        command("window", series, "-n", 2, "-o", "out")
        assert not re.findall(r"\b\d+(?:\.\d+){6,}", Path("out/summary.json").read_text())

    def test_the_patient_is_named_when_asked(self, command, series):
        command("window", series, "-n", 2, "--identify", "-o", "out")
        found = summary()["image"]
        assert found["identity"]["PatientID"] == PERSON["PatientID"]
        assert found["path"] == str(series)

    @pytest.mark.parametrize("name", ["", "image="])
    def test_the_command_is_kept_without_the_path(self, command, series, name):
        assert command("window", f"{name}{series}", "-n", 2, "-o", "out") == 0
        assert summary()["command"] == "modiff sample window SERIES -n 2 -o out"
        assert self.found(Path("out/summary.json").read_text()) == []

    def test_warnings_do_not_name_the_folder(self, command, series, capsys):
        command("crops", series, "-n", 1)
        lines = capsys.readouterr().err.splitlines()
        assert lines
        assert all(line.startswith("modiff: warning: DICOM series: ") for line in lines)


class TestPictures:
    def test_a_large_picture_is_slid_over(self, command, tmp_path):
        picture = np.zeros((90, 120), np.uint8)
        picture[60:70, 80:100] = 255
        write_png(tmp_path / "large.png", picture)
        assert command("pixels", "large.png", "-n", 2, "-o", "out") == 0
        from PIL import Image

        np.testing.assert_array_equal(np.asarray(Image.open("out/consensus.png")), picture)
        assert summary()["windows"]["a_slice"] > 1
        assert {"overlay.png", "samples.npz", "sample-01.png"} <= {path.name for path in Path("out").iterdir()}

    def test_and_a_model_of_lesion_crops_says_what_to_expect(self, command, tmp_path, capsys):
        write_png(tmp_path / "large.png", np.random.default_rng(0).integers(0, 255, (90, 120), dtype=np.uint8))
        assert command("crops", "large.png", "-n", 1) == 0
        assert "give the place with --at" in capsys.readouterr().err

    @pytest.mark.parametrize(("x", "seen"), [(44, "the middle of this image of 120×90"), (4, "the region's middle")])
    def test_and_what_it_takes_for_the_lesion(self, command, tmp_path, capsys, x, seen):
        write_png(tmp_path / "large.png", np.random.default_rng(0).integers(0, 255, (90, 120), dtype=np.uint8))
        assert command("crops", "large.png", "-n", 1, "--roi", f"{x}:{x + 32},29:61") == 0
        assert seen in capsys.readouterr().err


WRONG = {
    "no slice": (["crops", "scan.nii.gz", "--at", "3,4"], "scan.nii.gz: at: does not say where to look"),
    "outside": (["crops", "scan.nii.gz", "--at", "3,4,6"], "scan.nii.gz: at: lies outside the image"),
    "part": (["pixels", "scan.nii.gz", "--roi", "0:9,0:9,0:9"], "scan.nii.gz: --roi: does not lie in the image"),
    "spacing": (["pixels", "scan.nii.gz", "--spacing", "1,1"], "--spacing: is not needed: the scan has its own"),
    "slices and no place": (["pixels", "scan.nii.gz", "--slices", "2"], "--slices: needs a place"),
    "distinct": (["crops", "scan.nii.gz", "--at", "3,4,2", "--distinct", "nan"], "--distinct: is out of range"),
    "slices": (["crops", "scan.nii.gz", "--at", "3,4,2", "--slices", "-1"], "--slices: is out of range"),
    "unit": (["pixels", "scan.nii.gz", "--intensity", "unit"], "values are outside [0,1]"),
    "channels": (["pixels", "four.nii.gz"], "four.nii.gz: image: has other channels than the model"),
    "damaged": (["pixels", "cut.nii"], "cut.nii: is too short for NIfTI"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(command, tmp_path, capsys, case):
    nib.save(nib.Nifti1Image(blob().T * 9, AFFINE), tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([blob().T] * 4, 3), AFFINE), tmp_path / "four.nii.gz")
    (tmp_path / "cut.nii").write_bytes(b"\x5c\x01\0\0" + b"\0" * 60)
    words, message = WRONG[case]
    before = sorted(Path().iterdir())
    assert command(*words, "-o", "out") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(Path().iterdir()) == before


def test_a_lie_about_size_is_refused_before_torch(tmp_path):
    import subprocess

    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 4))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "lie.nii").write_bytes(header.binaryblock + b"\0" * 8)
    code = (
        "import sys; from modiff.cli import main; code = main(['sample', 'nobody', 'lie.nii']); "
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("patient", ["LIDC-IDRI-0001", "LIDC-IDRI-0002"])
def test_a_real_ct_series_goes_through(command, shared, patient):
    folder = next((shared / "data" / "lidc-idri-dicom" / patient).glob("*/*"))
    assert command("window", folder, "-n", 2, "--roi", "300:400,300:380,2:6", "-o", "out") == 0
    from modiff.io.dicom.series import read_dicom_series

    volume = read_dicom_series(folder)
    found = image("consensus")
    np.testing.assert_allclose(found.affine, volume.affine, atol=1e-5)
    inside = np.zeros(volume.shape, bool)
    inside[2:6, 300:380, 300:400] = True
    bright = (np.clip((volume.array[0] + 500) / 1000, 0, 1) > 0.5) & inside
    assert (np.asarray(found.dataobj).T.astype(bool) == bright).mean() > 0.9999
    assert patient not in Path("out/summary.json").read_text()


def test_a_real_brain_goes_through(command, shared):
    (path,) = (shared / "data" / "open-ms" / "patient07").glob("FLAIR*")
    assert command("pixels", path, "-n", 1, "--roi", "40:140,60:160,90:93", "-o", "out") == 0
    np.testing.assert_allclose(image("mean").affine, nib.load(path).affine, atol=1e-5)
    assert image("mean").shape == nib.load(path).shape


class TestTurned:
    """A model of axial slices, columns to the left and rows to the back, on scans that are stored otherwise."""

    @pytest.mark.parametrize("sides", ["LAS", "PIL", "ASR"])
    def test_files_lie_on_the_scans_own_grid(self, command, nifti, sides):
        stored = nib.load(nifti)
        ornt = nib.orientations
        change = ornt.ornt_transform(nib.io_orientation(stored.affine), ornt.axcodes2ornt(sides))
        nib.save(stored.as_reoriented(change), "other.nii.gz")
        place = np.linalg.inv(nib.load("other.nii.gz").affine) @ stored.affine @ [33, 15, 2, 1]
        at = ",".join(str(round(float(value))) for value in place[:3])
        assert command("axial", "other.nii.gz", "-n", 2, "-o", "out") == 0
        found = image("consensus")
        np.testing.assert_allclose(found.affine, nib.load("other.nii.gz").affine, atol=1e-5)
        expected = np.asarray(nib.load("other.nii.gz").dataobj)
        np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
        assert summary()["model_sees"] == {"width": 50, "height": 40, "slices": 6, "orientation": "LPS"}
        assert [warning.split(",")[0].split(" ", 5)[-1] for warning in summary()["warnings"]] == ["from right angles"]
        assert command("axial", "other.nii.gz", "-n", 2, "--at", at, "-o", "part") == 0
        assert summary("part")["at"] == [int(value) for value in at.split(",")]
        marked = np.argwhere(np.asarray(image("consensus", "part").dataobj))
        own = np.rint(np.linalg.inv(stored.affine) @ found.affine @ np.c_[marked, np.ones(len(marked))].T)[2]
        assert set(own.tolist()) == {2.0}

    def test_segmentations_refer_to_the_slices_that_were_read(self, command, tmp_path):
        write_series(tmp_path / "sagittal", blob() * 900 - 400, axes=(0, 1, 0, 0, 0, -1))
        assert command("axial", "sagittal", "-n", 2, "-o", "out") == 0
        np.testing.assert_array_equal(np.asarray(image("consensus").dataobj).T, blob())
        seg = hd.seg.segread("out/hypotheses.seg.dcm").get_volume()
        marked = np.argwhere(seg.array[..., 0]) @ seg.affine[:3, :3].T + seg.affine[:3, 3]
        nifti = image("consensus")
        own = nib.affines.apply_affine(nifti.affine, np.argwhere(np.asarray(nifti.dataobj)))
        both = [np.unique(places.round(3), axis=0) for places in (own, marked * [-1, -1, 1])]
        np.testing.assert_allclose(both[0], both[1], atol=2e-3)


class TestObjectsSayWhatWasDone:
    """What an archive shows of segmentations: which run, at which place, and how probable nothing is."""

    @pytest.fixture
    def seg(self, command, series) -> pydicom.Dataset:
        assert command("crops", series, "--at", "34,14,2", "-n", 12, "--seed", 3, "-o", "out") == 0
        return pydicom.dcmread("out/hypotheses.seg.dcm")

    def test_the_probability_of_nothing_stands_in_series_object_and_segments(self, seg):
        nothing = f"nothing there: {100 * (1 - summary()['presence']['probability']):.0f} %"
        assert seg.SeriesDescription == f"modiff crops: hypotheses at 34,14,2, {nothing}"
        assert nothing in seg.ContentDescription
        assert all(nothing in segment.SegmentDescription for segment in seg.SegmentSequence)

    def test_runs_are_told_apart_by_time(self, seg):
        assert (seg.SeriesDate, seg.SeriesTime) == (seg.ContentDate, seg.ContentTime)

    def test_parameters_are_those_in_force(self, seg):
        text = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
        found = dict(part.split("=") for part in text.split(","))
        wanted = {
            "n": "12",
            "candidates": "48",
            "seed": "3",
            "select": "representative",
            "steps": "1",
            "model": "crops",
        }
        assert wanted.items() <= found.items()
        assert (found["at"], found["threshold"]) == ("34/14/2", "argmax")

    def test_each_hypothesis_can_be_followed_up(self, seg):
        uids = [segment.TrackingUID for segment in seg.SegmentSequence]
        assert len(set(uids)) == len(uids)
        assert seg.SegmentSequence[0].TrackingID.startswith("hypothesis ")

    def test_labels_are_whole(self, seg):
        assert seg.ContentLabel == "HYPOTHESES"
        assert pydicom.dcmread("out/probability.seg.dcm").ContentLabel == "PROBABILITY"


class TestReport:
    """The measurement report and the contours of a run."""

    def test_it_says_what_the_summary_says(self, command, series):
        assert command("crops", series, "--at", "34,14,2", "-n", 12, "--rtstruct", "-o", "out") == 0
        report, seg = hd.sr.srread("out/measurements.sr.dcm"), pydicom.dcmread("out/hypotheses.seg.dcm")
        (whether,) = report.content.get_image_measurement_groups()
        (number,) = whether.get_measurements()
        assert number.value == pytest.approx(100 * summary()["presence"]["probability"])
        groups = report.content.get_volumetric_roi_measurement_groups()
        marking = [one for one in summary()["hypotheses"] if not one["nothing"]]
        for group, one, segment in zip(groups, marking, seg.SegmentSequence, strict=True):
            volume, _, chance = (item.value for item in group.get_measurements())
            assert volume == pytest.approx(sum(one["volume_mm3"].values()), rel=1e-6)
            assert chance == pytest.approx(100 * one["probability"], rel=1e-6)
            assert group.tracking_uid == segment.TrackingUID
        regions = pydicom.dcmread("out/hypotheses.rtstruct.dcm").StructureSetROISequence
        assert [item.ROIName for item in regions] == [segment.SegmentLabel for segment in seg.SegmentSequence]
        assert report.SeriesDescription.startswith("modiff crops: measurements at 34,14,2, nothing there: ")

    def test_of_raters_who_mark_the_presence_is_not_told(self, command, series):
        command("crops", series, "--at", "34,14,2", "-n", 4, "--raters", "marking", "-o", "out")
        assert hd.sr.srread("out/measurements.sr.dcm").content.get_image_measurement_groups() == []

    def test_it_is_left_out_where_it_would_say_nothing(self, command, series):
        assert command("never", series, "--at", "34,14,2", "-n", 4, "--raters", "marking", "-o", "out") == 0
        assert {path.name for path in Path("out").glob("*.dcm")} == OBJECTS - {"measurements.sr.dcm"}

    def test_contours_of_another_format_are_said_to_be_missing(self, command, nifti, capsys):
        assert command("pixels", nifti, "-n", 1, "--rtstruct", "-o", "out") == 0
        said = "no RT structure set is written: the scan is not a DICOM series"
        assert summary()["warnings"].count(said) == 1
        assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize(("part", "fits"), [("HEAD", False), ("CHEST", True)])
def test_another_part_of_the_body_is_told_and_not_put_into_segments(command, series, monkeypatch, part, fits):
    for path in series.iterdir():
        header = pydicom.dcmread(path)
        header.BodyPartExamined = part
        header.save_as(path)
    about = {"size": (64, 64), "intensity": "minmax-slice", "classes": ["lesion"], "region": "LUNG"}
    model = Predictor(Local(wiggle=0), data=spec(about))
    monkeypatch.setattr(Predictor, "from_path", classmethod(lambda cls, path, device: model))
    command("any", series, "-n", 1, "-o", "out")
    told = [warning for warning in summary()["warnings"] if "part of the body" in warning]
    assert told == ([] if fits else [f"the scan's part of the body is {part}, that of the training data LUNG"])
    segment = pydicom.dcmread("out/hypotheses.seg.dcm").SegmentSequence[0]
    assert ("AnatomicRegionSequence" in segment) is fits


def test_a_sheared_scan_is_told_of_and_a_right_angled_one_is_not(command, nifti, tmp_path):
    command("pixels", "scan.nii.gz", "-n", 1, "-o", "out")
    assert any("ITK" in warning for warning in summary()["warnings"])
    nib.save(nib.Nifti1Image(blob().T, np.diag([-0.7, 1.1, 2.5, 1])), "straight.nii.gz")
    command("pixels", "straight.nii.gz", "-n", 1, "-o", "straight")
    assert not any("ITK" in warning for warning in summary("straight")["warnings"])


@pytest.mark.parametrize(("name", "warns"), [("CT", False), ("MR", True), ("intensity", False)])
def test_a_channel_called_as_a_modality_says_what_was_trained_on(command, series, monkeypatch, name, warns):
    about = {"size": (64, 64), "intensity": "minmax-slice", "channels": [name], "classes": ["lesion"]}
    model = Predictor(Local(wiggle=0), data=spec(about))
    monkeypatch.setattr(Predictor, "from_path", classmethod(lambda cls, path, device: model))
    command("any", series, "-n", 1, "-o", "out")
    assert any("modality is CT" in warning for warning in summary()["warnings"]) is warns
