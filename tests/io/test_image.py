"""Pictures and arrays arrive as they were written; whatever a user points at is recognised by its content."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from series_files import write_series

from modiff.errors import DataError
from modiff.io.files import Limits
from modiff.io.image import png_bytes, read_channels, read_image, write_png
from modiff.io.volume import Note

GREY8 = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
GREY16 = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1873


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def forged_png(width: int, height: int, *, depth: int = 8, colour: int = 0, data: bytes = b"\0" * 99) -> bytes:
    """A PNG whose header says what it likes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def forged_bmp(width: int, height: int) -> bytes:
    """An 8-bit BMP whose header says what it likes."""
    form = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 99, 0, 0, 54 + 1024) + form + bytes(4 * 256) + bytes(99)


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize("array", [GREY8, GREY16], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_grey_values_and_their_type_survive_every_format(tmp_path, array, suffix):
    path = tmp_path / f"image.{suffix}"
    np.save(path, array) if suffix == "npy" else Image.fromarray(array).save(path)
    read = read_image(path)
    assert read.array.dtype == array.dtype
    np.testing.assert_array_equal(read.array, array[None, None])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "f4"])
def test_tiff_of_another_writer_is_read(tmp_path, dtype, byteorder):
    array = (np.arange(35).reshape(5, 7) * 900 - (0 if dtype[0] == "u" else 16000)).astype(dtype)
    tifffile.imwrite(tmp_path / "image.tif", array.astype(byteorder + dtype), byteorder=byteorder)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").array[0, 0], array)


def test_large_values_of_a_tiff_stay_positive(tmp_path):
    array = np.array([[0, 1 << 31, (1 << 32) - 1]], np.uint32)
    tifffile.imwrite(tmp_path / "image.tif", array)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").array[0, 0], array)


@pytest.mark.parametrize("array", [GREY8, GREY16], ids=["8 bits", "16 bits"])
def test_tiff_whose_white_is_zero_is_inverted(tmp_path, array):
    tifffile.imwrite(tmp_path / "image.tif", array, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").array[0, 0], np.iinfo(array.dtype).max - array)


def test_a_mask_whose_white_is_zero_says_what_is_read_as_marked(tmp_path):
    mask = np.tri(6, dtype=bool)
    tifffile.imwrite(tmp_path / "mask.tif", mask)  # booleans: white is zero
    volume = read_image(tmp_path / "mask.tif", mask=True)
    np.testing.assert_array_equal(volume.array[0, 0] != 0, ~mask)  # as viewers show it
    assert volume.notes == (Note("0 is white in it: values are read as viewers show them"),)
    tifffile.imwrite(tmp_path / "mask.tif", mask, photometric="minisblack")
    assert read_image(tmp_path / "mask.tif", mask=True).notes == ()


def test_colour_comes_channels_first(tmp_path):
    colours = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(colours).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png").array, colours.transpose(2, 0, 1)[:, None])


def test_an_opaque_alpha_channel_is_dropped(tmp_path):
    Image.fromarray(GREY8).convert("LA").save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png").array, GREY8[None, None])


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif"])
def test_a_palette_of_greys_is_read_as_it_is_seen(tmp_path, suffix, mask):
    image = Image.fromarray(GREY8).convert("RGB").quantize(256)
    image.save(tmp_path / f"image.{suffix}")
    assert (np.asarray(image) != GREY8).any()
    np.testing.assert_array_equal(read_image(tmp_path / f"image.{suffix}", mask=mask).array, GREY8[None, None])


@pytest.mark.parametrize("suffix", ["bmp", "gif"])
@pytest.mark.parametrize("mask", [False, True])
def test_grey_values_survive_bmp_and_gif(tmp_path, suffix, mask):
    Image.fromarray(GREY8).save(tmp_path / f"image.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"image.{suffix}", mask=mask).array, GREY8[None, None])
    Image.fromarray(GREY8 > 100).save(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"mask.{suffix}", mask=True).array[0, 0] > 0, GREY8 > 100)


def test_colour_of_a_bmp_survives(tmp_path):
    colours = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(colours).save(tmp_path / "image.bmp")
    np.testing.assert_array_equal(read_image(tmp_path / "image.bmp").array[:, 0], colours.transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif"])
def test_a_palette_of_colours_is_colours_or_a_masks_indices(tmp_path, suffix):
    indices = np.arange(35, dtype=np.uint8).reshape(5, 7) % 3
    image = Image.fromarray(indices, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 7, 255])
    image.save(tmp_path / f"image.{suffix}")
    seen = read_image(tmp_path / f"image.{suffix}").array[:, 0]
    np.testing.assert_array_equal(seen, np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    mask = read_image(tmp_path / f"image.{suffix}", mask=True)
    np.testing.assert_array_equal(mask.array[0, 0], indices)
    assert mask.palette == {0: "#000000", 1: "#ff0000", 2: "#0007ff"}


def test_transparent_colours_of_a_palette_are_refused(tmp_path):
    image = Image.fromarray(np.eye(5, dtype=np.uint8), "P")
    image.putpalette([255, 255, 255, 255, 255, 255])
    image.save(tmp_path / "image.png", transparency=0)
    for mask in (False, True):
        with pytest.raises(DataError, match="transparent"):
            read_image(tmp_path / "image.png", mask=mask)


def test_an_array_of_channels_is_read_as_it_is(tmp_path):
    array = np.asfortranarray(np.linspace(-1, 1, 4 * 5 * 7).reshape(4, 5, 7))
    np.save(tmp_path / "image.npy", array)
    np.testing.assert_array_equal(read_image(tmp_path / "image.npy").array, array[:, None])


def test_the_first_bytes_decide_not_the_name(tmp_path):
    (tmp_path / "image.tif").write_bytes(png_bytes(GREY8))
    assert read_image(tmp_path / "image.tif").format == "PNG"


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([np.uint8, np.uint16]), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_png_written_and_read_is_the_same(tmp_path_factory, height, width, dtype, seed):
    array = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width), dtype, endpoint=True)
    path = write_png(tmp_path_factory.mktemp("png") / "image.png", array)
    np.testing.assert_array_equal(read_image(path).array[0, 0], array)


