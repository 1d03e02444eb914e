"""Scores a model of slices with neighbours where these are hidden: the slice itself stands for them. Writes a CSV like
that of `modiff evaluate`, for tools/presence_truth.py, and prints the mean GED.

python tools/hidden_neighbours.py RUN STORE.h5 hidden.csv [-n 16]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from modiff.data.loading import load, without_context
from modiff.evaluation.compare import MODEL
from modiff.evaluation.evaluate import evaluate
from modiff.evaluation.records import write_csv
from modiff.evaluation.scoring import EvaluationSettings
from modiff.methods.run_folder import load_model


def main() -> None:
    """Writes the CSV and prints the GED."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("-n", type=int, default=16)
    args = parser.parse_args()
    images = load(args.store, "test")
    every = torch.ones(len(images), dtype=torch.bool)
    images = replace(images, image=without_context(torch.from_numpy(images.image), every, images.info.context).numpy())
    settings = EvaluationSettings(metrics=("ged", "presence"), ns=(args.n,))
    table = evaluate(load_model(args.run).model, images, settings, split="test")
    write_csv(table, args.output)
    for quantity, values in table.columns.items():
        if (quantity.metric, quantity.predictor) == ("ged", MODEL):
            print(f"GED, {quantity.protocol} protocol, n = {quantity.n}, neighbours hidden: {values.mean():.4f}")


if __name__ == "__main__":
    main()
