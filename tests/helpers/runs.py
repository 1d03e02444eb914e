"""A small run folder to report on: a store, a result, a log, and a model that draws discs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from described import spec
from torch import Tensor

from modiff.config.run import build_config
from modiff.data.loading import load
from modiff.data.store import StoreWriter
from modiff.data.store_format import StoreInfo
from modiff.evaluation.evaluate import FOLDER, evaluate_to_folder
from modiff.evaluation.scoring import EvaluationSettings
from modiff.methods.base import Segmenter
from modiff.rng import fold, sample_seeds, uniform
from modiff.types import DataSpec, Samples

SIZE = 32
AWKWARD = "<script>alert(1)</script> & co"  # wherever a name may stand


class Discs(Segmenter):
    """A disc of a random radius in the middle, three times out of four."""

    def __init__(self) -> None:
        super().__init__(DataSpec.of(raters=3))
        self.scale = torch.nn.Parameter(torch.ones(()))

    def training_loss(self, batch, *, rng):
        raise NotImplementedError

    def encode(self, image: Tensor) -> Tensor:
        return image

    def sample(self, image_or_encoding, n, *, seeds, steps=None, raters="single") -> Samples:
        own = sample_seeds(seeds, n)
        radius = 3 + 5 * uniform(fold(own, 1))
        there = uniform(fold(own, 2)) < 0.75
        y, x = torch.meshgrid(*[torch.arange(SIZE) - SIZE / 2] * 2, indexing="ij")
        soft = torch.sigmoid(2 * (radius[..., None, None] - torch.hypot(y, x)))
        return Samples.uniform((soft * there[..., None, None])[:, :, None])


def write_store(path: Path, images: int = 24, patients: int = 8) -> Path:
    """Discs that raters outline differently, some of them not at all; the first case's names are awkward."""
    rng = np.random.default_rng(1)
    raters = ("first", "second <b>", "third")
    info = StoreInfo(("ct",), ("lesion",), raters, exchangeable_raters=True, intensity="unit", prompt="centre")
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    with StoreWriter(path, info) as writer:
        for i in range(images):
            radius = rng.uniform(4, 9)
            image = np.where(np.hypot(x, y) < radius, 180, 60) + rng.integers(0, 40, (SIZE, SIZE))
            marks = [i % 4 == 0 or (i % 4 != 3 and rng.random() < 0.5) for _ in raters]
            masks = [(np.hypot(x, y) < radius * rng.uniform(0.8, 1.2)) & m for m in marks]
            case = AWKWARD if i == 0 else f"p{i % patients}/slice-{i}"
            read = np.array([True, True, i != 4])
            masks = np.stack(masks).astype(np.uint8) * read[:, None, None].astype(np.uint8)
            writer.add(image[None].astype(np.uint8), masks, read, case=case, patient=f"p{i % patients}", split="test")
    return path


def loaded() -> SimpleNamespace:
    """What `load_model` gives for the run."""
    return SimpleNamespace(
        model=Discs().eval(),
        config=replace(build_config(preset="quick"), method="discs"),
        card={"not for": AWKWARD, "scores": {"ged16": 0.25}},
        data=spec({"channels": ["ct"], "size": [SIZE, SIZE], "intensity": "unit"}),
    )


def write_log(path: Path, lines: int = 50) -> Path:
    """A log as training writes it, its last line torn."""
    rows = []
    for i in range(lines):
        row = {"step": i, "images": 8 * i, "seconds": i / 2, "train/loss": math.exp(-i / 20), "train/edge": 0.1}
        rows.append(row | ({"val/loss": 1.1 * math.exp(-i / 20), "note": "text"} if i % 10 == 0 else {}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5')
    return path


def write_run(folder: Path, store: Path) -> Path:
    """A run folder with a log and an evaluation."""
    folder.mkdir(parents=True)
    write_log(folder / "log.jsonl")
    settings = EvaluationSettings(ns=(4, 8), resamples=100, control=True)
    more = {"split": "test", "data": store, "model_name": str(folder)}
    evaluate_to_folder(loaded(), load(store, "test"), folder / FOLDER, settings, **more)
    return folder
