"""Contours lie on their slices, and drawing them brings back the masks."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from derived_objects import validated, write_all
from matplotlib.path import Path as Polygon
from series_files import AXIAL, PERSON, write_series

from modiff.io.dicom.derived import Segment
from modiff.io.dicom.series import read_dicom_series
from modiff.io.volume import Volume

SHAPE = (5, 24, 30)
LYING = {  # how slices lie, and how far each moves within its plane
    "axial": (AXIAL, (0, 0, 0)),
    "turned, tilted gantry": ((0.6, 0.8, 0.0, -0.8, 0.6, 0.0), (0, 0.6, 0)),
    "sagittal": ((0.0, 1.0, 0.0, 0.0, 0.0, -1.0), (0, 0, 0)),
}


def masks() -> np.ndarray:
    """Two of them: an asymmetric object with a hole and an island in it, and noise."""
    made = np.zeros((2, *SHAPE), bool)
    made[0, 1:4, 2:20, 3:26], made[0, 2, 5:9, 6:15], made[0, 2, 7, 10] = True, False, True
    made[0, 3, 22, 28] = True
    made[1] = np.random.default_rng(0).random(SHAPE) < 0.6
    return made


def segments() -> list[Segment]:
    return [
        Segment(mask, f"hypothesis {place}: 50 %", "nodule", "8 samples", (10 * place, 20, 30), f"hypothesis {place}")
        for place, mask in enumerate(masks(), 1)
    ]


def drawn(made: pydicom.Dataset, number: int, volume: Volume) -> np.ndarray:
    """The mask (Z,H,W) of a region, by the contours' millimetres and the volume's affine (RAS)."""
    found, uids = np.zeros(volume.shape, int), [header.SOPInstanceUID for header in volume.source.headers]
    (region,) = [item for item in made.ROIContourSequence if item.ReferencedROINumber == number]
    for contour in region.get("ContourSequence", []):
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
        points = np.array(contour.ContourData, float).reshape(-1, 3) * [-1, -1, 1]
        assert len(points) == contour.NumberOfContourPoints
        index = np.c_[points, np.ones(len(points))] @ np.linalg.inv(volume.affine).T
        z = uids.index(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)
        np.testing.assert_allclose(index[:, 2], z, atol=1e-3)
        left, top = np.maximum(index[:, :2].min(0).astype(int), 0)  # all that may lie inside
        part = found[z, top : int(index[:, 1].max()) + 1, left : int(index[:, 0].max()) + 1]
        y, x = np.indices(part.shape)
        part += Polygon(index[:, :2]).contains_points(np.c_[x.ravel() + left, y.ravel() + top]).reshape(x.shape)
    assert found.max(initial=0) <= 1  # contours of one region do not overlap
    return found > 0


@pytest.mark.parametrize("lying", LYING)
def test_drawing_brings_back_the_masks(tmp_path, lying):
    """To the pixel: contours run halfway between centres, and millimetres have four decimals."""
    axes, drift = LYING[lying]
    how = {"axes": axes, "drift": drift, "order": [3, 0, 4, 1, 2]}
    volume = read_dicom_series(write_series(tmp_path / "series", np.zeros(SHAPE), **how))
    path = write_all(tmp_path, segments(), volume)["rtstruct"]
    validated(path)
    made = pydicom.dcmread(path)
    for number, mask in enumerate(masks(), 1):
        np.testing.assert_array_equal(drawn(made, number, volume), mask)


@pytest.fixture
def series(tmp_path) -> Volume:
    return read_dicom_series(write_series(tmp_path / "series", np.zeros(SHAPE)))


def test_regions_are_named_and_coloured_as_segments(series, tmp_path):
    made = pydicom.dcmread(write_all(tmp_path, segments(), series)["rtstruct"])
    assert [item.ROIName for item in made.StructureSetROISequence] == ["hypothesis 1: 50 %", "hypothesis 2: 50 %"]
    assert [list(item.ROIDisplayColor) for item in made.ROIContourSequence] == [[10, 20, 30], [20, 20, 30]]
    assert made.StructureSetDescription == "hypotheses; nothing there: 4 %"
    observed = made.RTROIObservationsSequence[0]
    assert observed.RTROIIdentificationCodeSequence[0].CodeMeaning == "Nodule"


def test_it_refers_to_the_series_and_belongs_to_its_study(series, tmp_path):
    made = pydicom.dcmread(write_all(tmp_path, segments(), series)["rtstruct"])
    head = series.source.headers[0]
    for name in (*PERSON, "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert made[name].value == head[name].value, name
    study = made.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    (referred,) = study.RTReferencedSeriesSequence
    assert referred.SeriesInstanceUID == head.SeriesInstanceUID
    uids = [item.ReferencedSOPInstanceUID for item in referred.ContourImageSequence]
    assert uids == [header.SOPInstanceUID for header in series.source.headers]


def test_a_part_of_the_slices_is_placed_among_them(series, tmp_path):
    part = [Segment(masks()[0][2:4], "one", "nodule")]
    made = pydicom.dcmread(write_all(tmp_path, part, series, first=2)["rtstruct"])
    whole = np.zeros(SHAPE, bool)
    whole[2:4] = masks()[0][2:4]
    np.testing.assert_array_equal(drawn(made, 1, series), whole)


def test_what_marks_nothing_has_no_contour(series, tmp_path):
    nothing = [Segment(np.zeros(SHAPE, bool), "nothing there: 98 %", "nodule")]
    path = write_all(tmp_path, nothing, series)["rtstruct"]
    validated(path)
    assert not drawn(pydicom.dcmread(path), 1, series).any()


def test_contours_longer_than_explicit_encodings_allow(tmp_path):
    comb = np.zeros((1, 80, 50), bool)
    comb[0, ::2], comb[0, :, 0] = True, True
    volume = read_dicom_series(write_series(tmp_path / "series", np.zeros(comb.shape)))
    path = write_all(tmp_path, [Segment(comb, "comb", "nodule")], volume)["rtstruct"]
    made = pydicom.dcmread(path)
    (contour,) = made.ROIContourSequence[0].ContourSequence
    assert sum(len(str(number)) + 1 for number in contour.ContourData) > 1 << 16
    np.testing.assert_array_equal(drawn(made, 1, volume), comb)


def test_a_real_series_brings_back_its_masks(shared, tmp_path):
    folder = next((shared / "data" / "lidc-idri-dicom" / "LIDC-IDRI-0001").glob("*/*"))
    volume = read_dicom_series(folder)
    mask = np.zeros(volume.shape, bool)
    mask[3:6] = (volume.array[0, 3:6] > -400) & (volume.array[0, 3:6] < 300)  # tissue: outlines with many holes
    mask[:, :340], mask[:, 400:], mask[..., :280], mask[..., 360:] = False, False, False, False
    path = write_all(tmp_path, [Segment(mask, "one", "nodule")], volume)["rtstruct"]
    validated(path)
    np.testing.assert_array_equal(drawn(pydicom.dcmread(path), 1, volume), mask)
