"""The figure of the README: test images with their raters, and the model's hypotheses with their probabilities.

python tools/hypotheses_figure.py lidc lidc.h5 [-o docs/img/hypotheses.png]

Of LIDC-IDRI crops the figure is a derivative: name the data's authors and licence (CC BY 3.0) beside it.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist

import modiff
from modiff.prediction.summary import Summary, percent
from modiff.viz.figures import SAMPLE, Cell, CloseUp, close_up, contact_sheet, encoded

SAMPLES, SHOWN, DISTINCT = 128, 8, 1.0  # drawn; hypotheses that are shown; pixels between their outlines
SMALLEST = 60  # pixels of a rater's mask: outlines that can be told apart on a small picture
GREYS, HUES = 48, 208  # of the PNG's palette: the picture travels with the repository


def choose(store: modiff.Store) -> list[int]:
    """A test image that every rater marked, and one that some did not mark: of each the one most disagreed about."""
    chosen = []
    for wanted in (lambda part: part == 1, lambda part: 0.5 <= part < 1):
        scores = {}
        for row in store.rows("test").tolist():
            masks = store.masks(row) > 0
            marked = masks[masks.any((1, 2))]
            if wanted(len(marked) / len(masks)) and marked.sum((1, 2)).min() >= SMALLEST:
                scores[row] = 1 - marked.all(0).sum() / marked.any(0).sum()
        if scores:
            chosen.append(max(scores, key=lambda row: scores[row]))
    return chosen


def cells(store: modiff.Store, row: int, image: np.ndarray, summary: Summary) -> list[list[Cell]]:
    """Two lines: the image, its raters and the mean map; and eight hypotheses, each with its probability."""
    masks, read = store.masks(row)[:, None] > 0, store.read[row]
    close = CloseUp(image[0], close_up(masks.any((0, 1)) | summary.masks.any((0, 1))))
    raters = close.raters(masks, read, [f"rater {i + 1}" for i in range(len(masks))])
    maps = [
        close.probability(masks[read].mean((0, 1)), "mean of raters"),
        close.probability(summary.mean[0], "mean of the model"),
        close.heat(summary.entropy, 1.0, "uncertainty"),
    ]
    shown = [close.outlined(one.mask, SAMPLE, percent(one.probability)) for one in summary.hypotheses[:SHOWN]]
    return [[close.whole(), *raters, *maps], shown]


def shrink(picture: bytes) -> Image.Image:
    """The picture with a palette. Greys and colours have their own parts of it: there are far more grey pixels, and a
    palette made for all would change the colours of the outlines."""
    full = Image.open(io.BytesIO(picture)).convert("RGB")
    pixels = np.asarray(full).reshape(-1, 3)
    coloured = pixels[np.ptp(pixels.astype(int), axis=1) > 8]
    palette = np.repeat(np.linspace(0, 255, GREYS).round()[:, None], 3, axis=1)
    if len(coloured):
        hues = Image.fromarray(coloured[None].copy()).quantize(HUES, method=Image.Quantize.MAXCOVERAGE).getpalette()
        palette = np.concatenate([palette, np.reshape(hues or [], (-1, 3))])
    # The nearest colour by hand: Pillow's own search is rough, and white would turn grey.
    shades, which = np.unique(pixels, axis=0, return_inverse=True)
    nearest = np.concatenate([cdist(part, palette).argmin(1) for part in np.array_split(shades, 8)]).astype(np.uint8)
    drawn = Image.fromarray(nearest[which].reshape(full.height, full.width), "P")
    drawn.putpalette(palette.astype(np.uint8).ravel().tolist())
    return drawn


def main() -> None:
    """Draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run folder, or a packaged model's name")
    parser.add_argument("data", type=Path, help="a store")
    parser.add_argument("-o", dest="output", type=Path, default=Path("docs/img/hypotheses.png"))
    args = parser.parse_args()
    predictor = modiff.Predictor(modiff.load_model(args.model))
    lines: list[list[Cell]] = []
    with modiff.Store.open(args.data) as store:
        for row in choose(store):
            predictor.set_image(store.image(row), case=str(store.cases[row]), intensity="ready")
            predictor.sample(n=SAMPLES, seed=0)
            assert predictor.plan is not None
            assert predictor.values is not None
            seen = predictor.values.cut(0, predictor.plan.windows[0])
            lines += cells(store, row, seen, predictor.summary(distinct=DISTINCT))
    shrink(encoded(contact_sheet(lines, inches=1.2))).save(args.output, optimize=True)
    print(f"{args.output}: {args.output.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
