"""Speed of GED and HM-IoU under both protocols, and of all metrics, against a plain loop over pairs in NumPy.

Synthetic nodules: 1,096 images of 128×128, 4 raters, n = 32. The plain loop runs on the first images only; its time is
scaled to all of them, and its values must equal ours there.

    python tools/metrics_speed.py [--images 1096] [--plain-images 8] [--only-sets]
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from modiff.metrics import PROTOCOLS, Protocol, functional

RATERS, SAMPLES, SIZE = 4, 32, 128
CHUNK = 64  # images at a time, as an evaluation would feed them


def nodules(images: int, number: int, seed: int) -> Tensor:
    """(images,number,1,128,128) bool: discs about the centre of varying place and size, a third of them empty."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    found = np.zeros((images, number, 1, SIZE, SIZE), dtype=bool)
    for image in range(images):
        middle, radius = SIZE / 2 + rng.normal(0, 4, (number, 2)), rng.gamma(6, 1.5, number)
        present = rng.random(number) > 1 / 3
        for j in np.flatnonzero(present):
            found[image, j, 0] = (rows - middle[j, 0]) ** 2 + (columns - middle[j, 1]) ** 2 < radius[j] ** 2
    return torch.from_numpy(found)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks (H,W), IoU(∅,∅) = 1."""
    union = np.logical_or(a, b).sum()
    return 1.0 if union == 0 else float(np.logical_and(a, b).sum() / union)


def plain(samples: np.ndarray, masks: np.ndarray) -> list[float]:
    """GED V and U, HM-IoU optimal and greedy of one image, (N,H,W) and (R,H,W), pair by pair as released scripts do."""
    n, r = len(samples), len(masks)
    cross = np.array([[iou(s, y) for y in masks] for s in samples])
    within = np.array([[1 - iou(s, t) for t in samples] for s in samples])
    between = np.array([[1 - iou(y, z) for z in masks] for y in masks])
    twice = 2 * (1 - cross).mean()
    v = twice - within.mean() - between.mean()
    u = twice - within.sum() / (n * (n - 1)) - between.sum() / (r * (r - 1))
    size = math.lcm(n, r)
    repeated = np.repeat(np.repeat(cross, size // n, 0), size // r, 1)
    optimal = repeated[linear_sum_assignment(-repeated)].mean()
    free, taken = list(range(n)), []
    for rater in range(r):
        best = max(free, key=lambda s: cross[s, rater])
        free.remove(best)
        taken.append(cross[best, rater])
    return [v, u, float(optimal), float(np.mean(taken))]


def ours(samples: Tensor, masks: Tensor) -> np.ndarray:
    """The same four values, (images,4)."""
    found = []
    for start in range(0, len(masks), CHUNK):
        part = slice(start, start + CHUNK)
        pairs = functional.PairwiseDistances.of(samples[part], masks[part])
        four = [functional.ged(pairs, estimator=p.ged_estimator) for p in PROTOCOLS.values()]
        four += [functional.hm_iou(pairs, matching=p.matching) for p in PROTOCOLS.values()]
        found.append(torch.stack(four, 1))
    return torch.cat(found).numpy()


def everything(samples: Tensor, masks: Tensor) -> dict[str, float]:
    """Seconds of each group of metrics on soft maps of the same discs, their masks made under both protocols."""
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[], object]) -> None:
        start = time.perf_counter()
        function()
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    for start in range(0, len(masks), CHUNK):
        p, y = samples[start : start + CHUNK] * 0.9375 + 0.03125, masks[start : start + CHUNK]
        for protocol in PROTOCOLS.values():
            timed("binarise", lambda p=p, protocol=protocol: protocol.binarise(p))
            binary = protocol.binarise(p)
            timed("ged, hm_iou, ci", lambda b=binary, y=y, protocol=protocol: _sets(b, y, protocol))
            timed(f"ncc by {protocol.ncc}", lambda p=p, y=y, kind=protocol.ncc: functional.ncc(p, y, kind=kind))
            timed("hd95, surface distance", lambda b=binary, y=y: functional.surface_distances(b, y))
            timed("presence", lambda b=binary, y=y: functional.presence_fractions(b, y))
        timed("soft dice", lambda p=p, y=y: functional.soft_dice(p, y))
        timed("brier", lambda p=p, y=y: functional.brier(p, y))
        timed("calibration", lambda p=p, y=y: functional.expected_calibration_error(p, y))
        timed("uncertainty ncc", lambda p=p, y=y: functional.uncertainty_ncc(p, y))
        timed("uncertainty auroc", lambda p=p, y=y: functional.uncertainty_auroc(p, y))
    return seconds


def _sets(binary: Tensor, masks: Tensor, protocol: Protocol) -> None:
    pairs = functional.PairwiseDistances.of(binary, masks)
    functional.ged(pairs, estimator=protocol.ged_estimator)
    functional.hm_iou(pairs, matching=protocol.matching)
    functional.collective_insight(binary, masks, pairs=pairs)


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1096, help="images that ours scores")
    parser.add_argument("--plain-images", type=int, default=8, help="images that the plain loop scores")
    parser.add_argument("--only-sets", action="store_true", help="GED and HM-IoU alone")
    args = parser.parse_args()
    samples, masks = nodules(args.images, SAMPLES, 1), nodules(args.images, RATERS, 2)
    ours(samples[:8], masks[:8])  # warm up

    start, start_cpu = time.perf_counter(), time.process_time()
    values = ours(samples, masks)
    fast, fast_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    few = min(args.plain_images, args.images)
    start, start_cpu = time.perf_counter(), time.process_time()
    pairs = zip(samples[:few, :, 0].numpy(), masks[:few, :, 0].numpy(), strict=True)
    reference = np.array([plain(s, y) for s, y in pairs])
    scale = args.images / few
    slow, slow_cpu = (time.perf_counter() - start) * scale, (time.process_time() - start_cpu) * scale
    result: dict[str, object] = {
        "images": args.images,
        "threads": torch.get_num_threads(),
        "sets_seconds": round(fast, 3),
        "plain_seconds_scaled": round(slow, 1),
        "plain_measured_on_images": few,
        "times_as_fast": round(slow / fast, 1),
        # On a machine that does other work as well, seconds of the processor say more than those of the clock.
        "sets_cpu_seconds": round(fast_cpu, 3),
        "plain_cpu_seconds_scaled": round(slow_cpu, 1),
        "times_as_fast_cpu": round(slow_cpu / fast_cpu, 1),
        "largest_difference": float(np.abs(values[:few] - reference).max()),
    }
    if not args.only_sets:
        seconds = everything(samples, masks)
        result["all_seconds"] = round(sum(seconds.values()), 2)
        result["by_metric"] = {name: round(value, 2) for name, value in seconds.items()}
    result["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
