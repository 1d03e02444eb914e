"""What the paper's protocol costs and gives: the same samples at two thresholds, by both matchings, with the model's
presence and with the true one (the fraction of an image's raters who marked something).

Prints a Markdown table, 95 % intervals by bootstrap over patients, and writes every value as JSON.

    python tools/paper_protocol.py lidc --data lidc.h5 [--split val] [--limit 256] [-n 16 32] [--json FILE]
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from results_table import text
from rich.console import Console
from rich.progress import track

from modiff.data.loading import load
from modiff.evaluation.bootstrap import Interval, mean_interval
from modiff.evaluation.source import subset
from modiff.io.output import write_text
from modiff.methods.run_folder import load_model
from modiff.metrics.functional import PairwiseDistances, collective_insight, ged, hm_iou
from modiff.metrics.protocols import PROTOCOLS
from modiff.plain import json_text
from modiff.rng import seeds_for
from modiff.types import Batch

THRESHOLDS = (0.5, 0.9)
METRICS = ("GED", "HM-IoU, greedy", "HM-IoU, optimal", "CI", "CI: sensitivity", "CI: D_max")
Scores = dict[tuple[str, float, int, str], list[float]]


def main() -> None:
    """Draws, scores, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int)
    parser.add_argument("-n", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    images = load(args.data, args.split)
    rows = subset(images.cases, args.limit)
    model = load_model(args.model).model.eval()
    scores: Scores = {}
    batches = range(0, len(rows), args.batch_size)
    for start in track(batches, "Scoring", console=Console(stderr=True), transient=True):
        score(model, images.batch(rows[start : start + args.batch_size]), args.n, scores)
    patients = [images.patients[row] for row in rows]
    found = {key: mean_interval(values, patients) for key, values in scores.items()}
    print(markdown(found, args.n))
    if args.json:
        records = [
            dict(zip(("presence", "threshold", "n", "metric"), key, strict=True)) | asdict(value)
            for key, value in found.items()
        ]
        about = {name: getattr(args, name) for name in ("model", "split", "limit", "n")}
        write_text(args.json, json_text({**about, "results": records}, indent=1))


@torch.inference_mode()
def score(model: torch.nn.Module, batch: Batch, ns: list[int], scores: Scores) -> None:
    """Adds each image's value of each metric in each way."""
    protocol, encoding = PROTOCOLS["paper"], model.encode(batch.image)
    raters = batch.masks.shape[1]
    true = F.one_hot(batch.marked.sum(1), raters + 1).float()
    for presence, known in (("the model's", encoding), ("the true one", replace(encoding, presence=true))):
        samples = model.sample(known, max(ns), seeds=seeds_for(0, batch.case))
        for threshold, n in product(THRESHOLDS, ns):
            masks = protocol.binarise(samples.maps[:, :n], threshold)
            pairs = PairwiseDistances.of(masks, batch.masks, read=batch.read)
            ci = collective_insight(masks, batch.masks, read=batch.read, pairs=pairs)
            values = (ged(pairs, estimator="u"), hm_iou(pairs, matching="greedy"), hm_iou(pairs))
            for metric, value in zip(METRICS, (*values, ci.ci, ci.sensitivity, ci.dmax), strict=True):
                scores.setdefault((presence, threshold, n, metric), []).extend(np.asarray(value).tolist())


def markdown(found: dict[tuple[str, float, int, str], Interval], ns: list[int]) -> str:
    """A row per way, a column per metric."""
    lines = [f"| presence | masks | n | {' | '.join(METRICS)} |", "|---" * (3 + len(METRICS)) + "|"]
    for n, presence, threshold in product(ns, ("the model's", "the true one"), THRESHOLDS):
        cells = [text(found[presence, threshold, n, metric]) for metric in METRICS]
        lines.append(f"| {presence} | p ≥ {threshold} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
