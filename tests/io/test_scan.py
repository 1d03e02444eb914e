"""Whatever a user points at is recognised by its content."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from series_files import write_series

from modiff.errors import DataError
from modiff.io.files import Limits
from modiff.io.image import write_png
from modiff.io.scan import read_any, read_channels

VALUES = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    write_png(tmp_path / "picture.png", VALUES[0].astype(np.uint8))
    for name in ("scan.nii", "scan.nii.gz"):
        nib.save(nib.Nifti1Image(VALUES.T, np.diag([1, 2, 3, 1])), tmp_path / name)
    nib.save(nib.Nifti2Image(VALUES.T, np.diag([1, 2, 3, 1])), tmp_path / "two.nii")
    write_series(tmp_path / "series", VALUES)
    return {path.name: path for path in tmp_path.iterdir()}


def test_a_picture_is_one_slice_without_a_place(files):
    picture = read_any(files["picture.png"])
    assert (picture.is_picture, picture.spacing, picture.voxel_mm3) == (True, None, None)
    np.testing.assert_array_equal(picture.array, VALUES[None, :1])


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "two.nii"])
@pytest.mark.parametrize("renamed", [False, True])
def test_nifti_is_a_volume_whatever_its_name(files, name, renamed):
    path = files[name].rename(files[name].with_name("image.dat")) if renamed else files[name]
    volume = read_any(path)
    assert not volume.is_picture
    assert volume.format == "NIfTI"
    np.testing.assert_array_equal(volume.array[0], VALUES)


def test_a_folder_is_a_series(files):
    volume = read_any(files["series"])
    assert volume.format == "DICOM"
    np.testing.assert_array_equal(volume.array[0], VALUES)


def test_a_dicom_file_is_one_slice_whatever_its_name(files):
    path = sorted(files["series"].iterdir())[1]
    volume = read_any(path.rename(path.with_name("IM0001")))
    np.testing.assert_array_equal(volume.array, VALUES[None, 1:2])


@pytest.mark.parametrize(("name", "message"), [("none.nii", "no such file"), ("none", "no such file")])
def test_what_is_not_there_is_said_so(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        read_any(tmp_path / name)


@pytest.mark.parametrize("name", ["picture.png", "scan.nii", "scan.nii.gz", "series"])
def test_limits_hold_for_all(files, name):
    with pytest.raises(DataError):
        read_any(files[name], limits=Limits(max_bytes=20))


class TestChannels:
    def test_in_the_order_given(self, files, tmp_path):
        nib.save(nib.Nifti1Image(-VALUES.T.astype(np.float32), np.diag([1, 2, 3, 1])), tmp_path / "minus.nii")
        volume = read_channels([tmp_path / "minus.nii", files["scan.nii"]])
        np.testing.assert_array_equal(volume.array, np.stack([-VALUES, VALUES]))
        assert len(volume.sha256) == 2

    def test_one_path_is_that_scan(self, files):
        assert read_channels([files["picture.png"]]).is_picture

    @pytest.mark.parametrize("other", ["picture.png", "series"])
    def test_only_nifti_has_channels_in_files(self, files, other):
        with pytest.raises(DataError, match="channels of one scan"):
            read_channels([files["scan.nii"], files[other]])
        with pytest.raises(DataError, match="channels of one scan"):
            read_channels([files[other], files["scan.nii"]])
