"""A dozen cases of a split, each with every rater, the mean label, samples, mean map and uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from modiff.evaluation.selection import choose, pictured, strata
from modiff.evaluation.source import draw
from modiff.evaluation.table import UNREAD
from modiff.types import Batch
from modiff.viz.figures import LEVELS, Cell, contact_sheet, png
from modiff.viz.sheets import RATER, SAMPLE, CloseUp, grey_window, mean_label, part_of_interest

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.data.store_format import StoreInfo
    from modiff.methods.base import Segmenter
    from modiff.prediction.summary import Summary

CASES = 12
SAMPLES = 16  # drawn for the maps
SHOWN = 8  # of them shown one by one
COLUMNS = 8
COLOURS = {"rater": RATER, "sample": SAMPLE, "levels": LEVELS}  # what the page's legend explains
_INCHES = 1.5


@dataclass(frozen=True)
class Drawing:
    """What is drawn: the model, of which seed and steps, on which device."""

    model: Segmenter
    seed: int = 0
    steps: int | None = None
    device: str | torch.device = "cpu"


@dataclass(frozen=True)
class CaseFigure:
    """A case's figure. image: PNG; words: what raters and samples mark; score: how it scores, where that is known."""

    case: str
    image: bytes
    words: str
    score: str


def figures(
    images: MemoryStore, drawing: Drawing, describe: Callable[[str], str] | None = None
) -> tuple[list[CaseFigure], tuple[float, float]]:
    """The chosen cases, and the grey window that all of them are shown in. describe: words on how a case scores."""
    names = strata(images)
    rows = choose(images.cases, names, CASES)
    window = _window(images, rows)
    made = []
    for row in rows:
        batch, case = images.batch([row]), images.cases[row]
        summary = _summary(batch, drawing, images.info)
        sheet = contact_sheet(_cells(batch, summary, images.info), window=window, inches=_INCHES)
        score = describe(case) if describe else ""
        made.append(CaseFigure(case, png(sheet), _words(batch, summary, names[row]), score))
    return made, window


def _summary(batch: Batch, drawing: Drawing, info: StoreInfo) -> Summary:
    from modiff.prediction.summary import summarise

    samples, _ = draw(drawing.model, batch.to(drawing.device), SAMPLES, drawing.seed, drawing.steps)
    return summarise(samples, classes=info.classes)


def _window(images: MemoryStore, rows: Sequence[int]) -> tuple[float, float]:
    if not rows:
        return 0.0, 1.0
    return grey_window(np.stack([pictured(image.numpy(), images.info) for image in images.batch(rows).image]))


def _cells(batch: Batch, summary: Summary, info: StoreInfo) -> list[list[Cell | None]]:
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
    lines = [part[i : i + COLUMNS] for part in (cells, samples) for i in range(0, len(part), COLUMNS)]
    return [[*line, *[None] * (max(map(len, lines)) - len(line))] for line in lines]


def _words(batch: Batch, summary: Summary, stratum: str) -> str:
    if stratum == UNREAD:
        return "nobody read this image"
    marked, read = int(batch.marked.sum()), int(batch.read.sum())
    drawn = int(summary.masks.any((1, 2, 3)).sum())
    return f"{marked} of {read} raters marked something, {drawn} of {len(summary.masks)} samples do."
