"""What the two array files of LIDC-IDRI's crops have in common: values in [0,1], four exchangeable radiologists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from modiff.errors import DataError

if TYPE_CHECKING:
    from modiff.data.store_format import StoreInfo

SOURCE = "LIDC-IDRI nodule crops; Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX"
LICENCE = "CC BY 3.0"
_SLACK = 1e-6  # by which rounded values may leave their range


def info(version: str, raters: int, intensity: str, read: Mapping[str, str]) -> StoreInfo:
    """The store's description."""
    from modiff._version import __version__
    from modiff.data.store_format import StoreInfo

    return StoreInfo(
        channels=("CT",),
        classes=("nodule",),
        raters=tuple(f"radiologist {slot}" for slot in range(1, raters + 1)),
        exchangeable_raters=True,
        intensity=intensity,
        prompt="centre",
        source=SOURCE,
        licence=LICENCE,
        importer=f"{version} (modiff {__version__})",
        provenance=read,
    )


def pixels(image: np.ndarray, low: float) -> np.ndarray:
    """(H,W) values from `low` to `low` + 1 -> (1,H,W) uint16; 8-bit values in [0,1] stay exact, as 65535 = 257·255."""
    if image.ndim != 2 or image.size == 0:
        raise DataError("an image of another shape", found=image.shape, expected="(height, width)")
    values = image.astype(np.float64) - low
    if not (values.min() >= -_SLACK and values.max() <= 1 + _SLACK):  # NaN fails both
        found = f"{image.min():g} to {image.max():g}"
        raise DataError("values beyond the layout's", found=found, expected=f"{low:g} to {low + 1:g}")
    return np.rint(values.clip(0, 1) * 65535).astype(np.uint16)[None]


def binary(masks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(R,H,W) uint8, 0 or 1; raises DataError for other shapes and values."""
    if masks.ndim != 3 or masks.shape[1:] != shape:
        raise DataError("masks of another shape", found=masks.shape, expected=f"(raters, {shape[0]}, {shape[1]})")
    if not np.isin(masks, (0, 1)).all():
        other = np.unique(masks[~np.isin(masks, (0, 1))])[:5].tolist()
        raise DataError("mask values", found=other, expected="0 and 1 only")
    return masks.astype(np.uint8)
