"""Small stores, PNG layouts and archives, made on the spot."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from modiff.data.store_format import StoreInfo

SIDE = 16


def make_info(**changes: object) -> StoreInfo:
    """Two channels, two classes, three raters, unless changed."""
    fields: dict[str, object] = {
        "channels": ("FLAIR", "T1"),
        "classes": ("core", "rim"),
        "raters": ("A", "B", "C"),
        "exchangeable_raters": False,
        "intensity": "percentiles:1:99",
        "prompt": "none",
        "spacing": (0.5, 0.75),
        "source": "made for a test",
        "licence": "CC0",
        "importer": "test 1",
        "provenance": {"a.nii": "0" * 64},
    }
    return StoreInfo(**(fields | changes))  # type: ignore[arg-type]


def png(array: np.ndarray, **options: object) -> bytes:
    """An array as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def lidc_files(patients: Mapping[str, int], *, seed: int = 0, raters: int = 4) -> dict[str, bytes]:
    """Name -> content of the PNG layout: patient -> number of slices of its one nodule."""
    rng = np.random.default_rng(seed)
    files = {}
    for patient, slices in patients.items():
        for place in range(slices):
            folder = f"LIDC-IDRI-slices/{patient}/nodule-0"
            files[f"{folder}/images/slice-{place}.png"] = png(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8))
            for rater in range(raters):
                mask = np.zeros((SIDE, SIDE), np.uint8)
                mask[4 : 5 + rater, 4:9] = 255 * rng.integers(0, 2)
                files[f"{folder}/mask-{rater}/slice-{place}.png"] = png(mask)
    return files


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip archive of these files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """A folder of these files."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path
