"""A dozen cases of a split, each with every rater, the mean label, samples, mean map and uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from modiff.evaluation.source import choose, draw, pictured, strata
from modiff.prediction.summary import Summary, summarise
from modiff.types import Batch
from modiff.viz.figures import LEVELS, Cell, contact_sheet, png
from modiff.viz.sheets import RATER, SAMPLE, CloseUp, grey_window, mean_label, part_of_interest

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.data.store_format import StoreInfo
    from modiff.methods.base import Segmenter

CASES = 12
SAMPLES = 16  # drawn for the maps
SHOWN = 8  # of them shown one by one
COLUMNS = 8
COLOURS = {"rater": RATER, "sample": SAMPLE, "levels": LEVELS}  # what the page's legend explains


class CaseFigure(NamedTuple):
    """A case's figure. image: PNG; words: what raters and samples mark; score: how it scores, where that is known."""

    case: str
    image: bytes
    words: str
    score: str


def figures(
    images: MemoryStore,
    model: Segmenter,
    *,
    seed: int = 0,
    steps: int | None = None,
    device: str | torch.device = "cpu",
    score: Callable[[str], str] = lambda case: "",
) -> tuple[list[CaseFigure], tuple[float, float]]:
    """The chosen cases with samples of `model`, and the grey window that all of them are shown in.

    score: words on how a case scores.
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
        made.append(CaseFigure(case, png(sheet), words, score(case)))
    return made, window


def cells_of(batch: Batch, summary: Summary, info: StoreInfo) -> list[list[Cell]]:
    """The rows of a case's figure. batch: of one case; summary: of its samples."""
    image, masks, read = pictured(batch.image[0].numpy(), info), batch.masks[0].numpy(), batch.read[0].numpy()
    label = mean_label(masks, read)
    close = CloseUp(image, part_of_interest((label > 0) | summary.masks.any((0, 1))))
    cells = [
        close.whole(),
        *close.raters(masks, read, info.raters),
        close.probability(label, "mean label"),
        close.probability(np.clip(summary.mean.sum(0), 0, 1), "mean map"),
        close.heat(summary.entropy, math.log2(len(info.classes) + 1), "uncertainty"),
    ]
    samples = [close.outlined(mask, SAMPLE, f"sample {i}") for i, mask in enumerate(summary.masks[:SHOWN], 1)]
    return [part[i : i + COLUMNS] for part in (cells, samples) for i in range(0, len(part), COLUMNS)]
