"""`modiff check`: data made with one fault each shows that fault, with its case; clean data shows nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from store_helpers import lidc_files, make_info, write_folder, write_zip

from modiff.cli import main
from modiff.config.data import PhantomConfig
from modiff.data.check.findings import Finding, Report, View
from modiff.data.check.run import check, detect
from modiff.data.importers.phantom import write_phantom
from modiff.data.store import StoreWriter
from modiff.errors import DataError
from modiff.report.data import thumbnail, write_page

SIDE = 40


def _blob(seed: int = 0, rater: int = 0) -> np.ndarray:
    """An asymmetric L off the centre, a little different for each rater."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    row, column = 4 + seed % 5, 5 + seed % 3
    mask[row : row + 14 + rater, column : column + 5] = 1
    mask[row + 10 : row + 14, column : column + 13 - rater] = 1
    return mask


def _picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def _png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _folder(root: Path, cases: int = 5, raters: int = 3) -> Path:
    for place in range(cases):
        _png(root / f"p{place}" / "image.png", _picture(place))
        for rater in range(raters):
            _png(root / f"p{place}" / f"rater-{'abc'[rater]}.png", _blob(place, rater))
    return root


def _mask_files(root: Path, rater: str = "a") -> list[Path]:
    return sorted(root.glob(f"*/rater-{rater}.png"))


def _change(root: Path, change: Callable[[np.ndarray], np.ndarray], rater: str = "a", cases: int = 5) -> Path:
    for path in _mask_files(root, rater)[:cases]:
        _png(path, np.ascontiguousarray(change(np.asarray(Image.open(path)))))
    return root


def _kinds(report: Report, level: str | None = None) -> set[str]:
    return {finding.kind for finding in report.findings if level in (None, finding.level)}


def _one(report: Report, kind: str) -> Finding:
    return next(finding for finding in report.findings if finding.kind == kind)


def test_a_clean_folder_shows_nothing(tmp_path: Path) -> None:
    assert check(_folder(tmp_path / "d")).findings == []


def test_a_simulated_data_set_shows_nothing(tmp_path: Path) -> None:
    path = write_phantom(tmp_path / "p.h5", PhantomConfig(patients=30, images_per_patient=2))
    assert check(path).findings == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask: mask[:, ::-1], "left to right"),
        (lambda mask: mask[::-1], "upside down"),
        (lambda mask: mask[::-1, ::-1], "180"),
    ],
)
def test_a_flipped_rater_is_named_with_the_flip(tmp_path: Path, change: Callable, words: str) -> None:
    report = check(_change(_folder(tmp_path / "d"), change))
    found = [finding.text for finding in report.findings if finding.case is None]
    assert len(found) == 1
    assert found[0].startswith("a ")
    assert words in found[0]


def test_a_flip_in_one_case_is_a_warning_there(tmp_path: Path) -> None:
    report = check(_change(_folder(tmp_path / "d"), lambda mask: mask[:, ::-1], cases=1))
    assert report.usable
    assert _one(report, "a flipped rater").case == "p0"


def test_a_shifted_rater_is_named_with_the_shift(tmp_path: Path) -> None:
    report = check(_change(_folder(tmp_path / "d"), lambda mask: np.roll(mask, (6, 9), (0, 1))))
    text = next(finding.text for finding in report.findings if finding.case is None)
    assert "-6 rows, -9 columns" in text


def test_an_inverted_mask_is_named(tmp_path: Path) -> None:
    report = check(_change(_folder(tmp_path / "d"), lambda mask: 1 - mask, cases=1))
    assert _one(report, "inverted mask").case == "p0"


