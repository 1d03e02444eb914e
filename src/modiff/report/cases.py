"""A dozen cases of a split, each with every rater, the mean label, samples, mean map and uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from modiff.benchmark.figure import CaseFigure, case_cells
from modiff.evaluation.selection import choose, pictured, strata
from modiff.evaluation.source import draw
from modiff.prediction.summary import Summary, summarise
from modiff.types import Batch
from modiff.viz.figures import LEVELS, RATER, SAMPLE, Cell, contact_sheet, encoded, grey_window

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.data.store_format import StoreInfo
    from modiff.methods.base import Segmenter

CASES = 12
SAMPLES = 16  # drawn for the maps
SHOWN = 8  # of them shown one by one
COLUMNS = 8
COLOURS = {"rater": RATER, "sample": SAMPLE, "levels": LEVELS}  # what the page's legend explains


def figures(
    images: MemoryStore,
    model: Segmenter,
    *,
    seed: int = 0,
    steps: int | None = None,
    device: str | torch.device = "cpu",
    scores: Mapping[str, str],
) -> tuple[list[CaseFigure], tuple[float, float]]:
    """The chosen cases with samples of `model`, and the grey window that all of them are shown in.

    scores: words on how a case scores, by case.
    """
    info, rows = images.info, choose(images.cases, strata(images), CASES)
    if not rows:
        return [], (0.0, 1.0)
    window = grey_window(np.stack([pictured(image.numpy(), info) for image in images.batch(rows).image]))
    made = []
    for row in rows:
        batch, case = images.batch([row]), images.cases[row]
        samples, _ = draw(model, batch.to(device), SAMPLES, seed, steps)
        summary = summarise(samples, classes=info.classes)
        marked, read, drawn = int(batch.marked.sum()), int(batch.read.sum()), int(summary.masks.any((1, 2, 3)).sum())
        words = f"{marked} of {read} raters marked something, {drawn} of {len(summary.masks)} samples do."
        sheet = contact_sheet(cells_of(batch, summary, info), window=window, inches=1.5)
        made.append(CaseFigure(case, encoded(sheet), words, scores.get(case, "")))
    return made, window


def cells_of(batch: Batch, summary: Summary, info: StoreInfo) -> list[list[Cell]]:
    """The rows of a case's figure. batch: of one case; summary: of its samples."""
    close, cells, label = case_cells(batch, info, np.asarray(summary.masks.any((0, 1))))
    cells += [
        label,
        close.probability(np.clip(summary.mean.sum(0), 0, 1), "mean map"),
        close.heat(summary.entropy, math.log2(len(info.classes) + 1), "uncertainty"),
    ]
    samples = [close.outlined(mask, SAMPLE, f"sample {i}") for i, mask in enumerate(summary.masks[:SHOWN], 1)]
    return [part[i : i + COLUMNS] for part in (cells, samples) for i in range(0, len(part), COLUMNS)]
