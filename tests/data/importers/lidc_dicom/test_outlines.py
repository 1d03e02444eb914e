"""LIDC's outlines: filled by its rule, grouped into nodules; and the same as the distributed crops on real patients."""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lidc_folder import square
from PIL import Image

from modiff.config.data import CropRule
from modiff.data.importers.lidc_dicom.outlines import Marked, Region, fill, group, interior, merge, parse, slices_of
from modiff.data.importers.lidc_dicom.patient import Window
from modiff.errors import DataError
from modiff.io.dicom.series import read_dicom_series

SIDE = 24
STEPS = (2.0, 0.8, 0.8)
MARGIN = 24  # pixels around our crop in which the distributed one is looked for


def inside_by_rays(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Brute force in whole numbers, pixel by pixel: odd crossings of a ray to the right, and not on any line."""
    made = np.zeros(shape, bool)
    edges = list(zip(points.tolist(), np.roll(points, -1, axis=0).tolist(), strict=True))
    for y in range(shape[0]):
        for x in range(shape[1]):
            odd, on = False, False
            for (x0, y0), (x1, y1) in edges:
                cross = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
                within = min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1)
                on |= cross == 0 and within
                if (y0 > y) != (y1 > y):
                    odd ^= (cross > 0) == (y1 > y0)
            made[y, x] = odd and not on
    return made


def region(points: object, inclusion: bool = True, uid: str = "1.2") -> Region:
    return Region(uid, np.array(points, np.int32).reshape(-1, 2), inclusion)


def filled(*regions: Region) -> np.ndarray:
    return fill(regions, (SIDE, SIDE), "x")


@settings(max_examples=200, deadline=None)
@given(points=st.lists(st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1)), min_size=1, max_size=12))
def test_filling_equals_counting_crossings_for_any_curve(points: list[tuple[int, int]]) -> None:
    assert (filled(region(points)) == inside_by_rays(np.array(points), (SIDE, SIDE))).all()


@pytest.mark.parametrize("radius", [0.5, 1.5, 3.2, 6.0, 9.4])
def test_the_first_pixels_outside_a_disc_give_the_disc_back(radius: float) -> None:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = np.hypot(rows - 12, columns - 11) <= radius
    grown = np.zeros_like(disc)
    for down, right in np.ndindex(3, 3):
        grown |= np.roll(disc, (down - 1, right - 1), (0, 1))
    y, x = np.nonzero(grown & ~disc)
    around = np.argsort(np.arctan2(y - 12, x - 11))
    assert (filled(region(np.stack([x, y], axis=1)[around])) == disc).all()


def test_the_curve_itself_is_outside() -> None:
    assert filled(region(square(3, 5, 7))).sum() == 49
    assert filled(region(square(3, 5, 7)))[6:13, 4:11].all()


@pytest.mark.parametrize("points", [[(3, 3)], [(3, 3), (9, 9)], [(3, 3), (4, 3), (4, 4), (3, 4)], []])
def test_what_encloses_no_pixel_is_empty(points: list[tuple[int, int]]) -> None:
    assert not filled(region(points)).any()


def test_the_direction_and_the_start_of_a_curve_do_not_matter() -> None:
    points = np.array([(2, 2), (15, 4), (20, 18), (9, 12), (3, 19)])
    expected = filled(region(points))
    assert expected.any()
    assert (filled(region(points[::-1])) == expected).all()
    assert (filled(region(np.roll(points, 2, axis=0))) == expected).all()


def test_regions_of_a_slice_are_united_and_holes_cut_whatever_their_order() -> None:
    parts = [region(square(8, 8, 3), inclusion=False), region(square(5, 5, 9)), region(square(17, 2, 3))]
    assert filled(*parts).sum() == 81 - 9 + 9
    assert (filled(*parts) == filled(*parts[::-1])).all()


def test_a_curve_at_the_edge_of_the_slice_is_filled() -> None:
    assert filled(region(square(0, 0, SIDE - 2))).sum() == (SIDE - 2) ** 2


def test_a_curve_beyond_the_slice_is_refused() -> None:
    with pytest.raises(DataError, match="leaves the slice"):
        filled(region(square(10, 10, SIDE)))


def test_the_interior_is_in_the_curves_own_box() -> None:
    mask, top, left = interior(np.array(square(1000, 2000, 2)))
    assert (mask.shape, top, left, int(mask.sum())) == ((4, 4), 2000, 1000, 4)


def blob(reader: int, slices: range, top: int, left: int, side: int = 4) -> Marked:
    mask = np.zeros((64, 64), bool)
    mask[top : top + side, left : left + side] = True
    return reader, np.concatenate([np.insert(np.argwhere(mask), 0, place, axis=1) for place in slices])


def readers(*marked: Marked) -> list[list[int]]:
    return [list(nodule) for nodule in group(marked, STEPS)]


def test_outlines_that_overlap_are_one_nodule() -> None:
    assert readers(blob(0, range(3), 10, 10), blob(1, range(2, 5), 12, 12), blob(2, range(1, 2), 9, 9)) == [[0, 1, 2]]


def test_outlines_one_slice_apart_are_one_nodule() -> None:
    assert readers(blob(0, range(0, 2), 10, 10), blob(1, range(2, 4), 10, 10)) == [[0, 1]]


def test_outlines_two_slices_apart_are_two_nodules() -> None:
    assert readers(blob(0, range(0, 2), 10, 10), blob(1, range(3, 5), 10, 10)) == [[0], [1]]


@pytest.mark.parametrize(("gap", "one"), [(2, True), (3, False)])  # 2.4 mm between centres exceed a step of 2 mm
def test_in_the_plane_the_slice_step_is_the_limit_too(gap: int, one: bool) -> None:
    found = readers(blob(0, range(1), 10, 10), blob(1, range(1), 10, 10 + 4 + gap - 1))
    assert found == ([[0, 1]] if one else [[0], [1]])


def test_a_reader_has_one_outline_a_nodule_and_the_better_match_wins() -> None:
    small, large, other = blob(0, range(1), 10, 10, 2), blob(0, range(1), 10, 13, 6), blob(1, range(1), 10, 11, 8)
    found = group([small, large, other], STEPS)
    assert [sorted(nodule) for nodule in found] == [[0], [0, 1]]
    assert found[1][0] is large[1]


def test_grouping_does_not_depend_on_the_order_of_outlines() -> None:
    marked = [blob(r, range(r % 2, 3), 10 + r, 10 + 3 * r) for r in range(4)] + [blob(2, range(5), 40, 40)]
    expected = readers(*marked)
    assert readers(*marked[::-1]) == expected


def test_nodules_are_counted_from_the_lowest_slice() -> None:
    found = group([blob(0, range(4, 6), 10, 10), blob(0, range(1, 2), 40, 40)], STEPS)
    assert [slices_of(nodule) for nodule in found] == [[1], [4, 5]]


def test_a_window_of_native_pixels_has_its_centre_at_most_half_a_pixel_off() -> None:
    window = Window.around((80.0, 50.3), CropRule(), (0.7, 0.7), (512, 512))
    assert [abs(at.mean() - place) <= 0.5 for at, place in zip(window.places, (80.0, 50.3), strict=True)] == [True] * 2


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def distributed(shared: Path, patient: str) -> dict[int, dict[str, np.ndarray]]:
    """Slices of the patient's only nodule in the distributed PNG crops."""
    crops: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
    for path in sorted((shared / "data/lidc-idri-slices").glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if f"/{patient}/" in f"/{name}" and name.endswith(".png"):
                    kind, file = name.split("/")[-2:]
                    number = int(file.removeprefix("slice-").removesuffix(".png"))
                    crops[number][kind] = np.asarray(Image.open(io.BytesIO(archive.read(name))))
    return crops


def best_place(values: np.ndarray, crop: np.ndarray) -> tuple[float, int, int]:
    """(correlation, top, left) of the window of `values` (H,W) that looks most like the crop."""
    from skimage.feature import match_template

    like = match_template(values.astype(np.float32), crop.astype(np.float32))
    top, left = np.unravel_index(int(like.argmax()), like.shape)
    return float(like[top, left]), int(top), int(left)


@pytest.mark.parametrize(("patient", "registered"), [("LIDC-IDRI-0001", 9), ("LIDC-IDRI-0002", 7)])
def test_masks_equal_the_distributed_crops(shared: Path, tmp_path: Path, patient: str, registered: int) -> None:
    """Crops are found in the scan by their image alone; each reader's mask must be one of theirs, as sets.

    Of patient 0002, the seven lowest slices of 28 that were outlined have their DICOM here.
    """
    from modiff.cli import main
    from modiff.data.store import Store

    folder = shared / "data/lidc-idri-dicom" / patient
    assert main(["import", "lidc-dicom", str(folder), "-o", str(tmp_path / "s.h5"), "--jobs", "1"]) == 0
    volume = read_dicom_series(next(folder.rglob("*.dcm")).parent)
    there = np.clip(volume.array[0], -1000, 400)
    crops = distributed(shared, patient)
    compared = 0
    with Store.open(tmp_path / "s.h5") as store:
        for row in range(len(store)):
            place = store.geometry(row).slice_index
            own = np.linalg.inv(volume.affine) @ store.geometry(row).affine @ [0, 0, 0, 1]
            left, top = round(own[0]) - MARGIN, round(own[1]) - MARGIN
            near = there[place, top : top + 128 + 2 * MARGIN, left : left + 128 + 2 * MARGIN]
            (likeness, down, right), number = max((best_place(near, crop["images"]), n) for n, crop in crops.items())
            assert likeness > 0.99
            down, right = down - MARGIN, right - MARGIN
            ours = [np.roll(mask.astype(bool), (-down, -right), (0, 1)) for mask in store.masks(row) if mask.any()]
            theirs = [crops[number][f"mask-{reader}"] > 0 for reader in range(4)]
            theirs = [mask for mask in theirs if mask.any()]
            assert len(ours) == len(theirs)
            for mask in theirs:
                assert max(dice(mask, other) for other in ours) == 1
            compared += 1
    assert compared == registered


def test_real_xml_has_the_sessions_and_outlines_that_are_known(shared: Path) -> None:
    folder = shared / "data/lidc-idri-dicom"
    for patient, expected in {"LIDC-IDRI-0001": [8, 7, 8, 9], "LIDC-IDRI-0002": [0, 0, 30, 23]}.items():
        path = next((folder / patient).rglob("*.xml"))
        sessions = merge([parse(path.read_bytes(), path.name)] * 2)
        found = [sum(len(outline) for outline in session) for session in sessions]
        assert found == expected
