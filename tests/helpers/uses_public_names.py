"""A user's program: `mypy` reads it as strictly as it can (pyproject.toml), nobody runs it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import modiff
from modiff.metrics import functional as F
from modiff.prediction.summary import Summary, summarise
from modiff.types import Samples


def read(path: Path) -> tuple[NDArray[np.generic], modiff.Store]:
    """The first test image of a store."""
    store = modiff.Store.open(path)
    return store.image(int(store.rows("test")[0])), store


def hypotheses(image: NDArray[np.generic], run: str) -> dict[str, float]:
    """The probability of each hypothesis by its size in words."""
    predictor = modiff.Predictor(modiff.load_model(run), device="auto")
    samples: Samples = predictor.set_image(image, intensity="ready").sample(n=16, seed=0)
    summary: Summary = summarise(samples, classes=predictor.data.classes)
    return {summary.size_text(hypothesis): hypothesis.probability for hypothesis in summary.hypotheses}


def score(samples: torch.Tensor, masks: torch.Tensor) -> tuple[float, float]:
    """GED and HM-IoU of one image."""
    distances = F.PairwiseDistances.of(samples, masks)
    metric = modiff.metrics.SampleSetMetrics("standard", n=(4, 16))
    metric.update(samples, masks)
    return F.ged(distances).item(), F.hm_iou(distances).item()


def score_arrays(samples: NDArray[np.bool_], masks: NDArray[np.uint8]) -> float:
    """GED of plain arrays."""
    value = modiff.metrics.ged(samples, masks)
    return value if isinstance(value, float) else float(value.mean())
