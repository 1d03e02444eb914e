"""NIfTI is read as nibabel reads it, with its geometry; what lies about its size or is damaged is refused."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modiff.errors import DataError, ModiffError
from modiff.io.files import Limits
from modiff.io.nifti import read_nifti, write_nifti
from modiff.io.volume import Note, Volume, difference, remark, turn

AFFINE = np.array([[-0.5, 0.1, 0, 10], [0.1, 0.5, 0.2, -20], [0, -0.4, 3, 5], [0, 0, 0, 1]])
TYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"]


def _array(shape: tuple[int, ...] = (5, 4, 3), dtype: str = "i2") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def _save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, kind: type = nib.Nifti1Image) -> Path:
    nib.save(kind(array, affine), path)
    return path


def _patch(path: Path, place: int, kind: str, *values: float) -> Path:
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + kind, data, place, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", TYPES)
def test_voxels_and_type_are_those_of_nibabel(tmp_path: Path, kind: type, suffix: str, dtype: str) -> None:
    path = _save(tmp_path / f"a{suffix}", _array(dtype=dtype), kind=kind)
    found = read_nifti(path).array
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[0].T, np.asanyarray(nib.load(path).dataobj))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_affine_is_that_of_nibabel(tmp_path: Path, kind: type) -> None:
    path = _save(tmp_path / "a.nii", _array(), kind=kind)
    np.testing.assert_array_equal(read_nifti(path).affine, nib.load(path).affine)


def test_a_rotated_qform_alone_is_the_geometry(tmp_path: Path) -> None:
    image = nib.Nifti1Image(_array(), None)
    rigid = np.eye(4)
    rigid[:3, :3] = np.array([[0, -2, 0], [0.5, 0, 0], [0, 0, 3]])
    image.set_qform(rigid, code=1)
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").affine, rigid, atol=1e-6)


def _formed(path: Path, sform: np.ndarray | None, qform: np.ndarray | None, array: np.ndarray | None = None) -> Path:
    """With these forms set and no others."""
    image = nib.Nifti1Image(_array() if array is None else array, None)
    image.header["pixdim"][1:4] = [0.5, 0.5, 3]
    for name, form in (("sform", sform), ("qform", qform)):
        getattr(image, f"set_{name}")(form, code=0 if form is None else 1)
    nib.save(image, path)
    return path


def _moved(*mm: float) -> np.ndarray:
    """A rigid place this far from the origin."""
    affine = np.diag([-0.5, 0.5, 3, 1])
    affine[:3, 3] = mm
    return affine


@pytest.mark.parametrize(
    "forms", [(_moved(1, 2, 3), None), (None, _moved(1, 2, 3)), (_moved(1, 2, 3), _moved(9, 2, 3))]
)
def test_the_sform_else_the_qform_is_the_place_as_nibabel_ranks_them(tmp_path: Path, forms: tuple) -> None:
    path = _formed(tmp_path / "a.nii", *forms)
    found, differ = read_nifti(path), all(form is not None for form in forms)
    np.testing.assert_allclose(found.affine, nib.load(path).affine)
    assert next(iter(found.forms)) == ("qform" if forms[0] is None else "sform")
    assert found.notes == ((Note("sform and qform differ: the sform is used"),) if differ else ())


def test_without_sform_and_qform_there_is_a_pixel_size_and_no_place(tmp_path: Path) -> None:
    found = read_nifti(_formed(tmp_path / "a.nii", None, None))
    assert (found.affine, found.spacing, found.voxel_mm3) == (None, (3.0, 0.5, 0.5), 0.75)
    assert not found.is_picture
    assert "neither sform nor qform" in found.notes[0].text


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_one_slice_without_thickness_is_one_mm_thick_and_a_note_says_so(tmp_path: Path, form: str) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((6, 5))
    header["magic"], header["vox_offset"], header["xyzt_units"] = b"n+1", 352, 3  # microns
    header["pixdim"][:4], header[f"{form}_code"] = [1, 500, 250, 0], 1
    header["srow_x"], header["srow_y"] = [500, 0, 0, 7000], [0, 250, 0, 0]
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock + bytes(4) + bytes(6 * 5 * 4))
    found = read_nifti(path)
    assert found.spacing == pytest.approx((1, 0.25, 0.5))
    assert found.notes == (Note("the slice has no thickness: 1 mm is taken"),)
    write_nifti(tmp_path / "b.nii", np.ones((1, 5, 6), np.uint8), found)
    again = nib.load(tmp_path / "b.nii")
    np.testing.assert_allclose(again.affine[:3, :3] / 1000, found.affine[:3, :3])


@pytest.mark.parametrize(
    ("one", "other", "what", "known"),
    [
        ((1, 1), (1, 1), None, None),
        ((1, None), (1, 1), None, None),
        ((1, 2), (1, 2), None, None),
        ((None, 1), (1, None), None, "the place by the sform that the image has by the qform"),
        ((1, 2), (None, 2), None, "the place by the qform that the image has by the sform"),
        ((1, 2), (1, 3), None, "the image's place by the sform, which is used, but not by the qform"),
        ((1, 2), (2, 2), "the same place by the qform, but up to 1 mm apart by the sform", ...),
        ((1, 2), (4, 5), "up to 3 mm apart", ...),
        ((1, None), (None, 4), "up to 3 mm apart", ...),
        ((1, 2), (None, 1), "up to 1 mm apart", ...),
        ((None, None), (1, 1), None, "a geometry that the image lacks"),
        ((1, 1), (None, None), None, "no geometry"),
        ((None, None), (None, None), None, None),
    ],
)
def test_places_are_compared_in_every_form_that_both_have(
    tmp_path: Path, one: tuple, other: tuple, what: str | None, known: str | None
) -> None:
    files = [
        _formed(tmp_path / f"{name}.nii", *(x and _moved(x, 0, 0) for x in forms))
        for name, forms in (("one", one), ("other", other))
    ]
    found = [read_nifti(file) for file in files]
    assert (difference(*found) or "").endswith(what or "")
    assert (difference(*found) is None) == (what is None)
    assert what or remark(*found) == known
    if what is None and found[0].affine is not None and found[1].affine is not None:
        turned = [turn(volume, "coronal") for volume in found]
        assert (difference(*turned), remark(*turned)) == (None, known)


@pytest.mark.parametrize(("sform", "words"), [(1, "not by the qform"), (2, "same place by the qform, but up to 1 mm")])
def test_a_place_that_is_not_niftis_is_compared_with_both_forms(tmp_path: Path, sform: int, words: str) -> None:
    mask = read_nifti(_formed(tmp_path / "a.nii", _moved(sform, 0, 0), _moved(3 - sform, 0, 0)))
    image = Volume(mask.array, _moved(1, 0, 0), tmp_path, "DICOM")
    assert words in str(difference(image, mask) or remark(image, mask))
    assert (difference(image, mask) is None) == (sform == 1)


def test_a_broken_qform_beside_an_sform_is_ignored(tmp_path: Path) -> None:
    path = _formed(tmp_path / "a.nii", _moved(1, 2, 3), _moved(1, 2, 3))
    found = read_nifti(_patch(path, 256, "3f", 3, 3, 3))  # no quaternion
    np.testing.assert_allclose(found.affine, _moved(1, 2, 3))
    assert list(found.forms) == ["sform"]


def test_a_voxel_lies_where_the_affine_says(tmp_path: Path) -> None:
    array = np.zeros((5, 4, 3), np.uint8)
    array[4, 1, 2] = 1
    found = read_nifti(_save(tmp_path / "a.nii", array))
    z, row, column = np.argwhere(found.array[0])[0]
    np.testing.assert_allclose(found.affine @ [column, row, z, 1], AFFINE @ [4, 1, 2, 1], rtol=1e-6)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    nib.save(nib.Nifti1Image(_array(), AFFINE, header), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == struct.pack(">i", 348)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").array[0].T, _array())


def test_scaled_values_are_those_of_nibabel(tmp_path: Path) -> None:
    path = _patch(_save(tmp_path / "a.nii", _array()), 112, "2f", 2.0, -1024.0)
    np.testing.assert_array_equal(read_nifti(path).array[0].T, nib.load(path).get_fdata())


@pytest.mark.parametrize(("dtype", "expected"), [("i2", "f4"), ("f4", "f4"), ("i4", "f8"), ("f8", "f8")])
@pytest.mark.parametrize("order", "<>")
def test_scaled_values_are_floats_that_hold_them(tmp_path: Path, dtype: str, expected: str, order: str) -> None:
    image = nib.Nifti1Image(_array(dtype=dtype), AFFINE, nib.Nifti1Header(endianness=order))
    image.set_data_dtype(dtype)
    image.header.set_slope_inter(0.5, 1.0)
    nib.save(image, tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").array.dtype == np.dtype(expected)


@pytest.mark.parametrize("slope", [0.0, float("nan"), float("inf")])
def test_a_slope_that_is_none_leaves_integers(tmp_path: Path, slope: float) -> None:
    path = _patch(_save(tmp_path / "a.nii", _array()), 112, "2f", slope, 5.0)
    assert read_nifti(path).array.dtype == np.int16


@pytest.mark.parametrize(("shape", "expected"), [((5, 4), (1, 1, 4, 5)), ((5, 4, 3), (1, 3, 4, 5))])
def test_images_and_volumes_have_one_channel(tmp_path: Path, shape: tuple, expected: tuple) -> None:
    assert read_nifti(_save(tmp_path / "a.nii", _array(shape))).array.shape == expected


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (5, 4, 3, 1, 2)])
def test_a_fourth_or_fifth_dimension_is_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = read_nifti(_save(tmp_path / "a.nii", _array(shape))).array
    np.testing.assert_array_equal(found[1].T, _array(shape)[..., 1].reshape(5, 4, 3))


@pytest.mark.parametrize(("units", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_lengths_are_in_mm_whatever_the_unit(tmp_path: Path, units: int, factor: float) -> None:
    path = _save(tmp_path / "a.nii", _array(), np.diag([0.5, 0.5, 0.5, 1.0]))
    np.testing.assert_allclose(read_nifti(_patch(path, 123, "B", units)).spacing, 0.5 * factor)


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    data = _save(tmp_path / "a.nii", _array()).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(data[:400]) + gzip.compress(data[400:]))
    np.testing.assert_array_equal(read_nifti(tmp_path / "b.nii.gz").array[0].T, _array())


@pytest.mark.parametrize(
    ("place", "kind", "values", "field"),
    [
        (40, "h", (0,), "dim[0]"),
        (40, "h", (9,), "dim[0]"),
        (42, "h", (-5,), "dim"),
        (40, "6h", (5, 5, 2, 3, 2, 2), None),
        (70, "h", (32,), "datatype"),
        (70, "h", (128,), "datatype"),
        (72, "h", (8,), "bitpix"),
        (108, "f", (float("nan"),), "vox_offset"),
        (108, "f", (-4.0,), "vox_offset"),
        (108, "f", (1e9,), "vox_offset"),
        (123, "B", (7,), "xyzt_units"),
        (112, "2f", (1.0, float("nan")), "scl_inter"),
        (280, "f", (float("nan"),), "affine"),
        (280, "4f", (0.0, 0.0, 0.0, 0.0), "affine"),
        (280, "f", (1e30,), "affine"),
        (344, "4s", (b"ni1\0",), "magic"),
        (344, "4s", (b"abcd",), "magic"),
        (0, "i", (349,), "sizeof_hdr"),
    ],
    ids=str,
)
def test_headers_that_cannot_be_are_refused(
    tmp_path: Path, place: int, kind: str, values: tuple, field: str | None
) -> None:
    path = _patch(_save(tmp_path / "a.nii", _array()), place, kind, *values)
    with pytest.raises(DataError) as caught:
        read_nifti(path)
    assert caught.value.path == path
    assert field is None or caught.value.field == field


@pytest.mark.parametrize("cut", [100, 352, -1])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, cut: int) -> None:
    path = _save(tmp_path / f"a{suffix}", _array((50, 40, 3)))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError):
        read_nifti(path)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    array = _array(dtype="f4")
    array[1, 0, 2] = np.nan  # as nibabel counts
    with pytest.raises(DataError, match=r"not finite; found 1 of [\d,]+, the first at \[1, 0, 2\]"):
        read_nifti(_save(tmp_path / "a.nii", array))


@pytest.mark.parametrize("place", ["before", "between", "behind"])
def test_thousands_of_gzip_members_are_refused(tmp_path: Path, place: str) -> None:
    data, empty = _save(tmp_path / "a.nii", _array()).read_bytes(), gzip.compress(b"") * 5000
    parts = [gzip.compress(data[:400]), gzip.compress(data[400:])]
    parts.insert(("before", "between", "behind").index(place), empty)
    (tmp_path / "b.nii.gz").write_bytes(b"".join(parts))
    with pytest.raises(DataError, match="too many gzip members"):
        read_nifti(tmp_path / "b.nii.gz")


def test_members_of_64_kib_as_bgzip_writes_them_and_zeros_behind_are_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (200, 200, 20)).astype(np.uint8)
    data = _save(tmp_path / "a.nii", array).read_bytes()
    blocks = [gzip.compress(data[at : at + 65_280]) for at in range(0, len(data), 65_280)]
    (tmp_path / "b.nii.gz").write_bytes(b"".join(blocks) + bytes(100_000))
    np.testing.assert_array_equal(read_nifti(tmp_path / "b.nii.gz").array[0].T, array)


def test_what_follows_a_gzip_member_and_is_none_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.nii.gz", _array())
    path.write_bytes(path.read_bytes() + b"trailing")
    with pytest.raises(DataError, match="damaged gzip"):
        read_nifti(path)


def test_a_stream_that_goes_on_is_refused(tmp_path: Path) -> None:
    data = _save(tmp_path / "a.nii", _array()).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(data + bytes(1 << 20)))
    with pytest.raises(DataError, match="another size"):
        read_nifti(tmp_path / "b.nii.gz")


def test_the_cap_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more data than allowed"):
        read_nifti(_save(tmp_path / "a.nii.gz", np.zeros((50, 40, 30), np.int16)), limits=Limits(max_bytes=10_000))


def _claiming(shape: tuple[int, int, int]) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return header.binaryblock


@pytest.mark.parametrize("kind", ["claim", "bomb", "hidden bomb"])
def test_bombs_are_refused_without_torch_and_in_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.nii" if kind == "claim" else "a.nii.gz")
    if kind == "claim":
        path.write_bytes(_claiming((30000, 30000, 4)) + bytes(8))
    else:
        shape = (513, 1024, 1024) if kind == "bomb" else (4, 4, 4)
        with gzip.open(path, "wb") as file:
            file.write(_claiming(shape) + bytes(4))
            for _ in range(512):
                file.write(bytes(1 << 20))
    code = (
        "import pathlib, sys\nfrom modiff.errors import DataError\nfrom modiff.io.nifti import read_nifti\n"
        "try: read_nifti(sys.argv[1]); sys.exit('was read')\nexcept DataError as error: print(error)\n"
        "if 'torch' in sys.modules: sys.exit('torch was imported')\n"
        # Not ru_maxrss: a child begins with what its parent had reached.
        "status = pathlib.Path('/proc/self/status')\n"
        "peak = status.read_text().split('VmHWM:')[1].split()[0] if status.exists() else 0\n"
        "if int(peak) > 300 * 1024: sys.exit(f'took {peak} KiB')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 351), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "flip.nii"
    data = bytearray(_save(folder / "whole.nii", _array()).read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)
    try:
        found = read_nifti(path)
    except ModiffError:
        return
    assert found.array.size > 0


def test_nibabels_own_files_are_read_as_nibabel_does_or_refused() -> None:
    folder = Path(nib.__file__).parent / "tests" / "data"
    files = [*folder.glob("*.nii"), *folder.glob("*.nii.gz"), *folder.glob("*.hdr")]
    if not files:
        pytest.skip("nibabel is installed without its test data")
    for path in files:
        try:
            found = read_nifti(path)
        except ModiffError:
            continue
        theirs = nib.load(path)
        np.testing.assert_allclose(found.affine, theirs.affine, atol=1e-5, err_msg=str(path))
        values = np.moveaxis(found.array.transpose(0, 3, 2, 1), 0, -1).ravel()
        np.testing.assert_allclose(values, theirs.get_fdata().ravel(), rtol=1e-5, err_msg=str(path))


def test_a_real_volume_is_read_as_nibabel_does(shared: Path) -> None:
    path = next((shared / "data" / "open-ms" / "patient07").glob("GOLD*.nii.gz"))
    found, theirs = read_nifti(path), nib.load(path)
    np.testing.assert_array_equal(found.array[0].T, np.asanyarray(theirs.dataobj))
    np.testing.assert_array_equal(found.affine, theirs.affine)
