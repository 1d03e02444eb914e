"""A store is written whole or not at all, and what does not fit together is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from store_helpers import make_info

from modiff.data.store import Store, StoreWriter
from modiff.data.store_format import StoreInfo
from modiff.errors import DataError

IMAGE = np.zeros((2, 6, 5), np.uint8)
MASKS = np.zeros((3, 6, 5), np.uint8)
READ = np.ones(3, bool)
NAMES = {"case": "p/1", "patient": "p", "split": "train"}


def _contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _write(path: Path, meanwhile: Callable[[], object]) -> None:
    """Writes one case and lets something happen before the writer closes."""
    with StoreWriter(path, make_info()) as writer:
        writer.add(IMAGE, MASKS, READ, **NAMES)
        meanwhile()


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_when_the_writing_fails(tmp_path: Path, failure: type[BaseException]) -> None:
    def fail() -> None:
        raise failure

    with pytest.raises(failure):
        _write(tmp_path / "s.h5", fail)
    assert _contents(tmp_path) == []


def test_the_old_store_stays_when_the_writing_of_the_new_one_fails(small_store: Path) -> None:
    before = small_store.read_bytes()
    with pytest.raises(RuntimeError), StoreWriter(small_store, make_info(), overwrite=True):
        raise RuntimeError
    assert small_store.read_bytes() == before


def test_an_existing_store_is_not_overwritten_unasked(small_store: Path) -> None:
    with pytest.raises(DataError, match="exists already"), StoreWriter(small_store, make_info()):
        pass


def test_an_existing_store_is_overwritten_when_asked(small_store: Path) -> None:
    with StoreWriter(small_store, make_info(), overwrite=True) as writer:
        writer.add(IMAGE, MASKS, READ, **NAMES)
    with Store.open(small_store) as store:
        assert len(store) == 1


def test_a_store_made_meanwhile_by_someone_else_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with pytest.raises(DataError, match="meanwhile"):
        _write(path, lambda: path.write_text("theirs"))
    assert path.read_text() == "theirs"
    assert _contents(tmp_path) == ["s.h5"]


def test_a_store_without_cases_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no case"), StoreWriter(tmp_path / "s.h5", make_info()):
        pass
    assert _contents(tmp_path) == []


def test_a_writer_that_is_not_open_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not open"):
        StoreWriter(tmp_path / "s.h5", make_info()).add(IMAGE, MASKS, READ, **NAMES)


def test_a_folder_that_cannot_be_made_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot make the folder"), StoreWriter(tmp_path / "file" / "s.h5", make_info()):
        pass


def test_what_is_added_is_copied(tmp_path: Path) -> None:
    image, masks, read = IMAGE.copy(), MASKS.copy(), READ.copy()
    with StoreWriter(tmp_path / "s.h5", make_info()) as writer:
        writer.add(image, masks, read, **NAMES)
        image[:], masks[:], read[:] = 9, 1, False
    with Store.open(tmp_path / "s.h5") as store:
        assert (store.image(0).max(), store.masks(0).max(), store.read.all()) == (0, 0, True)


READ_BY_TWO = np.array([True, True, False])
REFUSED = {
    "number of channels": ((IMAGE[:1], MASKS, READ), {}, "image does not fit"),
    "an image without pixels": ((IMAGE[:, :0], MASKS[:, :0], READ), {}, "image does not fit"),
    "64-bit integers": ((IMAGE.astype(np.int64), MASKS, READ), {}, "unexpected type"),
    "complex values": ((IMAGE.astype(complex), MASKS, READ), {}, "unexpected type"),
    "floats above 1": ((IMAGE + 1.5, MASKS, READ), {}, r"outside \[0,1\]"),
    "floats below 0": ((IMAGE - 0.1, MASKS, READ), {}, r"outside \[0,1\]"),
    "not a number": ((IMAGE * np.nan, MASKS, READ), {}, r"outside \[0,1\]"),
    "number of raters": ((IMAGE, MASKS[:2], READ), {}, "masks do not fit"),
    "size of masks": ((IMAGE, MASKS[:, :, :4], READ), {}, "masks do not fit"),
    "type of masks": ((IMAGE, MASKS.astype(float), READ), {}, "masks do not fit"),
    "a class that there is not": (
        (IMAGE, MASKS + np.uint8(3), READ),
        {},
        "a mask holds a value without a class.*3.*0 to 2",
    ),
    "size of read": ((IMAGE, MASKS, READ[:2]), {}, "`read` does not fit"),
    "type of read": ((IMAGE, MASKS, READ.astype(int)), {}, "`read` does not fit"),
    "nobody read": ((IMAGE, MASKS, ~READ), {}, "`read` does not fit"),
    "marked without reading": ((IMAGE, MASKS + np.uint8(1), READ_BY_TWO), {}, "did not read"),
    "another size": ((IMAGE[:, :5], MASKS[:, :5], READ), {}, "differs from the first case"),
    "another type": ((IMAGE.astype(np.uint16), MASKS, READ), {}, "differs from the first case"),
    "the same case": ((IMAGE, MASKS, READ), {"case": "first"}, "added before"),
    "a patient in two splits": ((IMAGE, MASKS, READ), {"patient": "q", "split": "test"}, "q in train and test"),
    "an empty name": ((IMAGE, MASKS, READ), {"case": " "}, "not empty"),
    "a name that moves the cursor": ((IMAGE, MASKS, READ), {"patient": "\x1b[2J"}, "printable"),
    "a name that leads elsewhere": ((IMAGE, MASKS, READ), {"case": "../x"}, "is not a valid name for a case"),
    "an absolute name": ((IMAGE, MASKS, READ), {"case": "/x"}, "is not a valid name for a case"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_case_that_does_not_fit_is_refused(tmp_path: Path, what: str) -> None:
    arrays, names, message = REFUSED[what]
    with StoreWriter(tmp_path / "s.h5", make_info()) as writer:
        writer.add(IMAGE, MASKS, READ, case="first", patient="q", split="train")
        with pytest.raises(DataError, match=message):
            writer.add(*arrays, **(NAMES | names))


def test_a_patient_without_a_fold_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="patients without a fold; found p"),
        StoreWriter(tmp_path / "s.h5", make_info(), folds={"another process": 0}) as writer,
    ):
        writer.add(IMAGE, MASKS, READ, **NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ()}, "channels: names must be given"),
        ({"raters": ("A", "A")}, "raters: names must be given and differ"),
        ({"prompt": "corner"}, "no such prompt; found corner; expected centre or none"),
        ({"spacing": (1.0, 0.0)}, "spacing: must be positive"),
        ({"intensity": ""}, "intensity: names must be printable"),
        ({"licence": "a\nb"}, "licence: names must be printable"),
    ],
    ids=str,
)
def test_a_description_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_info(**change)


def test_the_schema_is_the_one_that_is_written() -> None:
    assert StoreInfo(("a",), ("b",), ("c",), True, "unit", "none").schema == 1
