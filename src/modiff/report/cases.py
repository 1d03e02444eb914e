"""A dozen cases of a split, each with every rater, the mean label, samples, mean map and uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from modiff.evaluation.cases import choose, part_of_interest, pictured, strata
from modiff.evaluation.source import draw
from modiff.evaluation.table import UNREAD
from modiff.types import Batch
from modiff.viz.figures import COLOURS, LEVELS, Cell, Contour, contact_sheet, png
from modiff.viz.html import Markup, join, tag
from modiff.viz.html import png as picture

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.data.store_format import StoreInfo
    from modiff.methods.base import Segmenter
    from modiff.prediction.summary import Summary

CASES = 12
SAMPLES = 16  # drawn for the maps
SHOWN = 8  # of them shown one by one
COLUMNS = 8
_RATER, _SAMPLE = COLOURS[0], COLOURS[1]
_INCHES = 1.5


@dataclass(frozen=True)
class Drawing:
    """What is drawn: the model, how many samples, of which seed and steps, on which device."""

    model: Segmenter
    seed: int = 0
    steps: int | None = None
    device: str | torch.device = "cpu"


def figures(images: MemoryStore, drawing: Drawing, describe: Callable[[str], str] | None = None) -> list[Markup]:
    """The chosen cases as figures with their captions, all in one grey window. describe: more words on a case."""
    names = strata(images)
    rows = choose(images.cases, names, CASES)
    if not rows:
        return []
    window = _window(images, rows)
    made = []
    for row in rows:
        batch = images.batch([row])
        summary = _summary(batch, drawing, images.info)
        image = pictured(batch.image[0].numpy(), images.info)
        sheet = png(contact_sheet(_cells(image, batch, summary, images.info), window=window, inches=_INCHES))
        words = _words(batch, summary, names[row])
        more = describe(images.cases[row]) if describe else ""
        caption = tag("figcaption", tag("strong", images.cases[row]), tag("span", words, " ", more, class_="small"))
        made.append(tag("figure", caption, picture(sheet, f"{images.cases[row]}: {words}"), class_="case"))
    return made


def legend(images: MemoryStore) -> Markup:
    """What the pictures show."""
    low, high = _window(images, choose(images.cases, strata(images), CASES))
    grey = "the whole range of values" if (low, high) == (0.0, 1.0) else f"values {low:.3g} to {high:.3g}"
    channel = f" Shown: channel {images.info.channels[0]}." if len(images.info.channels) > 1 else ""
    levels = join(part for level, colour in LEVELS for part in (" ", _key(colour), f" {100 * level:.0f} %"))
    return join(
        [
            "A fixed choice of cases from all strata, with the same grey window in every picture ",
            f"({grey}).{channel} The first picture is the whole image, with a frame around what the others show. ",
            _key(_RATER),
            " a rater's outline; ",
            _key(_SAMPLE),
            f" a sample's outline (the first {SHOWN} of {SAMPLES}). ",
            "Mean label of the raters and mean map of the samples:",
            levels,
            ". Uncertainty: entropy of the mean map, the brighter the less certain.",
        ]
    )


def _key(colour: str) -> Markup:
    """A short line of that colour, in the text."""
    return tag(
        "svg", tag("line", x1=0, x2=18, y1=4, y2=4, stroke=colour, stroke_width=3), viewBox="0 0 18 8", class_="key"
    )


def _summary(batch: Batch, drawing: Drawing, info: StoreInfo) -> Summary:
    from modiff.prediction.summary import summarise

    samples, _ = draw(drawing.model, batch.to(drawing.device), SAMPLES, drawing.seed, drawing.steps)
    return summarise(samples, classes=info.classes)


def _window(images: MemoryStore, rows: Sequence[int]) -> tuple[float, float]:
    """One grey window for all: the whole range, or the central 99 % of values where they fill less than half of it."""
    if not rows:
        return 0.0, 1.0
    values = np.stack([pictured(image.numpy(), images.info) for image in images.batch(rows).image])
    low, high = (float(v) for v in np.percentile(values, [0.5, 99.5]))
    return (low, high) if 0 < high - low < 0.5 else (0.0, 1.0)


def _cells(image: np.ndarray, batch: Batch, summary: Summary, info: StoreInfo) -> list[list[Cell | None]]:
    masks, read = batch.masks[0].numpy(), batch.read[0].numpy()
    label = masks[read].any(1).mean(0) if read.any() else np.zeros(masks.shape[-2:])
    most = math.log2(len(info.classes) + 1)
    part = part_of_interest((label > 0) | summary.masks.any((0, 1)))
    near = image[(..., *part)]
    raters = [_rater(near, masks[(i, ..., *part)], bool(read[i]), name) for i, name in enumerate(info.raters)]
    maps = [
        Cell(near, isolines=label[part], title="mean label"),
        Cell(near, isolines=np.clip(summary.mean.sum(0), 0, 1)[part], title="mean map"),
        Cell(near, heat=summary.entropy[part], heat_max=most, title="uncertainty"),
    ]
    samples = [_sample(near, mask[(..., *part)], i) for i, mask in enumerate(summary.masks[:SHOWN])]
    frame = np.zeros(label.shape, dtype=bool)
    frame[part] = True
    whole = Cell(image, contours=() if frame.all() else (Contour(frame, "white", 0.8),), title="image")
    lines = [*_lines([whole, *raters, *maps]), *_lines(samples)]
    return [[*line, *[None] * (max(map(len, lines)) - len(line))] for line in lines]


def _lines(cells: Sequence[Cell]) -> list[list[Cell | None]]:
    return [list(cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)]


def _rater(image: np.ndarray, mask: np.ndarray, read: bool, name: str) -> Cell:
    if not read:
        return Cell(image, title=f"{name}: did not read")
    contours = (Contour(mask, _RATER),) if mask.any() else ()
    return Cell(image, contours=contours, title=name if mask.any() else f"{name}: nothing")


def _sample(image: np.ndarray, mask: np.ndarray, index: int) -> Cell:
    contours = (Contour(mask, _SAMPLE),) if mask.any() else ()
    return Cell(image, contours=contours, title=f"sample {index + 1}" + ("" if mask.any() else ": nothing"))


def _words(batch: Batch, summary: Summary, stratum: str) -> str:
    if stratum == UNREAD:
        return "nobody read this image"
    marked, read = int(batch.marked.sum()), int(batch.read.sum())
    drawn = int(summary.masks.any((1, 2, 3)).sum())
    return f"{marked} of {read} raters marked something, {drawn} of {len(summary.masks)} samples do."
