"""Figure 2: a case's image, raters and mean label, and below them samples of every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modiff.benchmark.state import DONE, Run, State
from modiff.evaluation.source import choose, draw, pictured, strata, subset
from modiff.methods.weights import load_model
from modiff.metrics.protocols import PROTOCOLS
from modiff.viz.figures import class_styles, contact_sheet, png
from modiff.viz.sheets import SAMPLE, CloseUp, grey_window, mean_label, part_of_interest

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore


@dataclass(frozen=True)
class CaseFigure:
    """A case's figure. image: PNG; words: what it shows."""

    case: str
    image: bytes
    words: str


def draw_cases(
    folder: str | Path,
    state: State,
    images: MemoryStore,
    *,
    cases: int = 3,
    samples: int = 6,
    say: Callable[[str], None] = lambda line: None,
) -> list[CaseFigure]:
    """A fixed choice of cases by hash, the strata taking turns; one row per method, of the first seed that is finished.

    images: the split that is scored, of folds that of the first one, and the rows are those trained without it.

    Samples are the first ones that the scores are of (seed 0), as masks by argmax. Every model is loaded once.
    """
    first: dict[str, Run] = {}
    for run in sorted(state.runs.values(), key=lambda run: run.seed):
        if run.status == DONE and run.fold == state.folds[0]:
            first.setdefault(run.row, run)
    runs = [first[key] for key in state.rows if key in first]
    scored = subset(images.cases, state.settings.limit)
    names = strata(images)
    chosen = choose([images.cases[row] for row in scored], [names[row] for row in scored], cases)
    rows = [scored[place] for place in chosen]
    if not rows or not runs:
        return []
    batch = images.batch(rows)
    drawn: dict[str, np.ndarray] = {}
    for run in runs:
        say(f"samples of {run.name}")
        maps = draw(load_model(Path(folder) / run.name).model, batch, samples, 0, None)[0].maps
        drawn[state.rows[run.row].title] = PROTOCOLS["standard"].binarise(maps).numpy()
    below = f"{samples} samples of each method{class_styles(images.info.classes)}"
    return [
        CaseFigure(
            images.cases[row],
            _sheet(images, row, {title: sets[i] for title, sets in drawn.items()}),
            f"{images.cases[row]}: image, raters, mean label; below, {below}",
        )
        for i, row in enumerate(rows)
    ]


def _sheet(images: MemoryStore, row: int, methods: dict[str, np.ndarray]) -> bytes:
    """methods: masks (N,K,H,W) bool by title."""
    batch, info = images.batch([row]), images.info
    image = pictured(batch.image[0].numpy(), info)
    masks, read = batch.masks[0].numpy(), batch.read[0].numpy()
    label = mean_label(masks, read)
    close = CloseUp(image, part_of_interest(np.any([label > 0, *(sets.any((0, 1)) for sets in methods.values())], 0)))
    there = np.flatnonzero(read)
    raters = close.raters(masks[there], read[there], [info.raters[i] for i in there])
    mean = [close.probability(label, "mean label")] if len(there) > 1 else []
    rows = [[close.whole(), *raters, *mean]]
    rows += [[close.outlined(mask, SAMPLE) for mask in sets] for sets in methods.values()]
    return png(contact_sheet(rows, row_titles=["raters", *methods], window=grey_window(image), inches=1.25))