def test_a_mask_is_written_as_0_and_255():
    written = np.asarray(Image.open(io.BytesIO(png_bytes(GREY8 > 100))))
    np.testing.assert_array_equal(written, np.where(GREY8 > 100, 255, 0))


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """What is wrong -> a file and words of the message."""
    made: dict[str, tuple[Path, str]] = {}

    def add(name: str, data: bytes, words: str) -> None:
        path = folder / f"{name.replace(' ', '-')}.png"
        path.write_bytes(data)
        made[name] = (path, words)

    whole = png_bytes(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(GREY8).save(buffer, "JPEG")
    add("jpeg", buffer.getvalue(), "JPEG")
    add("empty file", b"", "empty")
    add("text", b"not an image at all", "not an image")
    add("truncated", whole[: len(whole) // 2], "not a readable PNG")
    add("header only", whole[:20], "not a readable PNG")
    add("bomb", forged_png(23_200, 23_200), "more data than the file can hold")
    add("enormous", forged_png(60_000, 60_000), "declares more data than allowed")
    add("endless side", forged_png(70_000, 1), "too many pixels per side")
    add("rows that are not there", forged_png(64, 5000, data=bytes(64 * 65)), "fewer pixels than it says")
    add("16-bit colour", forged_png(4, 4, depth=16, colour=2), "16 bits per colour")
    add("one bit", forged_png(8, 8, depth=1), "one bit per pixel")
    add("gzip", b"\x1f\x8b" + bytes(30), "damaged gzip")
    add("dicom", bytes(128) + b"DICM" + bytes(300), "does not say how it is encoded")
    add(
        "pickled array", npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }", b"x" * 9), "array of numbers"
    )
    add("array of text", npy("{'descr': '<U4', 'fortran_order': False, 'shape': (2, 2), }"), "array of numbers")
    add("vector", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", bytes(4)), "not a 2-D image")
    add("no pixels", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 4), }"), "no pixels")
    add("short array", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4), }", bytes(9)), "cut short")
    add("lying array", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (60000, 60000), }"), "than allowed")
    add("negative shape", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-4, 4), }"), "no pixels")
    add("code as header", npy("{'descr': __import__('os').abort(), 'shape': (1,)}"), "not a readable NPY")
    pages = io.BytesIO()
    tifffile.imwrite(pages, np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    add("several pages", pages.getvalue(), "several pages")
    moving = io.BytesIO()
    Image.fromarray(GREY8).save(moving, "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY8)])
    add("moving gif", moving.getvalue(), "several pages")
    add("cut gif", moving.getvalue()[:20], "not a readable GIF")
    add("forged bmp", forged_bmp(23_100, 23_100), "more data than the file can hold")
    add("enormous bmp", forged_bmp(60_000, 60_000), "declares more data than allowed")
    colour = io.BytesIO()
    tifffile.imwrite(colour, np.zeros((8, 8, 3), np.uint16), photometric="rgb")
    add("deep colour tiff", colour.getvalue(), "8 bits per colour|not a readable TIFF")
    glass = io.BytesIO()
    Image.new("RGBA", (3, 3), (9, 9, 9, 128)).save(glass, "PNG")
    add("see-through", glass.getvalue(), "transparent")
    return made


BROKEN = [
    *("jpeg", "empty file", "text", "truncated", "header only", "bomb", "enormous", "endless side"),
    *("16-bit colour", "one bit", "gzip", "dicom", "pickled array", "array of text", "vector", "no pixels"),
    *("short array", "lying array", "negative shape", "code as header", "several pages", "deep colour tiff"),
    *("see-through", "moving gif", "cut gif", "forged bmp", "enormous bmp"),
]


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_an_image_is_refused_in_one_line_with_its_name(tmp_path, name):
    path, words = broken_files(tmp_path)[name]
    with pytest.raises(DataError, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_that_are_not_finite_are_refused(tmp_path):
    np.save(tmp_path / "image.npy", np.array([[1.0, np.nan]]))
    with pytest.raises(DataError, match=r"not finite; found 1 of 2, the first at \[1\]"):
        read_image(tmp_path / "image.npy")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(DataError, match="no DICOM image in this folder"):
        read_image(tmp_path)


def test_a_stated_limit_holds(tmp_path):
    write_png(tmp_path / "image.png", GREY8)
    with pytest.raises(DataError, match=r"more data than allowed|too large"):
        read_image(tmp_path / "image.png", limits=Limits(max_bytes=34))


@pytest.mark.parametrize("kind", ["png", "tif", "npy", "bmp", "gif"])
def test_damaged_bytes_give_an_image_or_a_data_error(tmp_path, kind):
    """A few hundred flipped bytes: whatever the decoder makes of them, nothing else comes out."""
    source = tmp_path / f"whole.{kind}"
    array = np.random.default_rng(1).integers(0, 255, (9, 11), dtype=np.uint8 if kind in ("bmp", "gif") else np.uint16)
    np.save(source, array) if kind == "npy" else Image.fromarray(array).save(source)
    whole = source.read_bytes()
    rng = np.random.default_rng(2)
    path = tmp_path / "damaged"
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 400), rng.integers(1, 4)):
            data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            read_image(path)
        except DataError:
            continue


def test_a_bomb_is_refused_before_torch_is_imported(tmp_path):
    path, _ = broken_files(tmp_path)["bomb"]
    code = (
        "import sys; from modiff.io import read_image; from modiff.errors import DataError\n"
        "try: read_image(sys.argv[1])\n"
        "except DataError: sys.exit(7 if 'torch' not in sys.modules else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 7


VALUES = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    write_png(tmp_path / "picture.png", VALUES[0].astype(np.uint8))
    for name in ("scan.nii", "scan.nii.gz"):
        nib.save(nib.Nifti1Image(VALUES.T, np.diag([1, 2, 3, 1])), tmp_path / name)
    nib.save(nib.Nifti2Image(VALUES.T, np.diag([1, 2, 3, 1])), tmp_path / "two.nii")
    write_series(tmp_path / "series", VALUES)
    return {path.name: path for path in tmp_path.iterdir()}


def test_a_picture_is_one_slice_without_a_place(files):
    picture = read_image(files["picture.png"])
    assert (picture.is_picture, picture.spacing, picture.voxel_mm3) == (True, None, None)
    np.testing.assert_array_equal(picture.array, VALUES[None, :1])


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "two.nii"])
@pytest.mark.parametrize("renamed", [False, True])
def test_nifti_is_a_volume_whatever_its_name(files, name, renamed):
    path = files[name].rename(files[name].with_name("image.dat")) if renamed else files[name]
    volume = read_image(path)
    assert not volume.is_picture
    assert volume.format == "NIfTI"
    np.testing.assert_array_equal(volume.array[0], VALUES)


