"""Which series is meant: by UID or number, in any folder below; what is not an image is left out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import BasicTextSRStorage
from series_files import write_series

from modiff.errors import DataError
from modiff.io.dicom.pick import series_below
from modiff.io.dicom.series import read_dicom_series
from modiff.io.files import Limits
from modiff.io.image import read_image


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Two series of 3 and 2 slices in folders of folders, a report and a text."""
    for place, count in (("st1/se1", 3), ("st1/se2", 2)):
        write_series(tmp_path / place, np.full((count, 5, 6), count))
    for file in (tmp_path / "st1/se2").iterdir():
        header = pydicom.dcmread(file)
        header.SeriesNumber = 8
        header.save_as(file)
    report = pydicom.dcmread(next((tmp_path / "st1/se1").iterdir()))
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = BasicTextSRStorage
    del report.PixelData
    report.save_as(tmp_path / "st1/report.dcm")
    (tmp_path / "README").write_text("an export")
    return tmp_path


def test_series_are_in_the_order_of_their_numbers(export):
    assert [(one.number, len(one.files)) for one in series_below(export, Limits())] == [(3, 3), (8, 2)]


def test_one_is_taken_by_its_place_or_uid(export):
    uid = series_below(export, Limits())[1].uid
    for wanted in ("2", uid):
        assert (read_dicom_series(export, series=wanted).array == 2).all()
    assert read_image(export, series="1").shape[0] == 3


@pytest.mark.parametrize("wanted", [None, "3", "0", "1.2.3"])
def test_what_is_there_is_listed_and_nobody_named(export, wanted):
    with pytest.raises(DataError, match=r"1: CT, 3 slices of 6×5.*2: CT, 2 slices of 6×5") as error:
        read_dicom_series(export, series=wanted)
    assert not any(word in str(error.value) for word in ("Doe", "4711", series_below(export, Limits())[0].uid))


def test_a_folder_with_one_series_below_is_that_one(export):
    assert read_dicom_series(export / "st1/se1").shape == read_dicom_series(export, series="1").shape
    assert read_image(export / "st1/se2").shape[0] == 2


def test_a_number_is_that_of_the_list_where_more_series_lie_below(tmp_path):
    for place, number in (("own", 4), ("other", 3), ("own/below", 1)):
        for file in write_series(tmp_path / place, np.full((2, 5, 6), number)).iterdir():
            if file.is_file():
                header = pydicom.dcmread(file)
                header.SeriesNumber = number
                header.save_as(tmp_path / "own" / f"{number}-{file.name}" if place == "other" else file)
    with pytest.raises(DataError) as error:
        read_dicom_series(tmp_path / "own")
    listed = dict(re.findall(r"(\d+): CT, 2 slices of 6×5, series number (\d+)", str(error.value)))
    assert listed == {"1": "1", "2": "3", "3": "4"}
    for place, number in listed.items():
        assert (read_dicom_series(tmp_path / "own", series=place).array == int(number)).all()


def test_a_link_out_of_the_folder_is_refused(export, tmp_path_factory):
    other = write_series(tmp_path_factory.mktemp("other"), np.zeros((1, 5, 6)))
    (export / "st1/se1/link.dcm").symlink_to(next(other.iterdir()))
    with pytest.raises(DataError, match="leads out"):
        series_below(export, Limits())


def test_a_damaged_file_is_named_or_left_out(export):
    file = export / "st1/se1/000.dcm"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match=r"000\.dcm"):
        read_dicom_series(export, series="2")
    assert len(series_below(export, Limits(skip_broken=True))[0].files) in (2, 3)


def test_series_of_a_picture_are_refused(tmp_path):
    from modiff.io import write_png

    with pytest.raises(DataError, match="not of a DICOM series"):
        read_image(write_png(tmp_path / "a.png", np.zeros((5, 5), np.uint8)), series="1")
