"""Neighbouring slices as channels: in stores of every source, in batches, and in what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from lidc_folder import STEP, box, hounsfield, write_patient, xml
from store_helpers import make_info

from modiff.cli import main
from modiff.config.data import PhantomConfig
from modiff.data.augmentation import Augmentation
from modiff.data.context import named, narrowed, near
from modiff.data.importers.phantom import write_phantom
from modiff.data.loading import load, training_batch, turned, validation_batches, with_context
from modiff.data.on_device import DeviceStore
from modiff.data.store import Store
from modiff.errors import ConfigError, DataError
from modiff.methods.run_folder import describe_data
from modiff.types import DataSpec

SLICES = 5
PHANTOM = PhantomConfig(size=32, spacing=1.4, patients=8, images_per_patient=1, slices=SLICES)


def _value(channel: int, place: int) -> int:
    return 10 * place + 50 * channel + 5


def _nifti(path: Path, values: list[int]) -> None:
    """A volume of slices of one value each."""
    array = np.stack([np.full((12, 14), value, np.uint8) for value in values])
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array.T, np.diag([-1.0, -1.0, 2.0, 1.0])).to_filename(path)


def _folder(root: Path) -> Path:
    for case in ("p1", "p2", "p3"):
        for channel, name in enumerate(("a", "b")):
            _nifti(root / case / f"image-{name}.nii", [_value(channel, place) for place in range(SLICES)])
        _nifti(root / case / "rater-x.nii", [1] * SLICES)
    return root


def _isbi(root: Path) -> Path:
    for person in ("01", "02", "03"):
        for channel, name in enumerate(("flair", "mprage", "pd", "t2")):
            _nifti(root / f"training{person}_01_{name}_pp.nii", [_value(channel, place) for place in range(SLICES)])
        for rater in (1, 2):
            _nifti(root / f"training{person}_01_mask{rater}.nii", [1] * SLICES)
    return root


def _stored(tmp_path: Path, kind: str, root: Path, *words: str) -> tuple[Store, Store]:
    """The same source without and with one neighbour on either side."""
    made = []
    for context in ("0", "1"):
        path = tmp_path / f"{kind}-{context}.h5"
        assert main(["import", kind, str(root), "-o", str(path), "--quiet", "--context", context, *words]) == 0
        made.append(Store.open(path))
    return made[0], made[1]


def _check_neighbours(plain: Store, store: Store, of_volume: Callable[[str], str] = lambda case: case[:-9]) -> None:
    """Every image of `store` is made of those of `plain`, whose volumes have all their slices."""
    images = {
        (of_volume(case), plain.geometry(row).slice_index): plain.image(row) for row, case in enumerate(plain.cases)
    }
    assert store.cases.tolist() == plain.cases.tolist()
    for row, case in enumerate(store.cases):
        volume, place = of_volume(case), store.geometry(row).slice_index
        around = [images[volume, at] for at in near(place, SLICES, 1)]
        np.testing.assert_array_equal(store.image(row), np.stack(around, 1).reshape(-1, *store.shape[1:]))
        np.testing.assert_array_equal(store.masks(row), plain.masks(row))


@pytest.mark.parametrize("fit", [(), ("--size", "8x16"), ("--resize", "8x8"), ("--crop", "marks")])
@pytest.mark.parametrize("rule", ["unit", "minmax-slice", "window:0:200", "percentiles:1:99"])
def test_slices_of_own_volumes_come_with_their_neighbours(tmp_path: Path, fit: tuple[str, ...], rule: str) -> None:
    words = ("--all-slices", "--allow-cut", "--intensity", rule, *fit)
    plain, store = _stored(tmp_path, "folder", _folder(tmp_path / "own"), *words)
    _check_neighbours(plain, store)
    assert store.info.channels == ("a[-1]", "a", "a[+1]", "b[-1]", "b", "b[+1]")
    assert (plain.info.context, store.info.context) == (0, 1)
    store.verify()


def test_a_marked_slice_has_its_neighbours_though_nobody_marked_them(tmp_path: Path) -> None:
    root = _folder(tmp_path / "own")
    for case in ("p1", "p2", "p3"):
        _nifti(root / case / "rater-x.nii", [0, 0, 1, 0, 0])
    _, store = _stored(tmp_path, "folder", root)
    assert len(store) == 3
    expected = [_value(channel, place) for channel in (0, 1) for place in (1, 2, 3)]
    assert store.image(0)[:, 0, 0].tolist() == expected


def test_scans_of_the_ms_challenge_come_with_their_neighbours(tmp_path: Path) -> None:
    words = ("--fit", "crop", "--size", "12x14", "--all-slices")
    plain, store = _stored(tmp_path, "isbi-ms", _isbi(tmp_path / "ms"), *words)
    _check_neighbours(plain, store)
    assert store.info.channels[:4] == ("FLAIR[-1]", "FLAIR", "FLAIR[+1]", "MPRAGE[-1]")


def test_nodules_of_the_original_lidc_come_with_their_neighbours(tmp_path: Path) -> None:
    root = tmp_path / "LIDC-IDRI"
    write_patient(root, 1, [xml(1, [[box(60, 70, 10, [0, 1, 3])]] * 4)])
    last = len(list(root.rglob("*.dcm"))) - 1
    write_patient(root, 2, [xml(2, [[box(60, 70, 10, [last])]] * 4)])
    plain, store = _stored(tmp_path, "lidc-dicom", root, "--jobs", "1")
    assert load(store).place["slice_range"] == (STEP, STEP)
    assert store.info.channels == ("CT[-1]", "CT", "CT[+1]")
    for row in range(len(store)):
        place = store.geometry(row).slice_index
        np.testing.assert_array_equal(store.image(row)[1], plain.image(row)[0])
        top, left = 76 - 64, 66 - 64  # of the window: the square's middle is row 75.5, column 65.5
        for image, at in zip(store.image(row), near(place, last + 1, 1), strict=True):
            seen = hounsfield(at)[top : top + 80, left : left + 80]
            expected = np.rint(255 * (seen + 1000.0) / 1400).clip(0, 255)
            np.testing.assert_array_equal(image[:80, :80], expected)


def test_neighbours_are_as_far_as_slices_are_whatever_thickness_one_states(tmp_path: Path) -> None:
    root = tmp_path / "LIDC-IDRI"
    write_patient(root, 1, [xml(1, [[box(60, 70, 10, [0, 1, 3])]] * 4)])
    for path in sorted(root.rglob("*.dcm"))[:-1]:  # all but the lowest slice
        made = pydicom.dcmread(path)
        made.SliceThickness = 2 * STEP
        made.save_as(path)
    _, store = _stored(tmp_path, "lidc-dicom", root, "--jobs", "1")
    assert load(store).place["slice_range"] == (STEP, STEP)


def test_slices_that_are_missing_end_a_series_of_neighbours(tmp_path: Path) -> None:
    root = tmp_path / "LIDC-IDRI"
    write_patient(root, 1, [xml(1, [[box(60, 70, 10, [2, 4])]] * 4)], slices=(0, 1, 2, 4, 5))
    _, store = _stored(tmp_path, "lidc-dicom", root, "--jobs", "1")
    below, above = (store.image(row)[:, 64, 64].astype(float) for row in range(2))
    assert below[2] == below[1]
    assert above[0] == above[1]
    expected = [hounsfield(at)[76, 66] for at in (1, 2, 4, 5)]
    found = [below[0], below[1], above[1], above[2]]
    np.testing.assert_array_equal(found, np.rint(255 * (np.array(expected) + 1000.0) / 1400))


def test_simulated_volumes_come_with_their_neighbours(tmp_path: Path) -> None:
    plain, store = (
        Store.open(write_phantom(tmp_path / f"{context}.h5", PHANTOM, context=context, progress=False))
        for context in (0, 1)
    )
    _check_neighbours(plain, store, lambda case: case[:-10])


def test_two_neighbours_repeat_the_end_twice() -> None:
    assert [near(place, 4, 2) for place in (0, 1, 3)] == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [1, 2, 3, 3, 3]]
    assert near(0, 1, 2) == [0] * 5


def test_a_picture_has_no_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for name in ("image", "rater-x"):
        path = tmp_path / "own" / "p" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(path)
    assert main(["import", "folder", str(tmp_path / "own"), "-o", str(tmp_path / "s.h5"), "--context", "1"]) == 2
    said = capsys.readouterr().err
    assert "image.png" in said
    assert "--context" in said
    assert not (tmp_path / "s.h5").exists()
    with pytest.raises(ConfigError, match="--context"):
        write_phantom(tmp_path / "p.h5", replace(PHANTOM, slices=1), context=1, progress=False)


@pytest.mark.parametrize(
    "changes", [{"context": 1}, {"context": 1, "channels": ("a", "b", "c")}, {"context": 3}, {"context": -1}]
)
def test_a_store_whose_channels_are_no_neighbours_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match="channels"):
        make_info(**changes)


def test_a_model_knows_the_context_and_older_descriptions_have_none(tmp_path: Path) -> None:
    path = write_phantom(tmp_path / "p.h5", PHANTOM, context=1, progress=False)
    data = describe_data(load(path), path)
    assert data.to_dict()["context"] == 1
    assert data.scan_channels == ("CT",)
    assert data.slice_range == (2.0, 2.0)
    plain = DataSpec.of()
    assert "context" not in plain.to_dict()
    with pytest.raises(DataError, match="channels"):
        DataSpec.of(channels=2, context=1)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("data") / "c.h5", PHANTOM, context=1, progress=False)


def test_a_quarter_of_the_images_is_seen_without_neighbours(volumes: Path) -> None:
    store, hidden, seen = load(volumes, "train"), 0, 0
    for index in range(60):
        batch = training_batch(store, index, seed=0, size=32, augment=Augmentation(turns=False))
        rows = [store.cases.index(case) for case in batch.case]
        own = store.batch(rows)
        alone = own.image[:, [1, 1, 1]]
        differ = (own.image != alone).flatten(1).any(1)
        whole, single = ((batch.image == image).flatten(1).all(1) for image in (own.image, alone))
        assert (whole | single).all()
        assert torch.equal(batch.masks, own.masks)
        hidden, seen = hidden + int((single & differ).sum()), seen + int(differ.sum())
    assert abs(hidden / seen - 0.25) < 4 * (0.25 * 0.75 / seen) ** 0.5


def test_a_batch_is_a_function_of_seed_and_index(volumes: Path) -> None:
    store = load(volumes, "train")
    one, again, other = (
        training_batch(store, 3, seed=seed, size=16, augment=Augmentation()).image for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("turns", [True, False])
def test_the_device_hides_the_same_neighbours(volumes: Path, turns: bool) -> None:
    store = load(volumes, "train")
    held = DeviceStore(store, torch.device("cpu"))
    for index, rank, world in ((0, 0, 1), (5, 0, 2), (5, 1, 2)):
        how = {"seed": 3, "size": 8, "augment": Augmentation(turns), "rank": rank, "world": world}
        expected, found = training_batch(store, index, **how), held.training_batch(index, **how)
        assert torch.equal(expected.image, found.image)
        assert torch.equal(expected.masks, found.masks)


def test_validation_hides_nothing(volumes: Path) -> None:
    store = load(volumes, "val")
    batch = validation_batches(store, images=4, size=4)[0]
    rows = [store.cases.index(case) for case in batch.case]
    assert torch.equal(batch.image, store.batch(rows).image)


def test_training_without_context_draws_what_it_drew(volumes: Path, tmp_path: Path, monkeypatch) -> None:
    store = load(write_phantom(tmp_path / "p.h5", PHANTOM, progress=False), "train")
    monkeypatch.setattr("modiff.data.loading.hidden_context", None)  # is not asked
    training_batch(store, 0, seed=0, size=8, augment=Augmentation())
    DeviceStore(store, torch.device("cpu")).training_batch(0, seed=0, size=8, augment=Augmentation())


def test_a_store_gives_fewer_neighbours_and_never_more(tmp_path: Path, volumes: Path) -> None:
    wide = load(write_phantom(tmp_path / "w.h5", PHANTOM, context=2, progress=False))
    one, none = load(volumes), load(write_phantom(tmp_path / "p.h5", PHANTOM, progress=False))
    for store in (one, none):
        cut = with_context(wide, store.info.context)
        np.testing.assert_array_equal(cut.image, store.image)
        assert (cut.info.channels, cut.info.context) == (store.info.channels, store.info.context)
    with pytest.raises(DataError, match="--context 1"):
        with_context(none, 1)


def test_slices_that_are_turned_over_have_their_neighbours_turned_too(volumes: Path) -> None:
    store = load(volumes)
    over = turned(store, "LPS", "LPI")
    np.testing.assert_array_equal(over.image, store.image[:, ::-1])
    assert turned(over, "LPI", "LPS").image.tobytes() == store.image.tobytes()
    both = turned(store, "LPS", "RPI")
    np.testing.assert_array_equal(both.image, store.image[:, ::-1, :, ::-1])
    plain = with_context(store, 0)
    assert turned(plain, "LPS", "LPI") is plain


def test_pixels_of_slices_that_are_transposed_change_height_and_width(volumes: Path) -> None:
    store = with_context(load(volumes), 0)
    store.place["spacing"] = (2.0, 0.5)
    over = turned(store, "LPS", "PLS")
    np.testing.assert_array_equal(over.image, store.image.swapaxes(2, 3))
    assert (over.place["spacing"], store.place["spacing"]) == ((0.5, 2.0), (2.0, 0.5))
    assert turned(store, "LPS", "RAS").place["spacing"] == (2.0, 0.5)


def test_names_and_narrowing_keep_the_order_of_channels() -> None:
    assert named(("a", "b"), 1) == ("a[-1]", "a", "a[+1]", "b[-1]", "b", "b[+1]")
    assert named(("a", "b"), 0) == ("a", "b")
    numbers = np.arange(10)[:, None, None]
    assert narrowed(numbers, 2, 1).ravel().tolist() == [1, 2, 3, 6, 7, 8]
    assert narrowed(numbers, 2, 0).ravel().tolist() == [2, 7]


def test_a_model_of_simulated_volumes_knows_their_slice_distance(tmp_path: Path) -> None:
    path = tmp_path / "phantom.h5"
    write_phantom(path, replace(PHANTOM, slice_spacing=3.0), context=1)
    assert describe_data(load(path), path).slice_range == (3.0, 3.0)
