"""A store from anyone is opened as data: nothing outside it is read, and no more memory is taken than it can fill."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from memory import takes_less_than

from modiff.data.loading import load
from modiff.data.store import Store
from modiff.errors import DataError


def _refused(path: Path, message: str) -> None:
    """The store is refused in one line that names it, and within a few MB."""
    with takes_less_than(20_000_000), pytest.raises(DataError, match=message) as caught, Store.open(path) as store:
        store.verify()
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def _replaced(path: Path, name: str, make: Callable[[h5py.File, np.ndarray], object]) -> None:
    """Puts something else in the place of a dataset."""
    with h5py.File(path, "r+") as file:
        data = file[name][:]
        del file[name]
        make(file, data)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    _refused(tmp_path / "none.h5", "no such file")


def test_a_file_that_is_not_hdf5(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("image,mask\n")
    _refused(tmp_path / "text.h5", "not an HDF5 file")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.h5").write_bytes(b"")
    _refused(tmp_path / "empty.h5", "not an HDF5 file")


def test_a_folder(tmp_path: Path) -> None:
    _refused(tmp_path, "is a folder, not a store")


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_a_truncated_file(small_store: Path, fraction: float) -> None:
    content = small_store.read_bytes()
    small_store.write_bytes(content[: int(fraction * len(content))])
    _refused(small_store, "truncated file")


def test_an_hdf5_file_that_is_no_store(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.zeros((3, 4))
    _refused(tmp_path / "other.h5", "not a store")


@pytest.mark.parametrize(("schema", "hint"), [(99, "newer modiff"), (0, "Import the data again")])
def test_another_schema(small_store: Path, schema: int, hint: str) -> None:
    with h5py.File(small_store, "r+") as file:
        file.attrs["schema"] = np.int64(schema)
    _refused(small_store, f"schema.*found {schema}; expected 1.*{hint}")


@pytest.mark.parametrize("name", ["image", "masks", "read", "case", "patient", "split"])
def test_a_missing_dataset(small_store: Path, name: str) -> None:
    _replaced(small_store, name, lambda file, data: None)
    _refused(small_store, f"{name}: missing")


@pytest.mark.parametrize("name", ["channels", "raters", "prompt", "exchangeable_raters", "fingerprint"])
def test_a_missing_attribute(small_store: Path, name: str) -> None:
    with h5py.File(small_store, "r+") as file:
        del file.attrs[name]
    _refused(small_store, f"{name}: attribute missing")


@pytest.mark.parametrize("name", ["image", "case"])
def test_an_external_link_is_not_followed(small_store: Path, tmp_path: Path, name: str) -> None:
    other = tmp_path / "other.h5"
    other.write_bytes(small_store.read_bytes())

    def link(file: h5py.File, data: np.ndarray) -> None:
        file[name] = h5py.ExternalLink(str(other), name)

    _replaced(small_store, name, link)
    _refused(small_store, f"{name}: links are not followed; found ExternalLink")


def test_a_soft_link_is_not_followed(small_store: Path) -> None:
    def link(file: h5py.File, data: np.ndarray) -> None:
        file["elsewhere"] = data
        file["masks"] = h5py.SoftLink("/elsewhere")

    _replaced(small_store, "masks", link)
    _refused(small_store, "masks: links are not followed; found SoftLink")


def test_raw_data_in_another_file_is_not_read(small_store: Path) -> None:
    def external(file: h5py.File, data: np.ndarray) -> None:
        file.create_dataset("case", data.shape, data.dtype, external=[("/etc/passwd", 0, data.nbytes)])

    _replaced(small_store, "case", external)
    _refused(small_store, "data stored in other files is not followed")


def test_a_virtual_dataset_is_not_followed(small_store: Path, tmp_path: Path) -> None:
    def virtual(file: h5py.File, data: np.ndarray) -> None:
        layout = h5py.VirtualLayout(data.shape, data.dtype)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "image", data.shape, data.dtype)
        file.create_virtual_dataset("image", layout)

    _replaced(small_store, "image", virtual)
    _refused(small_store, "data stored in other files is not followed")


def test_references_are_refused(small_store: Path) -> None:
    def references(file: h5py.File, data: np.ndarray) -> None:
        file.create_dataset("case", data=[file["image"].ref] * len(data), dtype=h5py.ref_dtype)

    _replaced(small_store, "case", references)
    _refused(small_store, "case: type not allowed")


def test_strings_that_are_pointers_are_refused(small_store: Path) -> None:
    _replaced(small_store, "case", lambda file, data: file.create_dataset("case", data=[str(x) for x in data]))
    _refused(small_store, "case: type not allowed")


def test_a_group_in_the_place_of_a_dataset(small_store: Path) -> None:
    _replaced(small_store, "image", lambda file, data: file.create_group("image"))
    _refused(small_store, "image: not a dataset")


def test_declared_slices_that_are_not_there(small_store: Path) -> None:
    def huge(file: h5py.File, data: np.ndarray) -> None:
        kept = {"maxshape": (None, *data.shape[1:]), "chunks": (1, *data.shape[1:]), "compression": "gzip"}
        file.create_dataset("image", (len(data), *data.shape[1:]), np.uint8, **kept)

    _replaced(small_store, "image", huge)
    _refused(small_store, "image: declares more slices than it holds; found 0; expected 6")


def test_declared_names_that_are_not_there(small_store: Path) -> None:
    _replaced(small_store, "case", lambda file, data: file.create_dataset("case", (10**12,), "S8"))
    _refused(small_store, "case: declares")


def test_declared_slices_beyond_reason(small_store: Path) -> None:
    def huge(file: h5py.File, data: np.ndarray) -> None:
        shape = (len(data), 2, 1 << 15, 1 << 15)
        file.create_dataset("image", shape, np.uint8, chunks=(1, *shape[1:]), compression="gzip")

    _replaced(small_store, "image", huge)
    _refused(small_store, "image: slices too large")


def test_slices_that_inflate_beyond_what_they_declare(small_store: Path) -> None:
    bomb = zlib.compress(bytes(200 << 20), 9)
    with h5py.File(small_store, "r+") as file:
        file["image"].id.write_direct_chunk((3, 0, 0, 0), bomb)
    _refused(small_store, "p3/slice-3: damaged slice; found 287 bytes; expected 286")


def test_a_store_that_inflates_beyond_reason(small_store: Path) -> None:
    """64 blank slices of 4 MiB in a few kB each: every slice honest, the whole a bomb."""
    count, shape = 64, (2, 1448, 1448)

    def blank(file: h5py.File, data: np.ndarray) -> None:
        kept = {"chunks": (1, *shape), "compression": "gzip"}
        made = file.create_dataset("image", (count, *shape), np.uint8, **kept)
        masks = file.create_dataset(
            "masks", (count, 3, *shape[1:]), np.uint8, **(kept | {"chunks": (1, 3, *shape[1:])})
        )
        for row in range(count):
            made.id.write_direct_chunk((row, 0, 0, 0), zlib.compress(bytes(shape[0] * shape[1] * shape[2]), 9))
            masks.id.write_direct_chunk((row, 0, 0, 0), zlib.compress(bytes(3 * shape[1] * shape[2]), 9))
        for name in ("patient", "split", "read", "case", "fold", "fold_patient"):
            del file[name]
        for name in ("case", "patient"):
            file[name] = np.array([f"{row}".encode() for row in range(count)])
        file["split"] = np.array([b"train"] * count)
        file["read"] = np.ones((count, 3), np.uint8)

    with h5py.File(small_store, "r+") as file:
        del file["masks"]
    _replaced(small_store, "image", blank)
    _refused(small_store, "declares far more data than the file can hold")


@pytest.mark.parametrize("options", [{"compression": "lzf"}, {}, {"compression": "gzip", "scaleoffset": 0}], ids=str)
def test_other_filters_are_refused(small_store: Path, options: dict[str, object]) -> None:
    def other(file: h5py.File, data: np.ndarray) -> None:
        file.create_dataset("masks", data=data, chunks=(1, *data.shape[1:]), **options)

    _replaced(small_store, "masks", other)
    _refused(small_store, "masks: is not stored slice by slice")


def test_a_slice_stored_without_its_filters_is_refused(small_store: Path) -> None:
    with h5py.File(small_store, "r+") as file:
        file["image"].id.write_direct_chunk((0, 0, 0, 0), bytes(286), filter_mask=1)
    _refused(small_store, "a slice is stored without its compression")


def test_an_attribute_beyond_reason(small_store: Path) -> None:
    with h5py.File(small_store, "r+") as file:
        file.attrs["source"] = np.bytes_(b"x" * 65537)
    _refused(small_store, "source: attribute too large")


@pytest.mark.parametrize("value", [3.5, "pointer", [b"a", b"b"]], ids=str)
def test_an_attribute_of_another_type(small_store: Path, value: object) -> None:
    with h5py.File(small_store, "r+") as file:
        file.attrs["prompt"] = value
    _refused(small_store, "prompt: unexpected type of attribute")


def test_masks_of_a_class_that_there_is_not(small_store: Path) -> None:
    with h5py.File(small_store, "r+") as file:
        file["masks"][2, 0, 0, 0] = 77
    _refused(small_store, "p2/slice-2: a mask holds a value without a class; found 77; expected 0 to 2")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("split", b"test", "a patient in two splits; found p1"),
        ("case", b"p4/slice-5", "a case occurs twice"),
        ("case", b"../../x", "is not a valid name for a case"),
        ("case", b"\x1b[2J", "must be printable"),
        ("patient", b"\xff", "damaged file"),
        ("patient", b"", "must be printable"),
    ],
)
def test_names_that_make_no_sense(small_store: Path, name: str, value: bytes, message: str) -> None:
    with h5py.File(small_store, "r+") as file:
        file[name][0] = value
    _refused(small_store, message)


def test_floats_outside_the_unit_interval_are_refused(small_store: Path) -> None:
    def floats(file: h5py.File, data: np.ndarray) -> None:
        kept = {"compression": "gzip", "shuffle": True, "chunks": (1, *data.shape[1:])}
        file.create_dataset("image", data=data.astype(np.float32), **kept)

    _replaced(small_store, "image", floats)
    _refused(small_store, r"p1/slice-0: float image values are outside \[0,1\]")


def test_a_refused_store_is_not_loaded_either(small_store: Path) -> None:
    with h5py.File(small_store, "r+") as file:
        file.attrs["schema"] = np.int64(2)
    with pytest.raises(DataError):
        load(small_store)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_give_typed_errors_or_nothing(small_store: Path, seed: int) -> None:
    """Whatever is flipped or cut: the content is as it was, or a DataError says that it is not."""
    draw, content = random.Random(seed), small_store.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(draw.choice([1, 1, 4])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        small_store.write_bytes(damaged[: draw.randrange(len(damaged)) if draw.random() < 0.1 else None])
        try:
            with Store.open(small_store) as store:
                store.verify()
        except DataError:
            continue
