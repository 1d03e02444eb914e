"""A DICOM series becomes a volume whose voxels lie where the files say, or is refused in one line that says why."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import SHAPE, SPACING, numbered, one_slice, rotation, save, series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

from modiff.errors import DataError
from modiff.io.dicom.series import read_dicom_series, read_slice

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXES = [
    (np.eye(3)[a] * sa, np.eye(3)[b] * sb)
    for a, b in itertools.permutations(range(3), 2)
    for sa, sb in itertools.product((1, -1), repeat=2)
]


def place_in_dicom(header: pydicom.Dataset, row: int, column: int) -> np.ndarray:
    """PS3.3 C.7.6.2.1-1, written out: where a pixel's centre lies, in LPS mm."""
    cosines, spacing = np.array(header.ImageOrientationPatient, float), np.array(header.PixelSpacing, float)
    start = np.array(header.ImagePositionPatient, float)
    return start + cosines[:3] * spacing[1] * column + cosines[3:] * spacing[0] * row


def test_values_are_rescaled_and_in_place(tmp_path: Path) -> None:
    volume = read_dicom_series(save(series(), tmp_path))
    assert volume.array.dtype == np.int16
    assert (volume.array[0] == numbered() - 1024).all()


def test_spacing_is_the_files(tmp_path: Path) -> None:
    assert read_dicom_series(save(series(), tmp_path)).spacing == pytest.approx(SPACING)


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [2, 0, 3, 1]], ids=["reversed", "shuffled"])
def test_the_order_of_files_does_not_matter(tmp_path: Path, order: list[int]) -> None:
    slices = series()
    expected = read_dicom_series(save(slices, tmp_path / "a"))
    found = read_dicom_series(save([slices[place] for place in order], tmp_path / "b"))
    assert (found.array == expected.array).all()
    assert (found.affine == expected.affine).all()


def test_a_list_of_files_is_a_series(tmp_path: Path) -> None:
    folder = save(series(), tmp_path)
    expected = read_dicom_series(folder)
    assert (read_dicom_series(sorted(folder.iterdir(), reverse=True)).array == expected.array).all()


@pytest.mark.parametrize(("right", "down"), AXES)
def test_every_axis_orientation_is_where_highdicom_sees_it(tmp_path: Path, right: np.ndarray, down: np.ndarray) -> None:
    folder = save(series(right=right, down=down), tmp_path)
    ours = read_dicom_series(folder)
    theirs = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in sorted(folder.iterdir())])
    for index in itertools.product(*(range(0, length, length - 1) for length in SHAPE)):
        here = (LPS_TO_RAS @ ours.affine @ [*reversed(index), 1])[:3]
        there = theirs.map_reference_to_indices(here[None], round_output=True, check_bounds=True)[0]
        assert theirs.array[tuple(there)] + 0.0 == pytest.approx(ours.array[(0, *index)] + 0.0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_every_pixel_of_a_tilted_series_lies_where_the_standard_says(tmp_path: Path, seed: int) -> None:
    turned = rotation(seed)
    slices = series(right=turned[0], down=turned[1])
    shutil.rmtree(tmp_path / str(seed), ignore_errors=True)
    volume = read_dicom_series(save(slices, tmp_path / str(seed)))
    for header, (z, y, x) in zip(slices, [(0, 0, 0), (1, 4, 2), (2, 0, 5), (3, 4, 5)], strict=True):
        assert volume.array[0, z, y, x] == numbered()[z, y, x] - 1024
        assert (LPS_TO_RAS @ volume.affine @ [x, y, z, 1])[:3] == pytest.approx(place_in_dicom(header, y, x), abs=1e-4)


def test_a_tilted_gantry_makes_an_oblique_slice_axis(tmp_path: Path) -> None:
    step = np.array([0.0, 0.6, 2.4])
    slices = series(step=step)
    volume = read_dicom_series(save(slices, tmp_path))
    assert (LPS_TO_RAS @ volume.affine)[:3, 2] == pytest.approx(step)
    assert (LPS_TO_RAS @ volume.affine @ [5, 4, 3, 1])[:3] == pytest.approx(place_in_dicom(slices[3], 4, 5))


def test_the_source_has_the_headers_in_the_order_of_the_slices(tmp_path: Path) -> None:
    slices = series()
    source = read_dicom_series(save(slices[::-1], tmp_path)).source
    assert [header.SOPInstanceUID for header in source.headers] == [made.SOPInstanceUID for made in slices]
    assert not any("PixelData" in header for header in source.headers)


def test_one_file_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    folder = save(series(), tmp_path)
    volume = read_dicom_series(folder / "002.dcm")
    assert volume.shape == (1, *SHAPE[1:])
    assert volume.spacing == pytest.approx(SPACING)
    assert (volume.array[0, 0] == read_slice(folder / "002.dcm")).all()


def test_what_is_no_image_may_lie_beside_the_slices(tmp_path: Path) -> None:
    folder = save(series(), tmp_path)
    (folder / "notes.xml").write_text("<a/>")
    report = one_slice(numbered()[0], (0, 0, 0))
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = pydicom.uid.RTStructureSetStorage
    del report.PixelData
    save([report], folder, "report-{}.dcm".format)
    assert read_dicom_series(folder).shape == SHAPE


def test_what_systems_leave_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    folder = save(series(), tmp_path)
    moved = one_slice(numbered()[0], (0, 0, 0))
    moved.save_as(folder / "._000.dcm", enforce_file_format=True)
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "Thumbs.db").write_bytes(b"\0")
    assert read_dicom_series(folder).shape == SHAPE


