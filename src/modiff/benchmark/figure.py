"""Figure 2: a case's image, raters and mean label, and below them samples of every method."""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress, cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from modiff.benchmark.state import DONE, Run, State
from modiff.evaluation.source import choose, draw, pictured, strata, subset
from modiff.methods.run_folder import load_model
from modiff.metrics.protocols import PROTOCOLS
from modiff.types import Batch
from modiff.viz import figures

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.data.store_format import StoreInfo


class CaseFigure(NamedTuple):
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
    below, classes = f"{samples} samples of each method", images.info.classes
    if len(classes) > 1:
        below += "; outlines: " + ", ".join(map(" ".join, zip(classes, cycle(figures.CLASS_STYLES), strict=False)))
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
    batch = images.batch([row])
    close, (whole, *raters), mean = case_cells(batch, images.info, np.any([m.any((0, 1)) for m in methods.values()], 0))
    there = batch.read[0].tolist()
    first = [whole, *compress(raters, there), *([mean] if sum(there) > 1 else [])]
    rows = [first, *([close.outlined(mask, figures.SAMPLE) for mask in sets] for sets in methods.values())]
    window = figures.grey_window(close.image)
    return figures.encoded(figures.contact_sheet(rows, row_titles=["raters", *methods], window=window, inches=1.25))


def case_cells(
    batch: Batch, info: StoreInfo, also: np.ndarray
) -> tuple[figures.CloseUp, list[figures.Cell], figures.Cell]:
    """A batch's one case, close by what raters and `also` (H,W) mark: the whole image and each rater; mean label."""
    image, masks, read = pictured(batch.image[0].numpy(), info), batch.masks[0].numpy(), batch.read[0].numpy()
    label = masks[read].any(1).mean(0) if read.any() else np.zeros(masks.shape[-2:])
    close = figures.CloseUp(image, figures.part_of_interest((label > 0) | also))
    return close, [close.whole(), *close.raters(masks, read, info.raters)], close.probability(label, "mean label")
