"""`modiff import lidc-slices`: the PNG layout from zips and folders into a store, or one line that says why not."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from store_helpers import SIDE, lidc_files, png, write_folder, write_zip

from modiff.cli import main
from modiff.data.importers.lidc_crops import decode_png
from modiff.data.store import Store
from modiff.errors import DataError

FILES = lidc_files({"LIDC-IDRI-0001": 3, "LIDC-IDRI-0002": 2, "LIDC-IDRI-0010": 1})
SPLITS = {"train": ["LIDC-IDRI-0001"], "val": ["LIDC-IDRI-0002"], "test": ["LIDC-IDRI-0010", "LIDC-IDRI-0099"]}
MASK = "LIDC-IDRI-slices/LIDC-IDRI-0002/nodule-0/mask-2/slice-1.png"
IMAGE = "LIDC-IDRI-slices/LIDC-IDRI-0002/nodule-0/images/slice-1.png"


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(SPLITS))
    return path


def _import(store: Path, *sources: Path, splits: Path | None = None, more: tuple[str, ...] = ()) -> int:
    words = ["import", "lidc-slices", *map(str, sources), "-o", str(store), *more]
    return main(words + (["--splits", str(splits)] if splits else []))


def _image(name: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(FILES[name])))


def test_every_pixel_of_every_file_arrives(tmp_path: Path, splits: Path) -> None:
    assert _import(tmp_path / "s.h5", write_zip(tmp_path / "a.zip", FILES), splits=splits) == 0
    with Store.open(tmp_path / "s.h5") as store:
        store.verify()
        for row, case in enumerate(store.cases.tolist()):
            patient, nodule, slice_ = case.split("/")
            folder = f"LIDC-IDRI-slices/{patient}/{nodule}"
            np.testing.assert_array_equal(store.image(row)[0], _image(f"{folder}/images/{slice_}.png"))
            masks = np.stack([_image(f"{folder}/mask-{rater}/{slice_}.png") for rater in range(4)])
            np.testing.assert_array_equal(store.masks(row) * 255, masks)


def test_the_centre_of_images_and_masks_can_be_kept(tmp_path: Path, splits: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", FILES)
    assert _import(tmp_path / "whole.h5", archive, splits=splits) == 0
    assert _import(tmp_path / "centre.h5", archive, splits=splits, more=("--centre", str(SIDE // 2))) == 0
    inner = slice(SIDE // 4, SIDE // 4 + SIDE // 2)
    with Store.open(tmp_path / "whole.h5") as whole, Store.open(tmp_path / "centre.h5") as centre:
        assert f"central {SIDE // 2}×{SIDE // 2}" in centre.info.source
        assert centre.info.intensity.startswith("source:")  # what each slice was stretched by may be outside
        for row in range(len(whole)):
            np.testing.assert_array_equal(centre.image(row), whole.image(row)[:, inner, inner])
            np.testing.assert_array_equal(centre.masks(row), whole.masks(row)[..., inner, inner])


@pytest.mark.parametrize("side", [str(SIDE + 1), "0"])
def test_a_centre_that_is_none(tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str], side: str) -> None:
    archive = write_zip(tmp_path / "a.zip", FILES)
    assert _import(tmp_path / "s.h5", archive, splits=splits, more=("--centre", side)) != 0
    assert "--centre" in capsys.readouterr().err
    assert not (tmp_path / "s.h5").exists()


def test_cases_come_in_natural_order_with_the_splits_of_the_file(tmp_path: Path, splits: Path) -> None:
    files = lidc_files({"LIDC-IDRI-0002": 1, "LIDC-IDRI-0001": 11})
    _import(tmp_path / "s.h5", write_zip(tmp_path / "a.zip", files), splits=splits)
    with Store.open(tmp_path / "s.h5") as store:
        expected = [f"LIDC-IDRI-0001/nodule-0/slice-{i}" for i in range(11)] + ["LIDC-IDRI-0002/nodule-0/slice-0"]
        assert store.cases.tolist() == expected
        assert store.splits.tolist() == ["train"] * 11 + ["val"]


def test_the_store_says_where_it_comes_from(tmp_path: Path, splits: Path) -> None:
    _import(tmp_path / "s.h5", write_zip(tmp_path / "a.zip", FILES), splits=splits)
    with Store.open(tmp_path / "s.h5") as store:
        info = store.info
    assert (info.prompt, info.exchangeable_raters, info.licence, len(info.raters)) == ("centre", True, "CC BY 3.0", 4)
    assert info.intensity.startswith("minmax-slice")
    assert set(info.provenance) == {"a.zip", "splits.json"}


def _fingerprint(path: Path) -> str:
    with Store.open(path) as store:
        return store.fingerprint()


def test_zips_folders_and_any_order_of_several_sources_give_the_same_store(tmp_path: Path, splits: Path) -> None:
    names = list(FILES)
    half = {name: FILES[name] for name in names[::2]}
    rest = {name.removeprefix("LIDC-IDRI-slices/"): FILES[name] for name in names[1::2]}
    _import(tmp_path / "1.h5", write_zip(tmp_path / "all.zip", FILES), splits=splits)
    _import(tmp_path / "2.h5", write_folder(tmp_path / "all", FILES), splits=splits)
    sources = write_folder(tmp_path / "rest", rest), write_zip(tmp_path / "half.zip", half)
    _import(tmp_path / "3.h5", *sources, splits=splits)
    assert len({_fingerprint(tmp_path / f"{number}.h5") for number in (1, 2, 3)}) == 1


def test_names_of_windows_and_of_the_finder_are_those_of_other_zips(tmp_path: Path, splits: Path) -> None:
    accented = {name.replace("LIDC-IDRI-0010", "LIDC-IDRI-0010-\u00d6"): content for name, content in FILES.items()}
    splits.write_text(json.dumps({"train": [f"LIDC-IDRI-{end}" for end in ("0001", "0002", "0010-O\u0308")]}))
    apart = {unicodedata.normalize("NFD", name): content for name, content in accented.items()}
    zips = [
        write_zip(tmp_path / "plain.zip", accented),
        write_zip(tmp_path / "windows.zip", {name.replace("/", "\\"): content for name, content in apart.items()}),
        write_zip(tmp_path / "finder.zip", apart),
    ]
    zips[2].write_bytes(_without_utf8_flag(zips[2].read_bytes()))  # it is UTF-8, and does not say so
    for number, source in enumerate(zips):
        assert _import(tmp_path / f"{number}.h5", source, splits=splits) == 0
    assert len({_fingerprint(tmp_path / f"{number}.h5") for number in range(3)}) == 1


def _without_utf8_flag(packed: bytes) -> bytes:
    """Clears the flag in every header of a zip file, local and central."""
    made = bytearray(packed)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = made.find(mark)
        while place >= 0:
            made[place + offset + 1] &= ~0x08 & 0xFF
            place = made.find(mark, place + 4)
    return bytes(made)


def test_what_is_no_png_and_what_macos_leaves_is_passed_over(tmp_path: Path, splits: Path) -> None:
    clutter = {
        "readme.txt": b"",
        "__MACOSX/LIDC-IDRI-slices/x.png": b"",
        "LIDC-IDRI-slices/Thumbs.db": b"",
        "LIDC-IDRI-slices/._a.png": b"",
        ".DS_Store": b"",
    }
    assert _import(tmp_path / "s.h5", write_zip(tmp_path / "a.zip", FILES | clutter), splits=splits) == 0


def test_without_a_file_patients_are_split_by_hash_and_whole(tmp_path: Path) -> None:
    files = lidc_files({f"P{number:03}": 2 for number in range(30)}, raters=1)
    _import(tmp_path / "s.h5", write_zip(tmp_path / "a.zip", files), more=("--val", "0.3", "--test", "0.3"))
    with Store.open(tmp_path / "s.h5") as store:
        assert store.split_names() == ("train", "val", "test")
        pairs = set(zip(store.patients.tolist(), store.splits.tolist(), strict=True))
    assert len(pairs) == 30


def test_folds_are_of_patients(tmp_path: Path) -> None:
    _import(tmp_path / "s.h5", write_zip(tmp_path / "a.zip", FILES), more=("--folds", "3"))
    with Store.open(tmp_path / "s.h5") as store:
        assert sorted(store.folds().values()) == [0, 1, 2]


def _refused(capsys: pytest.CaptureFixture[str], status: int, store: Path, *words: str) -> None:
    """The command ends with 2, prints one line with these words, and leaves nothing behind."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("modiff: ")]
    assert status == 2
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]
    assert not [path for path in store.parent.iterdir() if path.name.startswith((store.name, f".{store.name}"))]


