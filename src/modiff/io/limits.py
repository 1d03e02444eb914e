"""What a file may claim before memory is taken for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modiff.errors import DataError

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on a file from outside, checked on its header alone."""

    max_bytes: int = 2048 * MIB  # of the decoded pixels, and of the file itself
    max_side: int = 65_535  # pixels a side: the largest that DICOM and TIFF readers agree on
    max_ratio: float = 200.0  # decoded bytes to file bytes: beyond it a large file is taken for a decompression bomb
    ratio_free: int = 64 * MIB  # decoded bytes up to which any ratio is allowed: blank pictures compress well

    def check_file(self, path: Path) -> int:
        """The file's size in bytes; raises DataError where there is none to read or it exceeds `max_bytes`."""
        if path.is_dir():
            raise DataError("is a folder", path=path, expected="an image file")
        if not path.is_file():
            raise DataError("no such file", path=path)
        size = path.stat().st_size
        if size == 0:
            raise DataError("the file is empty", path=path, expected="an image file")
        if size > self.max_bytes:
            raise DataError("the file is too large", path=path, found=f"{size} bytes", expected=f"≤ {self.max_bytes}")
        return size

    def check_declared(self, path: Path, shape: tuple[int, ...], itemsize: int, file_bytes: int) -> None:
        """Raises DataError where the header's `shape` of `itemsize`-byte values is empty, too large or implausible."""
        if any(side < 1 for side in shape):
            raise DataError("has no pixels", path=path, field="size", found=_times(shape))
        if max(shape) > self.max_side:
            raise DataError(
                "too many pixels a side", path=path, field="size", found=_times(shape), expected=f"≤ {self.max_side}"
            )
        declared = itemsize
        for side in shape:
            declared *= side
        if declared > self.max_bytes:
            raise DataError(
                "declares more data than allowed",
                path=path,
                field="size",
                found=f"{_times(shape)}, {declared} bytes",
                expected=f"≤ {self.max_bytes} bytes",
            )
        if declared > self.ratio_free and declared > self.max_ratio * file_bytes:
            raise DataError(
                "declares far more data than the file can hold",
                path=path,
                field="size",
                found=f"{declared} bytes from {file_bytes}",
                expected=f"a ratio ≤ {self.max_ratio:g}",
            )

    def check_ratio(self, path: str | Path, declared: int, file_bytes: int) -> None:
        """Raises DataError where `file_bytes` would inflate to more bytes, `declared`, than any real data does."""
        if declared > self.ratio_free and declared > self.max_ratio * max(file_bytes, 1):
            found, expected = f"{declared} bytes from {file_bytes}", f"a ratio ≤ {self.max_ratio:g}"
            raise DataError("would inflate beyond reason", path=path, found=found, expected=expected)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
