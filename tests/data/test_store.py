"""What goes into a store comes out of it, whole, and a store that cannot be trusted is not written."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_helpers import make_info

from modiff.config.data import PhantomConfig
from modiff.data.importers.phantom import write_phantom
from modiff.data.loading import load
from modiff.data.store import Store, StoreWriter
from modiff.errors import DataError

TYPES = ["<u1", "<i1", "<u2", "<i2", "<i4", "<f2", "<f4", "<f8", ">i2"]


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (n,C,H,W), masks (n,R,H,W) and read (n,R) of any allowed type and size."""
    count, channels, raters = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    values = {"elements": st.floats(0, 1, width=16)} if dtype.kind == "f" else {}
    image = draw(hnp.arrays(dtype, (count, channels, height, width), **values))
    masks = draw(hnp.arrays(np.uint8, (count, raters, height, width), elements=st.integers(0, 2)))
    read = draw(hnp.arrays(np.bool_, (count, raters)))
    read[:, 0] = True
    return image, masks * read[:, :, None, None], read


def _write(path: Path, image: np.ndarray, masks: np.ndarray, read: np.ndarray) -> None:
    names = {"channels": tuple("wxyz"[: image.shape[1]]), "raters": tuple("abc"[: masks.shape[1]])}
    with StoreWriter(path, make_info(**names), overwrite=True) as writer:
        for row in range(len(image)):
            writer.add(image[row], masks[row], read[row], case=f"ä/{row}", patient=f"p{row}", split="train")


@settings(max_examples=60, deadline=None)
@given(data_sets())
def test_arrays_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, data: tuple[np.ndarray, ...]) -> None:
    image, masks, read = data
    path = tmp_path_factory.getbasetemp() / "round-trip.h5"
    _write(path, image, masks, read)
    with Store.open(path) as store:
        for row in range(len(image)):
            np.testing.assert_array_equal(store.image(row), image[row])
            np.testing.assert_array_equal(store.masks(row), masks[row])
        np.testing.assert_array_equal(store.read, read)
        store.verify()


@settings(max_examples=20, deadline=None)
@given(data_sets())
def test_h5py_reads_the_same_arrays(tmp_path_factory: pytest.TempPathFactory, data: tuple[np.ndarray, ...]) -> None:
    image, masks, read = data
    path = tmp_path_factory.getbasetemp() / "h5py.h5"
    _write(path, image, masks, read)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["image"][:], image)
        np.testing.assert_array_equal(file["masks"][:], masks)


def test_what_the_store_says_of_itself_comes_back(small_store: Path) -> None:
    with Store.open(small_store) as store:
        assert store.info == make_info()


def test_names_come_back_in_order(small_store: Path) -> None:
    with Store.open(small_store) as store:
        assert store.cases.tolist() == [f"{p}/slice-{i}" for i, p in enumerate(["p1", "p1", "p2", "p3", "p4", "p4"])]
        assert store.splits.tolist() == ["train", "train", "train", "val", "test", "test"]


def test_many_rows_at_once_equal_single_rows(small_store: Path) -> None:
    rows = [5, 0, 3, 3, 1]
    with Store.open(small_store) as store:
        blocks = list(store.blocks(rows, size=2))
        images, masks = (np.concatenate([block[part] for block in blocks]) for part in (0, 1))
        np.testing.assert_array_equal(images, np.stack([store.image(row) for row in rows]))
        np.testing.assert_array_equal(masks, np.stack([store.masks(row) for row in rows]))


def test_more_cases_than_the_writer_holds_back(tmp_path: Path) -> None:
    image = np.arange(700 * 4, dtype=np.uint16).reshape(700, 1, 2, 2)
    _write(tmp_path / "many.h5", image, np.zeros((700, 1, 2, 2), np.uint8), np.ones((700, 1), bool))
    with Store.open(tmp_path / "many.h5") as store:
        np.testing.assert_array_equal(np.concatenate([block for block, _ in store.blocks(store.rows())]), image)