def _header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG that claims a size and type."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _set(name: str, content: bytes | None) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files.pop(name)
        if content is not None:
            files[name] = content

    return change


GREY = np.zeros((SIDE, SIDE), np.uint8)
DAMAGE = {
    "a missing mask": (_set(MASK, None), ["masks are missing", "slice-1.png", "no mask-2"]),
    "a missing image": (_set(IMAGE, None), ["a mask without an image", "expected images/slice-1.png"]),
    "a mask of another size": (
        _set(MASK, png(GREY[:-1])),
        ["mask and image differ in size", MASK, "(15, 16)", "(16, 16)"],
    ),
    "a value between": (_set(MASK, png(GREY + np.uint8(128))), ["mask values", MASK, "[128]", "0 and 255 only"]),
    "masks of 0 and 1": (_set(MASK, png(GREY + np.uint8(1))), ["mask values", MASK, "[1]"]),
    "text": (_set(MASK, b"hello, this is text and no picture at all"), ["not a PNG", MASK]),
    "nothing": (_set(MASK, b""), ["not a PNG", MASK]),
    "a JPEG": (_set(MASK, b"\xff\xd8\xff\xe0" + bytes(64)), ["not a PNG", MASK]),
    "a truncated PNG": (_set(IMAGE, FILES[IMAGE][:-40]), ["not a readable PNG", IMAGE]),
    "a PNG without pixels": (_set(IMAGE, _header(SIDE, SIDE)), ["not a readable PNG", IMAGE]),
    "colour": (_set(MASK, png(np.zeros((SIDE, SIDE, 3), np.uint8))), ["type of PNG", "8-bit RGB", "8-bit grey"]),
    "16 bits": (_set(IMAGE, png(GREY.astype(np.uint16))), ["type of PNG", "16-bit grey", "8-bit grey"]),
    "one bit": (_set(MASK, png(GREY > 0)), ["type of PNG", "1-bit grey"]),
    "a size out of range": (_set(IMAGE, _header(60000, 60000)), ["size is out of range", "60000×60000"]),
    "no size": (_set(IMAGE, _header(0, 5)), ["size is out of range"]),
    "another layout": (_set(MASK, None), ["outside the layout", "stray.png"]),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    files = dict(FILES)
    change, words = DAMAGE[what]
    change(files)
    if what == "another layout":
        files["LIDC-IDRI-slices/stray.png"] = png(GREY)
    status = _import(tmp_path / "s.h5", write_zip(tmp_path / "a.zip", files), splits=splits)
    _refused(capsys, status, tmp_path / "s.h5", *words)


def test_images_of_two_sizes(tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {
        name: png(np.zeros((8, 8), np.uint8)) if "LIDC-IDRI-0010" in name else data for name, data in FILES.items()
    }
    status = _import(tmp_path / "s.h5", write_zip(tmp_path / "a.zip", small), splits=splits)
    _refused(capsys, status, tmp_path / "s.h5", "LIDC-IDRI-0010/nodule-0/slice-0", "1×8×8", "expected uint8 1×16×16")


@pytest.mark.parametrize(
    ("other", "word"), [(FILES, "the same content"), (lidc_files({"LIDC-IDRI-0001": 1}, seed=9), "another")]
)
def test_the_same_case_from_two_sources(
    tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str], other: dict[str, bytes], word: str
) -> None:
    sources = write_zip(tmp_path / "a.zip", FILES), write_zip(tmp_path / "b.zip", other)
    status = _import(tmp_path / "s.h5", *sources, splits=splits)
    _refused(capsys, status, tmp_path / "s.h5", "a case occurs twice", "b.zip!", word, "a.zip!")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"train": ["LIDC-IDRI-0001", "LIDC-IDRI-0002"]}, ["patients in no split", "LIDC-IDRI-0010"]),
        (SPLITS | {"val": ["LIDC-IDRI-0001"]}, ["a patient named twice", "LIDC-IDRI-0001 in train and val"]),
        ({"train": "LIDC-IDRI-0001"}, ["train: unexpected layout", "a list of patients"]),
        ([], ["unexpected layout"]),
    ],
    ids=str,
)
def test_splits_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: object, words: list[str]
) -> None:
    (tmp_path / "splits.json").write_text(json.dumps(table))
    sources = write_zip(tmp_path / "a.zip", FILES)
    status = _import(tmp_path / "s.h5", sources, splits=tmp_path / "splits.json")
    _refused(capsys, status, tmp_path / "s.h5", *words)


