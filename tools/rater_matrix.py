"""Does a model that knows its raters draw like each of them? Samples as each rater, scored against every rater's mask.

Every run is scored on the test images that its fold held out; the images of all runs are pooled. A cell is the mean
over images of the mean Dice of n samples drawn as the rater of the row against the mask of the rater of the column;
below it, the same of the raters' own masks. "own − others" is the Dice against the rater's own mask less the mean Dice
against the others' masks, with a 95 % interval by bootstrap over patients. Prints Markdown and writes JSON.

    python tools/rater_matrix.py runs/fold* --data cells.h5 [-n 16] [-o FILE]
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from modiff.data.loading import load
from modiff.data.splits import fold_split
from modiff.errors import DataError
from modiff.evaluation import provenance, words
from modiff.evaluation.bootstrap import mean_interval
from modiff.evaluation.evaluate import as_trained
from modiff.io.output import write_text
from modiff.methods.run_folder import load_model
from modiff.metrics.protocols import PROTOCOLS
from modiff.plain import finite, json_text
from modiff.rng import seeds_for


def dice(samples: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Dice of every sample and mask, 1 where both are empty: (N,K,H,W) and (R,K,H,W) bool -> (N,R), mean of classes."""
    a, b = samples.flatten(2).double(), masks.flatten(2).double()
    both = torch.einsum("nkp,rkp->nrk", a, b)
    size = a.sum(-1)[:, None] + b.sum(-1)[None]
    return torch.where(size > 0, 2 * both / size.clamp_min(1), 1.0).mean(-1)


@torch.inference_mode()
def score(run: Path, data: Path, n: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Patients, Dice of samples (images, drawn as, against) and of raters (images, R, R); NaN where not read."""
    loaded = load_model(run)
    images = as_trained(loaded, load(data, fold_split(loaded.data.fold, "test")), data)
    if images.info.raters != loaded.data.raters:
        raise DataError("has other raters than the model", path=data, found=images.info.raters)
    drawn, among = [], []
    for row in track(range(len(images.cases)), run.name):
        batch = images.batch([row])
        encoding, seeds = loaded.model.encode(batch.image), seeds_for(seed, batch.case)
        masks, read = batch.masks[0], batch.read[0]
        absent = torch.where(read, 0.0, torch.nan).double()
        own = []
        for rater in range(len(masks)):
            maps = loaded.model.sample(encoding, n, seeds=seeds, raters=[rater]).maps
            own.append(dice(PROTOCOLS["standard"].binarise(maps)[0], masks).mean(0) + absent)
        drawn.append(torch.stack(own).numpy())
        among.append((dice(masks, masks) + absent + absent[:, None]).numpy())
    return images.patients, np.stack(drawn), np.stack(among)


def own_less_others(values: np.ndarray) -> np.ndarray:
    """(images,R,R) -> (images,R): the diagonal less the mean of the rest of its row."""
    own = np.diagonal(values, axis1=1, axis2=2)
    others = np.where(np.eye(values.shape[1], dtype=bool), np.nan, values)
    return own - mean(others, axis=2)


def mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is not NaN, NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    return np.where(count > 0, np.where(known, values, 0).sum(axis) / np.maximum(count, 1), np.nan)


def table(names: list[str], against: list[str], cells: np.ndarray, last: list[str]) -> str:
    """A row for each of `names`, a column for each rater of `against`."""
    head = ["", *against, "own − others"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row, end in zip(names, cells, last, strict=True):
        lines.append("| " + " | ".join([name, *(f"{value:.3f}" for value in row), end]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prints the matrix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-n", type=int, default=16, help="samples as each rater")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", type=Path, metavar="FILE", help="JSON with every image's numbers")
    args = parser.parse_args()
    parts = [score(run, args.data, args.n, args.seed) for run in args.runs]
    patients = [patient for found, _, _ in parts for patient in found]
    drawn, among = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    names = list(load_model(args.runs[0]).data.raters)
    apart = own_less_others(drawn)
    intervals = [mean_interval(apart[:, rater], patients) for rater in range(len(names))]
    every = mean_interval(mean(apart, 1), patients)
    said = [words.estimate(one, signed=True) for one in (*intervals, every)]
    print(f"{len(patients)} images of {len(set(patients))} patients, {args.n} samples as each rater, argmax; 95 %\n")
    print(table([f"as {name}" for name in names], names, mean(drawn, 0), said[:-1]))
    print(f"\nAll raters, own − others: {said[-1]}\n\nThe raters' own masks:\n")
    print(table(names, names, mean(among, 0), [f"{value:+.3f}" for value in mean(own_less_others(among), 0)]))
    if args.o is not None:
        content = {"made": provenance.made(device="cpu"), "n": args.n, "seed": args.seed, "raters": names}
        content |= {"patients": patients, "samples": drawn.tolist(), "among_raters": among.tolist()}
        content |= {"own_less_others": [asdict(one) for one in (*intervals, every)]}
        write_text(args.o, json_text(finite(content), indent=1) + "\n")


if __name__ == "__main__":
    main()
