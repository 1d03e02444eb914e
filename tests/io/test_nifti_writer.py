"""What is written on a volume's grid lies where the volume lies, whoever reads it."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modiff.errors import DataError
from modiff.io.nifti import read_nifti, write_nifti
from modiff.io.volume import Volume

SPACING = (0.7, 1.1, 2.5)
ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def affine_of(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """Voxel axis i runs along world axis order[i] in direction signs[i], by SPACING[i] mm."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * SPACING[axis]
    affine[:3, 3] = (-31.5, 12.25, 700.125)
    return affine


def corner() -> np.ndarray:
    """(7,6,5) an object that no flip, turn or swap of axes leaves as it is."""
    values = np.zeros((7, 6, 5), np.uint8)
    values[1:6, 1, 1], values[1, 1:4, 1], values[1, 1, 1:3] = 1, 1, 1
    return values


def world(mask: np.ndarray, affine: np.ndarray) -> set[tuple[float, ...]]:
    """The marked voxels' places in mm."""
    found = nib.affines.apply_affine(affine, np.argwhere(mask))
    return {tuple(row) for row in found.round(4).tolist()}


def written(tmp_path: Path, values: np.ndarray, affine: np.ndarray, *, header=None, name: str = "image.nii.gz") -> Path:
    nib.save(nib.Nifti1Image(values, affine, header), tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_an_asymmetric_object_keeps_its_place_in_every_orientation(tmp_path, order, signs):
    affine = affine_of(order, signs)
    volume = read_nifti(written(tmp_path, corner(), affine))
    write_nifti(tmp_path / "mask.nii.gz", volume.array[0] > 0, volume)
    back = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(back.dataobj), corner())
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)
    assert world(np.asarray(back.dataobj), back.affine) == world(corner(), affine)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::7])
def test_monai_reads_the_same_place(tmp_path, order, signs):
    from monai.transforms import LoadImage, Orientation

    affine = affine_of(order, signs)
    path = written(tmp_path, corner(), affine)
    volume = read_nifti(path)
    write_nifti(tmp_path / "mask.nii.gz", volume.array[0], volume)
    load, turn = LoadImage(image_only=True, ensure_channel_first=True), Orientation("RAS", labels=None)
    images = [turn(load(file)) for file in (path, tmp_path / "mask.nii.gz")]
    assert np.array_equal(images[0].numpy(), images[1].numpy())
    np.testing.assert_allclose(images[0].affine.numpy(), images[1].affine.numpy(), atol=1e-5)


def test_a_tilted_volume_keeps_its_affine(tmp_path):
    turn = nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag(SPACING)
    affine = nib.affines.from_matvec(turn, (5, -6, 7))
    volume = read_nifti(written(tmp_path, corner(), affine))
    write_nifti(tmp_path / "map.nii", volume.array[0].astype(np.float32), volume)
    np.testing.assert_allclose(nib.load(tmp_path / "map.nii").affine, affine, atol=1e-5)


def test_both_forms_of_a_header_come_through_to_the_bit(tmp_path):
    image = nib.Nifti1Image(corner(), None)
    image.set_sform(affine_of((0, 1, 2), (1, 1, 1)), code=4)
    image.set_qform(affine_of((1, 0, 2), (-1, 1, -1)), code=2)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "image.nii.gz")
    volume = read_nifti(tmp_path / "image.nii.gz")
    write_nifti(tmp_path / "map.nii.gz", volume.array[0].astype(np.float32), volume)
    old, new = (nib.load(tmp_path / name).header for name in ("image.nii.gz", "map.nii.gz"))
    for field in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert np.array_equal(old[field], new[field]), field
    for field in ("qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units", "dim"):
        assert np.array_equal(old[field], new[field]), field


