"""Segmentation objects lie where their series lies, say what made them, and belong to its patient."""

from __future__ import annotations

from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from derived_objects import KINDS, validated, write_all
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from pydicom.datadict import dictionary_VR
from series_files import AXIAL, PERSON, write_series

from modiff.errors import DataError
from modiff.io.dicom.derived import Maker, Segment
from modiff.io.dicom.seg import LEVELS, write_seg
from modiff.io.dicom.series import read_dicom_series
from modiff.io.volume import Volume

MAKER = Maker("MoDiff", "1.2", {"seed": "7"}, "abc")
TURN = (0.6, 0.8, 0.0, -0.8, 0.6, 0.0)
TILT = (1.0, 0.0, 0.0, 0.0, 0.9539392, -0.3)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
AXES = {"axial": AXIAL, "turned": TURN, "tilted": TILT, "sagittal": SAGITTAL}


def corner(shape: tuple[int, int, int] = (5, 8, 9)) -> np.ndarray:
    """An object that no flip, turn or swap of axes leaves as it is."""
    mask = np.zeros(shape, bool)
    mask[1:4, 1, 2], mask[1, 1:6, 2], mask[1, 1, 2:8] = True, True, True
    return mask


def scan(shape: tuple[int, int, int] = (5, 8, 9)) -> np.ndarray:
    return np.where(corner(shape), 200, -500) + np.arange(shape[0])[:, None, None]


@pytest.fixture
def series(tmp_path) -> Volume:
    return read_dicom_series(write_series(tmp_path / "series", scan()))


def uids_of(volume: Volume) -> list[str]:
    """The SOP instance UID of each slice."""
    return [header.SOPInstanceUID for header in volume.source.headers]