def test_geometry_comes_back_and_is_none_where_unknown(tmp_path: Path) -> None:
    affine = np.arange(16.0).reshape(4, 4)
    picture, mask, read = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8), np.ones(1, bool)
    one = {"channels": ("CT",), "raters": ("A",)}
    with StoreWriter(tmp_path / "g.h5", make_info(**one)) as writer:
        more = {"affine": affine, "slice_index": 0, "valid": (0, 1, 3, 4), "spacing": (2.0, 3.0)}
        writer.add(picture, mask, read, case="a", patient="a", split="train", **more)
        writer.add(picture, mask, read, case="b", patient="b", split="train")
    with Store.open(tmp_path / "g.h5") as store:
        known, unknown = store.geometry(0), store.geometry(1)
        store.verify()
    np.testing.assert_array_equal(known.affine, affine)
    assert (known.slice_index, known.valid, known.spacing) == (0, (0, 1, 3, 4), (2.0, 3.0))
    assert (unknown.affine, unknown.slice_index, unknown.valid) == (None, None, None)
    assert unknown.spacing == (0.5, 0.75), "the store's own"


def test_rows_of_a_split(small_store: Path) -> None:
    with Store.open(small_store) as store:
        assert store.rows("test").tolist() == [4, 5]
        assert store.rows(None).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_split_that_is_not_there_names_those_that_are(small_store: Path) -> None:
    with Store.open(small_store) as store, pytest.raises(DataError, match=r"no such split.*train, val, test"):
        store.rows("dev")


def test_a_fold_holds_out_its_patients_and_validates_on_some_of_the_others(small_store: Path) -> None:
    with Store.open(small_store) as store:
        patients = {part: set(store.patients[store.rows(f"fold1-{part}")]) for part in ("train", "val", "test")}
        assert patients["test"] == {"p2", "p4"}
        assert len(patients["val"]) == 1
        assert patients["val"] | patients["train"] | patients["test"] == set(store.patients)
        assert sum(map(len, patients.values())) == len(set(store.patients))


def test_a_fold_that_is_not_there_names_those_that_are(small_store: Path) -> None:
    with Store.open(small_store) as store, pytest.raises(DataError, match=r"no such fold.*0, 1"):
        store.rows("fold7-test")


def test_a_store_without_folds_says_how_to_make_them(tmp_path: Path) -> None:
    path = write_phantom(tmp_path / "p.h5", PhantomConfig(size=32, spacing=1.4, patients=3, images_per_patient=1))
    with Store.open(path) as store, pytest.raises(DataError, match=r"has no folds.*--folds K"):
        store.rows("fold0-test")


def test_a_store_travels_to_another_process(small_store: Path) -> None:
    with Store.open(small_store) as store, pickle.loads(pickle.dumps(store)) as copy:
        np.testing.assert_array_equal(copy.image(2), store.image(2))


def _fingerprint(path: Path) -> str:
    with Store.open(path) as store:
        return store.fingerprint()


def _six(path: Path, **changes: object) -> str:
    """A store of six cases like each other but for `changes`; its fingerprint."""
    order = changes.pop("order", range(6))
    image = np.random.default_rng(1).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    masks = np.zeros((6, 1, 4, 4), np.uint8)
    case, mask_at, pixel_at = changes.pop("case", "x"), changes.pop("mask_at", 0), changes.pop("pixel_at", None)
    masks[0].flat[mask_at] = 1
    if pixel_at is not None:
        image.flat[pixel_at] ^= 1
    with StoreWriter(path, make_info(channels=("CT",), raters=("A",), **changes)) as writer:
        for row in order:
            writer.add(image[row], masks[row], np.ones(1, bool), case=f"{case}/{row}", patient="p", split="train")
    return _fingerprint(path)


def test_the_fingerprint_does_not_depend_on_path_nor_on_who_made_it(tmp_path: Path) -> None:
    other = _six(tmp_path / "b.h5", provenance={}, importer="another", source="elsewhere", licence="CC BY 4.0")
    assert _six(tmp_path / "a.h5") == other


