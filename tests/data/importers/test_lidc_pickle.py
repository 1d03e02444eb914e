"""`modiff import lidc-pickle`: arrays come out of a pickle as NumPy wrote them, and nothing in it runs."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modiff.cli import main
from modiff.data.importers.unpickle import as_array, read_pickle
from modiff.data.store import Store
from modiff.errors import DataError

LIMIT = 1 << 26
PROTOCOLS = (2, 3, 4, 5)


def _entries(count: int = 6) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    return {
        f"{place:04d}_slice{place}": {
            "image": rng.integers(0, 256, (16, 16)) / 255,
            "masks": [rng.integers(0, 2, (16, 16)).astype(np.uint8) for _ in range(4)],
            "series_uid": f"1.3.6.{place // 2}",
        }
        for place in range(count)
    }


def _write(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_store_holds_what_was_pickled(tmp_path: Path, protocol: int) -> None:
    path = _write(tmp_path / "d.pickle", _entries(), protocol)
    assert main(["import", "lidc-pickle", str(path), "-o", str(tmp_path / "s.h5")]) == 0
    with Store.open(tmp_path / "s.h5") as store:
        for row, entry in enumerate(_entries().values()):
            np.testing.assert_array_equal(store.image(row)[0], np.rint(entry["image"] * 65535))
            np.testing.assert_array_equal(store.masks(row), np.stack(entry["masks"]))


def test_a_patient_is_a_series(tmp_path: Path) -> None:
    path = _write(tmp_path / "d.pickle", _entries())
    main(["import", "lidc-pickle", str(path), "-o", str(tmp_path / "s.h5")])
    with Store.open(tmp_path / "s.h5") as store:
        assert store.patients.tolist() == [f"1.3.6.{place // 2}" for place in range(6)]
        assert store.info.exchangeable_raters


def test_a_patients_two_series_are_one_patient_where_names_say_so(tmp_path: Path) -> None:
    entries = {f"LIDC-IDRI-0132_{place}": entry for place, entry in enumerate(_entries().values())}
    main(["import", "lidc-pickle", str(_write(tmp_path / "d.pickle", entries)), "-o", str(tmp_path / "s.h5")])
    with Store.open(tmp_path / "s.h5") as store:
        assert set(store.patients.tolist()) == {"LIDC-IDRI-0132"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "f4", "f8", "?", "<u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_those_of_numpy(tmp_path: Path, protocol: int, dtype: str, order: Any) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 2, (3, 4, 5)), dtype=dtype, order=order)
    found = as_array(read_pickle(_write(tmp_path / "a", array, protocol), LIMIT))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, (b"x", "ü")]}, [], 10**30, {"n": np.float64(0.5)}, -7])
def test_plain_containers_are_those_of_pickle(tmp_path: Path, protocol: int, value: object) -> None:
    assert read_pickle(_write(tmp_path / "a", value, protocol), LIMIT) == value


def test_names_of_old_and_new_numpy_mean_the_same(tmp_path: Path) -> None:
    data = pickle.dumps(np.arange(3.0), 2)
    for old, new in ((b"numpy._core.multiarray", b"numpy.core.multiarray"), (b"numpy.core.multiarray",) * 2):
        (tmp_path / "a").write_bytes(data.replace(old, new))
        np.testing.assert_array_equal(as_array(read_pickle(tmp_path / "a", LIMIT)), np.arange(3.0))


class _Runs:
    """Unpickling it would run a command."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {}",)),
        (eval, ("open({!r}, 'w')",)),
        (exec, ("open({!r}, 'w')",)),
        (open, ("{}", "w")),
        (getattr, ("x", "upper")),
        (__import__, ("os",)),
        (np.load, ("{}",)),
        (np.save, ("{}", 1)),
        (np.ndarray, ((1 << 40,),)),
        (bytearray, (1 << 40,)),
        (np.dtype, ("O",)),
        (np.dtype, (("V", 1 << 30),)),
        (set, ([1],)),
        (complex, (1, 2)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_nothing_is_ever_called(tmp_path: Path, protocol: int, function: Any, arguments: tuple) -> None:
    mark = tmp_path / "was-run"
    filled = tuple(part.format(str(mark)) if isinstance(part, str) else part for part in arguments)
    path = _write(tmp_path / "d.pickle", {"a": _Runs(function, *filled)}, protocol)
    with pytest.raises(DataError) as caught:
        read_pickle(path, LIMIT)
    assert caught.value.path == path
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.",
        b"cnumpy\ndtype\n)\x81.",
        b"cnumpy.core.multiarray\n_reconstruct\ncbuiltins\nobject\nK\x00\x85C\x01b\x87R.",
        b"cnumpy.core.multiarray\n_reconstruct\nN}X\x04\x00\x00\x00makeK\x01s\x86b.",
        b"(cos\nsystem\no.",
        b"(S'true'\nios\nsystem\n.",
        b"Pnumpy\n.",
        b"K\x01Q.",
        b"\x82\x01.",
        b"c" + b"a" * 5000 + b"\nb\n.",
        b"\x97.",
        b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R(K\x03X\x01\x00\x00\x00<NNNtb}b.",
        b"}(K\x01K\x02u.",
        b"]K\x01K\x02s.",
        b"]]b.",
        b"\x8c\x01a\x8c\x01b\x93.",
    ],
    ids=lambda program: repr(program)[:30],
)
def test_hand_made_programs_are_refused(tmp_path: Path, program: bytes) -> None:
    (tmp_path / "d").write_bytes(b"\x80\x04" + program)
    with pytest.raises(DataError):
        read_pickle(tmp_path / "d", LIMIT)


