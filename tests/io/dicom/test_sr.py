"""Reports say how large, how long and how probable each hypothesis is, and point at its segment."""

from __future__ import annotations

from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from derived_objects import validated, write_all
from pydicom.sr.codedict import codes
from series_files import PERSON, write_series

from modiff.io.dicom.derived import Segment
from modiff.io.dicom.series import read_dicom_series
from modiff.io.dicom.sr import PRESENCE
from modiff.io.volume import Volume

SHAPE = (5, 30, 40)


@pytest.fixture
def series(tmp_path) -> Volume:
    """Rows 1.1 mm apart, columns 0.7, slices 2.5."""
    return read_dicom_series(write_series(tmp_path / "series", np.zeros(SHAPE)))


def segments() -> list[Segment]:
    """A box of 3×10×20 voxels on slices 1 to 3, one of 1×4×30 on slice 2, and none of a class."""
    masks = np.zeros((3, *SHAPE), bool)
    masks[0, 1:4, 5:15, 10:30], masks[1, 2, 20:24, 5:35] = True, True
    about = [("hypothesis 1", "nodule", 0.625), ("hypothesis 2", "nodule", 1 / 3), ("hypothesis 2", "tumour", 1 / 3)]
    return [
        Segment(mask, f"{name}, {kind}", kind, "", (200, 10, 10), name, chance)
        for mask, (name, kind, chance) in zip(masks, about, strict=True)
    ]


def numbers(group: Any) -> dict[str, tuple[float, str]]:
    """Name -> value and unit."""
    return {one.name.meaning: (one.value, one.unit.value) for one in group.get_measurements()}


@pytest.fixture
def paths(series, tmp_path) -> dict[str, Any]:
    return write_all(tmp_path, segments(), series)


@pytest.fixture
def groups(paths) -> list[Any]:
    """The report's regions, as highdicom reads them."""
    return hd.sr.srread(paths["sr"]).content.get_volumetric_roi_measurement_groups()


def test_a_validator_finds_no_error(paths):
    validated(paths["sr"])


def test_volumes_long_axes_and_probabilities(groups):
    voxel = 1.1 * 0.7 * 2.5
    expected = [  # the corners of a box's outline are cut: from the middle of a pixel's edge to that of another's
        (600 * voxel, max(np.hypot(9 * 1.1, 20 * 0.7), np.hypot(10 * 1.1, 19 * 0.7)), 62.5),
        (120 * voxel, max(np.hypot(3 * 1.1, 30 * 0.7), np.hypot(4 * 1.1, 29 * 0.7)), 100 / 3),
    ]
    assert len(groups) == 2  # what marks nothing has no size
    for group, (volume, axis, chance) in zip(groups, expected, strict=True):
        found = numbers(group)
        assert {name: unit for name, (_, unit) in found.items()} == {
            "Volume": "mm3",
            "Long axis": "mm",
            "Probability": "%",
        }
        assert [value for value, _ in found.values()] == pytest.approx([volume, axis, chance], rel=1e-6)


def test_each_points_at_its_segment_and_the_slices_that_show_it(groups, paths, series):
    seg = pydicom.dcmread(paths["seg"])
    shown = [[1, 2, 3], [2]]
    for place, group in enumerate(groups):
        target = group.referenced_segment
        assert target.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert target.referenced_segment_numbers == [place + 1]
        uids = [image.referenced_sop_instance_uid for image in target.source_images_for_segmentation]
        assert uids == [series.source.headers[z].SOPInstanceUID for z in shown[place]]
        assert group.tracking_uid == seg.SegmentSequence[place].TrackingUID
        assert group.tracking_identifier == seg.SegmentSequence[place].TrackingID
        assert group.finding_type == codes.SCT.Nodule
        assert [site.value for site in group.finding_sites] == [codes.SCT.Lung]


def test_the_probability_that_a_rater_marks_anything(paths, series, tmp_path):
    (group,) = hd.sr.srread(paths["sr"]).content.get_image_measurement_groups()
    assert numbers(group) == {PRESENCE.meaning: (96, "%")}
    other = write_all(tmp_path, segments(), series, presence=None)  # samples of those who mark do not know it
    assert hd.sr.srread(other["sr"]).content.get_image_measurement_groups() == []


def test_where_nothing_is_marked_only_that_is_said(series, tmp_path):
    nothing = [Segment(np.zeros(SHAPE, bool), "nothing there: 98 %", "nodule", probability=0.98)]
    path = write_all(tmp_path, nothing, series, presence=0.02)["sr"]
    validated(path)
    content = hd.sr.srread(path).content
    assert content.get_volumetric_roi_measurement_groups() == []
    assert numbers(content.get_image_measurement_groups()[0])[PRESENCE.meaning] == (2, "%")


def test_it_belongs_to_the_study_and_names_what_made_it(paths, series):
    made = pydicom.dcmread(paths["sr"])
    for name in (*PERSON, "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert made[name].value == series.source.headers[0][name].value, name
    assert (made.Modality, made.Manufacturer, made.SeriesNumber) == ("SR", "modiff", 9003)
    assert (made.VerificationFlag, made.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    content = hd.sr.srread(paths["sr"]).content
    (group,) = content.get_volumetric_roi_measurement_groups()[0]
    texts = [item.value for item in group.ContentSequence if item.ValueType == "TEXT"]
    assert {"MoDiff", "1.2", "seed=7"} <= set(texts)


def test_of_a_tilted_gantry_volumes_are_those_of_the_sheared_voxels(tmp_path):
    volume = read_dicom_series(write_series(tmp_path / "series", np.zeros(SHAPE), drift=(0, 0.6, 0)))
    path = write_all(tmp_path, segments(), volume)["sr"]
    found = numbers(hd.sr.srread(path).content.get_volumetric_roi_measurement_groups()[0])
    assert found["Volume"][0] == pytest.approx(600 * 1.1 * 0.7 * 2.5, rel=1e-6)
