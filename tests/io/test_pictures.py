"""Pictures that hold far more than pixels are refused before Pillow makes objects of it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from modiff.errors import DataError
from modiff.io.image import read_image, read_jpeg
from modiff.io.pictures import check_container

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def png(before: bytes = b"", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", **options)
    data = buffer.getvalue()
    return data[:33] + before + data[33:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(*more: tuple[int, int, int, int], big: bool = False, following: int = 0) -> bytes:
    """PIXELS at 4096, with more tags (number, type, count, value)."""
    tags = [(256, 4, 1, 4), (257, 4, 1, 3), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 4096)]
    tags = sorted([*tags, (277, 3, 1, 1), (278, 4, 1, 3), (279, 4, 1, 12), *more])
    if big:
        head = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(tags))
        data = head + b"".join(struct.pack("<HHQQ", *tag) for tag in tags) + struct.pack("<Q", following)
    else:
        head = b"II*\0" + struct.pack("<LH", 8, len(tags))
        data = head + b"".join(struct.pack("<HHLL", *tag) for tag in tags) + struct.pack("<L", following)
    return data.ljust(4096, b"\0") + PIXELS.tobytes()


def test_texts_profiles_and_tags_of_usual_size_are_passed_over(tmp_path: Path) -> None:
    said = PngInfo()
    said.add_text("Comment", "a" * 100_000, zip=True)
    files = {
        "a.png": png(pnginfo=said, icc_profile=bytes(100_000)),
        "a.tif": tiff((700, 1, 3000, 1000)),
        "b.tif": tiff(big=True),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(read_image(tmp_path / name).array[0, 0], PIXELS)


HOSTILE = {
    "a chunk of 17 MiB.png": png(chunk(b"ruIn", bytes(17 << 20))),
    "small texts.png": png(chunk(b"tEXt", b"a\0b") * 100_001),
    "a tag of 400 MB.tif": tiff((700, 1, 400_000_000, 1000)),
    "a tag of 4 GiB.tif": tiff((700, 4, 1 << 60, 1000), big=True),
    "a tag of 2 million numbers.tif": tiff((65_000, 3, 2_000_000, 1000)),
    "2000 tags.tif": tiff(*((number, 3, 1, 0) for number in range(1000, 3000))),
    "two pages.tif": tiff(following=2048),
    "a circle.tif": tiff(following=8),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_holds_more_than_a_picture_is_refused(tmp_path: Path, name: str, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(DataError, match=r"too much besides its pixels|several pages|a circle"):
        read_image(tmp_path / name)


def test_libtiff_does_not_speak_for_itself(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    Image.fromarray(np.arange(10_000, dtype=np.uint8).reshape(100, 100)).save(
        tmp_path / "a.tif", compression="tiff_lzw"
    )
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[200:400] = b"\xff" * 200
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(DataError, match="is not a readable TIFF"):
        read_image(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""


def test_a_jpeg_of_many_scans_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.tile(PIXELS, (8, 8))).save(tmp_path / "a.jpg", progressive=True)
    assert read_jpeg(tmp_path / "a.jpg").shape == (24, 32)
    data = (tmp_path / "a.jpg").read_bytes()
    first, second = (data.index(b"\xff\xda"), data.index(b"\xff\xda", data.index(b"\xff\xda") + 2))
    (tmp_path / "b.jpg").write_bytes(data[:second] + data[first:second] * 30 + data[second:])
    with pytest.raises(DataError, match="too many scans"):
        read_jpeg(tmp_path / "b.jpg")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_an_empty_picture_has_all_its_pixels(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (1000, 900))
    for name, how in (("a.png", {}), ("best.png", {"optimize": True, "compress_level": 9})):
        image.save(tmp_path / name, **how)
        with (tmp_path / name).open("rb") as stream:
            check_container("PNG", stream)