@pytest.mark.parametrize(
    "program",
    [
        b"\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x96" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
        b"B" + struct.pack("<I", (1 << 32) - 1) + b"x.",
        b"\x95" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
        b"Nr" + struct.pack("<I", (1 << 32) - 1) + b"0N.",
    ],
    ids=["bytes", "bytearray", "text", "short bytes", "frame", "integer", "memo"],
)
def test_declared_sizes_take_no_memory(tmp_path: Path, program: bytes) -> None:
    import tracemalloc

    (tmp_path / "d").write_bytes(b"\x80\x05" + program)
    tracemalloc.start()
    try:
        read_pickle(tmp_path / "d", LIMIT)
    except DataError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20


def test_one_array_named_many_times_is_not_stacked(tmp_path: Path) -> None:
    array = np.zeros((64, 64))
    with pytest.raises(DataError):
        as_array(read_pickle(_write(tmp_path / "d", [array] * 100_000), LIMIT))


def test_more_instructions_than_arrays_need_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"\x80\x02" + b"(" * 1_200_000 + b".")
    with pytest.raises(DataError, match="instructions"):
        read_pickle(tmp_path / "d", LIMIT)


def test_an_array_with_too_few_bytes_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps(np.zeros((7, 7), np.uint8), 4)
    (tmp_path / "d").write_bytes(data.replace(b"K\x07K\x07", b"K\x07K\xf0"))
    with pytest.raises(DataError, match="bytes"):
        read_pickle(tmp_path / "d", LIMIT)


@pytest.mark.parametrize("protocol", [0, 1])
def test_older_protocols_are_refused(tmp_path: Path, protocol: int) -> None:
    with pytest.raises(DataError, match="protocol"):
        read_pickle(_write(tmp_path / "d", [1], protocol), LIMIT)


def test_the_cap_on_the_files_size_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too large"):
        read_pickle(_write(tmp_path / "d", np.zeros(100)), 100)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(2, 10_000), value=st.integers(0, 255), protocol=st.sampled_from(PROTOCOLS))
def test_a_changed_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, protocol: int
) -> None:
    data = bytearray(pickle.dumps({"a": {"image": np.arange(6.0), "masks": [np.zeros(3, np.uint8)] * 2}}, protocol))
    data[2 + place % (len(data) - 2)] = value
    path = tmp_path_factory.getbasetemp() / "flip.pickle"
    path.write_bytes(data)
    try:
        read_pickle(path, LIMIT)
    except DataError:
        return


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: entry.pop("masks"), "layout"),
        (lambda entry: entry.update(series_uid=""), "series"),
        (lambda entry: entry.update(masks=np.zeros((4, 16, 16))), "list"),
        (lambda entry: entry["masks"].__setitem__(0, np.full((16, 16), 7)), "mask values"),
        (lambda entry: entry["masks"].__setitem__(0, np.zeros((8, 16))), "array"),
        (lambda entry: entry.update(image=np.full((16, 16), 3.0)), "out of the layout's range"),
        (lambda entry: entry.update(image=np.full((16, 16), np.nan)), "out of the layout's range"),
        (lambda entry: entry.update(image=np.zeros((16, 16, 3))), "shape"),
    ],
)
def test_other_layouts_are_refused_with_the_slice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, words: str
) -> None:
    entries = _entries()
    change(entries["0003_slice3"])
    out = tmp_path / "s.h5"
    assert main(["import", "lidc-pickle", str(_write(tmp_path / "d.pickle", entries)), "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "0003_slice3" in error
    assert not out.exists()


def test_the_examples_above_are_programs() -> None:
    """Guards the hand-made programs against typing errors: pickle's own disassembler follows them."""
    out = io.StringIO()
    pickletools.dis(b"\x80\x04" + b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.", out)
    assert "REDUCE" in out.getvalue()