def in_space(seg: hd.seg.Segmentation, number: int) -> dict[tuple[float, ...], float]:
    """Place (LPS, mm) -> value of a segment's voxels that are not 0, by the planes that the object states."""
    found = {}
    shared = seg.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    rows, columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = seg.pixel_array if seg.NumberOfFrames > 1 else seg.pixel_array[None]
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        named = group if "SegmentIdentificationSequence" in group else shared
        if named.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        place = group if "PlanePositionSequence" in group else shared
        start = np.array(place.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(frame):
            place = start + column * columns * axes[:3] + row * rows * axes[3:]
            found[tuple((place.round(3) + 0.0).tolist())] = float(frame[row, column])
    return found


def places(volume: Volume, mask: np.ndarray) -> set[tuple[float, ...]]:
    """The same of a mask (Z,H,W) by the volume's affine, which is RAS."""
    index = np.argwhere(mask)[:, ::-1]
    ras = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return {tuple(row) for row in ((ras * [-1, -1, 1]).round(3) + 0.0).tolist()}


class TestPlace:
    @pytest.mark.parametrize("axes", AXES)
    @pytest.mark.parametrize(
        "order", [None, [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]], ids=["in order", "reversed", "shuffled"]
    )
    def test_an_asymmetric_object_keeps_its_place(self, tmp_path, axes, order):
        volume = read_dicom_series(write_series(tmp_path / "series", scan(), axes=AXES[axes], order=order))
        mask = volume.array[0] > 0
        assert mask.sum() == corner().sum()
        write_seg(tmp_path / "seg.dcm", [Segment(mask, "one", "nodule")], volume, first=0, maker=MAKER)
        assert set(in_space(hd.seg.segread(tmp_path / "seg.dcm"), 1)) == places(volume, mask)

    def test_a_tilted_gantry_keeps_its_shear(self, tmp_path):
        volume = read_dicom_series(write_series(tmp_path / "series", scan(), drift=(0, 0.6, 0), order=[3, 0, 4, 1, 2]))
        mask = volume.array[0] > 0
        write_seg(tmp_path / "seg.dcm", [Segment(mask, "one", "nodule")], volume, first=0, maker=MAKER)
        assert set(in_space(hd.seg.segread(tmp_path / "seg.dcm"), 1)) == places(volume, mask)
        assert volume.voxel_mm3 == pytest.approx(1.1 * 0.7 * 2.5, rel=1e-6)

    def test_each_frame_names_the_slice_it_was_made_from(self, series, tmp_path):
        write_seg(tmp_path / "seg.dcm", [Segment(corner(), "one", "nodule")], series, first=0, maker=MAKER)
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        uids = uids_of(series)
        pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
        np.testing.assert_array_equal(pixels[..., 0] > 0, series.array[0] > 0)

    def test_a_part_of_the_slices_is_placed_among_them(self, series, tmp_path):
        part = (series.array[0] > 0)[2:4]
        write_seg(tmp_path / "seg.dcm", [Segment(part, "one", "nodule")], series, first=2, maker=MAKER)
        whole = np.zeros(series.shape, bool)
        whole[2:4] = part
        assert set(in_space(hd.seg.segread(tmp_path / "seg.dcm"), 1)) == places(series, whole)

    def test_voxel_geometry_is_that_of_the_series(self, series, tmp_path):
        everywhere = np.ones(series.shape, bool)
        write_seg(tmp_path / "seg.dcm", [Segment(everywhere, "one", "nodule")], series, first=0, maker=MAKER)
        volume = hd.seg.segread(tmp_path / "seg.dcm").get_volume()
        assert sorted(volume.spacing) == pytest.approx(sorted(series.spacing), abs=1e-5)
        assert volume.spatial_shape == series.shape

    def test_one_slice_is_enough(self, tmp_path):
        write_series(tmp_path / "series", scan()[1:2])
        volume = read_dicom_series(tmp_path / "series" / "000.dcm")
        mask = volume.array[0] > 0
        write_seg(tmp_path / "seg.dcm", [Segment(mask, "one", "nodule")], volume, first=0, maker=MAKER)
        assert set(in_space(hd.seg.segread(tmp_path / "seg.dcm"), 1)) == places(volume, mask)


class TestBinary:
    def test_hypotheses_are_segments_that_may_overlap(self, series, tmp_path):
        masks = [corner(), np.roll(corner(), 1, 2), np.ones(series.shape, bool)]
        segments = [Segment(mask, f"hypothesis {i}", "nodule", f"{i} of 3") for i, mask in enumerate(masks)]
        write_seg(tmp_path / "seg.dcm", segments, series, first=0, maker=MAKER)
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        assert seg.segmentation_type.value == "BINARY"
        assert [item.SegmentLabel for item in seg.SegmentSequence] == ["hypothesis 0", "hypothesis 1", "hypothesis 2"]
        assert [item.SegmentDescription for item in seg.SegmentSequence] == ["0 of 3", "1 of 3", "2 of 3"]
        for i, mask in enumerate(masks):
            assert set(in_space(seg, i + 1)) == places(series, mask)

    def test_nothing_marked_is_an_object_too(self, series, tmp_path):
        nothing = np.zeros(series.shape, bool)
        write_seg(tmp_path / "seg.dcm", [Segment(nothing, "nothing", "nodule")], series, first=0, maker=MAKER)
        assert not in_space(hd.seg.segread(tmp_path / "seg.dcm"), 1)


class TestFractional:
    def test_probabilities_come_back_within_half_a_step(self, series, tmp_path):
        maps = np.random.default_rng(0).random((2, *series.shape), dtype=np.float32)
        segments = [Segment(values, name, name) for values, name in zip(maps, ("core", "rim"), strict=True)]
        write_seg(tmp_path / "seg.dcm", segments, series, first=0, maker=MAKER)
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        assert (seg.segmentation_type.value, seg.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
        assert seg.MaximumFractionalValue == LEVELS
        pixels = seg.get_pixels_by_source_instance(uids_of(series), rescale_fractional=True)
        np.testing.assert_allclose(np.moveaxis(pixels, -1, 0), maps, atol=0.5 / LEVELS + 1e-6)
        assert [item.SegmentLabel for item in seg.SegmentSequence] == ["core", "rim"]

    @pytest.mark.parametrize("value", [0.0, 0.001, 0.0019, 0.0021])
    def test_a_map_that_rounds_to_nothing_is_an_object_too(self, series, tmp_path, value):
        low = [Segment(np.full(series.shape, value, np.float32), "low", "nodule")]
        write_seg(tmp_path / "seg.dcm", low, series, first=0, maker=MAKER)
        pixels = hd.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(
            uids_of(series),
            rescale_fractional=True,
            ignore_spatial_locations=False,
            assert_missing_frames_are_empty=True,
        )
        assert (pixels == np.float32(round(value * LEVELS) / LEVELS)).all()


class TestHeader:
    @pytest.fixture
    def seg(self, series, tmp_path) -> pydicom.Dataset:
        write_seg(tmp_path / "seg.dcm", [Segment(corner(), "one", "nodule")], series, first=0, maker=MAKER)
        return pydicom.dcmread(tmp_path / "seg.dcm")

    def test_it_belongs_to_the_patient_and_study_of_the_series(self, seg, series):
        for name in (*PERSON, "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate", "AccessionNumber"):
            assert seg[name].value == series.source.headers[0][name].value, name

    def test_it_refers_to_the_series_and_every_slice(self, seg, series):
        referred = seg.ReferencedSeriesSequence[0]
        assert referred.SeriesInstanceUID == series.source.headers[0].SeriesInstanceUID
        uids = {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence}
        assert uids == set(uids_of(series))

    def test_it_is_a_series_of_its_own(self, seg, series):
        assert seg.Modality == "SEG"
        assert seg.SeriesInstanceUID != series.source.headers[0].SeriesInstanceUID
        assert seg.SOPInstanceUID not in uids_of(series)

    def test_it_says_what_made_it(self, seg):
        made = seg.SegmentSequence[0]
        assert made.SegmentAlgorithmType == "AUTOMATIC"
        assert made.SegmentAlgorithmName == "MoDiff"
        identification = made.SegmentationAlgorithmIdentificationSequence[0]
        assert (identification.AlgorithmVersion, identification.AlgorithmParameters) == ("1.2", "seed=7")
        assert (seg.Manufacturer, seg.DeviceSerialNumber) == ("modiff", "abc")

    def test_its_segments_are_coded(self, seg):
        made = seg.SegmentSequence[0]
        assert made.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Nodule"
        assert made.SegmentedPropertyCategoryCodeSequence[0].CodingSchemeDesignator == "SCT"
        assert "AnatomicRegionSequence" not in made  # it is not known

    def test_the_part_of_the_body_is_coded_where_it_is_known(self, series, tmp_path):
        maker = replace(MAKER, region="LUNG")
        write_seg(tmp_path / "seg.dcm", [Segment(corner(), "one", "nodule")], series, first=0, maker=maker)
        (code,) = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[0].AnatomicRegionSequence
        assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("39607008", "SCT", "Lung")

    def test_it_holds_all_that_the_standard_demands(self, seg):
        demanded = (
            "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality SeriesNumber InstanceNumber "
            "FrameOfReferenceUID Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions ContentDate "
            "ContentTime ContentLabel ImageType Rows Columns BitsAllocated NumberOfFrames SegmentationType "
            "SegmentSequence DimensionOrganizationSequence DimensionIndexSequence SharedFunctionalGroupsSequence "
            "PerFrameFunctionalGroupsSequence PixelData LossyImageCompression"
        )
        assert [name for name in demanded.split() if seg.get(name) in (None, "")] == []
        empty_allowed = "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber StudyID"
        assert [name for name in empty_allowed.split() if name not in seg] == []


class TestRefused:
    def test_another_format(self, tmp_path):
        volume = Volume(np.zeros((1, 5, 8, 9)), np.eye(4), tmp_path / "a.nii", "NIfTI")
        with pytest.raises(DataError, match="is not a DICOM series"):
            write_seg(tmp_path / "seg.dcm", [Segment(corner(), "one", "x")], volume, first=0, maker=MAKER)

    def test_another_grid(self, series, tmp_path):
        with pytest.raises(DataError, match="another grid"):
            write_seg(tmp_path / "seg.dcm", [Segment(corner(), "one", "x")], series, first=2, maker=MAKER)

    @pytest.mark.parametrize("name", ["FrameOfReferenceUID", "StudyInstanceUID"])
    def test_a_series_without_identity(self, series, tmp_path, name):
        for header in series.source.headers:
            delattr(header, name)
        with pytest.raises(DataError, match=name):
            write_seg(tmp_path / "seg.dcm", [Segment(corner(), "one", "x")], series, first=0, maker=MAKER)
        assert not (tmp_path / "seg.dcm").exists()

    @pytest.mark.parametrize("name", ["PatientBirthDate", "StudyID", "AccessionNumber", "SliceThickness"])
    def test_but_what_files_without_identity_lack_goes_in_empty(self, series, tmp_path, name):
        for header in series.source.headers:
            delattr(header, name)
        write_seg(tmp_path / "seg.dcm", [Segment(corner(), "one", "x")], series, first=0, maker=MAKER)
        assert set(in_space(hd.seg.segread(tmp_path / "seg.dcm"), 1)) == places(series, corner())
        assert name not in series.source.headers[0]

    def test_a_broken_header_is_an_error_that_quotes_no_value(self, series, tmp_path):
        for header in series.source.headers:
            header.PatientComments = "Jane was born in spring"
            header.Rows = 7
        with pytest.raises(DataError) as caught:
            write_seg(tmp_path / "seg.dcm", [Segment(corner(), "one", "x")], series, first=0, maker=MAKER)
        assert "Jane" not in str(caught.value)


def test_a_series_with_a_missing_slice_is_refused_by_its_place(tmp_path):
    write_series(tmp_path / "series", scan(), without=[2])
    with pytest.raises(DataError, match=r"14\.5.*19\.5|17"):
        read_dicom_series(tmp_path / "series")


def test_a_real_series_keeps_its_place(shared, tmp_path):
    folder = next((shared / "data" / "lidc-idri-dicom" / "LIDC-IDRI-0001").glob("*/*"))
    volume = read_dicom_series(folder)
    mask = np.zeros(volume.shape, bool)
    mask[3:6, 300:320, 330:335], mask[3, 300:303, 330:350] = True, True
    write_seg(tmp_path / "seg.dcm", [Segment(mask, "one", "nodule")], volume, first=0, maker=MAKER)
    assert set(in_space(hd.seg.segread(tmp_path / "seg.dcm"), 1)) == places(volume, mask)


def test_a_validator_finds_no_error(series, tmp_path):
    validated(write_all(tmp_path, [Segment(corner(), "one", "nodule", "words", (1, 2, 3), "one")], series)["seg"])


@pytest.mark.parametrize("declared", [None, "ISO_IR 100", "ISO_IR 192"])
@pytest.mark.parametrize("kind", KINDS)
def test_names_that_the_character_set_of_the_series_lacks_are_whole(tmp_path, kind, declared):
    for file in write_series(tmp_path / "series", scan()).iterdir():
        header = pydicom.dcmread(file)
        if declared:
            header.SpecificCharacterSet, header.PatientName = declared, "Müller^Jörg"
        header.save_as(file)
    volume, maker = read_dicom_series(tmp_path / "series"), replace(MAKER, series="modiff 腫瘤, Tumör")
    made = pydicom.dcmread(write_all(tmp_path, [Segment(corner(), "腫瘤, Tumör", "x")], volume, maker=maker)[kind])
    assert str(made.PatientName) == ("Müller^Jörg" if declared else "Doe^Jane")
    assert made.SeriesDescription == "modiff 腫瘤, Tumör"
    if kind != "sr":
        named = made.SegmentSequence[0].SegmentLabel if kind == "seg" else made.StructureSetROISequence[0].ROIName
        assert named == "腫瘤, Tumör"


TEXTS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
HELD = {"DA": "20010203", "TM": "010203", "AS": "042Y", "DS": "71", "CS": "YES", "UI": "1.2.3"}


def told_everything(path):
    """Writes a series whose headers have all that the standard knows of patient, study, series and scanner."""
    names = set()
    for module in ("general-series", "general-equipment", "general-image", *_modules("Patient"), *_modules("Study")):
        names |= {item["keyword"] for item in get_module_attribute_map()[module] if not item["path"]}
    write_series(path, scan())
    for file in path.iterdir():
        header = pydicom.dcmread(file)
        for name in names - set(header.dir()) | {"PatientComments", "InstitutionName"}:
            if (kind := dictionary_VR(name)) in TEXTS or kind in HELD:
                setattr(header, name, HELD.get(kind, f"CANARY{name}"[:16]))
        if "PatientSpeciesDescription" in header:
            del header.PatientSpeciesDescription  # a person
        header.save_as(file)
    return read_dicom_series(path)


def _modules(owner):
    return [module["key"] for module in get_iod_module_map()["segmentation"] if module["ie"] == owner]


@pytest.mark.parametrize("kind", KINDS)
def test_of_patient_and_study_an_object_has_what_the_standard_asks_for(tmp_path, kind):
    volume = told_everything(tmp_path / "series")
    path = write_all(tmp_path, [Segment(volume.array[0] > 0, "one", "nodule")], volume)[kind]
    seg = pydicom.dcmread(path)
    wanted = {"patient": ("1", "2"), "general-study": ("1", "2")}  # the modules of PS3.3 A.51 that are mandatory
    for module in (*_modules("Patient"), *_modules("Study")):
        for item in get_module_attribute_map()[module]:
            if not item["path"]:
                assert (item["keyword"] in seg) == (item["type"] in wanted.get(module, ())), item["keyword"]
    assert (seg.PatientName, seg.PatientID, seg.AccessionNumber) == ("Doe^Jane", "HIDDEN-4711", "A-815")
    assert b"CANARY" not in path.read_bytes()
    makers = [item.Manufacturer for item in seg.get("ContributingEquipmentSequence", [])]
    assert all(maker.startswith("Highdicom") for maker in makers)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_header_is_carried_where_it_is_wanted(tmp_path, kind):
    volume = told_everything(tmp_path / "series")
    seg = pydicom.dcmread(write_all(tmp_path, [Segment(volume.array[0] > 0, "one", "x")], volume, full=True)[kind])
    assert seg.PatientComments == "CANARYPatientCom"
    assert seg.NameOfPhysiciansReadingStudy == "CANARYNameOfPhys"
    if kind != "rtstruct":
        assert seg.ContributingEquipmentSequence[0].InstitutionName == "CANARYInstitutio"


@pytest.mark.parametrize("kind", KINDS)
def test_of_an_animal_the_species_is_said(tmp_path, kind):
    write_series(tmp_path / "series", scan())
    for file in (tmp_path / "series").iterdir():
        header = pydicom.dcmread(file)
        header.PatientSpeciesDescription, header.ResponsiblePerson, header.PatientComments = "Cat", "Roe^Rick", "C"
        header.save_as(file)
    volume = read_dicom_series(tmp_path / "series")
    seg = pydicom.dcmread(write_all(tmp_path, [Segment(volume.array[0] > 0, "one", "nodule")], volume)[kind])
    assert (seg.PatientSpeciesDescription, seg.ResponsiblePerson) == ("Cat", "Roe^Rick")
    assert "PatientComments" not in seg