def test_a_copy_of_a_file_counts_once(tmp_path: Path) -> None:
    folder = save(series(), tmp_path)
    shutil.copy(folder / "001.dcm", folder / "copy.dcm")
    assert read_dicom_series(folder).shape == SHAPE


@pytest.mark.parametrize(("kind", "bits", "signed"), [("<u2", 16, 0), ("<u2", 12, 0), ("<i2", 12, 1), ("<i2", 16, 1)])
def test_unused_bits_do_not_count(tmp_path: Path, kind: str, bits: int, signed: int) -> None:
    made = series()[0]
    made.PixelRepresentation, made.BitsStored, made.HighBit = signed, bits, bits - 1
    values = np.array([[0, 1], [-5 if signed else 5, 2 ** (bits - 1) - 1]])
    noise = (0xA000 if bits < 16 else 0) & ~((1 << bits) - 1)
    made.Rows, made.Columns = 2, 2
    made.PixelData = ((values & ((1 << bits) - 1)) | noise).astype("<u2").tobytes()
    found = read_slice(save([made], tmp_path) / "000.dcm")
    assert (found == values - 1024).all()


def test_a_fractional_slope_gives_floats(tmp_path: Path) -> None:
    made = series()[0]
    made.RescaleSlope, made.RescaleIntercept = 0.25, 10
    found = read_slice(save([made], tmp_path) / "000.dcm")
    assert found.dtype == np.float32
    assert found == pytest.approx(numbered()[0] * 0.25 + 10)


@pytest.mark.parametrize("declared", [-2000, 63536], ids=["signed", "written as unsigned"])
def test_padding_takes_the_smallest_value_of_the_others(tmp_path: Path, declared: int) -> None:
    stored = numbered()
    stored[:, 0, 0] = -2000
    slices = series(stored)
    for made in slices:
        made.add_new(0x00280120, "US" if declared > 0 else "SS", declared)
    found = read_dicom_series(save(slices, tmp_path)).array[0]
    others = np.ones(SHAPE, bool)
    others[:, 0, 0] = False
    assert (found[others] == stored[others] - 1024).all()
    assert set(found[:, 0, 0].tolist()) == {int(stored[others].min()) - 1024}


def test_run_length_encoding_gives_the_same_values(tmp_path: Path) -> None:
    plain = series()
    expected = read_dicom_series(save(plain, tmp_path / "plain"))
    for made in plain:
        made.compress(RLELossless, generate_instance_uid=False)
    assert (read_dicom_series(save(plain, tmp_path / "rle")).array == expected.array).all()


def refused(path: object) -> str:
    with pytest.raises(DataError) as caught:
        read_dicom_series(path)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_missing_slice_is_named_by_its_place(tmp_path: Path) -> None:
    slices = series(numbered((6, 5, 6)))
    said = refused(save(slices[:3] + slices[4:], tmp_path))
    assert "missing" in said
    assert "105.00 to 110.00" in said


def test_uneven_slices_are_named_by_their_place(tmp_path: Path) -> None:
    slices = series()
    slices[3].ImagePositionPatient[2] += 0.8
    said = refused(save(slices, tmp_path))
    assert "unevenly" in said
    assert "105.00 to 108.30" in said


def test_positions_rounded_to_a_tenth_are_even_enough(tmp_path: Path) -> None:
    slices = series(numbered((8, 5, 6)), step=(0, 0, 0.625))
    for made in slices:
        made.ImagePositionPatient[2] = round(float(made.ImagePositionPatient[2]), 1)
    assert read_dicom_series(save(slices, tmp_path)).spacing[0] == pytest.approx(0.625, abs=0.02)