@pytest.mark.parametrize("code", [(0, 0), (1, 0), (0, 2)], ids=["no form", "sform", "qform"])
def test_the_form_that_says_the_place_is_the_one_that_did(tmp_path, code):
    path = written(tmp_path, corner(), affine_of((0, 2, 1), (1, -1, 1)), name="image.nii")
    data = bytearray(path.read_bytes())
    struct.pack_into("<2h", data, 252, code[1], code[0])  # nibabel itself would bring the codes into line
    path.write_bytes(data)
    volume = read_nifti(path)
    write_nifti(tmp_path / "mask.nii.gz", volume.array[0] > 0, volume)
    again = read_nifti(tmp_path / "mask.nii.gz")
    assert again.spacing == pytest.approx(volume.spacing)
    if code == (0, 0):
        assert again.affine is volume.affine is None
    else:
        np.testing.assert_allclose(again.affine, volume.affine, atol=1e-5)
    header = nib.load(tmp_path / "mask.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == code


def test_metres_stay_metres_and_read_as_mm(tmp_path):
    image = nib.Nifti1Image(corner(), np.diag([0.001, 0.001, 0.002, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "image.nii.gz")
    volume = read_nifti(tmp_path / "image.nii.gz")
    write_nifti(tmp_path / "mask.nii.gz", volume.array[0] > 0, volume)
    assert read_nifti(tmp_path / "mask.nii.gz").spacing == pytest.approx((2, 1, 1))


def test_two_dimensions_stay_two(tmp_path):
    path = written(tmp_path, corner()[:, :, 1], affine_of((0, 1, 2), (1, 1, 1)))
    volume = read_nifti(path)
    write_nifti(tmp_path / "mask.nii.gz", volume.array[0], volume)
    back = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(back.dataobj), corner()[:, :, 1])


def test_channels_go_and_the_grid_stays(tmp_path):
    several = np.stack([corner(), 2 * corner(), 3 * corner()], 3)
    volume = read_nifti(written(tmp_path, several, affine_of((2, 0, 1), (1, 1, -1))))
    write_nifti(tmp_path / "map.nii.gz", volume.array[1].astype(np.float32), volume)
    back = nib.load(tmp_path / "map.nii.gz")
    assert back.shape == corner().shape
    np.testing.assert_array_equal(back.get_fdata(), 2 * corner())


def test_other_headers_keep_their_kind(tmp_path):
    nib.save(nib.Nifti2Image(corner(), affine_of((0, 1, 2), (-1, 1, 1))), tmp_path / "two.nii")
    swapped = nib.Nifti1Image(corner(), np.eye(4), nib.Nifti1Header(endianness=">"))
    nib.save(swapped, tmp_path / "big.nii")
    for name, kind in (("two.nii", nib.Nifti2Image), ("big.nii", nib.Nifti1Image)):
        volume = read_nifti(tmp_path / name)
        write_nifti(tmp_path / "mask.nii.gz", volume.array[0], volume)
        back = nib.load(tmp_path / "mask.nii.gz")
        assert type(back) is kind
        np.testing.assert_array_equal(np.asarray(back.dataobj), corner())


def test_scaling_of_the_source_does_not_touch_the_map(tmp_path):
    image = nib.Nifti1Image(corner().astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    nib.save(image, tmp_path / "image.nii")
    volume = read_nifti(tmp_path / "image.nii")
    values = np.random.default_rng(0).random(volume.shape, dtype=np.float32)
    write_nifti(tmp_path / "map.nii.gz", values, volume)
    np.testing.assert_array_equal(nib.load(tmp_path / "map.nii.gz").get_fdata(dtype=np.float32), values.T)


def test_free_text_of_the_source_is_not_copied(tmp_path):
    header = nib.Nifti1Header()
    for name in ("db_name", "aux_file", "descrip", "intent_name"):
        header[name] = b"DOE JANE"
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE JANE 1970-01-01"))
    path = written(tmp_path, corner(), np.eye(4), header=header, name="image.nii")
    assert b"DOE JANE" in path.read_bytes()
    volume = read_nifti(path)
    write_nifti(tmp_path / "map.nii", volume.array[0], volume, description="mean map", intent="probability")
    data = (tmp_path / "map.nii").read_bytes()
    assert b"DOE" not in data
    assert b"mean map" in data


@pytest.mark.parametrize("shear", [0.0, 0.3])
def test_a_volume_of_another_format_brings_its_affine(tmp_path, shear):
    affine = affine_of((0, 1, 2), (-1, -1, 1))
    affine[1, 2] = shear
    volume = Volume(corner().T[None], affine, tmp_path / "series", "DICOM")
    write_nifti(tmp_path / "mask.nii.gz", volume.array[0], volume)
    back = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)
    assert back.header.get_xyzt_units()[0] == "mm"
    assert int(back.header["sform_code"]) == 1
    assert int(back.header["qform_code"]) == (0 if shear else 1)


def test_the_same_values_are_the_same_bytes(tmp_path):
    volume = read_nifti(written(tmp_path, corner(), np.eye(4)))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, volume.array[0], volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_another_grid_and_another_name_are_refused(tmp_path):
    volume = Volume(np.zeros((1, 3, 4, 5)), np.eye(4), tmp_path / "x.nii", "NIfTI")
    with pytest.raises(DataError, match="another grid"):
        write_nifti(tmp_path / "map.nii", np.zeros((3, 5, 4)), volume)
    with pytest.raises(DataError, match="is not the name of a NIfTI"):
        write_nifti(tmp_path / "map.png", np.zeros((3, 4, 5)), volume)
    assert not list(tmp_path.iterdir())
