"""`modiff import folder`: own images and raters' masks, whatever their format, end in the store where they belong."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import pytest
from dicom_files import SHAPE, save, series
from PIL import Image

from modiff.cli import main
from modiff.data.importers.folder import mask_limits
from modiff.data.importers.layout import Item, likely, two_names
from modiff.data.intensity import IntensityRule, convert, store_values, stretch
from modiff.data.store import Store
from modiff.errors import ConfigError, ModiffError
from modiff.io.files import Limits
from modiff.io.image import SUFFIXES, read_image
from modiff.io.volume import Volume

ZOE = "Zoë"
AFFINE = np.array([[-0.5, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])  # columns L, rows P, slices S


def _png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _nii(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """array: (Z,H,W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.T, affine), path)


def _picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, 10), dtype=np.uint8)


def _mask(shape: tuple[int, ...], rows: int = 3) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[..., 2 : 2 + rows, 4:7] = 1
    return mask


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two patients with one image each, two raters."""
    for place, case in enumerate(("p1/a", "p2/b")):
        _png(tmp_path / "data" / case / "image.png", _picture(place))
        for rows, rater in enumerate(("ann", "bob")):
            _png(tmp_path / "data" / case / f"rater-{rater}.png", 255 * _mask((12, 10), rows + 2))
    return tmp_path / "data"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """One volume of six slices, of which two raters marked the third and fourth."""
    rng = np.random.default_rng(0)
    _nii(tmp_path / "data" / "p1" / "image.nii.gz", rng.integers(-1000, 400, (6, 12, 10)).astype(np.int16))
    mask = np.zeros((6, 12, 10), np.uint8)
    mask[2:4] = _mask((12, 10))
    for rater in ("ann", "bob"):
        _nii(tmp_path / "data" / "p1" / f"rater-{rater}.nii.gz", mask)
    return tmp_path / "data"


WINDOW = ("--intensity", "window:-1000:400")


def _import(root: Path, *words: str) -> Store:
    out = root.parent / "out.h5"
    assert main(["import", "folder", str(root), "-o", str(out), "--overwrite", *words]) == 0
    return Store.open(out)


def _refused(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    out = root.parent / "out.h5"
    assert main(["import", "folder", str(root), "-o", str(out), *words]) == 2
    assert [path.name for path in root.parent.iterdir() if path != root and path.suffix != ".csv"] == []
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_pictures_keep_their_values(pictures: Path) -> None:
    with _import(pictures) as store:
        np.testing.assert_array_equal(store.image(0)[0], _picture(0))


def test_masks_of_0_and_255_are_one_class(pictures: Path) -> None:
    with _import(pictures) as store:
        np.testing.assert_array_equal(store.masks(1)[1], _mask((12, 10), 3))


def test_raters_are_persons_by_the_names_of_their_files(pictures: Path) -> None:
    with _import(pictures) as store:
        assert (store.info.raters, store.info.exchangeable_raters) == (("ann", "bob"), False)


def test_the_first_folder_is_the_patient(pictures: Path) -> None:
    with _import(pictures) as store:
        assert (store.cases.tolist(), store.patients.tolist()) == (["p1/a", "p2/b"], ["p1", "p2"])


def test_pictures_that_pass_as_unit_say_so(pictures: Path) -> None:
    with _import(pictures) as store:
        assert store.info.intensity == "unit"


@pytest.mark.parametrize("mode", ["1", "P"])
def test_masks_of_one_bit_or_with_a_palette_are_their_indices(pictures: Path, mode: str) -> None:
    image = Image.fromarray(_mask((12, 10)) * (255 if mode == "1" else 1))
    if mode == "1":
        image = image.convert("1")
    else:
        image.putpalette([0, 0, 0, 200, 30, 30])
    image.save(pictures / "p1" / "a" / "rater-ann.png")
    with _import(pictures) as store:
        np.testing.assert_array_equal(store.masks(0)[0], _mask((12, 10)))


@pytest.mark.parametrize("order", ["black first", "white first"])
def test_masks_with_a_palette_of_greys_are_as_they_are_seen(pictures: Path, order: str) -> None:
    mask = _mask((12, 10))
    image = Image.fromarray(mask if order == "black first" else 1 - mask, "P")
    image.putpalette([0, 0, 0, 255, 255, 255] if order == "black first" else [255, 255, 255, 0, 0, 0])
    image.save(pictures / "p1" / "a" / "rater-ann.png")
    with _import(pictures) as store:
        np.testing.assert_array_equal(store.masks(0)[0], mask)


def test_an_image_with_a_palette_of_greys_has_one_channel(pictures: Path) -> None:
    Image.fromarray(_picture(0)).convert("P").save(pictures / "p1" / "a" / "image.png")
    assert Image.open(pictures / "p1" / "a" / "image.png").mode == "P"
    with _import(pictures) as store:
        np.testing.assert_array_equal(store.image(0)[0], _picture(0))


def test_a_label_may_name_0_as_the_object(pictures: Path) -> None:
    for path in pictures.rglob("rater-*.png"):
        _png(path, 255 * (1 - _mask((12, 10))))
    with _import(pictures, "--label", "0=cell") as store:
        assert store.info.classes == ("cell",)
        np.testing.assert_array_equal(store.masks(0)[0], _mask((12, 10)))


def test_what_was_guessed_is_said_and_stays_in_the_store(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in pictures.rglob("rater-*.png"):
        _png(path, 7 * _mask((12, 10)))
    note = "masks of 0 and 7 in 4 files, such as p1/a/rater-ann.png: 7 is read as foreground"
    with _import(pictures) as store:
        np.testing.assert_array_equal(store.masks(0)[0], _mask((12, 10)))
        assert store.info.notes == (note,)
        assert f"note: {note}\n" in capsys.readouterr().out
        main(["info", str(store.path)])
    assert "such as p1/a/rater-ann.png" in capsys.readouterr().out


def test_arrays_and_tiffs_are_read(pictures: Path) -> None:
    np.save(pictures / "p1" / "a" / "image.npy", _picture(7))
    (pictures / "p1" / "a" / "image.png").unlink()
    Image.fromarray(_mask((12, 10))).save(pictures / "p1" / "a" / "rater-ann.tif")
    (pictures / "p1" / "a" / "rater-ann.png").unlink()
    with _import(pictures) as store:
        np.testing.assert_array_equal(store.image(0)[0], _picture(7))


def test_patterns_find_other_layouts(tmp_path: Path) -> None:
    for case in ("x1", "x2"):
        _png(tmp_path / "d" / "scans" / f"{case}.png", _picture())
        _png(tmp_path / "d" / "readings" / "eve" / f"{case}_seg.png", _mask((12, 10)))
    words = ("--image", "scans/{case}.png", "--mask", "readings/{rater}/{case}_seg")
    with _import(tmp_path / "d", *words) as store:
        assert (store.cases.tolist(), store.info.raters) == (["x1", "x2"], ("eve",))


def test_what_fits_both_patterns_is_a_mask(tmp_path: Path) -> None:
    for name, array in (("t1", _picture()), ("mask_ann", _mask((12, 10)))):
        _png(tmp_path / "d" / "p" / "c" / f"{name}.png", array)
    words = ("--image", "{patient}/{case}/{channel}.png", "--mask", "{patient}/{case}/mask_{rater}.png")
    with _import(tmp_path / "d", *words) as store:
        assert (store.info.channels, store.info.raters) == (("t1",), ("ann",))


def test_a_dicom_series_with_masks_as_arrays(shared: Path, tmp_path: Path) -> None:
    series = next((shared / "data" / "lidc-idri-dicom" / "LIDC-IDRI-0002").rglob("*.dcm")).parent
    case = tmp_path / "d" / "p"
    (case / "image").mkdir(parents=True)
    for file in series.glob("*.dcm"):
        (case / "image" / file.name).write_bytes(file.read_bytes())
    mask = np.zeros((len(list(series.glob("*.dcm"))), 512, 512), np.uint8)
    mask[3, 100:120, 200:240] = 1
    np.save(case / "rater-ann.npy", mask)
    with _import(tmp_path / "d", "--intensity", "window:-1000:400", "--plane", "axial") as store:
        assert store.cases.tolist() == ["p/slice-003"]
        known = store.geometry(0)
        assert known.affine is not None
        assert known.spacing is not None
        np.testing.assert_allclose(np.linalg.norm(known.affine[:3, 0]), known.spacing[1])
        np.testing.assert_array_equal(store.masks(0)[0], mask[3])


def test_a_broken_slice_of_a_series_is_named_or_left_out_when_asked(tmp_path: Path, capsys) -> None:
    folder = save(series(), tmp_path / "d" / "p" / "image")
    (folder / "003.dcm").write_bytes(b"")
    np.save(folder.parent / "rater-ann.npy", np.ones((SHAPE[0] - 1, *SHAPE[1:]), np.uint8))
    words = ["--intensity", "window:-1000:400"]
    assert main(["import", "folder", str(tmp_path / "d"), "-o", str(tmp_path / "o.h5"), *words]) == 2
    assert "003.dcm: the file is empty" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "d"), "--", *words]) == 2
    assert "003.dcm: the file is empty" in capsys.readouterr().out
    with _import(tmp_path / "d", *words, "--skip-broken") as store:
        assert len(store) == SHAPE[0] - 1
        said = "cannot be read and is left out: the file is empty (p/image/003.dcm)"
        assert store.info.notes[0] == said
        path = str(store.path)
    assert f"note: {said}\n" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "d"), "--", *words, "--skip-broken"]) == 0
    assert f"warning: left out\n  {said}\n" in capsys.readouterr().out
    for words in (["info", path], ["check", path]):
        assert main(words) == 0
        assert said in " ".join(capsys.readouterr().out.split())


def test_one_file_per_channel(pictures: Path) -> None:
    for case in ("p1/a", "p2/b"):
        (pictures / case / "image.png").unlink()
        for place, channel in enumerate(("t1", "flair")):
            _png(pictures / case / f"image-{channel}.png", _picture(place))
    with _import(pictures) as store:
        assert store.info.channels == ("flair", "t1")
        np.testing.assert_array_equal(store.image(0), np.stack([_picture(1), _picture(0)]))


def test_label_values_become_classes(pictures: Path) -> None:
    mask = np.zeros((12, 10), np.uint8)
    mask[0, 0], mask[1, 1], mask[2, 2], mask[3, 3] = 1, 2, 4, 9
    for path in pictures.rglob("rater-*.png"):
        _png(path, mask)
    words = ("--label", "1=core", "--label", "2=core", "--label", "4=rim", "--label", "9=")
    with _import(pictures, *words) as store:
        assert store.info.classes == ("core", "rim")
        assert np.diag(store.masks(0)[0])[:4].tolist() == [1, 1, 2, 0]


def test_volumes_are_cut_where_a_rater_marked(volume: Path) -> None:
    with _import(volume, *WINDOW) as store:
        assert store.cases.tolist() == ["p1/slice-002", "p1/slice-003"]


def test_all_slices_are_kept_where_asked(volume: Path) -> None:
    with _import(volume, *WINDOW, "--all-slices") as store:
        assert len(store) == 6


def test_a_slice_lies_where_it_lay_in_the_volume(volume: Path) -> None:
    with _import(volume, *WINDOW) as store:
        known = store.geometry(1)
        assert (known.slice_index, known.spacing) == (3, (0.5, 0.5))
        assert known.affine is not None
        np.testing.assert_allclose(known.affine @ [4, 5, 0, 1], AFFINE @ [4, 5, 3, 1])


def test_a_window_is_linear_between_its_ends(volume: Path) -> None:
    array = nib.load(volume / "p1" / "image.nii.gz").get_fdata().T
    with _import(volume, *WINDOW) as store:
        np.testing.assert_allclose(store.image(0)[0] / 65535, (array[2] + 1000) / 1400, atol=1e-5)


def test_percentiles_are_of_the_whole_volume(volume: Path) -> None:
    array = nib.load(volume / "p1" / "image.nii.gz").get_fdata().T
    low, high = np.percentile(array, [5, 95])
    with _import(volume, "--intensity", "percentiles:5:95") as store:
        np.testing.assert_allclose(store.image(1)[0] / 65535, np.clip((array[3] - low) / (high - low), 0, 1), atol=1e-5)


def test_size_crops_and_pads_and_keeps_the_place(volume: Path) -> None:
    with _import(volume, *WINDOW, "--size", "8x16") as store:
        known = store.geometry(0)
        assert store.shape == (1, 8, 16)
        assert known.valid == (0, 3, 8, 13)
        assert known.affine is not None
        np.testing.assert_allclose(known.affine @ [3, 0, 0, 1], AFFINE @ [0, 2, 2, 1])
        assert store.masks(0)[0, 0:3, 7:10].all()


def test_plane_turns_a_volume_that_runs_otherwise(volume: Path) -> None:
    with _import(volume, *WINDOW) as store:
        expected, place = store.image(0), store.geometry(0).affine
    for path in volume.rglob("*.nii.gz"):
        turned = nib.as_closest_canonical(nib.load(path))
        nib.save(turned, path)
    with _import(volume, *WINDOW, "--plane", "axial") as store:
        np.testing.assert_array_equal(store.image(0), expected)
        np.testing.assert_allclose(store.geometry(0).affine, place)


def test_a_mask_without_geometry_is_turned_with_its_image(volume: Path) -> None:
    mask = np.zeros((6, 12, 10), np.uint8)
    mask[2, 3:5, 7] = 1
    for rater in ("ann", "bob"):
        (volume / "p1" / f"rater-{rater}.nii.gz").unlink()
    _nii(volume / "p1" / "rater-ann.nii.gz", mask)
    np.save(volume / "p1" / "rater-bob.npy", mask)
    with _import(volume, *WINDOW, "--plane", "coronal") as store:
        for row in range(len(store)):
            np.testing.assert_array_equal(*store.masks(row))


def test_volumes_whose_axes_differ_are_refused(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (volume / "p1").iterdir():
        (volume / "p2").mkdir(exist_ok=True)
        nib.save(nib.as_closest_canonical(nib.load(path)), volume / "p2" / path.name)
    out = volume.parent / "out.h5"
    assert main(["import", "folder", str(volume), "-o", str(out), *WINDOW]) == 2
    assert "--plane" in capsys.readouterr().err
    assert not out.exists()


def test_a_table_says_patient_split_and_readers(pictures: Path) -> None:
    table = pictures.parent / "t.csv"
    table.write_text("case,patient,split,readers\np1/a,x,train,ann;bob\np2/b,y,test,ann\n")
    (pictures / "p1" / "a" / "rater-bob.png").unlink()
    (pictures / "p2" / "b" / "rater-bob.png").unlink()
    with _import(pictures, "--table", str(table)) as store:
        assert store.splits.tolist() == ["train", "test"]
        assert store.patients.tolist() == ["x", "y"]
        assert store.read.tolist() == [[True, True], [True, False]]
        assert not store.masks(0)[1].any()


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_tables_and_folders_spell_names_alike(
    pictures: Path, form: Literal["NFC", "NFD"], encoding: str, separator: str
) -> None:
    other: Literal["NFC", "NFD"] = "NFD" if form == "NFC" else "NFC"
    for case in pictures.glob("*/*"):
        (case / "rater-bob.png").rename(case / f"rater-{unicodedata.normalize(other, ZOE)}.png")
    (pictures / "p1").rename(pictures / unicodedata.normalize(other, "Ölund"))
    rows = [
        ["case", "patient", "split", "readers"],
        ["Ölund/a ", " Ö", "train", f'"ann;{ZOE}"'],
        [],
        ["p2/b", "y", "test", f'"ann; {ZOE}"'],
        ["", "", "", ""],
    ]
    table = pictures.parent / "t.csv"
    text = unicodedata.normalize(form, "\r\n".join(map(separator.join, rows)))
    table.write_bytes(text.encode(encoding))
    with _import(pictures, "--table", str(table), "--image", "{case}/image") as store:
        assert dict(zip(store.cases.tolist(), store.patients.tolist(), strict=True)) == {"Ölund/a": "Ö", "p2/b": "y"}
        assert store.info.raters == (ZOE, "ann")
        assert store.read.all()


def test_what_systems_leave_in_folders_is_passed_over(pictures: Path) -> None:
    for name in ("._image.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (pictures / "p1" / "a" / name).write_bytes(b"\0")
    (pictures / "__MACOSX" / "p1" / "a").mkdir(parents=True)
    (pictures / "__MACOSX" / "p1" / "a" / "image.png").write_bytes(b"\0")
    with _import(pictures) as store:
        assert store.cases.tolist() == ["p1/a", "p2/b"]


@pytest.mark.parametrize(("missing", "read"), [("empty", True), ("unread", False)])
def test_an_absent_mask_means_what_missing_says(pictures: Path, missing: str, read: bool) -> None:
    (pictures / "p2" / "b" / "rater-bob.png").unlink()
    with _import(pictures, "--missing", missing) as store:
        assert store.read[1].tolist() == [True, read]


def test_resampling_finds_the_place_by_the_affines(volume: Path) -> None:
    with _import(volume, *WINDOW) as store:
        expected = store.masks(0)
    path = volume / "p1" / "rater-ann.nii.gz"
    image = nib.load(path)
    moved = image.affine.copy()
    moved[:3, 3] += moved[:3, 0] * -2  # two columns more on the left, where the grid begins earlier
    wider = np.pad(np.asarray(image.dataobj), ((2, 0), (0, 0), (0, 0)))
    nib.save(nib.Nifti1Image(wider, moved), path)
    with _import(volume, *WINDOW, "--resample", "nearest") as store:
        np.testing.assert_array_equal(store.masks(0), expected)


def _unplaced(path: Path) -> None:
    image = nib.load(path)
    image = nib.Nifti1Image(np.asarray(image.dataobj), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, path)


@pytest.mark.parametrize("names", [("rater-ann", "rater-bob"), ("rater-bob",), ("image",), ("image", "rater-ann")])
def test_files_without_geometry_are_read_voxel_by_voxel(volume: Path, names: Sequence[str]) -> None:
    """A NIfTI file with both codes 0 states a pixel size and no place, whichever side of a pair it is."""
    with _import(volume, *WINDOW) as store:
        expected = store.masks(0), store.masks(1)
    for name in names:
        _unplaced(volume / "p1" / f"{name}.nii.gz")
    with _import(volume, *WINDOW) as store:
        np.testing.assert_array_equal((store.masks(0), store.masks(1)), expected)
        assert (store.geometry(0).affine is None) == ("image" in names)
        assert store.geometry(0).spacing == ((1, 1) if "image" in names else (0.5, 0.5))
        assert any("neither sform nor qform" in note for note in store.info.notes)


def test_without_geometry_there_is_nothing_to_turn_by(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _unplaced(volume / "p1" / "image.nii.gz")
    assert "no geometry to turn by" in _refused(volume, capsys, *WINDOW, "--plane", "axial")


def test_a_mask_without_geometry_of_another_size_is_not_resampled(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = volume / "p1" / "rater-ann.nii.gz"
    _nii(path, np.ones((6, 24, 20), np.uint8))
    _unplaced(path)
    assert "no geometry to resample by" in _refused(volume, capsys, *WINDOW)
    assert "no geometry to resample by" in _refused(volume, capsys, *WINDOW, "--resample", "nearest")


def test_advice_does_not_lose_marks(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, moved = volume / "p1" / "rater-bob.nii.gz", AFFINE.copy()
    moved[0, 3] += 100
    _nii(path, nib.load(path).get_fdata().T.astype(np.uint8), moved)
    error = _refused(volume, capsys, *WINDOW)
    assert "up to 100 mm apart" in error
    assert "18 of 18 marked voxels outside the image" in error
    assert "18 of 18 marked voxels outside the image" in _refused(volume, capsys, *WINDOW, "--resample", "nearest")


def test_a_class_0_is_not_what_resampling_fills_with(volume: Path) -> None:
    for rater in ("ann", "bob"):
        path, moved = volume / "p1" / f"rater-{rater}.nii.gz", AFFINE.copy()
        cells = 1 - nib.load(path).get_fdata().T.astype(np.uint8)
        moved[:3, 3] += moved[:3, 0]  # it begins a column further in
        _nii(path, cells[:, :, 1:], moved)
    with _import(volume, *WINDOW, "--resample", "nearest", "--label", "0=cell") as store:
        np.testing.assert_array_equal(store.masks(0)[0], _mask((12, 10)))
        assert store.info.notes == ("resampling made 36 marked voxels of 2 masks into 36 of their images",)


def test_a_mask_that_shares_the_used_form_is_read_and_the_other_noted(volume: Path) -> None:
    for name, other in (("image", 1.0), ("rater-ann", 2.0)):
        image = nib.load(volume / "p1" / f"{name}.nii.gz")
        moved = AFFINE.copy()
        moved[0, 3] += other
        image.set_qform(moved, code=1)
        nib.save(image, volume / "p1" / f"{name}.nii.gz")
    with _import(volume, *WINDOW, "--plane", "axial") as store:
        np.testing.assert_array_equal(*store.masks(0))
        assert [note.partition(" (")[0] for note in store.info.notes] == [
            "sform and qform differ: the sform is used",
            "masks with the image's place by the sform, which is used, but not by the qform: read voxel by voxel",
        ]


def _spoil(root: Path, what: str) -> Sequence[str]:
    """Damages the two pictures; returns words of the error that must follow."""
    mask = root / "p1" / "a" / "rater-ann.png"
    if what == "size":
        _png(mask, _mask((12, 11)))
        return "grid", "--resample"
    if what == "values":
        _png(mask, 7 * _mask((12, 10)))
        return "mask values", "7"
    if what == "colour":
        _png(mask, np.stack([_mask((12, 10)), _mask((12, 10), 5), _mask((12, 10))], -1))
        return ("colour",)
    if what == "missing":
        mask.unlink()
        return "missing", "ann", "--missing"
    if what == "image":
        (root / "p1" / "a" / "image.png").unlink()
        return ("without an image",)
    if what == "sizes":
        _png(root / "p1" / "a" / "image.png", _picture()[:8])
        for rater in ("ann", "bob"):
            _png(root / "p1" / "a" / f"rater-{rater}.png", _mask((8, 10)))
        return "different sizes", "--size"
    if what == "two":
        np.save(root / "p1" / "a" / "image.npy", _picture())
        return ("a second image",)
    np.save(root / "p1" / "a" / "rater-ann.npy", _mask((12, 10)) * 0.5)
    mask.unlink()
    return ("not whole",)


@pytest.mark.parametrize("what", ["size", "values", "colour", "missing", "image", "sizes", "two", "fractions"])
def test_what_does_not_fit_is_refused_with_its_file(
    pictures: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    words = _spoil(pictures, what)
    error = _refused(pictures, capsys)
    assert str(pictures) in error
    assert all(word in error for word in words), error


def test_a_shifted_geometry_is_refused_in_mm(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, moved = volume / "p1" / "rater-bob.nii.gz", AFFINE.copy()
    moved[0, 3] += 1.5
    _nii(path, nib.load(path).get_fdata().T.astype(np.uint8), moved)
    error = _refused(volume, capsys, *WINDOW)
    assert "1.5 mm apart" in error
    assert "18 marked voxels become 18." in error


def test_values_without_a_scale_are_refused(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--intensity" in _refused(volume, capsys)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("case,split\np1/a,train\n", "p2/b"),
        ("case,split\np1/a,train\np2/b,test\nzz,test\n", "zz"),
        ("case,patient,split\np1/a,x,train\np2/b,x,test\n", "two splits"),
        ("case,split\np1/a,train\np1/a,train\n", "twice"),
        ("case,split\np1/a,train\np2/b,\n", "have a split"),
        ("case,readers\np1/a,ann\np2/b,ann;bob\n", "did not read"),
        ("name,split\np1/a,train\n", "columns"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    pictures: Path, capsys: pytest.CaptureFixture[str], table: str, words: str
) -> None:
    path = pictures.parent / "t.csv"
    path.write_text(table)
    assert words in _refused(pictures, capsys, "--table", str(path))


@pytest.mark.parametrize(
    "words",
    [
        ("--label", "x=core"),
        ("--label", "1=a", "--label", "1=b"),
        ("--size", "big"),
        ("--intensity", "window:5"),
        ("--image", "image.png"),
        ("--image", "{case}/{other}.png"),
        ("--mask", "{case}/mask"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(
    pictures: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert words[0] in _refused(pictures, capsys, *words)


def test_a_link_that_leads_out_is_refused(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = pictures / "p1" / "a" / "rater-ann.png"
    mask.unlink()
    mask.symlink_to("/etc/hostname")
    assert "leads out" in _refused(pictures, capsys)


def test_the_cap_on_size_holds(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "too large" in _refused(pictures, capsys, "--max-bytes", "50")


def test_a_mask_may_compress_as_well_as_it_likes_within_its_image(tmp_path: Path) -> None:
    image, path = Volume(np.zeros((1, 40, 50, 60), np.int16), None, tmp_path, "NIfTI"), tmp_path / "m.nii.gz"
    _nii(path, np.zeros((40, 50, 60), np.uint8))
    strict = Limits(ratio_free=1000, max_ratio=10)
    with pytest.raises(ModiffError, match="far more data"):
        read_image(path, limits=strict, mask=True)
    assert read_image(path, limits=mask_limits(image, strict), mask=True).shape == (40, 50, 60)


def test_importing_twice_gives_the_same_store(pictures: Path) -> None:
    with _import(pictures) as one, _import(pictures) as other:
        assert one.fingerprint() == other.fingerprint()


def test_a_real_volume_keeps_its_geometry(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "open-ms" / "patient07"
    case = tmp_path / "data" / "p7"
    case.mkdir(parents=True)
    gold, flair = next(folder.glob("GOLD*")), next(folder.glob("FLAIR*"))
    (case / "rater-consensus.nii.gz").write_bytes(gold.read_bytes())
    (case / "image-flair.nii.gz").write_bytes(flair.read_bytes())
    with _import(tmp_path / "data", "--intensity", "percentiles:1:99") as store:
        theirs = nib.load(gold)
        mask = np.asarray(theirs.dataobj)
        assert len(store) == int(mask.any((0, 1)).sum())
        row = len(store) // 2
        known = store.geometry(row)
        np.testing.assert_array_equal(store.masks(row)[0], mask[:, :, known.slice_index].T)
        assert known.affine is not None
        np.testing.assert_allclose(known.affine @ [3, 4, 0, 1], theirs.affine @ [3, 4, known.slice_index, 1])


@pytest.mark.parametrize("text", ["minmax-slice", "window:-50:120.5", "percentiles:2:97.5"])
def test_values_are_those_that_prediction_makes_of_a_new_image(text: str) -> None:
    image = np.random.default_rng(0).normal(40, 60, (2, 15, 13)).astype(np.float32)
    image[1] = 7  # a channel without contrast
    low, high = IntensityRule.for_import(text).bounds(image[:, None])
    expected, _ = convert(image, IntensityRule.parse(text))
    np.testing.assert_allclose(store_values(stretch(image, low[:, 0], high[:, 0])) / 65535, expected, atol=1e-5)


@pytest.mark.parametrize(
    "text", ["", "unit:1", "window", "window:1", "window:2:1", "percentiles:-1:50", "window:0:inf"]
)
def test_rules_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        IntensityRule.for_import(text)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["p/CT.nii", "p/CT_seg_A.nii", "p/CT_seg_B.nii"], "--image '{case}/CT' --mask '{case}/CT_seg_{rater}'"),
        (["p1/v/scan.png", "p1/v/reader1.png", "p1/v/reader2.png", "p2/v/scan.png", "p2/v/reader2.png"],
         "--image '{case}/scan' --mask '{case}/reader{rater}'"),
        (["p1/ct.nii", "p1/seg-simon.nii", "p1/seg-smith.nii"], "--image '{case}/ct' --mask '{case}/seg-{rater}'"),
        (["p/image.png", "p/mask1.png", "p/mask2.png"], "--image '{case}/image' --mask '{case}/mask{rater}'"),
        (["p/scan.png", "p/man1.png", "p/man2.png"], "--image '{case}/scan' --mask '{case}/man{rater}'"),
        (["p/mask1.png", "p/mask2.png", "p/mask3.png"], None),  # no image
        (["p1/CT.nii.gz", "p1/seg.nii.gz"], None),  # of one mask it is not known where the rater's name begins
        (["CT.nii.gz", "CT_seg_A.nii.gz", "CT_seg_B.nii.gz"], None),  # no folder per case
        (["p1/t1.png", "p1/flair.png", "p1/mask_a.png", "p1/mask_b.png"], None),  # several channels
        ([], None),
    ],
)  # fmt: skip
def test_options_that_fit_all_files_are_proposed(names, options):
    assert likely(names, SUFFIXES) == options


def _items(**cases: str) -> list[Item]:
    return [Item(case, case, masks=dict.fromkeys(raters.split(), Path("m"))) for case, raters in cases.items()]


@pytest.mark.parametrize("names", ["anna anne", "bela bella", "Anna anna", "dr-smith Dr_Smith"])
def test_two_names_of_what_may_be_one_rater_are_told(names):
    one, other = names.split()
    (line,) = two_names(_items(a=f"{one} carl", b=f"{one} carl", c=f"{other} carl"))
    assert sorted(names.split())[0] in line
    assert f"{other}: c" in line


@pytest.mark.parametrize(
    "cases",
    [
        {"a": "rater-1", "b": "rater-2"},  # who share the cases
        {"a": "bela bella", "b": "bela"},  # both read one
        {"a": "anna", "b": "carl"},
        {"a": "1", "b": "2"},
    ],
)
def test_names_of_two_raters_are_not(cases):
    assert not list(two_names(_items(**cases)))


def test_a_misspelt_rater_is_a_note_of_the_store_and_a_warning_of_check(tmp_path, pictures, capsys):
    _png(pictures / "p3/c/image.png", _picture(2))
    for name in ("ann", "bobb"):
        _png(pictures / "p3/c" / f"rater-{name}.png", 255 * _mask((12, 10)))
    words = "bob and bobb never have a mask of the same case (bobb: p3/c): one person, misspelt?"
    assert main(["check", str(pictures), "--", "--missing", "unread"]) == 0
    assert "two names alike" in (said := " ".join(capsys.readouterr().out.split()))
    assert words in said
    out = tmp_path / "own.h5"
    assert (
        main(["import", "folder", str(pictures), "-o", str(out), "--missing", "unread", "--test", "0", "--quiet"]) == 0
    )
    with Store.open(out) as store:
        assert words in store.info.notes
