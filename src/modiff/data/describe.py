"""What is in a store, in numbers: who marks, how much, and how far raters agree."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from modiff.data.loading import place_of
from modiff.data.store import Store
from modiff.data.store_format import packed


def describe(store: Store) -> dict[str, Any]:
    """Everything that `modiff info` shows, ready for JSON. Reads the whole store once.

    `splits` holds one entry per split and, last, one for `all`; see `_statistics` for what the numbers mean.
    """
    said = {
        name: value
        for name, value in asdict(store.info).items()
        if name != "spacing" and (name, value) != ("notes", ())
    }
    place = place_of(store, store.rows())
    counts = _count(store)
    names = [*store.split_names(), "all"]
    rows = {name: store.rows(None if name == "all" else name) for name in names}
    folds = store.folds()
    return {
        "path": str(store.path),
        "fingerprint": store.fingerprint(),
        "schema": store.info.schema,
        "images": len(store),
        "patients": len(set(store.patients.tolist())),
        "shape": list(store.shape),
        "dtype": str(store.dtype),
        **said,
        "spacing_mm": place["spacing"],
        "spacing_range_mm": place["spacing_range"],
        "orientation": place["orientation"],
        "folds": {str(fold): list(folds.values()).count(fold) for fold in sorted(set(folds.values()))},
        "splits": [{"split": name, **_statistics(store, counts, rows[name])} for name in names],
    }


def listed(store: Store) -> pd.DataFrame:
    """A row per image: case, patient, split, fold where there are folds, and the pixels of any class that each rater
    marked, in a column "pixels: NAME", missing where a rater did not read the image. Reads the whole store once."""
    folds = store.folds()
    rows = pd.DataFrame({"case": store.cases, "patient": store.patients, "split": store.splits})
    if folds:
        rows["fold"] = [folds[patient] for patient in store.patients.tolist()]
    pixels = np.concatenate([(masks > 0).sum((2, 3)) for _, masks in store.blocks(store.rows())])
    for slot, name in enumerate(store.info.raters):
        rows[f"pixels: {name}"] = pd.Series(pixels[:, slot], dtype="Int64").where(store.read[:, slot])
    return rows


def _count(store: Store) -> dict[str, np.ndarray]:
    """Pixels of every mask (n,R,K) and of the intersection of every pair of raters (n,P,K), by counting packed bits."""
    classes, raters = len(store.info.classes), range(len(store.info.raters))
    pairs = np.array([*combinations(raters, 2)], np.int64).reshape(-1, 2)
    area, both = [], []
    for _, masks in store.blocks(store.rows()):
        bits = packed(masks, classes)
        area.append(np.bitwise_count(bits).sum(-1, dtype=np.int64))
        both.append(np.bitwise_count(bits[:, pairs[:, 0]] & bits[:, pairs[:, 1]]).sum(-1, dtype=np.int64))
    return {"area": np.concatenate(area), "both": np.concatenate(both), "pairs": pairs}


def _statistics(store: Store, counts: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """One split. A rater marks an image who read it and drew at least one pixel of any class.

    markers: fraction of images by the number of raters who mark. some_empty: fraction of images that some mark and some
    rater leaves empty; none_marked: that nobody marks. empty_masks: fraction of the masks of all raters.
    """
    read, area = store.read[rows], counts["area"][rows]
    marked = (area.sum(-1) > 0) & read
    number, readers = marked.sum(1), read.sum(1)
    result: dict[str, Any] = {
        "images": len(rows),
        "patients": len(set(store.patients[rows].tolist())),
        "markers": {str(k): float((number == k).mean()) for k in range(read.shape[1] + 1)},
        "none_marked": float((number == 0).mean()),
        "some_empty": float(((number > 0) & (number < readers)).mean()),
        "all_marked": float((number == readers).mean()),
        "empty_masks": 1 - float(number.sum() / readers.sum()),
        "read": float(read.mean()),
        "classes": [
            {"class": name, **_agreement(area[..., place], counts["both"][rows][..., place], read, counts["pairs"])}
            for place, name in enumerate(store.info.classes)
        ],
    }
    if not store.info.exchangeable_raters:  # a slot of exchangeable raters is nobody: numbers by slot would mislead
        reads, marks, pixels = read.sum(0).tolist(), marked.sum(0), area.sum(-1)
        result["raters"] = [
            {
                "rater": name,
                "read": reads[slot],
                "marks": float(marks[slot] / reads[slot]) if reads[slot] else None,
                "area_pixels": _quantiles(pixels[marked[:, slot], slot]),
            }
            for slot, name in enumerate(store.info.raters)
        ]
    return result


def _agreement(area: np.ndarray, both: np.ndarray, read: np.ndarray, pairs: np.ndarray) -> dict[str, Any]:
    """One class. area (n,R), both (n,P) pixels, read (n,R), pairs (P,2).

    dice_markers: Dice of pairs who both mark the class, mean over an image's pairs, then over images that have one.
    iou_readers: the same with IoU over all pairs of raters, two empty masks counting 1. area: quantiles of pixels of
    masks that are not empty.
    """
    one, other = area[:, pairs[:, 0]], area[:, pairs[:, 1]]
    readers = read[:, pairs[:, 0]] & read[:, pairs[:, 1]]
    union = one + other - both
    markers = readers & (one > 0) & (other > 0)
    dice, dice_images = _mean_of_means(2 * both / np.maximum(one + other, 1), markers)
    iou, iou_images = _mean_of_means(np.where(union == 0, 1.0, both / np.maximum(union, 1)), readers)
    return {
        "dice_markers": dice,
        "dice_markers_images": dice_images,
        "iou_readers": iou,
        "iou_readers_images": iou_images,
        "area_pixels": _quantiles(area[read & (area > 0)]),
    }


def _mean_of_means(values: np.ndarray, where: np.ndarray) -> tuple[float | None, int]:
    """Mean over each row's valid entries, then over rows that have any; and how many rows those are."""
    means = np.ma.array(values, mask=~where).mean(1).compressed()
    return float(means.mean()) if len(means) else None, len(means)


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    points = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
    return {name: float(np.quantile(values, point)) for name, point in points.items()}
