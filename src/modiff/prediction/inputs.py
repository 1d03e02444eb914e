"""What a user points at as one scan: files, a folder, a DICOMDIR, a zip or a URL; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from modiff.data.importers.sources import as_folder
from modiff.errors import DataError
from modiff.io.dicom.header import is_dicom
from modiff.io.dicom.web import read_dicomweb, url_of
from modiff.io.files import LIMITS, Limits, begins_with
from modiff.io.image import read_channels
from modiff.io.text import is_litter
from modiff.io.volume import Volume

if TYPE_CHECKING:
    from modiff.io.progress import Progress

ZIP = b"PK\3\4"
Named = tuple[str | None, Path]  # a channel's name where it is given, and its file


def read_scan(
    files: Sequence[Named],
    *,
    limits: Limits = LIMITS,
    series: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Volume:
    """`read_channels`, where a file may also be a zip archive: of DICOM files, one series of them, else of one file;
    or, by itself, the URL of a study or series on a DICOMweb server.

    series: which series of a folder, an archive or a study is meant, by its UID or its place in the list that an error
    shows. progress: is told of slices that are fetched. Raises DataError; ConfigError for a server.
    """
    urls = [url for _, path in files if (url := url_of(path))]
    if urls and len(files) == 1:
        return read_dicomweb(urls[0], limits=limits, series=series, progress=progress)
    if urls:
        raise DataError("a series on a server is a scan by itself", field="IMAGE", found=f"{len(files)} files")
    with ExitStack() as opened:
        paths: list[Path] = []
        for _, path in files:
            if begins_with(path, ZIP):
                asked = None if limits.max_bytes == LIMITS.max_bytes else limits.max_bytes
                root = opened.enter_context(as_folder(path, asked)).path
                paths.append(_only_file(root, path))
            else:
                paths.append(path)
        scan = read_channels(paths, limits=limits, series=series)
    return scan if paths[0] == files[0][1] else replace(scan, path=files[0][1])


def _only_file(root: Path, archive: Path) -> Path:
    """The unpacked folder where it holds DICOM files, else the one file in it."""
    files = sorted(file for file in root.rglob("*") if file.is_file() and not is_litter(file.name))
    if len(files) == 1:
        return files[0]
    if any(is_dicom(file) for file in files):
        return root
    expected = "DICOM files, or one image"
    raise DataError("is not an archive of one scan", path=archive, found=f"{len(files)} files", expected=expected)