def test_raters_that_are_copies_are_named(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    for path in _mask_files(root, "a"):
        path.with_name("rater-b.png").write_bytes(path.read_bytes())
    assert "a and b" in _one(check(root), "raters that are copies").text


def test_a_rater_whose_areas_are_far_off(tmp_path: Path) -> None:
    def grown(mask: np.ndarray) -> np.ndarray:
        mask = mask.copy()
        mask[:, :30] = 1
        return mask

    report = check(_change(_folder(tmp_path / "d"), grown))
    assert _one(report, "a rater whose areas are far off").text.startswith("a marks")


def test_a_rater_who_never_marks(tmp_path: Path) -> None:
    report = check(_change(_folder(tmp_path / "d"), lambda mask: mask * 0, rater="b"))
    assert "b marks nothing" in _one(report, "a rater who never marks").text


def test_masks_that_are_refused_are_not_called_empty(tmp_path: Path) -> None:
    report = check(_change(_folder(tmp_path / "d"), lambda mask: mask * 7, rater="b"), words=["--label", "1=core"])
    assert not report.usable
    assert "a rater who never marks" not in _kinds(report)


def test_masks_of_0_and_255_are_a_note(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    for rater in "abc":
        _change(root, lambda mask: mask * 255, rater)
    report = check(root)
    assert (_kinds(report), report.usable) == ({"mask values 0 and 255"}, True)


@pytest.mark.parametrize("cases", [2, 5])
def test_masks_of_two_conventions_are_a_warning(tmp_path: Path, cases: int) -> None:
    report = check(_change(_folder(tmp_path / "d"), lambda mask: mask * 255, cases=cases))
    assert _kinds(report, "warning") == {"mask values of two kinds"}


def _smeared(mask: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-9, 10, mask.shape)
    return np.clip(255 * mask.astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (_smeared, "smeared mask values"),
        (lambda mask: mask * 3, "mask values without a meaning"),
        (lambda mask: _picture(9), "mask values like those of an image"),
        (lambda mask: mask[:30], "a mask on another grid than its image"),
    ],
)
def test_odd_masks_are_errors_with_the_case(tmp_path: Path, change: Callable, kind: str) -> None:
    report = check(_change(_folder(tmp_path / "d"), change, cases=1))
    assert (_one(report, kind).case, report.usable) == ("p0", False)


def test_fractions_in_a_mask_are_an_error(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    np.save(root / "p1" / "rater-a.npy", _blob(1) * 0.7)
    (root / "p1" / "rater-a.png").unlink()
    assert "0.7" in _one(check(root), "mask values that are not whole").text


def test_swapped_rows_and_columns_are_suspected(tmp_path: Path) -> None:
    root = tmp_path / "d"
    _png(root / "p" / "image.png", _picture(0)[:30])
    _png(root / "p" / "rater-a.png", _blob()[:30].T)
    assert "swapped" in _one(check(root), "a mask on another grid than its image").text


def test_labels_that_are_named_are_fine(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    for rater in "abc":
        _change(root, lambda mask: mask * 3, rater)
    assert check(root, words=["--label", "3=core"]).findings == []


def test_a_window_of_units_that_pictures_have_not_is_noted(tmp_path: Path) -> None:
    report = check(_folder(tmp_path / "d"), words=["--intensity", "window:-1000:400"])
    assert [(one.kind, one.text) for one in report.findings] == [
        (
            "decided in reading",
            "uint8 of a picture has no units: taken as windowed already (5 files, such as p0/image.png)",
        )
    ]


def test_a_class_without_a_pixel(tmp_path: Path) -> None:
    report = check(_folder(tmp_path / "d"), words=["--label", "1=core", "--label", "2=rim"])
    assert "rim" in _one(report, "a class without a pixel").text


def test_a_constant_image_is_a_warning(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    _png(root / "p2" / "image.png", np.full((SIDE, SIDE), 7, np.uint8))
    found = _one(check(root), "constant image")
    assert (found.level, found.case) == ("warning", "p2")


def test_the_same_image_of_two_patients(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    (root / "p3" / "image.png").write_bytes((root / "p1" / "image.png").read_bytes())
    found = _one(check(root), "the same image of two patients")
    assert (found.level, found.case) == ("warning", "p3")


def test_the_same_image_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    root, table = _folder(tmp_path / "d"), tmp_path / "t.csv"
    (root / "p3" / "image.png").write_bytes((root / "p1" / "image.png").read_bytes())
    rows = [f"p{place},{'test' if place > 2 else 'train'}" for place in range(5)]
    table.write_text("\n".join(["case,split", *rows]))
    report = check(root, words=["--table", str(table)])
    found = _one(report, "the same image in two splits")
    assert (found.level, "p1" in found.text) == ("warning", True)


def test_a_patient_in_two_splits_is_an_error(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = [f"p{place},x,{'test' if place > 2 else 'train'}" for place in range(5)]
    table.write_text("\n".join(["case,patient,split", *rows]))
    report = check(_folder(tmp_path / "d"), words=["--table", str(table)])
    assert "patient x" in _one(report, "a patient in two splits").text


def test_missing_masks_damaged_files_and_sizes_are_found_at_once(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    (root / "p0" / "rater-a.png").unlink()
    (root / "p1" / "rater-a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "p2" / "image.png").write_bytes(b"nothing")
    for name, array in (
        ("image", _picture(3)),
        ("rater-a", _blob(3)),
        ("rater-b", _blob(3, 1)),
        ("rater-c", _blob(3, 2)),
    ):
        _png(root / "p3" / f"{name}.png", array[:, :35])
    (root / "p4" / "image.png").unlink()
    kinds = {"missing masks", "a mask that cannot be read", "an image that cannot be read"}
    assert kinds | {"images of different sizes", "masks without an image"} <= _kinds(check(root), "error")


def test_jpeg_masks_are_smeared(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d", cases=1)
    Image.fromarray(_blob() * 255).save(root / "p0" / "rater-a.jpg", quality=80)
    (root / "p0" / "rater-a.png").unlink()
    assert {"smeared mask values", "JPEG files"} <= _kinds(check(root))


def _volume(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.T, affine), path)


def _solid() -> np.ndarray:
    mask = np.zeros((8, SIDE, SIDE), np.uint8)
    mask[1:4], mask[3] = _blob(), 0
    mask[3, 5:12, 5:20] = 1
    return mask


def _volumes(root: Path, mask: np.ndarray, affine: np.ndarray | None = None, *, most: int = 60_000) -> Path:
    base = np.diag([1.0, 1.0, 3.0, 1.0])
    values = np.random.default_rng(0).integers(0, most, mask.shape).astype(np.uint16)
    _volume(root / "p" / "image.nii.gz", values, base)
    _volume(root / "p" / "rater-a.nii.gz", _solid(), base)
    _volume(root / "p" / "rater-b.nii.gz", mask, base if affine is None else affine)
    return root


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flipped_volume_is_named(tmp_path: Path, axis: int) -> None:
    report = check(_volumes(tmp_path / "d", np.flip(_solid(), axis)))
    assert _one(report, "a flipped rater").case == "p"


def test_a_shifted_volume_is_named(tmp_path: Path) -> None:
    report = check(_volumes(tmp_path / "d", np.roll(_solid(), (3, 0, 8), (0, 1, 2))))
    assert _one(report, "a shifted rater").text == "a overlaps b by 0.00, by 1.00 when moved by +3 slices, +8 columns"


def test_a_geometry_that_differs_is_an_error_in_mm(tmp_path: Path) -> None:
    moved = np.diag([1.0, 1.0, 3.0, 1.0])
    moved[1, 3] = 4.5
    report = check(_volumes(tmp_path / "d", _solid(), moved))
    assert "4.5 mm" in _one(report, "a mask on another grid than its image").text


def test_a_pixel_size_far_off(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for place in range(4):
        affine = np.diag([1.0, 1.0, 3.0, 1.0]) * (10 if place == 3 else 1)
        affine[3, 3] = 1
        for name in ("image", "rater-a"):
            array = _solid() if name != "image" else np.random.default_rng(place).integers(0, 9, (8, SIDE, SIDE))
            _volume(root / f"p{place}" / f"{name}.nii.gz", array.astype(np.int16), affine)
    assert _one(check(root), "a pixel size far off").case == "p3"


def _store(
    path: Path, *, copies: bool = False, dark: bool = False, exchangeable: bool = True, val: str = "val"
) -> Path:
    info = make_info(channels=("CT",), classes=("nodule",), exchangeable_raters=exchangeable, intensity="unit")
    with StoreWriter(path, info) as writer:
        for place in range(6):
            image = _picture(place)[None] // (16 if dark else 1)
            masks = np.stack([_blob(place, 0 if copies else rater) for rater in range(3)])
            split = ("train", "train", "train", "train", val, "test")[place]
            writer.add(
                image, masks, np.ones(3, bool), case=f"c{place}", patient=f"p{place}", split=split, valid=(0, 0, 40, 40)
            )
    return path


def test_a_clean_store_shows_nothing(tmp_path: Path) -> None:
    assert check(_store(tmp_path / "s.h5")).findings == []


def test_copies_are_found_among_exchangeable_raters(tmp_path: Path) -> None:
    assert "raters that are copies" in _kinds(check(_store(tmp_path / "s.h5", copies=True)))


def test_dark_images_are_suspicious(tmp_path: Path) -> None:
    assert _kinds(check(_store(tmp_path / "s.h5", dark=True))) == {"dark images"}


def test_marks_on_padding_are_suspicious(tmp_path: Path) -> None:
    info = make_info(channels=("CT",), classes=("nodule",), raters=("A",))
    with StoreWriter(tmp_path / "s.h5", info) as writer:
        writer.add(
            _picture(0)[None],
            _blob()[None],
            np.ones(1, bool),
            case="c",
            patient="p",
            split="train",
            valid=(10, 10, 40, 40),
        )
    assert _one(check(tmp_path / "s.h5"), "marks on padding").case == "c"


def test_a_damaged_store_is_an_error(tmp_path: Path) -> None:
    path = _store(tmp_path / "s.h5")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    path.write_bytes(data)
    assert _kinds(check(path), "error") == {"damaged store"}


def test_a_file_that_is_nothing_known_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    assert not check(tmp_path / "x").usable
    _png(tmp_path / "image.png", _picture(0))
    found = check(tmp_path / "image.png")
    assert _kinds(found, "error") == {"not a data set"}
    assert "Give the folder that holds images and masks" in found.findings[0].text


def test_a_folder_of_other_names_says_which_options_name_them(tmp_path: Path) -> None:
    _png(tmp_path / "scan1.png", _picture(0))
    assert "--image and --mask say what yours are called" in check(tmp_path).findings[0].text


def test_nothing_at_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        check(tmp_path / "missing")


def test_a_source_is_checked_by_importing_it(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", lidc_files({f"LIDC-IDRI-{place:04d}": 2 for place in range(4)}))
    report = check(path)
    assert report.what.startswith("lidc-slices data, 8 images")


def test_what_an_importer_refuses_is_an_error(tmp_path: Path) -> None:
    files = lidc_files({"LIDC-IDRI-0001": 2})
    del files[next(name for name in files if "mask-2" in name)]
    report = check(write_folder(tmp_path / "d", files))
    assert "masks are missing" in _one(report, "cannot be imported").text


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("LIDC-IDRI-0001/nodule-0/mask-0/slice-0.png",), "lidc-slices"),
        (("training/0/image_0.jpg", "training/0/label0_.jpg"), "cimd-folder"),
        (("training01/a/training01_01_flair_pp.nii", "training01/masks/training01_01_mask1.nii"), "isbi-ms"),
        (("a/b.dcm", "a/c.xml"), "lidc-dicom"),
        (("a/b.dcm", "a/c.txt"), "folder"),
    ],
)
def test_folders_are_told_apart_by_their_files(tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert detect(tmp_path) == kind


@pytest.mark.parametrize(("spoil", "status"), [(False, 0), (True, 2)])
def test_the_command_ends_with_whether_it_is_usable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: bool, status: int
) -> None:
    root = _folder(tmp_path / "d")
    if spoil:
        _mask_files(root, "a")[0].unlink()
    assert main(["check", str(root)]) == status
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("not usable" if spoil else "usable")


def test_a_store_that_cannot_be_trained_on_is_told_of(tmp_path: Path) -> None:
    report = check(_store(tmp_path / "s.h5", val="train"))
    assert _one(report, "an empty split").text.startswith("nothing is in val: training needs")


def test_options_of_the_source_follow_two_dashes(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    for rater in "abc":
        _change(root, lambda mask: mask * 3, rater)
    assert main(["check", str(root), "--", "--label", "3=core"]) == 0


def test_json_holds_every_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _change(_folder(tmp_path / "d"), lambda mask: mask[:, ::-1])
    main(["check", str(root), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] is True
    assert {"level", "kind", "text", "case"} == set(found["findings"][0])


def test_the_page_shows_the_case_and_escapes_names(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d")
    (root / "p0").rename(root / "<b>p0")
    _png(root / "<b>p0" / "image.png", np.zeros((SIDE, SIDE), np.uint8))
    write_page(check(root), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;p0" in page
    assert "<b>p0" not in page
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_thumbnail_shows_each_outline_in_its_colour() -> None:
    view = View(_picture(0), np.stack([_blob(), _blob(3, 2)]), ("a", "b"))
    array = np.asarray(Image.open(io.BytesIO(thumbnail(view))).convert("RGB"))
    colours = {tuple(colour) for colour in array.reshape(-1, 3).tolist()}
    assert {(0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9)} <= colours


def test_a_flip_shows_over_cases_of_raters_who_differ_much(tmp_path: Path) -> None:
    root = _folder(tmp_path / "d", raters=2)
    _change(root, lambda mask: np.pad(mask, 3)[1:-5, 1:-5][:, ::-1])  # moved by two pixels, then flipped
    assert "over 5 cases" in next(finding.text for finding in check(root).findings if finding.case is None)


def test_a_flip_shows_in_a_volume_of_raters_who_differ_much(tmp_path: Path) -> None:
    mask = _solid()
    mask[2:], mask[3, 5:9, 5:16] = 0, 1
    report = check(_volumes(tmp_path / "d", mask[:, :, ::-1]))
    assert _one(report, "a flipped rater").case == "p"


def test_a_mask_of_someone_who_did_not_read_is_an_error(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["case,readers", *(f"p{place},a;b{';c' if place else ''}" for place in range(5))]))
    report = check(_folder(tmp_path / "d"), words=["--table", str(table)])
    assert _one(report, "a mask of a rater who did not read").case == "p0"


def test_names_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _folder(tmp_path / "d")
    (root / "p0" / "image.png").rename(root / "p0" / "image-\x1b[31m.png")
    main(["check", str(root)])
    assert "\x1b" not in capsys.readouterr().out


def test_masks_without_geometry_are_noted(tmp_path: Path) -> None:
    root = _volumes(tmp_path / "d", np.roll(_solid(), 1, 1))
    (root / "p" / "rater-b.nii.gz").unlink()
    np.save(root / "p" / "rater-b.npy", np.roll(_solid(), 1, 1))
    report = check(root, words=["--plane", "sagittal"])
    assert [(one.level, one.text) for one in report.findings] == [
        ("note", "masks with no geometry: read voxel by voxel (p/rater-b.npy)")
    ]


def test_masks_that_run_otherwise_are_fine_in_a_plane(tmp_path: Path) -> None:
    root = _volumes(tmp_path / "d", np.roll(_solid(), 1, 1))
    path = root / "p" / "rater-b.nii.gz"
    image = nib.load(path)
    turned = image.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    nib.save(turned, path)
    assert not check(root).usable
    assert check(root, words=["--plane", "axial"]).findings == []


def test_a_flip_in_most_cases_is_a_habit(tmp_path: Path) -> None:
    report = check(_change(_folder(tmp_path / "d", cases=6), lambda mask: mask[::-1], cases=3))
    assert "in 3 of 6 cases" in next(finding.text for finding in report.findings if finding.case is None)


@pytest.mark.parametrize(
    ("most", "rule", "kinds"),
    [
        (900, "unit", {"dark images"}),
        (15_000, "unit", {"little contrast"}),
        (15_000, "window:0:60000", {"little contrast"}),
        (900, "window:0:900", set()),
        (900, "percentiles:1:99", set()),
        (60_000, "unit", set()),
    ],
)
def test_values_that_a_model_hardly_sees_are_named_before_the_import(
    tmp_path: Path, most: int, rule: str, kinds: set[str]
) -> None:
    root = _volumes(tmp_path / "d", np.roll(_solid(), 1, 1), most=most)
    assert _kinds(check(root, words=["--intensity", rule])) == kinds


def test_the_same_outline_in_a_volume_is_suspicious(tmp_path: Path) -> None:
    report = check(_volumes(tmp_path / "d", _solid()))
    assert _kinds(report) == {"the same outline in a volume"}
