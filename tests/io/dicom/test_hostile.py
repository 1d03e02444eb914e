"""DICOM files from anyone: read correctly or refused in one typed line, within bounds, and no name gets out."""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import numbered, save, series
from memory import takes_less_than
from pydicom.data import get_testdata_files
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_rescale
from pydicom.uid import UID
from series_files import write_series

from modiff.errors import DataError
from modiff.io.dicom import header as dicom_file
from modiff.io.dicom import series as dicom
from modiff.io.dicom.frame import codestream_of, unpack_rle
from modiff.io.dicom.header import read_with_pixels
from modiff.io.dicom.series import read_dicom_series
from modiff.io.files import Limits

SECRETS = ("SECRET", "19631122", "20190102")
LOCAL = [Path(path) for path in get_testdata_files() if pydicom.__path__[0] in path]


def refused(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read_dicom_series(path, **options)  # type: ignore[arg-type]
    return str(caught.value)


def bytes_of(made: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four bytes replaced, or the end cut off, or a stretch taken out."""
    made = bytearray(data)
    for at in rng.integers(0, len(made), rng.integers(1, 5)):
        made[at] = rng.integers(256)
    if rng.random() < 0.1:
        return bytes(made[: rng.integers(len(made))])
    if rng.random() < 0.1:
        start = int(rng.integers(len(made)))
        del made[start : start + int(rng.integers(1, 20))]
    return bytes(made)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_give_values_or_a_typed_error_and_no_name(
    tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    data, path, rng = bytes_of(series()[1]), tmp_path / "a.dcm", np.random.default_rng(seed)
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            path.write_bytes(damaged(data, rng))
            try:
                assert np.isfinite(read_dicom_series(path).array).all()
            except DataError as error:
                said.append(str(error))
    assert not caplog.records
    assert not [text for text in said if any(secret in text for secret in SECRETS)]


@pytest.mark.parametrize("path", LOCAL, ids=[path.name for path in LOCAL])
def test_pydicoms_awkward_files_are_read_as_pydicom_reads_them_or_refused(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            header, stored = read_with_pixels(path)
            found = read_dicom_series(path).array[0, 0]
        except DataError:
            return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pydicom.dcmread(path)
        assert (stored == theirs.pixel_array).all()
        expected = apply_rescale(theirs.pixel_array, theirs)
    padding = header.get("PixelPaddingValue")
    kept = np.ones(stored.shape, bool) if padding is None else stored != padding
    assert (found[kept] == expected[kept]).all()


@pytest.mark.parametrize(
    "name",
    [
        "693_J2KI.dcm",
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "examples_overlay.dcm",
    ],
)
def test_grey_files_with_a_place_are_read(name: str) -> None:
    (path,) = [path for path in LOCAL if path.name == name]
    assert read_dicom_series(path).array.size


def test_deflated_files_are_refused_before_they_are_inflated(tmp_path: Path) -> None:
    made = series()[0]
    made.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    made.PixelData = bytes(60)
    assert "deflated" in refused(save([made], tmp_path) / "000.dcm")


@pytest.mark.parametrize(
    ("syntax", "package"),
    [("1.2.840.10008.1.2.4.70", "pylibjpeg-libjpeg"), ("1.2.840.10008.1.2.4.201", "pylibjpeg-openjpeg")],
)
def test_what_cannot_be_decoded_names_the_package(tmp_path: Path, syntax: str, package: str) -> None:
    from pydicom.pixels import get_decoder

    if get_decoder(UID(syntax)).is_available:
        pytest.skip("a package that decodes it is installed")
    made = series()[0]
    made.file_meta.TransferSyntaxUID = UID(syntax)
    made.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    made["PixelData"].is_undefined_length = True
    said = refused(save([made], tmp_path) / "000.dcm")
    assert package in said
    assert UID(syntax).name in said


def test_an_unknown_transfer_syntax_is_refused(tmp_path: Path) -> None:
    made = series()[0]
    data = bytes_of(made).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.77")
    (tmp_path / "a.dcm").write_bytes(data)
    assert "cannot be decoded" in refused(tmp_path / "a.dcm")


def test_a_size_that_the_file_cannot_hold_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    made = series()[0]
    made.Rows = made.Columns = 60_000
    path = save([made], tmp_path) / "000.dcm"
    assert "size" in refused(path)
    with takes_less_than(4 << 20):
        refused(path)


def test_a_cap_on_bytes_holds_for_the_series(tmp_path: Path) -> None:
    folder = save(series(), tmp_path)
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert refused(folder, limits=Limits(max_bytes=numbered().size * 2))
    assert read_dicom_series(folder, limits=Limits(max_bytes=total)).array.size


@pytest.mark.parametrize("length", [0xFFFFFFFE, 1 << 31])
def test_an_element_longer_than_the_file_takes_no_memory(tmp_path: Path, length: int) -> None:
    data = bytes_of(series()[0])
    at = data.index(b"\x10\x00\x10\x00PN")
    forged = data[:at] + struct.pack("<HH2s2sL", 0x0009, 0x1010, b"OB", b"\0\0", length) + data[at:]
    (tmp_path / "a.dcm").write_bytes(forged)
    with takes_less_than(4 << 20):
        refused(tmp_path / "a.dcm")


def with_items(count: int, length: int) -> bytes:
    """A slice whose header has a sequence of empty items."""
    data = bytes_of(series()[0])
    at = data.index(b"\x10\x00\x10\x00PN")
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * count
    return data[:at] + struct.pack("<HH2s2sL", 0x0008, 0x1140, b"SQ", b"\0\0", length) + items + data[at:]


def test_a_header_of_many_empty_items_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.dcm").write_bytes(with_items(10_000, 0xFFFFFFFF))
    monkeypatch.setattr(dicom_file, "MAX_READS", 5_000)
    assert "too many elements" in refused(tmp_path / "a.dcm")
    monkeypatch.setattr(dicom_file, "MAX_READS", 50_000)
    monkeypatch.setattr(dicom_file, "MAX_HEADER_BYTES", 1 << 14)
    assert "header is too large" in refused(tmp_path / "a.dcm")


def test_a_long_sequence_is_left_out_unread(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(with_items(100_000, 800_000))
    (header,) = read_dicom_series(tmp_path / "a.dcm").source.headers
    assert "ReferencedImageSequence" not in header
    assert "PatientName" in header


def test_sequences_nested_without_end_are_refused(tmp_path: Path) -> None:
    data = bytes_of(series()[0])
    at = data.index(b"\x10\x00\x10\x00PN")
    one = struct.pack("<HH2s2sL", 0x0008, 0x1140, b"SQ", b"\0\0", 0xFFFFFFFF)
    one += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    (tmp_path / "a.dcm").write_bytes(data[:at] + one * 20_000 + data[at:])
    refused(tmp_path / "a.dcm")


def test_too_many_files_are_refused_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom, "MAX_FILES", 3)
    monkeypatch.setattr(dicom_file, "read_header", lambda *_: pytest.fail("was read"))
    assert "too many files" in refused(save(series(), tmp_path))


def test_pixels_cut_short_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(bytes_of(series()[0])[:-10])
    assert "cut short" in refused(tmp_path / "a.dcm")


def jpeg2000(height: int, width: int) -> bytes:
    sizes = struct.pack(">HHLLLL", 41, 0, width + 3, height + 2, 3, 2)
    return b"\xff\x4f\xff\x51" + sizes + bytes(16) + b"\0\1" + bytes(30)


def test_a_compressed_picture_larger_than_the_header_says_is_refused(tmp_path: Path) -> None:
    made = series()[0]
    made.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    made.PixelData = encapsulate([jpeg2000(50_000, 50_000)])
    made["PixelData"].is_undefined_length = True
    assert "(50000, 50000)" in refused(save([made], tmp_path) / "000.dcm")


def test_the_size_of_compressed_pictures_is_read_from_their_own_header() -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (13, 7)).save(buffer, "JPEG")
    assert codestream_of(buffer.getvalue())[1] == (7, 13)
    assert codestream_of(jpeg2000(7, 13))[1] == (7, 13)
    boxed = struct.pack(">I4s4s", 12, b"jP  ", b"\r\n\x87\n") + struct.pack(">I4s", 24, b"free") + jpeg2000(1, 1)[:16]
    assert codestream_of(boxed + b"\0\0\0\0jp2c" + jpeg2000(7, 13)) == (jpeg2000(7, 13), (7, 13))


@pytest.mark.parametrize("kind", ["none", "no header", "two headers", "three components", "no codestream"])
def test_a_stream_whose_size_is_not_known_is_not_decoded(kind: str) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB" if kind == "three components" else "L", (13, 7)).save(buffer, "JPEG")
    data = buffer.getvalue()
    at = data.index(b"\xff\xc0")
    header = data[at : at + 13]
    streams = {
        "none": bytes(64),
        "no header": data.replace(header, b""),
        "two headers": data[:at] + header + data[at:],
        "three components": data,
        "no codestream": struct.pack(">I4s4s", 12, b"jP  ", b"\r\n\x87\n") + jpeg2000(7, 13),
    }
    with pytest.raises(DataError, match="PixelData: pixels"):
        codestream_of(streams[kind])


def rle(*segments: bytes) -> bytes:
    starts = [64 + sum(map(len, segments[:place])) for place in range(len(segments))]
    return struct.pack("<16L", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def test_rle_is_unpacked_as_pydicom_does(tmp_path: Path) -> None:
    from pydicom.pixels.encoders.native import _encode_segment

    values = np.random.default_rng(0).integers(0, 4, (40, 50)).astype(np.uint16) * 257
    values[3:9] = 0
    planes = [(values >> 8).astype(np.uint8), (values & 255).astype(np.uint8)]
    frame = rle(*(_encode_segment(plane.tobytes(), columns=50) for plane in planes))
    np.testing.assert_array_equal(unpack_rle(frame, (40, 50), values.dtype), values)


@pytest.mark.parametrize(
    "frame",
    [
        rle(b"\x81\x00" * 200_000),  # 128 bytes from two, for a picture of 32×32
        rle(b"\x00\x05" * 200_000),
        rle(b"\x81\x00" * 7),
        rle(b"\x80" * 200_000),
        rle(b"\x81\x00" * 8, b"\x81\x00" * 8),
        rle(),
        rle(b"\x81\x00" * 8)[:64],
        b"",
        struct.pack("<16L", 1, 0xFFFFFFFF, *[0] * 14) + b"\x81\x00" * 8,
    ],
    ids=["more", "literals", "fewer", "nothing", "two segments", "none", "empty", "no frame", "outside"],
)
def test_rle_that_holds_another_size_is_refused_within_the_pictures_memory(frame: bytes) -> None:
    with takes_less_than(2 * len(frame) + (1 << 17)), pytest.raises(DataError, match="RLE"):
        unpack_rle(frame, (32, 32), np.dtype(np.uint8))


def test_a_folder_or_nothing_for_a_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.dcm")
    (tmp_path / "empty.dcm").write_bytes(b"")
    assert "empty" in refused(tmp_path / "empty.dcm")


def test_a_volume_that_is_printed_shows_no_name(tmp_path: Path) -> None:
    volume = read_dicom_series(save(series(), tmp_path))
    assert not any(secret in repr(volume) + repr(volume.source) for secret in SECRETS)


def test_elements_that_make_no_value_do_not_stand_in_the_way(tmp_path: Path) -> None:
    made = series()[0]
    made.KVP = "120"
    data = bytes_of(made).replace(b"120 ", b"abcd")
    (tmp_path / "a.dcm").write_bytes(data)
    headers = read_dicom_series(tmp_path / "a.dcm").source.headers
    assert list(headers[0].iterall())
    assert re.match("SECRET", str(headers[0].PatientName))  # the source keeps what results must carry


@pytest.mark.parametrize(
    ("name", "value"),
    [("PhotometricInterpretation", "CANARYVALUE"), ("Modality", "CANARYVALUE"), ("Modality", "CANARY")],
)
def test_a_value_of_the_header_is_not_repeated(tmp_path, name, value):
    path = write_series(tmp_path / "series", np.zeros((1, 8, 9))) / "000.dcm"
    header = pydicom.dcmread(path)
    setattr(header, name, value)
    header.save_as(path)
    if name == "Modality":
        assert read_dicom_series(path).modality is None
        return
    with pytest.raises(DataError, match="is not a plain grey image; found another value") as caught:
        read_dicom_series(path)
    assert "CANARY" not in str(caught.value)
