"""Figure 2: a case's image, raters and mean label, and below them samples of every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modiff.benchmark.state import DONE, Run, State
from modiff.evaluation.cases import choose, part_of_interest, pictured, strata
from modiff.evaluation.selection import subset
from modiff.evaluation.source import draw
from modiff.methods.weights import load_model
from modiff.metrics.protocols import PROTOCOLS
from modiff.viz.figures import COLOURS, Cell, Contour, class_styles, contact_sheet, png

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore

RATER, SAMPLE = COLOURS[0], COLOURS[1]
_INCHES = 1.25


@dataclass(frozen=True)
class Picture:
    """A case's picture. data: PNG; words: what it shows."""

    case: str
    data: bytes
    words: str


def pictures(
    folder: str | Path,
    state: State,
    images: MemoryStore,
    *,
    cases: int = 3,
    samples: int = 6,
    say: Callable[[str], None] = lambda line: None,
) -> list[Picture]:
    """A fixed choice of cases by hash, the strata taking turns; each row the first seed that is finished.

    images: the split that is scored, of folds that of the first one, and the rows are those trained without it.

    Samples are the first ones that the scores are of (seed 0), as masks by argmax. Every model is loaded once.
    """
    runs = _first_runs(state)
    scored = subset(images.cases, state.settings["limit"])
    names = strata(images)
    chosen = choose([images.cases[row] for row in scored], [names[row] for row in scored], cases)
    rows = [scored[place] for place in chosen]
    if not rows or not runs:
        return []
    batch = images.batch(rows)
    drawn: dict[str, np.ndarray] = {}
    for run in runs:
        say(f"samples of {run.name}")
        model = load_model(Path(folder) / run.name).model
        maps = draw(model, batch, samples, 0, None)[0].maps
        drawn[run.row] = PROTOCOLS["standard"].binarise(maps).numpy()
    found = []
    styles = class_styles(images.info.classes)
    for i, row in enumerate(rows):
        masks = {state.rows[key].title: sets[i] for key, sets in drawn.items()}
        data = _picture(images, row, masks)
        words = f"{images.cases[row]}: image, raters, mean label; below, {samples} samples of each method{styles}"
        found.append(Picture(images.cases[row], data, words))
    return found


def _first_runs(state: State) -> list[Run]:
    first: dict[str, Run] = {}
    for run in state.runs.values():
        if (
            run.status == DONE
            and run.fold == state.folds[0]
            and (run.row not in first or run.seed < first[run.row].seed)
        ):
            first[run.row] = run
    return [first[key] for key in state.rows if key in first]


def _picture(images: MemoryStore, row: int, masks: dict[str, np.ndarray]) -> bytes:
    """masks: by title, (N,K,H,W) bool."""
    batch, info = images.batch([row]), images.info
    image = pictured(batch.image[0].numpy(), info)
    raters, read = batch.masks[0].numpy(), batch.read[0].numpy()
    label = raters[read].any(1).mean(0) if read.any() else np.zeros(raters.shape[-2:])
    marked = label > 0
    for sets in masks.values():
        marked = marked | sets.any((0, 1))
    part = part_of_interest(marked)
    near = image[(..., *part)]
    window = _window(image)
    frame = np.zeros(label.shape, dtype=bool)
    frame[part] = True
    whole = Cell(image, contours=() if frame.all() else (Contour(frame, "white", 0.8),), title="image")
    shown = [_outlined(near, raters[(i, ..., *part)], RATER, info.raters[i]) for i in np.flatnonzero(read)]
    mean = [Cell(near, isolines=label[part], title="mean label")] if read.sum() > 1 else []
    rows = [[whole, *shown, *mean]]
    rows += [[_outlined(near, mask[(..., *part)], SAMPLE, "") for mask in sets] for sets in masks.values()]
    titles = ["raters", *(title.replace("$", r"\$") for title in masks)]
    return png(contact_sheet(rows, row_titles=titles, window=window, inches=_INCHES))


def _window(image: np.ndarray) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(image, [0.5, 99.5]))
    return (low, high) if 0 < high - low < 0.5 else (0.0, 1.0)


def _outlined(image: np.ndarray, mask: np.ndarray, colour: str, name: str) -> Cell:
    name = name.replace("$", r"\$")
    if mask.any():
        return Cell(image, contours=(Contour(mask, colour),), title=name)
    return Cell(image, title=f"{name}: nothing" if name else "nothing")