def test_a_folder_is_a_series(files):
    volume = read_image(files["series"])
    assert volume.format == "DICOM"
    np.testing.assert_array_equal(volume.array[0], VALUES)


def test_a_dicom_file_is_one_slice_whatever_its_name(files):
    path = sorted(files["series"].iterdir())[1]
    volume = read_image(path.rename(path.with_name("IM0001")))
    np.testing.assert_array_equal(volume.array, VALUES[None, 1:2])


@pytest.mark.parametrize(("name", "message"), [("none.nii", "no such file"), ("none", "no such file")])
def test_what_is_not_there_is_said_so(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["picture.png", "scan.nii", "scan.nii.gz", "series"])
def test_limits_hold_for_all(files, name):
    with pytest.raises(DataError):
        read_image(files[name], limits=Limits(max_bytes=20))


class TestChannels:
    def test_in_the_order_given(self, files, tmp_path):
        nib.save(nib.Nifti1Image(-VALUES.T.astype(np.float32), np.diag([1, 2, 3, 1])), tmp_path / "minus.nii")
        volume = read_channels([tmp_path / "minus.nii", files["scan.nii"]])
        np.testing.assert_array_equal(volume.array, np.stack([-VALUES, VALUES]))
        assert len(volume.sha256) == 2

    def test_one_path_is_that_scan(self, files):
        assert read_channels([files["picture.png"]]).is_picture

    @pytest.mark.parametrize("other", ["picture.png", "series"])
    def test_only_nifti_has_channels_in_files(self, files, other):
        with pytest.raises(DataError, match="channels of one scan"):
            read_channels([files["scan.nii"], files[other]])
        with pytest.raises(DataError, match="channels of one scan"):
            read_channels([files[other], files["scan.nii"]])
