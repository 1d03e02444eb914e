"""A file that belongs to a series and cannot be read is named, and ends the reading; what can be read is read."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pydicom
import pytest
from dicom_files import SHAPE, numbered, save, series

from modiff.errors import DataError
from modiff.io.dicom.series import read_dicom_series
from modiff.io.files import Limits
from modiff.io.image import read_image

LAST = "003.dcm"
SKIPPING = Limits(skip_broken=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(series(), tmp_path / "series")


def dataset_alone(path: Path, *, implicit: bool, little: bool = True) -> bytes:
    """A file's elements without preamble and group 2."""
    made = pydicom.dcmread(path)
    if not little:
        made.PixelData = made.pixel_array.astype(">i2").tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer, pydicom.Dataset(made), implicit_vr=implicit, little_endian=little, force_encoding=not little
    )
    return buffer.getvalue()


DAMAGE = {
    "empty": (b"", "the file is empty"),
    "cut in the preamble": (slice(120), "is not DICOM"),
    "cut in the header": (slice(400), "holds no image|is damaged"),
    "cut in the pixels": (slice(-20), "is cut short"),
    "zeros": (bytes(3000), "is not DICOM"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_broken_slice_is_named_and_left_out_when_asked(folder, kind):
    cut, words = DAMAGE[kind]
    path = folder / LAST
    path.write_bytes(path.read_bytes()[cut] if isinstance(cut, slice) else cut)
    with pytest.raises(DataError, match=words) as caught:
        read_image(folder)
    assert str(path) in str(caught.value)
    assert "--skip-broken" in str(caught.value)
    volume = read_image(folder, limits=SKIPPING)
    assert volume.shape == (SHAPE[0] - 1, *SHAPE[1:])
    (said,) = volume.notes
    assert str(said).startswith(f"{LAST} cannot be read and is left out: ")


@pytest.mark.parametrize("name", ["IM4", "4.dcm", "003.dcm.part", "1.2.840.4", "x.IMA"])
def test_an_empty_file_that_is_named_like_a_slice_belongs(tmp_path, name):
    pattern = {"IM4": "IM{}", "1.2.840.4": "1.2.840.{}"}.get(name, "{}.dcm")
    folder = save(series(), tmp_path / "series", pattern.format)
    (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        read_image(folder)


@pytest.mark.parametrize("name", ["README", "notes.txt", "DICOMDIR.html", ".DS_Store", "._003.dcm", "Thumbs.db"])
def test_other_files_do_not_belong(folder, name):
    (folder / name).write_bytes(b"")
    assert read_image(folder).shape == SHAPE


def test_a_gap_that_a_left_out_slice_makes_is_refused(folder):
    (folder / "001.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"unevenly spaced; found 5\.00 mm"):
        read_image(folder, limits=SKIPPING)


def test_a_series_of_which_nothing_can_be_read_is_refused(folder):
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="no slice can be read"):
        read_image(folder, limits=SKIPPING)


class TestWithoutPreamble:
    """pydicom with force, and GDCM, read these."""

    def check(self, folder: Path) -> None:
        theirs = pydicom.dcmread(folder / LAST, force=True)
        volume = read_image(folder)
        assert volume.shape == SHAPE
        assert (volume.array[0] == numbered() - 1024).all()
        assert volume.source.headers[-1].SOPInstanceUID == theirs.SOPInstanceUID
        assert read_image(folder / LAST).shape == (1, *SHAPE[1:])

    def test_the_file_begins_with_group_2(self, folder):
        (folder / LAST).write_bytes((folder / LAST).read_bytes()[132:])
        self.check(folder)

    @pytest.mark.parametrize("implicit", [True, False])
    def test_the_file_begins_with_group_8(self, folder, implicit):
        for path in folder.iterdir():
            path.write_bytes(dataset_alone(path, implicit=implicit))
        self.check(folder)

    def test_big_endian(self, folder):
        for path in folder.iterdir():
            path.write_bytes(dataset_alone(path, implicit=False, little=False))
        assert (read_dicom_series(folder).array[0] == numbered() - 1024).all()

    def test_another_kind_of_object_does_not_belong(self, folder):
        path = folder / LAST
        shutil.copy(path, folder / "plan.dcm")
        plan = pydicom.dcmread(folder / "plan.dcm")
        plan.SOPClassUID = pydicom.uid.RTStructureSetStorage
        plan.save_as(folder / "plan.dcm")
        (folder / "plan.dcm").write_bytes(dataset_alone(folder / "plan.dcm", implicit=True))
        assert read_image(folder).shape == SHAPE