@pytest.mark.parametrize(
    "change",
    [
        {"case": "y"},
        {"mask_at": 1},
        {"pixel_at": 40},
        {"order": [1, 0, 2, 3, 4, 5]},
        {"order": range(5)},
        {"intensity": "window:-1000:400"},
        {"prompt": "centre"},
        {"exchangeable_raters": True},
        {"classes": ("core", "edge")},
        {"spacing": None},
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_the_content(tmp_path: Path, change: dict[str, object]) -> None:
    assert _six(tmp_path / "a.h5") != _six(tmp_path / "b.h5", **change)


def test_the_fingerprint_does_not_depend_on_compression(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modiff.data.store_format.LEVEL", 9)
    with (
        Store.open(small_store) as store,
        StoreWriter(small_store.with_name("b.h5"), store.info, folds=store.folds()) as w,
    ):
        for row in range(len(store)):
            names = {"case": store.cases[row], "patient": store.patients[row], "split": store.splits[row]}
            w.add(store.image(row), store.masks(row), store.read[row], **{k: str(v) for k, v in names.items()})
    assert _fingerprint(small_store) == _fingerprint(small_store.with_name("b.h5"))


def test_content_that_was_changed_fails_verification(small_store: Path) -> None:
    with h5py.File(small_store, "r+") as file:
        file["read"][0, 0] = 0
        del file.attrs["checksum"]  # as in stores of 0.1
    with Store.open(small_store) as store, pytest.raises(DataError, match="content was changed"):
        store.verify()


def test_a_folder_is_not_called_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder, not a store.*modiff import"):
        Store.open(tmp_path)


TABLES = ("case", "patient", "split", "read", "affine", "item_spacing", "valid", "slice_index")
TABLES += ("provenance", "fold", "fold_patient", "adler32")


@pytest.mark.parametrize("name", TABLES)
def test_a_flipped_bit_of_a_table_is_refused(small_store: Path, name: str) -> None:
    with h5py.File(small_store) as file:
        if name not in file:
            pytest.skip("a table that this store has not")
        offset, size = file[name].id.get_offset(), file[name].id.get_storage_size()
    data = small_store.read_bytes()
    for bit in random.Random(name).sample(range(8 * size), min(40, 8 * size)):
        damaged = bytearray(data)
        damaged[offset + bit // 8] ^= 1 << bit % 8
        small_store.write_bytes(damaged)
        with pytest.raises(DataError) as caught:
            Store.open(small_store)
        assert str(caught.value).startswith(str(small_store))


@pytest.mark.parametrize(
    "change", [{"licence": np.bytes_("MIT")}, {"source": np.bytes_("x")}, {"notes": np.array([b"y"])}], ids=str
)
def test_an_attribute_that_was_changed_is_refused(small_store: Path, change: dict[str, object]) -> None:
    with h5py.File(small_store, "r+") as file:
        file.attrs.update(change)
    with pytest.raises(DataError, match="damaged, or changed since it was written"):
        Store.open(small_store)


@pytest.mark.parametrize("name", ["image", "masks"])
def test_a_slice_that_was_replaced_is_refused_where_it_is_read(small_store: Path, name: str) -> None:
    with h5py.File(small_store, "r+") as file:
        file[name][2] = 1 - np.minimum(file[name][2], 1)
    with pytest.raises(DataError, match=r"p2/slice-2: damaged, or changed since it was written"):
        load(small_store)


def test_a_store_without_checksums_is_read_and_has_the_same_fingerprint(small_store: Path) -> None:
    with Store.open(small_store) as store:
        before = store.fingerprint()
    with h5py.File(small_store, "r+") as file:  # as 0.1 wrote it
        del file["adler32"], file.attrs["checksum"]
    assert load(small_store).fingerprint == before
    with Store.open(small_store) as store:
        store.verify()