def test_an_existing_store_is_kept(tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.h5").write_text("kept")
    assert _import(tmp_path / "s.h5", write_zip(tmp_path / "a.zip", FILES), splits=splits) == 2
    assert (tmp_path / "s.h5").read_text() == "kept"
    assert "exists already" in capsys.readouterr().err


def test_a_truncated_zip(tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_zip(tmp_path / "a.zip", FILES)
    source.write_bytes(source.read_bytes()[:-100])
    _refused(capsys, _import(tmp_path / "s.h5", source, splits=splits), tmp_path / "s.h5", "a.zip", "truncated")


def test_a_zip_with_damaged_content(tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_zip(tmp_path / "a.zip", FILES)
    content = bytearray(source.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 400] = bytes(400)
    source.write_bytes(content)
    _refused(capsys, _import(tmp_path / "s.h5", source, splits=splits), tmp_path / "s.h5", "damaged", "a.zip!")


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:/evil.png", "a\\..\\evil.png"])
def test_names_that_escape_the_archive(
    tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source = write_zip(tmp_path / "a.zip", FILES | {name: b"x"})
    _refused(capsys, _import(tmp_path / "s.h5", source, splits=splits), tmp_path / "s.h5", "escapes the archive")


def test_links_in_archives(tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_zip(tmp_path / "a.zip", FILES)
    with zipfile.ZipFile(source, "a") as archive:
        link = zipfile.ZipInfo("LIDC-IDRI-slices/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    _refused(capsys, _import(tmp_path / "s.h5", source, splits=splits), tmp_path / "s.h5", "links in archives")


def test_links_that_lead_out_of_a_folder(tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "all", FILES)
    os.symlink("/etc/passwd", source / "link.png")
    _refused(capsys, _import(tmp_path / "s.h5", source, splits=splits), tmp_path / "s.h5", "leads out of the folder")


def test_a_zip_bomb(tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, name = zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED), "P/nodule-0/images/slice-0.png"
    with archive, archive.open(name, "w") as file:
        for _ in range(33):
            file.write(bytes(16 << 20))
    status = _import(tmp_path / "s.h5", tmp_path / "a.zip", splits=splits)
    _refused(capsys, status, tmp_path / "s.h5", "declares far more data than the file can hold")


@pytest.mark.parametrize(
    "make", [lambda path: path.write_bytes(b"no zip"), lambda path: path.mkdir(), lambda path: None]
)
def test_sources_with_nothing_in_them(
    tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object]
) -> None:
    make(tmp_path / "source")
    _refused(capsys, _import(tmp_path / "s.h5", tmp_path / "source", splits=splits), tmp_path / "s.h5", "source")


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, len(FILES[IMAGE]) - 1), value=st.integers(0, 255))
def test_a_damaged_png_is_decoded_as_before_or_refused(place: int, value: int) -> None:
    damaged = bytearray(FILES[IMAGE])
    damaged[place] = value
    try:
        decoded = decode_png(bytes(damaged), "x.png")
    except DataError:
        return
    np.testing.assert_array_equal(decoded, _image(IMAGE))


def test_the_real_crops(tmp_path: Path, shared: Path) -> None:
    """The val patients of the distributed archive: numbers counted from the archive by other means."""
    folder = shared / "data" / "lidc-idri-slices"
    if not (folder / "core.zip").exists():
        pytest.skip("needs data/lidc-idri-slices")
    val = json.loads((folder / "splits.json").read_text())["val"]
    with zipfile.ZipFile(folder / "core.zip") as archive:
        names = [name for name in archive.namelist() if name.split("/")[1] in val[:4]]
        files = {name: archive.read(name) for name in names}
    part = write_zip(tmp_path / "part.zip", files)
    assert _import(tmp_path / "s.h5", part, splits=folder / "splits.json") == 0
    with Store.open(tmp_path / "s.h5") as store:
        assert set(store.splits.tolist()) == {"val"}
        marked = sum(int((store.masks(row) > 0).any((1, 2)).sum()) for row in range(len(store)))
    expected = sum(
        max(Image.open(io.BytesIO(data)).getextrema()) == 255 for name, data in files.items() if "/mask-" in name
    )
    assert (len(store), marked) == (len(files) // 5, expected)


def test_a_centre_that_cuts_marks_off_is_told_and_refused(
    tmp_path: Path, splits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[SIDE // 2, SIDE // 4 - 1 : SIDE // 2] = 255  # one pixel left of the centre's square
    files = FILES | {name: png(mask) for name in FILES if "/mask-" in name}
    archive = write_zip(tmp_path / "a.zip", files)
    more = ("--centre", str(SIDE // 2))
    assert _import(tmp_path / "s.h5", archive, splits=splits, more=more) == 2
    pixels = SIDE // 4 + 1
    assert f"loses 6 of {6 * pixels} marked pixels" in capsys.readouterr().err
    assert not (tmp_path / "s.h5").exists()
    assert _import(tmp_path / "s.h5", archive, splits=splits, more=(*more, "--allow-cut")) == 0
    assert f"note: cut off: radiologist 1 loses 6 of {6 * pixels}" in capsys.readouterr().out
    assert main(["check", str(archive), "--", *more, "--splits", str(splits), "--allow-cut"]) == 0
    assert f"cut off: radiologist 1 loses 6 of {6 * pixels}" in capsys.readouterr().out