def test_a_slice_off_the_line_is_refused(tmp_path: Path) -> None:
    slices = series()
    slices[2].ImagePositionPatient[0] += 1
    assert "not on one line" in refused(save(slices, tmp_path))


def test_two_slices_in_one_place_are_refused(tmp_path: Path) -> None:
    slices = series()
    slices[2].ImagePositionPatient = slices[1].ImagePositionPatient
    said = refused(save(slices, tmp_path))
    assert "one place" in said
    assert "102.50" in said


def test_two_files_that_claim_one_identity_are_refused(tmp_path: Path) -> None:
    slices = series()
    slices[2].SOPInstanceUID = slices[1].SOPInstanceUID
    assert "one slice" in refused(save(slices, tmp_path))


def test_several_series_in_a_folder_are_refused_without_their_identifiers(tmp_path: Path) -> None:
    slices = series()
    slices[0].SeriesInstanceUID = "1.2.3.4"
    said = refused(save(slices, tmp_path))
    assert "2 series of 1, 3 slices" in said
    assert "1.2.3.4" not in said


def test_a_scout_among_the_slices_is_refused(tmp_path: Path) -> None:
    scout = one_slice(numbered()[0], (0, 0, 0), right=(0, 1, 0), down=(0, 0, -1))
    assert "not parallel" in refused(save([*series(), scout], tmp_path))


@pytest.mark.parametrize("name", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_slices_of_two_persons_studies_or_places_are_refused_unnamed(tmp_path: Path, name: str) -> None:
    slices = series()
    setattr(slices[0], name, "1.2.3.4")
    said = refused(save(slices, tmp_path))
    assert f"{name}: slices differ; found 2 values; expected one" in said
    assert "1.2.3.4" not in said


def test_a_ct_without_rescaling_is_told(tmp_path: Path) -> None:
    slices = series()
    for one in slices:
        del one.RescaleIntercept
    notes = read_dicom_series(save(slices, tmp_path)).notes
    assert [str(note) for note in notes] == ["the headers have no RescaleIntercept: values may not be HU"]


def test_a_ct_with_rescaling_in_some_slices_is_told(tmp_path: Path) -> None:
    """One lacks it, in another it is there and empty."""
    slices = series()
    del slices[1].RescaleIntercept
    slices[2].RescaleSlope = None
    (note,) = read_dicom_series(save(slices, tmp_path)).notes
    assert str(note) == "some headers have no RescaleSlope and no RescaleIntercept: values may not be HU"


def test_slices_of_two_sizes_are_refused(tmp_path: Path) -> None:
    small = one_slice(numbered()[0, :3], (-30, 20, 110))
    assert "Rows" in refused(save([*series(), small], tmp_path))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ImagePositionPatient", None),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0]),
        ("PixelSpacing", [0, 0.5]),
        ("PixelSpacing", [-0.5, 0.5]),
        ("ImagePositionPatient", [1e9, 0, 0]),
        ("RescaleSlope", 0),
        ("BitsAllocated", 12),
        ("BitsStored", 17),
        ("HighBit", 14),
        ("PixelRepresentation", 2),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(tmp_path: Path, field: str, value: object) -> None:
    made = series()[0]
    setattr(made, field, value)
    assert field.replace("Stored", "Allocated") in refused(save([made], tmp_path))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("PhotometricInterpretation", "MONOCHROME1", "invert"),
        ("PhotometricInterpretation", "PALETTE COLOR", "PALETTE COLOR"),
        ("SamplesPerPixel", 3, "3 samples"),
        ("NumberOfFrames", 7, "7 frames"),
    ],
)
def test_other_kinds_of_picture_are_refused(tmp_path: Path, field: str, value: object, said: str) -> None:
    made = series()[0]
    setattr(made, field, value)
    assert said in refused(save([made], tmp_path))


def test_a_dose_is_no_image(tmp_path: Path) -> None:
    made = series()[0]
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = pydicom.uid.RTDoseStorage
    assert "RT Dose" in refused(save([made], tmp_path) / "000.dcm")


def test_a_folder_without_slices_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("nothing")
    assert "no DICOM" in refused(tmp_path)


def test_real_slices_are_as_pydicom_reads_them(shared: Path) -> None:
    folder = next((shared / "data/lidc-idri-dicom/LIDC-IDRI-0001").rglob("*.dcm")).parent
    volume = read_dicom_series(folder)
    assert volume.spacing == pytest.approx((2.5, 0.703125, 0.703125))
    for z, path in enumerate(folder / name for name in volume.sha256):
        theirs = pydicom.dcmread(path)
        inside = theirs.pixel_array != -2000  # its padding, written as 63536
        assert (volume.array[0, z][inside] == theirs.pixel_array[inside] - 1024).all()
