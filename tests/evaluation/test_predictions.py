"""Reading maps that other programs made: every kind gives the same, and what does not fit is refused by name."""

from __future__ import annotations

import zipfile

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from modiff.errors import DataError
from modiff.evaluation.predictions import RawMaps, open_maps
from modiff.evaluation.truth import Values
from modiff.io.image import write_png

CASES = ("p1/a", "p1/b", "p2/a")


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    return {case: (rng.random((3, 8, 6)) < 0.4).astype(np.uint8) for case in CASES}


def png_folder(path, maps, scale=255):
    for case, masks in maps.items():
        for i, mask in enumerate(masks):
            write_png(path / case / f"sample-{i}.png", mask * np.uint8(scale))
    return path


def nifti(path, array, affine=None):
    """array: (Z,H,W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4) if affine is None else affine), path)


def nifti_folder(path, maps):
    for case, masks in maps.items():
        for i, mask in enumerate(masks):
            nifti(path / case / f"sample-{i}.nii.gz", mask[None])
    return path


def npz(path, maps):
    np.savez_compressed(path / "maps.npz", **maps)
    return path / "maps.npz"


def npz_folder(path, maps):
    for case, masks in maps.items():
        (path / case).mkdir(parents=True)
        np.savez(path / case / "samples.npz", maps=masks.astype(np.float32)[:, None], mean=masks.mean(0))
        write_png(path / case / "overlay.png", masks[0])
    return path


def hdf5(path, maps):
    with h5py.File(path / "maps.h5", "w") as file:
        for case, masks in maps.items():
            file[case] = masks
    return path / "maps.h5"


def hdf5_together(path, maps):
    with h5py.File(path / "maps.h5", "w") as file:
        file["case"] = list(maps)
        file["samples"] = np.stack(list(maps.values())).astype(bool)
    return path / "maps.h5"


@pytest.mark.parametrize("write", [png_folder, nifti_folder, npz, npz_folder, hdf5, hdf5_together])
def test_every_kind_of_file_gives_the_same_masks(tmp_path, maps, write):
    with open_maps(write(tmp_path, maps)) as source:
        assert source.cases == CASES
        for case in CASES:
            assert source.count(case) == 3
            found = Values("auto", 1).read(source.read(case))
            np.testing.assert_array_equal(found[0, :, 0], maps[case])


@pytest.mark.parametrize("scale", [1, 255])
def test_masks_of_ones_and_of_full_scale_are_alike(tmp_path, maps, scale):
    with open_maps(png_folder(tmp_path, maps, scale)) as source:
        found = Values("auto", 1).read(source.read("p1/a"))
    assert found.dtype == bool
    np.testing.assert_array_equal(found[0, :, 0], maps["p1/a"])


def test_masks_of_one_bit_a_pixel_are_read(tmp_path, maps):
    (tmp_path / "a").mkdir()
    Image.fromarray(maps["p1/a"][0].astype(bool)).save(tmp_path / "a" / "r1.png")
    with open_maps(tmp_path) as source:
        np.testing.assert_array_equal(source.read("a").array[0, 0, 0], maps["p1/a"][0])


def test_names_have_one_spelling_and_what_systems_leave_is_passed_over(tmp_path, maps):
    png_folder(tmp_path, {"p1/Zoe\u0308": maps["p1/a"]})
    for name in (".DS_Store", "Thumbs.db", "p1/Zoe\u0308/._sample-0.png"):
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "x.png").write_bytes(b"\0")
    with open_maps(tmp_path) as source:
        assert source.cases == ("p1/Zo\u00eb",)
        assert source.read("p1/Zo\u00eb").array.shape == (3, 1, 1, 8, 6)


def test_names_in_an_npz_that_was_packed_again(tmp_path, maps):
    np.savez(tmp_path / "x.npz", **{"p1\\Zoe\u0308": maps["p1/a"], "__MACOSX/p1/._a": maps["p1/a"]})
    with open_maps(tmp_path / "x.npz") as source:
        assert source.cases == ("p1/Zo\u00eb",)
        assert source.count("p1/Zo\u00eb") == 3


def test_a_zip_of_pictures_and_the_samples_of_one_image_say_what_is_wanted(tmp_path, maps):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("p1/sample-0.png", b"")
    with pytest.raises(DataError, match=r"no cases; found p1/sample-0\.png"):
        open_maps(tmp_path / "x.zip")
    np.savez(tmp_path / "samples.npz", maps=maps["p1/a"], weights=np.ones(3))
    with pytest.raises(DataError, match="Give the folder"):
        open_maps(tmp_path / "samples.npz")


def test_maps_of_a_folder_are_in_natural_order(tmp_path):
    for i in ("10", "2", "02", "1"):
        write_png(tmp_path / "a" / f"s{i}.png", np.zeros((2, 2), np.uint8))
    with open_maps(tmp_path) as source:
        assert source.read("a").names == ("s1", "s02", "s2", "s10")


def test_a_volumes_slices_are_its_first_axis(tmp_path):
    volume = np.zeros((5, 4, 3), np.uint8)
    volume[2, 1, 0] = 1
    nifti(tmp_path / "v" / "r.nii.gz", volume)
    with open_maps(tmp_path) as source:
        found = Values("masks", 1).read(source.read("v"))
    assert found.shape == (5, 1, 1, 4, 3)
    assert found[2, 0, 0, 1, 0]


def raw(array, case="c"):
    array = np.asarray(array)
    return RawMaps(case, "file", tuple(map(str, range(len(array)))), array[:, None, None])


def test_eight_bits_are_probabilities_of_255():
    found = Values("auto", 1).read(raw(np.array([[[0, 51, 255]]], np.uint8)))
    np.testing.assert_allclose(found[0, 0, 0], [[0, 0.2, 1]], atol=1e-7)


def test_sixteen_bits_are_probabilities_of_65535():
    found = Values("probabilities", 1).read(raw(np.array([[[0, 1, 65535]]], np.uint16)))
    np.testing.assert_allclose(found[0, 0, 0], [[0, 1 / 65535, 1]], atol=1e-9)


def test_class_indices_become_a_mask_a_class():
    found = Values("auto", 2).read(raw(np.array([[[0, 1, 2]]], np.uint8)))
    assert found[0, 0].tolist() == [[[False, True, False]], [[False, False, True]]]


def test_a_set_of_masks_and_probabilities_must_say_which():
    values = Values("auto", 1)
    values.read(raw(np.array([[[0, 1]]], np.uint8), "first"))
    with pytest.raises(DataError, match=r"second.*masks in case first"):
        values.read(raw(np.array([[[0, 17, 18]]], np.uint8), "second"))


def test_an_empty_mask_says_nothing_of_the_set():
    values = Values("auto", 1)
    for array in ([[[0, 0]]], [[[0, 255]]], [[[0, 17, 18]]], [[[0, 0]]]):
        values.read(raw(np.array(array, np.uint8)))


def test_a_set_said_to_be_probabilities_may_hold_small_ones():
    found = Values("probabilities", 1).read(raw(np.array([[[0, 1]]], np.uint8)))
    np.testing.assert_allclose(found[0, 0, 0], [[0, 1 / 255]], atol=1e-9)


@pytest.mark.parametrize("meaning", ["auto", "masks"])
@pytest.mark.parametrize(
    ("dtype", "top", "noted"),
    [
        *((bool, 1, False), ("u1", 255, False), ("u2", 65535, False), ("i8", 1, False), ("f4", 1, False)),
        *(("u1", 2, True), ("u1", 100, True), ("u1", 128, True), ("u2", 255, True), ("i2", 255, True)),
        *(("i4", 65535, True), ("i1", -1, True), ("f4", 255, True)),
    ],
)
def test_0_and_one_other_value_are_masks_of_any_type(maps, dtype, top, noted, meaning):
    values = Values(meaning, 1)
    found = values.read(raw(maps["p1/a"].astype(dtype) * np.dtype(dtype).type(top)))
    np.testing.assert_array_equal(found[0, :, 0], maps["p1/a"])
    assert bool(values.notes) == noted


@pytest.mark.parametrize("meaning", ["auto", "masks"])
def test_each_map_of_a_case_has_its_own_full_scale(maps, meaning):
    values = Values(meaning, 1)
    found = values.read(raw(maps["p1/a"] * np.array([1, 255, 1], np.uint8)[:, None, None]))
    np.testing.assert_array_equal(found[0, :, 0], maps["p1/a"])
    assert "0 and 1 in 2 files, such as c, map 0; masks of 0 and 255 in c, map 1" in values.notes[0]


def test_a_nearly_empty_map_among_probabilities_is_one_too():
    values = Values("auto", 1)
    found = values.read(raw(np.array([[[0, 1]], [[9, 255]]], np.uint8)))
    np.testing.assert_allclose(found[0, :, 0, 0], [[0, 1 / 255], [9 / 255, 1]], rtol=1e-6)
    assert values.notes == ("whole numbers are read as probabilities, 255 as 1 (c)",)


def test_two_foreground_values_of_unknown_scale_are_refused():
    values = Values("auto", 1)
    values.read(raw(np.array([[[0, 7]]], np.uint8), "first"))
    with pytest.raises(DataError, match="0 and 9, but 0 and 7 in first, map 0"):
        values.read(raw(np.array([[[0, 9]]], np.uint8)))


def test_an_empty_map_beside_masks_of_floats_is_a_mask():
    found = Values("auto", 1).read(raw(np.float32([[[0, 0]], [[0, 255]]])))
    assert found[0, :, 0, 0].tolist() == [[False, False], [False, True]]


def test_floats_of_0_and_one_small_value_are_probabilities_with_a_note():
    values = Values("auto", 1)
    np.testing.assert_array_equal(values.read(raw(np.float32([[[0, 0.004]]])))[0, 0, 0], np.float32([[0, 0.004]]))
    assert values.notes == ("floats of 0 and one value below 1 are read as probabilities (c)",)
    np.testing.assert_array_equal(Values("masks", 1).read(raw(np.float32([[[0, 0.004]]])))[0, 0, 0], [[False, True]])


def test_probabilities_a_rounding_above_1_are_clipped_with_a_note():
    values = Values("auto", 1)
    found = values.read(raw(np.array([[[0, 0.4, 1.0000002]]], np.float64)))
    np.testing.assert_array_equal(found[0, 0, 0], np.float32([[0, 0.4, 1]]))
    assert "clipped" in values.notes[0]


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, np.inf])
def test_values_outside_0_and_1_name_case_and_map(value):
    array = np.zeros((3, 2, 2))
    array[1, 0, 0] = value
    with pytest.raises(DataError, match=r"c, map 1.*outside \[0,1\]"):
        Values("auto", 1).read(raw(array))


@pytest.mark.parametrize(
    ("array", "classes", "meaning", "match"),
    [
        (np.array([[[3]]], np.uint8), 2, "masks", "found the value 3; expected 0 to 2"),
        (np.array([[[-1]]], np.int16), 1, "masks", "mask values"),
        (np.array([[[0.5]]]), 1, "masks", "not whole"),
        (np.array([[[700]]], np.int16), 1, "probabilities", "no scale"),
        (np.array([[[0.5]]]), 2, "probabilities", "2 channels"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(array, classes, meaning, match):
    with pytest.raises(DataError, match=match):
        Values(meaning, classes).read(raw(array))


def test_classes_that_overlap_are_refused():
    array = RawMaps("c", "file", ("0",), np.full((1, 2, 1, 1, 1), 0.7))
    with pytest.raises(DataError, match="exclude each other"):
        Values("auto", 2).read(array)
    array = RawMaps("c", "file", ("0",), np.ones((1, 2, 1, 1, 1), np.uint8))
    with pytest.raises(DataError, match="exclude each other"):
        Values("masks", 2).read(array)


def test_another_number_of_channels_is_refused():
    with pytest.raises(DataError, match="found 3; expected 1 or 2"):
        Values("auto", 2).read(RawMaps("c", "file", ("0",), np.zeros((1, 3, 1, 2, 2))))


def test_a_map_twice_names_the_case(tmp_path):
    write_png(tmp_path / "p" / "a" / "r1.png", np.zeros((2, 2), np.uint8))
    nifti(tmp_path / "p" / "a" / "r1.nii.gz", np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(DataError, match=r"p/a: the map 'r1' occurs twice"):
        open_maps(tmp_path)


def test_two_files_of_arrays_for_one_case_are_refused(tmp_path, maps):
    npz_folder(tmp_path, maps)
    np.savez(tmp_path / "p1" / "a.npz", maps=maps["p1/a"])
    with pytest.raises(DataError, match=r"a name occurs twice; found p1/a"):
        open_maps(tmp_path)


def test_maps_of_two_sizes_name_the_file_and_case(tmp_path):
    write_png(tmp_path / "a" / "s1.png", np.zeros((2, 2), np.uint8))
    write_png(tmp_path / "a" / "s2.png", np.zeros((2, 3), np.uint8))
    with open_maps(tmp_path) as source, pytest.raises(DataError, match=r"s2\.png: unexpected size.*case a"):
        source.read("a")


def test_maps_in_two_places_name_the_file_and_case(tmp_path):
    nifti(tmp_path / "a" / "s1.nii.gz", np.zeros((1, 2, 2), np.uint8))
    moved = np.eye(4)
    moved[0, 3] = 2.5
    nifti(tmp_path / "a" / "s2.nii.gz", np.zeros((1, 2, 2), np.uint8), moved)
    with (
        open_maps(tmp_path) as source,
        pytest.raises(DataError, match=r"s2\.nii\.gz: a: lies elsewhere in space.*2\.5 mm"),
    ):
        source.read("a")


@pytest.mark.parametrize("name", ["a.jpg", "a.dcm", "a.pkl"])
def test_formats_that_are_no_maps_are_refused(tmp_path, name):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(b"x")
    with pytest.raises(DataError, match="not a format for maps"):
        open_maps(tmp_path)


def test_files_outside_a_cases_folder_are_refused(tmp_path):
    write_png(tmp_path / "s1.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match="outside a case's folder"):
        open_maps(tmp_path)


@pytest.mark.parametrize("one_case", [False, True])
def test_a_cases_folder_may_be_called_as_the_folder_it_lies_in(tmp_path, maps, one_case):
    png_folder(tmp_path / "p1", {"p1": maps["p1/a"], "p2": maps["p1/b"]})
    with open_maps(tmp_path / "p1", one_case=one_case) as source:
        assert (source.cases, source.notes) == (("p1", "p2"), ())


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no cases"):
        open_maps(tmp_path)


def test_an_unknown_file_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(DataError, match="not a set of maps"):
        open_maps(tmp_path / "x.txt")
    with pytest.raises(DataError, match="no such file"):
        open_maps(tmp_path / "none")


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{"code": 1}], dtype=object))
    with open_maps(tmp_path / "x.npz") as source, pytest.raises(DataError, match="not an array of numbers"):
        source.read("a")


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 2), np.uint8))
    content = (tmp_path / "a.npy").read_bytes().replace(b"(2, 2, 2)", b"(9,99,99)")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with open_maps(tmp_path / "x.npz") as source, pytest.raises(DataError, match="cut short"):
        source.read("a")


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (520, 1024, 1024)})
        for _ in range(520):
            file.write(bytes(1 << 20))
    with open_maps(tmp_path / "x.npz") as source, pytest.raises(DataError, match="far more data"):
        source.read("a")


def test_data_in_other_files_is_not_followed(tmp_path, maps):
    hdf5(tmp_path, maps)
    layout = h5py.VirtualLayout((3, 8, 6), np.uint8)
    layout[:] = h5py.VirtualSource(str(tmp_path / "maps.h5"), "p1/a", (3, 8, 6))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("p1/a", layout)
    with pytest.raises(DataError, match="not followed"):
        open_maps(tmp_path / "virtual.h5")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["a"] = h5py.ExternalLink("maps.h5", "p1/a")
    with pytest.raises(DataError, match="no cases"):
        open_maps(tmp_path / "link.h5")


@pytest.mark.parametrize(("write", "match"), [(npz, "a truncated one"), (hdf5, "truncated file")])
def test_a_file_cut_short_is_refused(tmp_path, maps, write, match):
    path = write(tmp_path, maps)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=match):
        open_maps(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_palettes_indices_are_classes_and_one_bit_is_a_mask(tmp_path, suffix):
    classes = np.arange(48, dtype=np.uint8).reshape(8, 6) % 3
    indexed = Image.fromarray(classes).convert("P")
    indexed.putdata(classes.ravel().tolist())
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    for case, image in (("palette", indexed), ("bits", Image.fromarray(classes == 1))):
        (tmp_path / case).mkdir()
        image.save(tmp_path / case / f"a.{suffix}")
    with open_maps(tmp_path) as source:
        read = {case: Values("masks", 2).read(source.read(case))[0, 0] for case in source.cases}
    np.testing.assert_array_equal(read["palette"], np.stack([classes == 1, classes == 2]))
    np.testing.assert_array_equal(read["bits"], np.stack([classes == 1, np.zeros_like(classes)]))


@pytest.mark.parametrize("name", ["grey palette", "grey RGB", "array of booleans", "reversed palette"])
def test_a_mask_is_read_however_it_is_stored(tmp_path, maps, name):
    mask, folder = maps["p1/a"][0], tmp_path / "a"
    folder.mkdir()
    image = Image.fromarray(mask * np.uint8(255))
    if name == "array of booleans":
        np.save(folder / "r.npy", mask.astype(bool))
    elif name == "reversed palette":
        turned = Image.fromarray(1 - mask, "P")
        turned.putpalette([255, 255, 255, 0, 0, 0])
        turned.save(folder / "r.png")
    else:
        (image.convert("RGB").quantize(2) if name == "grey palette" else image.convert("RGB")).save(folder / "r.png")
    with open_maps(tmp_path) as source:
        np.testing.assert_array_equal(Values("masks", 1).read(source.read("a"))[0, 0, 0], mask)


def test_a_palette_whose_first_colour_is_not_black_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    image = Image.fromarray(np.eye(4, dtype=np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.save(tmp_path / "a" / "r.png")
    with open_maps(tmp_path) as source, pytest.raises(DataError, match="first colour is not black"):
        source.read("a")


def test_maps_of_several_number_types_are_masks_and_no_probabilities(tmp_path, maps):
    for name, mask, dtype, top in zip(
        "rst", maps["p1/a"], (np.uint8, np.uint16, np.int16), (255, 65535, 1), strict=True
    ):
        nifti(tmp_path / "a" / f"{name}.nii", mask.astype(dtype)[None] * dtype(top))
    with open_maps(tmp_path) as source:
        for meaning in ("auto", "masks"):
            np.testing.assert_array_equal(Values(meaning, 1).read(source.read("a"))[0, :, 0], maps["p1/a"])
        with pytest.raises(DataError, match="no scale for probabilities; found several number types"):
            Values("probabilities", 1).read(source.read("a"))


@pytest.mark.parametrize(("ours", "refused"), [((0, 0), False), ((1, 1), False), ((1, 2), False), ((2, 1), True)])
def test_forms_of_a_case_are_compared_each(tmp_path, ours, refused):
    """Numbers are mm along x of the sform and the qform; 0 is a code of 0."""
    for name, places in (("r", (1, 1)), ("s", ours)):
        image = nibabel.Nifti1Image(np.eye(5, dtype=np.uint8)[..., None], None)
        for form, place in zip(("sform", "qform"), places, strict=True):
            affine = np.eye(4)
            affine[0, 3] = place
            getattr(image, f"set_{form}")(affine if place else None, code=int(place > 0))
        (tmp_path / "a").mkdir(exist_ok=True)
        nibabel.save(image, tmp_path / "a" / f"{name}.nii")
    with open_maps(tmp_path) as source:
        if refused:
            with pytest.raises(DataError, match="the same place by the qform, but up to 1 mm apart by the sform"):
                source.read("a")
        else:
            notes = [text for text, _ in source.read("a").notes]
            assert bool(notes) == (ours != (1, 1))
            assert not notes or notes[-1].endswith("read voxel by voxel")
